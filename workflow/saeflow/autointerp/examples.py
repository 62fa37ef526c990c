"""Contexts: short pieces of text, alone or with what a latent does on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from transformers import PreTrainedTokenizerFast

OPEN, CLOSE = "<<", ">>"
"""Marks around active tokens."""


class Pieces(dict[int, str]):
    """The text of each token id."""

    @cached_property
    def ids(self) -> Mapping[str, list[int]]:
        """The token ids of each text; some tokens read alike."""
        found: dict[str, list[int]] = {}
        for token, text in self.items():
            found.setdefault(text, []).append(token)
        return found


@dataclass(frozen=True)
class Contexts:
    """Text without what a latent does on it: all that a judge sees when it predicts."""

    tokens_ct: np.ndarray
    """Token ids (contexts, tokens) int32."""
    pieces: Pieces

    def __len__(self) -> int:
        return len(self.tokens_ct)

    def text(self, c: int) -> str:
        """Return context `c` as text."""
        return "".join(self.pieces[int(token)] for token in self.tokens_ct[c])

    def take(self, rows: np.ndarray | slice) -> Contexts:
        """Return the contexts `rows`, in that order."""
        return Contexts(self.tokens_ct[rows], self.pieces)


@dataclass(frozen=True)
class Examples:
    """Contexts in which a latent is active, the strongest first, and where it is."""

    contexts: Contexts
    acts_ct: np.ndarray
    """Activation of each token; zero where the latent is silent."""
    active_ct: np.ndarray
    """Tokens that count as active, next to the context's greatest activation."""

    def __len__(self) -> int:
        return len(self.contexts)

    def marked(self, c: int) -> str:
        """Return example `c` as text with each run of active tokens between marks."""
        pieces = [self.contexts.pieces[int(token)] for token in self.contexts.tokens_ct[c]]
        runs = groupby(zip(self.active_ct[c], pieces, strict=True), key=lambda pair: bool(pair[0]))
        texts = ((active, "".join(piece for _, piece in run)) for active, run in runs)
        return "".join(f"{OPEN}{text}{CLOSE}" if active else text for active, text in texts)


def pieces_of(tokenizer: PreTrainedTokenizerFast, ids: Iterable[int]) -> Pieces:
    """Return the text of each token as it stands behind another one.

    Alone, some tokenizers drop the space that a token begins with, so each is read behind a full
    stop. A token that holds part of a character reads as the replacement character.
    """
    stop = tokenizer.encode(".", add_special_tokens=False)[-1:]
    ids = [int(token) for token in ids]
    plain = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = len(tokenizer.decode(stop, **plain))
    texts = tokenizer.batch_decode([[*stop, token] for token in ids], **plain)
    return Pieces((token, text[before:]) for token, text in zip(ids, texts, strict=True))
