"""From scores of documents against each seed to one order of the documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata


class Scores(NamedTuple):
    """How well each candidate answers each query."""

    documents_n: NDArray[np.int64]
    values_qn: NDArray[np.float32]


RANK_OFFSET = 60
"""What reciprocal rank fusion adds to a rank (Cormack et al. 2009)."""


def joined(parts: Iterable[Scores], queries: int, documents: int) -> Scores:
    """Return the scores of all `documents`, of which `parts` hold some each, in their order.

    Beside the result, one part is in memory at a time.
    """
    all_n = np.empty(documents, np.int64)
    values_qn = np.empty((queries, documents), np.float32)
    start = 0
    for part in parts:
        end = start + len(part.documents_n)
        all_n[start:end] = part.documents_n
        values_qn[:, start:end] = part.values_qn
        start = end
    if start != documents:
        raise ValueError(f"the shards have {start} documents, not {documents}")
    return Scores(all_n, values_qn)


def combine(
    values_qn: NDArray[np.float32], how: str, *, zero_is_no_answer: bool = False
) -> NDArray[np.float64]:
    """Return one score a document, higher is better (see `Selection.combine`).

    With `zero_is_no_answer`, as of BM25, a document has no rank in the list of a query that it
    scores 0 for, and so nothing from it.
    """
    if how == "mean":
        return values_qn.mean(0, dtype=np.float64)
    if how == "max":
        return values_qn.max(0).astype(np.float64)
    combined_n = np.zeros(values_qn.shape[1])
    for values_n in values_qn:
        listed_n = values_n > 0 if zero_is_no_answer else np.ones(len(values_n), bool)
        ranks_n = ranks(values_n[listed_n])
        if how == "best_rank":
            combined_n[listed_n] = np.maximum(combined_n[listed_n], 1 / ranks_n)
        else:
            combined_n[listed_n] += 1 / (RANK_OFFSET + ranks_n)
    return combined_n


def ranks(values_n: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the rank of each value, 1 for the largest; equal values share their mean rank."""
    return rankdata(-values_n)


def ranked(documents_n: NDArray[np.int64], score_n: NDArray[np.float64]) -> pd.DataFrame:
    """Return the columns `document` and `score`, best first; ties are in the order of the ids."""
    order_n = np.lexsort((documents_n, -score_n))
    return pd.DataFrame({"document": documents_n[order_n], "score": score_n[order_n]})
