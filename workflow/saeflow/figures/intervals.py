"""Student's t interval over seeds, for means and for paired ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95


class Interval(NamedTuple):
    """A centre with its 95% interval; `low` and `high` are None where n = 1 gives none."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half the interval's width, or None."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def t_interval(values: Sequence[float]) -> Interval:
    """Return mean and two-sided 95% t-interval of n independent values.

    One value has no interval. Raises ValueError for no value or a value that is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"an interval needs finite values, got {list(values)}")
    mean = float(sample.mean())
    if sample.size == 1:
        return Interval(mean, None, None, 1)
    half = float(stdtrit(sample.size - 1, (1 + LEVEL) / 2) * sample.std(ddof=1) / sample.size**0.5)
    return Interval(mean, mean - half, mean + half, int(sample.size))


def ratio_interval(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Return the geometric mean of paired ratios with its 95% t-interval on the log scale.

    Raises ValueError where the pairs do not match or a value is not positive.
    """
    above, below = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if above.shape != below.shape:
        raise ValueError(f"{above.size} values cannot be paired with {below.size}")
    if (above <= 0).any() or (below <= 0).any():
        raise ValueError("a ratio on the log scale needs positive values")
    logs = t_interval(list(np.log(above / below)))
    low = None if logs.low is None else float(np.exp(logs.low))
    high = None if logs.high is None else float(np.exp(logs.high))
    return Interval(float(np.exp(logs.mean)), low, high, logs.n)
