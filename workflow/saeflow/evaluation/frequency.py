"""How often each token type occurs in a text, and the order of types that follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saeflow.artifacts import ArtifactError, read_manifest

Counts = NDArray[np.int64]


def token_counts(tokens: Path, split: str, vocab_size: int, special_ids: Iterable[int]) -> Counts:
    """Return how often each type (vocab_size,) occurs in a split; special tokens count as never.

    Raises ArtifactError for unfinished or damaged tokens, a split that is not there, one without
    text, and a token outside the vocabulary.
    """
    files = read_manifest(tokens, kind="tokens")["files"]
    path = tokens / f"{split}.parquet"
    if path.name not in files:
        raise ArtifactError(f"{tokens} has no split {split}: it holds {sorted(files)}")
    count_v = np.zeros(vocab_size, dtype=np.int64)
    for batch in pq.ParquetFile(path).iter_batches(columns=["tokens"]):
        found = np.bincount(batch["tokens"].flatten().to_numpy(), minlength=vocab_size)
        if len(found) > vocab_size:
            raise ArtifactError(
                f"{path} holds token {len(found) - 1}, the subject knows {vocab_size}: the tokens "
                "are of another subject"
            )
        count_v += found
    count_v[sorted(special_ids)] = 0
    if not count_v.any():
        raise ArtifactError(f"{path} holds no text: token frequencies cannot be taken from it")
    return count_v


def ranks(count_v: Counts) -> Counts:
    """Return the rank (vocab_size,) of each type: 1 is the most frequent, ties go by id."""
    rank_v = np.empty(len(count_v), dtype=np.int64)
    rank_v[np.argsort(-count_v, kind="stable")] = np.arange(1, len(count_v) + 1)
    return rank_v
