"""AUROC of many detectors for many concepts, from one ranking."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

_BLOCK = 1024

Floats = NDArray[np.floating]


def aurocs(values_nf: Floats, positive_cn: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return (c, f): P(a positive has a larger value than a negative), ties counting one half.

    Everything that is not positive for a concept is negative for it, so that all concepts share
    the ranks of a detector f over the n instances (Mann and Whitney's statistic). Raises
    ValueError for a concept without positives or without negatives.
    """
    positives_c = positive_cn.sum(axis=1)
    negatives_c = positive_cn.shape[1] - positives_c
    if not positives_c.all() or not negatives_c.all():
        raise ValueError(
            f"AUROC needs positives and negatives of every concept; there are "
            f"{positives_c.tolist()} positives among {positive_cn.shape[1]}"
        )
    found = np.empty((len(positive_cn), values_nf.shape[1]))
    for start in range(0, values_nf.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        found[:, block] = positive_cn.astype(float) @ rankdata(values_nf[:, block], axis=0)
    found -= (positives_c * (positives_c + 1) / 2)[:, None]
    return found / (positives_c * negatives_c)[:, None]
