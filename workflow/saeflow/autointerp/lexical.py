"""The offline judge: explains by tokens and n-grams, and predicts by their presence.

An explanation is a list of terms, each a sequence of tokens that has an active one in some example.
They are chosen greedily: the next term is the one that most raises the share of activating contexts
with a term, less that share among contexts in which the latent is silent. A context is predicted
active if it has any of the terms.

That a term must have an active token keeps chance coincidences out: where any n-gram could be one,
accuracy on held-out contexts was lower for each of three desk SAEs (ReLU at L0 4 and 16, BatchTopK
at L0 16: 0.77, 0.64 and 0.65 against 0.80, 0.67 and 0.71).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from saeflow.autointerp.examples import Contexts, Examples
from saeflow.autointerp.judges import Diversity, Sampled
from saeflow.autointerp.settings import Autointerp, Lexical

_OR = " or "
_NOTHING = "no token or sequence of tokens that tells its contexts from others"
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SLACK = 1e-9
"""A gain of just one example in 40 must not fail by the last bit of a division."""
Term = tuple[str, ...]
"""Texts of consecutive tokens."""


def make(settings: Autointerp, folder: Path, root: Path, device: str) -> LexicalJudge:
    """Return the judge of the settings; it keeps nothing."""
    assert isinstance(settings.judge, Lexical)
    return LexicalJudge(settings.judge)


class LexicalJudge:
    """Explains by what is read in activating contexts and not in others."""

    name = "lexical (no language model)"
    definition = (
        "explains by the tokens and n-grams that best tell activating contexts from silent ones, "
        "predicts by their presence, and rates diversity by the entropy of the active tokens"
    )
    concurrency = 1
    files: tuple[str, ...] = ()

    def __init__(self, settings: Lexical) -> None:
        self.settings = settings
        self.contrast = settings.contrast

    def explain(self, examples: Examples, contrast: Contexts) -> str:
        """Return the terms as JSON strings; those of one term follow each other."""
        pieces = examples.contexts.pieces
        terms = separating(self.settings, examples, contrast.tokens_ct)
        written = [" ".join(json.dumps(pieces[t], ensure_ascii=False) for t in m) for m in terms]
        return _OR.join(written) if written else _NOTHING

    def detect(self, explanation: str, contexts: Contexts) -> list[bool]:
        """Return whether each context has one of the terms."""
        found_c = np.zeros(len(contexts), bool)
        for term in _terms(explanation):
            found_c |= _has(term, contexts)
        return found_c.tolist()

    def diversity(self, explanation: str, examples: Examples) -> Diversity:
        """Return 100 times the entropy of the active tokens' types over its maximum.

        The maximum is the logarithm of the number of active tokens: 0 where all are the same token,
        100 where no two are. A single active token has no variety: 0.
        """
        active_n = examples.contexts.tokens_ct[examples.active_ct]
        types, counts = np.unique(active_n, return_counts=True)
        share_v = counts / counts.sum()
        entropy = float(-(share_v * np.log(share_v)).sum())
        score = 100 * entropy / log(len(active_n)) if len(active_n) > 1 else 0.0
        most = examples.contexts.pieces[int(types[counts.argmax()])]
        return Diversity(
            min(max(score, 0.0), 100.0),
            f"{len(types)} different tokens among {len(active_n)} active ones; the most frequent, "
            f"{json.dumps(most, ensure_ascii=False)}, is {share_v.max():.0%} of them",
        )

    def stop(self) -> None:
        """Do nothing: no question waits for an answer."""

    def forecast(self, latents: Sequence[Sampled], *, diversity: bool = True) -> str:
        """Return what judging `latents` will take."""
        return f"the lexical judge explains {len(latents):,} latents without any request"

    def finish(self) -> dict[str, Any]:
        """Return that nothing was asked or paid."""
        return {"requests": 0, "cost": 0.0}


def separating(
    settings: Lexical, examples: Examples, silent_ct: np.ndarray
) -> list[tuple[int, ...]]:
    """Return the terms (token ids) that tell activating from silent contexts, best first."""
    tokens_ct = examples.contexts.tokens_ct
    has_cg: list[np.ndarray] = []
    silent_has_cg: list[np.ndarray] = []
    grams: list[tuple[int, ...]] = []
    base = 1 + int(max(tokens_ct.max(), silent_ct.max(initial=0)))
    for n in range(1, min(settings.max_ngram, tokens_ct.shape[1]) + 1):
        keys_ck = _keys(tokens_ct, n, base)
        candidates_g = _frequent(keys_ck, settings.min_gain * len(examples))
        candidates_g = np.intersect1d(candidates_g, keys_ck[_with_active(examples.active_ct, n)])
        has_cg.append(_presence(keys_ck, candidates_g))
        silent_has_cg.append(_presence(_keys(silent_ct, n, base), candidates_g))
        grams.extend(_gram(int(key), n, base) for key in candidates_g)
    chosen = _greedy(np.hstack(has_cg), np.hstack(silent_has_cg), settings)
    return [grams[g] for g in chosen]


def _with_active(active_ct: np.ndarray, n: int) -> np.ndarray:
    """Return whether each n-gram (contexts, tokens - n + 1) has an active token."""
    length = active_ct.shape[1] - n + 1
    return np.logical_or.reduce([active_ct[:, i : i + length] for i in range(n)])


def _keys(tokens_ct: np.ndarray, n: int, base: int) -> np.ndarray:
    """Return a number for each n-gram (contexts, tokens - n + 1) int64; no two share one.

    Three tokens of a vocabulary of up to two million fit into 63 bits.
    """
    length = tokens_ct.shape[1] - n + 1
    keys_ck = np.zeros((len(tokens_ct), length), np.int64)
    for i in range(n):
        keys_ck = keys_ck * base + tokens_ct[:, i : i + length]
    return keys_ck


def _gram(key: int, n: int, base: int) -> tuple[int, ...]:
    return tuple(key // base**i % base for i in reversed(range(n)))


def _frequent(keys_ck: np.ndarray, least: float) -> np.ndarray:
    """Return the n-grams of at least `least` contexts, sorted; no other can gain enough."""
    ordered_ck = np.sort(keys_ck, axis=1)
    first_ck = np.ones(ordered_ck.shape, bool)
    first_ck[:, 1:] = ordered_ck[:, 1:] != ordered_ck[:, :-1]
    keys, counts = np.unique(ordered_ck[first_ck], return_counts=True)
    return keys[counts >= least - _SLACK]


def _presence(keys_ck: np.ndarray, candidates_g: np.ndarray) -> np.ndarray:
    """Return whether each context has each candidate (contexts, candidates) bool."""
    has_cg = np.zeros((len(keys_ck), len(candidates_g)), bool)
    if not len(candidates_g):
        return has_cg
    place_ck = np.searchsorted(candidates_g, keys_ck).clip(max=len(candidates_g) - 1)
    context, k = (candidates_g[place_ck] == keys_ck).nonzero()
    has_cg[context, place_ck[context, k]] = True
    return has_cg


def _greedy(has_cg: np.ndarray, silent_has_cg: np.ndarray, settings: Lexical) -> list[int]:
    """Return the candidates chosen; of equal gains the shorter n-gram, which comes first."""
    chosen: list[int] = []
    n_silent = max(1, len(silent_has_cg))
    left_cg, silent_left_cg = has_cg, silent_has_cg
    while len(chosen) < settings.max_terms and has_cg.shape[1]:
        gain_g = left_cg.sum(0) / len(has_cg) - silent_left_cg.sum(0) / n_silent
        best = int(gain_g.argmax())
        if gain_g[best] < settings.min_gain - _SLACK:
            break
        chosen.append(best)
        left_cg = left_cg[~left_cg[:, best]]
        silent_left_cg = silent_left_cg[~silent_left_cg[:, best]]
    return chosen


def _terms(explanation: str) -> list[Term]:
    """Return the terms that an explanation names."""
    found, last = [], None
    for match in _STRING.finditer(explanation):
        between = explanation[last : match.start()] if last is not None else _OR
        if between == _OR:
            found.append([json.loads(match.group())])
        else:
            found[-1].append(json.loads(match.group()))
        last = match.end()
    return [tuple(term) for term in found]


def _has(term: Term, contexts: Contexts) -> np.ndarray:
    """Return whether each context has the term."""
    length = contexts.tokens_ct.shape[1] - len(term) + 1
    found_ck = np.ones((len(contexts), max(0, length)), bool)
    for i, piece in enumerate(term):
        ids = contexts.pieces.ids.get(piece, [])
        found_ck &= np.isin(contexts.tokens_ct[:, i : i + length], ids)
    return np.asarray(found_ck.any(1))
