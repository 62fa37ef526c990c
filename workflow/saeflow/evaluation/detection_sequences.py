"""Which sequences a latent is explained from and scored on, by each protocol.

No two of a latent's activating sequences share a token, be it to explain from or to be scored on;
SAEBench keeps the centres of its strongest `side_tokens` apart and no others.
"""

from __future__ import annotations

from bisect import bisect
from typing import NamedTuple

import numpy as np

from saeflow.autointerp.contexts import spread
from saeflow.evaluation.detection_settings import (
    OrtSAESequences,
    Protocol,
    SAEBenchSequences,
)
from saeflow.evaluation.detection_text import Active, Line


class TooFew(Exception):
    """A latent has fewer sequences than a protocol asks for; the message says of which."""


class Sequences(NamedTuple):
    """The centres of a latent's sequences."""

    explain: np.ndarray
    """Activating ones to explain from."""
    held_out: np.ndarray
    """Those to be scored on, activating and silent ones mixed."""
    active_c: np.ndarray
    """Whether each of these is an activating one (bool)."""
    contrast: np.ndarray
    """Silent ones that a judge may compare with; no token of them is in `held_out`."""


def draw_sequences(
    protocol: Protocol,
    line: Line,
    active: Active,
    least: float,
    contrast: int,
    draw: np.random.Generator,
) -> Sequences:
    """Return the sequences of a latent: as many as the protocol says, and up to `contrast` others.

    Activating are those whose centre is active above `least`. Raises TooFew.
    """
    candidate_n = (active.activation_n > least) & line.inside_n[active.place_n]
    strength_n = active.activation_n[candidate_n]
    order = np.argsort(-strength_n, kind="stable")
    strong = Active(active.place_n[candidate_n][order], strength_n[order])
    if isinstance(protocol, OrtSAESequences):
        explain, positive = _strongest_and_spread(protocol, strong, line.sequence, draw)
    else:
        explain, positive = _strongest_and_weighted(protocol, strong, line.sequence, draw)
    negative = line.silent(active, protocol.silent, draw)
    if len(negative) < protocol.silent:
        raise TooFew(f"{len(negative)} silent sequences of the {protocol.silent} to be scored on")
    held_out = np.concatenate([positive, negative])
    mixed = draw.permutation(len(held_out))
    others = line.silent(active, contrast, draw)
    return Sequences(
        explain,
        held_out[mixed],
        (np.arange(len(held_out)) < len(positive))[mixed],
        others[_away(others, held_out, line.sequence)],
    )


def _strongest_and_spread(
    of: OrtSAESequences, strong: Active, distance: int, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the strongest places to explain from, and others of all strengths to be scored on.

    `strong` is by falling activation. As many come from each quantile; what one lacks is drawn from
    all.
    """
    chosen = _Apart(distance)
    explain = chosen.take(strong.place_n, of.explain, "to explain from")
    others_n = strong.place_n[_away(strong.place_n, explain, distance)]
    positive: list[int] = []
    for group, n in spread(others_n, of.active, of.quantiles):
        positive += chosen.up_to(draw.permutation(group), n)
    positive += chosen.up_to(draw.permutation(others_n), of.active - len(positive))
    if len(positive) < of.active:
        raise TooFew(f"{len(positive)} active sequences of the {of.active} to be scored on")
    return explain, np.array(positive, np.int64)


def _strongest_and_weighted(
    of: SAEBenchSequences, strong: Active, distance: int, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return places to explain from and to be scored on; `strong` is by falling activation.

    Both have some of the strongest, dealt at random, and some of the weaker ones, drawn one after
    another with probability proportional to the squared activation.
    """
    chosen = _Apart(distance)
    strongest = chosen.take(strong.place_n, of.explain_top + of.top, "among the strongest")
    weakest = strong.activation_n[strong.place_n == strongest[-1]]
    weaker_n = strong.activation_n <= weakest
    weight_n = strong.activation_n[weaker_n].astype(np.float64) ** 2
    # Sorted by exponential times of these rates: drawing one after another without putting back.
    order = np.argsort(draw.exponential(size=len(weight_n)) / weight_n, kind="stable")
    weighted = chosen.take(
        strong.place_n[weaker_n][order], of.explain_weighted + of.weighted, "among the weaker"
    )
    strongest = draw.permutation(strongest)
    explain = np.concatenate([strongest[: of.explain_top], weighted[: of.explain_weighted]])
    return explain, np.concatenate([strongest[of.explain_top :], weighted[of.explain_weighted :]])


class _Apart:
    """Takes places of which no two are closer than `distance`."""

    def __init__(self, distance: int) -> None:
        self.distance = distance
        self.taken: list[int] = []

    def take(self, places: np.ndarray, n: int, what: str) -> np.ndarray:
        """Return the first `n` places that are far enough from all taken; raises TooFew."""
        found = self.up_to(places, n)
        if len(found) < n:
            raise TooFew(f"{len(found)} active sequences of the {n} {what}")
        return np.array(found, np.int64)

    def up_to(self, places: np.ndarray, n: int) -> list[int]:
        """Return the first places, up to `n`, that are far enough from all taken."""
        found: list[int] = []
        for place in places.tolist():
            if len(found) == n:
                break
            i = bisect(self.taken, place)
            if all(
                abs(place - near) >= self.distance for near in self.taken[max(0, i - 1) : i + 1]
            ):
                self.taken.insert(i, place)
                found.append(place)
        return found


def _away(places: np.ndarray, others: np.ndarray, distance: int) -> np.ndarray:
    """Return whether each place is `distance` or more from each of `others`."""
    ordered = np.sort(others)
    near = np.searchsorted(ordered, places - distance, "right")
    beyond = np.searchsorted(ordered, places + distance, "left")
    return np.asarray(near == beyond)
