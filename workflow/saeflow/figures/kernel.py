"""Gaussian kernel densities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

_BINS = 512


def kernel_density(
    per_seed: Sequence[np.ndarray], low: float, high: float, bandwidth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return bin centres and the mean over seeds of the density; each integrates to the share of
    its values that lie within [low, high].

    A fine histogram is smoothed by a Gaussian of standard deviation `bandwidth`, in units of the
    axis, that is reflected at both ends, so that no mass leaves the axis.
    """
    edges = np.linspace(low, high, _BINS + 1)
    width = (high - low) / _BINS
    curves = []
    for values in per_seed:
        counts, _ = np.histogram(values, edges)
        share = counts / (values.size * width)
        curves.append(gaussian_filter1d(share, bandwidth / width, mode="reflect"))
    return (edges[:-1] + edges[1:]) / 2, np.mean(curves, axis=0)
