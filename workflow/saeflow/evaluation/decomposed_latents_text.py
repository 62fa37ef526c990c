"""What latents stand for on a text: where they fire, with which others, and words that tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from saeflow.autointerp.contexts import spread
from saeflow.autointerp.examples import Contexts, Examples, Pieces
from saeflow.autointerp.firing import Firing, Text
from saeflow.autointerp.lexical import separating
from saeflow.autointerp.settings import Lexical
from saeflow.evaluation.decomposed_latents_settings import DecomposedLatentsSettings

_QUANTILES = 10
"""Groups of strength that the contexts of the words are spread over, as in explaining latents."""
_ACTIVE_SHARE = 0.3
"""Tokens with this share of a context's greatest activation count as active, as there."""


@dataclass(frozen=True)
class Fires:
    """Where one latent fires: tokens counted through the contexts of a text, and how strongly."""

    token_n: np.ndarray
    activation_n: np.ndarray

    def __len__(self) -> int:
        return len(self.token_n)


class Seen(NamedTuple):
    """A token on which a latent fires, with the text around it."""

    before: str
    token: str
    after: str
    activation: float


class Meaning(NamedTuple):
    """What a latent stands for."""

    words: list[str]
    """Tokens and short sequences that tell its contexts from others, the best first."""
    contexts: list[Seen]
    """Where it fires most, a context a document."""


class Latents:
    """Where the latents of one SAE fire in a text."""

    def __init__(self, firing: Firing, text: Text) -> None:
        token_n = firing.context_n.astype(np.int64) * text.tokens_ct.shape[1] + firing.position_n
        order = np.lexsort((token_n, firing.latent_n))
        self._latent_n = firing.latent_n[order]
        self._token_n, self._activation_n = token_n[order], firing.activation_n[order]

    def fires(self, latent: int) -> Fires:
        """Return where a latent fires, by rising token."""
        first, last = np.searchsorted(self._latent_n, [latent, latent + 1])
        return Fires(self._token_n[first:last], self._activation_n[first:last])


def share_of(token_n: np.ndarray, among_k: np.ndarray) -> float:
    """Return the share of tokens, of which there are some, that are among others."""
    return float(np.isin(token_n, among_k).mean())


def union(fires: list[Fires]) -> np.ndarray:
    """Return the tokens on which at least one of several latents fires, by rising token."""
    return np.unique(np.concatenate([one.token_n for one in fires]))


class Reader:
    """Reads what latents stand for off a text, whose contexts are as long as what is shown."""

    def __init__(self, settings: DecomposedLatentsSettings, text: Text, pieces: Pieces) -> None:
        self.settings, self.pieces = settings, pieces
        self.tokens_t = text.tokens_ct.ravel()
        self.length = text.tokens_ct.shape[1]
        self.first_w = text.first_w * self.length
        counts = np.diff(text.first_w)
        self.window_c = np.repeat(np.arange(len(counts)), counts)
        self.document_c = text.document_c

    def meaning(self, latent: int, fires: Fires) -> Meaning:
        """Return words and contexts of a latent that fires somewhere."""
        acts_t = np.zeros(self.tokens_t.size, np.float32)
        acts_t[fires.token_n] = fires.activation_n
        strongest_n = fires.token_n[np.argsort(-fires.activation_n, kind="stable")]
        return Meaning(
            words=self._words(latent, acts_t, strongest_n),
            contexts=[self._seen(token, acts_t) for token in self._shown(strongest_n)],
        )

    def _around(self, token_n: np.ndarray) -> np.ndarray:
        """Return the tokens (n, length), counted through the text, around each of some.

        Those near an end of their window stand nearer to an end of what is around them.
        """
        window_n = self.window_c[token_n // self.length]
        last_n = self.first_w[window_n + 1] - self.length
        start_n = np.clip(token_n - self.settings.context, self.first_w[window_n], last_n)
        return start_n[:, None] + np.arange(self.length)

    def _shown(self, ordered_n: np.ndarray) -> list[int]:
        """Return the first tokens, each of another document and with another text around it."""
        _, first = np.unique(self.document_c[ordered_n // self.length], return_index=True)
        chosen: dict[bytes, int] = {}
        for token in ordered_n[np.sort(first)]:
            around_t = self.tokens_t[self._around(token[None])[0]]
            chosen.setdefault(around_t.tobytes(), int(token))
            if len(chosen) == self.settings.contexts:
                break
        return list(chosen.values())

    def _seen(self, token: int, acts_t: np.ndarray) -> Seen:
        around = self._around(np.array([token]))[0]
        middle = token - int(around[0])
        texts = [self.pieces[int(t)] for t in self.tokens_t[around]]
        before, after = "".join(texts[:middle]), "".join(texts[middle + 1 :])
        return Seen(before, texts[middle], after, float(acts_t[token]))

    def _words(self, latent: int, acts_t: np.ndarray, strongest_n: np.ndarray) -> list[str]:
        """Return what the lexical judge would explain the latent by, from centred contexts."""
        groups = spread(strongest_n, self.settings.word_contexts, _QUANTILES)
        around_ct = self._around(np.concatenate([group[:n] for group, n in groups]))
        acts_ct = acts_t[around_ct]
        active_ct = acts_ct >= _ACTIVE_SHARE * acts_ct.max(1, keepdims=True)
        examples = Examples(Contexts(self.tokens_t[around_ct], self.pieces), acts_ct, active_ct)
        lexical = Lexical(
            kind="lexical", max_terms=self.settings.words, min_gain=self.settings.min_gain
        )
        terms = separating(lexical, examples, self._silent(latent, acts_t, lexical.contrast))
        return ["".join(self.pieces[token] for token in term) for term in terms]

    def _silent(self, latent: int, acts_t: np.ndarray, n: int) -> np.ndarray:
        """Return up to `n` of the text's contexts in which the latent is silent."""
        tokens_ct, acts_ct = (x_t.reshape(-1, self.length) for x_t in (self.tokens_t, acts_t))
        silent = (acts_ct == 0).all(1).nonzero()[0]
        draw = np.random.default_rng([self.settings.seed, latent])
        return tokens_ct[draw.choice(silent, min(n, len(silent)), replace=False)]
