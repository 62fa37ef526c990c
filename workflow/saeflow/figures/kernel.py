"""Gaussian kernel densities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter1d

_BINS = 512
_REACH = 4.0
"""Standard deviations after which the kernel ends."""


def kernel_density(
    per_seed: Sequence[np.ndarray], low: float, high: float, bandwidth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return bin centres over [low, high] and the mean over seeds of the density there.

    A fine histogram is smoothed by a Gaussian of standard deviation `bandwidth`, in units of the
    axis. At an end with no value beyond it is reflected, so that no mass leaves the axis; across
    an end that cuts a seed's values off, mass passes as it does inside.
    """
    width = (high - low) / _BINS
    reach = int(_REACH * bandwidth / width + 0.5)
    curves = []
    for values in per_seed:
        before = reach if (values < low).any() else 0
        after = reach if (values > high).any() else 0
        edges = low + width * np.arange(-before, _BINS + after + 1)
        edges[before], edges[before + _BINS] = low, high
        counts, _ = np.histogram(values, edges)
        share = counts / (values.size * width)
        smooth = gaussian_filter1d(share, bandwidth / width, mode="reflect", truncate=_REACH)
        curves.append(smooth[before : before + _BINS])
    return low + width * (np.arange(_BINS) + 0.5), np.mean(curves, axis=0)
