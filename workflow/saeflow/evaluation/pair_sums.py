"""Sums over (row, column) pairs of which few occur, and what the rows and columns look like."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array

_PENDING = 1 << 22

Floats = NDArray[np.float64]


class PairSums:
    """Streaming sums of positive values by (row, column), in memory of the pairs that occur."""

    def __init__(self, rows: int, columns: int) -> None:
        self.shape = rows, columns
        self._total = csr_array(self.shape, dtype=np.float64)
        self._pending: list[tuple[NDArray, NDArray, NDArray]] = []
        self._waiting = 0

    def add(self, rows_p: NDArray, columns_p: NDArray, values_p: NDArray) -> None:
        """Add `values_p` to the sums at (`rows_p`, `columns_p`), each (pairs,)."""
        self._pending.append((rows_p, columns_p, values_p))
        self._waiting += len(values_p)
        # As much waits as is summed already, so that each pair is moved a few times in all.
        if self._waiting > max(_PENDING, self._total.nnz):
            self._sum_up()

    def total(self) -> csr_array:
        """Return the sums (rows, columns)."""
        self._sum_up()
        return self._total

    def _sum_up(self) -> None:
        if not self._pending:
            return
        rows_p, columns_p, values_p = map(np.concatenate, zip(*self._pending, strict=True))
        new = coo_array((values_p.astype(np.float64), (rows_p, columns_p)), shape=self.shape)
        self._total = csr_array(self._total + new.tocsr())
        self._pending, self._waiting = [], 0


def row_entropies(sums: csr_array) -> Floats:
    """Return the entropy (rows,) in nats of each row divided by its sum; NaN for an empty row.

    With S the sum of a row m, -sum (m/S) log (m/S) = log S - (sum m log m) / S.
    """
    total_r = np.asarray(sums.sum(axis=1), dtype=np.float64)
    logs = csr_array((sums.data * np.log(sums.data), sums.indices, sums.indptr), shape=sums.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Rounding may leave a row of one entry a little below zero.
        return np.maximum(np.log(total_r) - np.asarray(logs.sum(axis=1)) / total_r, 0)


class ColumnMaxima(NamedTuple):
    """Largest entry of each column."""

    values: Floats
    """Zero for an empty column."""
    rows: NDArray[np.int64]
    """Where it is: the first of equal ones; -1 for an empty column."""


def column_maxima(sums: csc_array) -> ColumnMaxima:
    """Return the largest entry of each column and its row."""
    sums.sort_indices()
    lengths = np.diff(sums.indptr)
    filled = np.flatnonzero(lengths)
    values, rows = np.zeros(sums.shape[1]), np.full(sums.shape[1], -1, dtype=np.int64)
    if len(filled):
        values[filled] = np.maximum.reduceat(sums.data, sums.indptr[filled])
        largest = np.flatnonzero(sums.data == np.repeat(values[filled], lengths[filled]))
        columns, first = np.unique(np.repeat(filled, lengths[filled])[largest], return_index=True)
        rows[columns] = sums.indices[largest[first]]
    return ColumnMaxima(values, rows)
