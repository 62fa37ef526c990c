"""Corpora as flat token streams, and the order in which pretraining reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer

ENCODE_DOCUMENTS = 2000


@dataclass(frozen=True)
class Stream:
    """The documents of one corpus and split, end to end, each preceded by the end-of-text token."""

    tokens: NDArray[np.uint16]
    text_bytes: int
    """UTF-8 bytes of the documents: turns nats per token into nats per byte."""

    def windows(self, context: int) -> int:
        """Return how many windows of `context` inputs and their next tokens the stream holds."""
        return max(0, (len(self.tokens) - 1) // context)

    def window(self, index: int, context: int) -> NDArray[np.int64]:
        """Return window `index`: `context + 1` tokens, the last of which is only a target."""
        start = index * context
        return self.tokens[start : start + context + 1].astype(np.int64)


def read_texts(corpus: Path, split: str) -> Iterator[str]:
    """Yield the texts of one split of a corpus folder, in the order of the file."""
    documents = pq.ParquetFile(corpus / "documents.parquet")
    for batch in documents.iter_batches(ENCODE_DOCUMENTS, columns=["split", "text"]):
        for part, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if part == split:
                yield text


def encode_stream(texts: Iterator[str], tokenizer: Tokenizer, separator: int) -> Stream:
    """Tokenise `texts` into one stream."""
    parts: list[NDArray[np.uint16]] = []
    text_bytes = 0
    batch: list[str] = []

    def flush() -> None:
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            parts.append(np.asarray([separator, *encoding.ids], dtype=np.uint16))
        batch.clear()

    for text in texts:
        text_bytes += len(text.encode())
        batch.append(text)
        if len(batch) == ENCODE_DOCUMENTS:
            flush()
    flush()
    tokens = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint16)
    return Stream(tokens, text_bytes)


def plan_windows(
    windows: Mapping[str, int], shares: Mapping[str, float], n: int, seed: int
) -> list[tuple[str, int]]:
    """Draw the order of `n` training windows as (corpus, window).

    Corpora are drawn by their share; within a corpus every window is read once, in random order,
    before any is read again. A longer plan begins with the shorter one, so the order that a
    resumed run sees does not depend on anything but the seed.
    """
    names = sorted(shares)
    for name in names:
        if windows[name] == 0:
            raise ValueError(f"corpus {name!r} holds less than one window of training tokens")
    bounds = np.cumsum([shares[name] for name in names])
    drawn = np.searchsorted(bounds[:-1], np.random.default_rng([seed, 0]).random(n), side="right")
    order = np.empty(n, dtype=np.int64)
    for c, name in enumerate(names):
        mine = np.flatnonzero(drawn == c)
        epochs = -(-len(mine) // windows[name])
        passes = [
            np.random.default_rng([seed, 1 + c, epoch]).permutation(windows[name])
            for epoch in range(epochs)
        ]
        if passes:
            order[mine] = np.concatenate(passes)[: len(mine)]
    return [(names[c], int(w)) for c, w in zip(drawn, order, strict=True)]
