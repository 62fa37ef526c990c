"""A text as one line of tokens, sequences of it, and where latents are active in it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from saeflow.autointerp.examples import Contexts, Examples, Pieces
from saeflow.autointerp.firing import Firing, Text


class Active(NamedTuple):
    """Where one latent is active, in the order of the line."""

    place_n: np.ndarray
    activation_n: np.ndarray


class Line:
    """The tokens of a text behind one another; a place is a token's number.

    A sequence has as many tokens as the text's contexts, all of one window, and its centre is the
    place in its middle.
    """

    def __init__(self, text: Text, pieces: Pieces) -> None:
        self.sequence = text.tokens_ct.shape[1]
        self.side = self.sequence // 2
        self.tokens_n, self.pieces = text.tokens_ct.ravel(), pieces
        bounds_w = text.first_w * self.sequence
        starts_w, ends_w = bounds_w[:-1], bounds_w[1:]
        some_w = ends_w > starts_w
        edge_s = np.arange(self.side)
        self.inside_n = np.ones(len(self.tokens_n), bool)
        self.inside_n[starts_w[some_w][:, None] + edge_s] = False
        self.inside_n[ends_w[some_w][:, None] - 1 - edge_s] = False
        self.centre_m = self.inside_n.nonzero()[0]

    def contexts(self, centres: np.ndarray) -> Contexts:
        """Return the sequences with these centres."""
        return Contexts(self.tokens_n[self._around(centres)], self.pieces)

    def examples(self, centres: np.ndarray, active: Active, least: float) -> Examples:
        """Return sequences with a latent's activations, those with the greatest one first.

        Tokens above `least` count as active.
        """
        around_ct = self._around(centres)
        last = len(active.place_n) - 1
        nearest_ct = np.searchsorted(active.place_n, around_ct).clip(max=last)
        found_ct = active.place_n[nearest_ct] == around_ct
        acts_ct = np.where(found_ct, active.activation_n[nearest_ct], np.float32(0))
        order = np.argsort(-acts_ct.max(1), kind="stable")
        acts_ct = acts_ct[order]
        return Examples(self.contexts(centres[order]), acts_ct, acts_ct > least)

    def silent(self, active: Active, n: int, draw: np.random.Generator) -> np.ndarray:
        """Return up to `n` centres, drawn among all of sequences in which the latent is silent.

        These are the centres between one active place and the next, `side` away from both.
        """
        before_g = np.concatenate([[-self.side - 1], active.place_n])
        after_g = np.concatenate([active.place_n, [len(self.tokens_n) + self.side]])
        first_g = np.searchsorted(self.centre_m, before_g + self.side, "right")
        last_g = np.searchsorted(self.centre_m, after_g - self.side, "left")
        counts_g = np.maximum(last_g - first_g, 0)
        up_to_g = counts_g.cumsum()
        total = int(up_to_g[-1])
        drawn = draw.choice(total, min(n, total), replace=False)
        gap = np.searchsorted(up_to_g, drawn, "right")
        return self.centre_m[first_g[gap] + drawn - (up_to_g - counts_g)[gap]]

    def _around(self, centres: np.ndarray) -> np.ndarray:
        return centres[:, None] + np.arange(-self.side, self.side + 1)


class Activity:
    """Where the latents of one SAE are active on a line."""

    def __init__(self, firing: Firing, line: Line) -> None:
        place_n = firing.context_n.astype(np.int64) * line.sequence + firing.position_n
        order = np.lexsort((place_n, firing.latent_n))
        self.latent_n, self.place_n = firing.latent_n[order], place_n[order]
        self.activation_n = firing.activation_n[order]

    def of(self, latent: int) -> Active:
        """Return where one latent is active."""
        own = slice(*np.searchsorted(self.latent_n, [latent, latent + 1]))
        return Active(self.place_n[own], self.activation_n[own])
