"""Student's t interval over seeds, for means and for paired ratios.

SciPy takes half a second to import and is needed only where an interval is computed, while every
job reads the settings of claims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

LEVEL = 0.95


class Interval(NamedTuple):
    """A centre with its interval; `low` and `high` are None where n = 1 gives none."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half the interval's width, or None."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def t_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Return mean and two-sided t-interval of n independent values.

    One value has no interval. Raises ValueError for no value or a value that is not finite.
    """
    from scipy.special import stdtrit

    n = len(values)
    if n == 0 or not all(map(math.isfinite, values)):
        raise ValueError(f"an interval needs finite values, got {list(values)}")
    mean = fmean(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def log_ratio(value: float, baseline: float) -> float:
    """Return log(value / baseline); raises ValueError unless both are positive."""
    if value <= 0 or baseline <= 0:
        raise ValueError(f"a ratio on the log scale needs positive values: {value:g}, {baseline:g}")
    return math.log(value / baseline)


def from_logs(logs: Interval) -> Interval:
    """Return an interval of log ratios as one of ratios, about their geometric mean."""
    low = None if logs.low is None else math.exp(logs.low)
    high = None if logs.high is None else math.exp(logs.high)
    return Interval(math.exp(logs.mean), low, high, logs.n)


def ratio_interval(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """Return the geometric mean of paired ratios with its 95% t-interval on the log scale.

    Raises ValueError where the pairs do not match or a value is not positive.
    """
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} values cannot be paired with {len(baseline)}")
    return from_logs(t_interval([log_ratio(*pair) for pair in zip(values, baseline, strict=True)]))
