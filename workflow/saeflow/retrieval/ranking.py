"""From scores of documents against each seed to one order of the documents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Scores(NamedTuple):
    """How well each candidate answers each query."""

    documents_n: NDArray[np.int64]
    values_qn: NDArray[np.float32]


RANK_OFFSET = 60
"""What reciprocal rank fusion adds to a rank (Cormack et al. 2009)."""


def combine(values_qn: NDArray[np.float32], how: str) -> NDArray[np.float64]:
    """Return one score a document, higher is better (see `Selection.combine`)."""
    if how == "mean":
        return values_qn.mean(0, dtype=np.float64)
    if how == "max":
        return values_qn.max(0).astype(np.float64)
    combined_n = np.zeros(values_qn.shape[1])
    for values_n in values_qn:
        if how == "best_rank":
            np.maximum(combined_n, 1 / ranks(values_n), out=combined_n)
        else:
            combined_n += 1 / (RANK_OFFSET + ranks(values_n))
    return combined_n


def ranks(values_n: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the rank of each value, 1 for the largest; ties are in their order."""
    ranks_n = np.empty(len(values_n), np.int64)
    ranks_n[np.argsort(-values_n, kind="stable")] = np.arange(1, len(values_n) + 1)
    return ranks_n


def ranked(documents_n: NDArray[np.int64], score_n: NDArray[np.float64]) -> pd.DataFrame:
    """Return the columns `document` and `score`, best first; ties are in the order of the ids."""
    order_n = np.lexsort((documents_n, -score_n))
    return pd.DataFrame({"document": documents_n[order_n], "score": score_n[order_n]})
