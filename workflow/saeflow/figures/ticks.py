"""Ticks of log axes: few, and in plain numbers where those are short."""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.axis import Axis
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from saeflow.figures.text import width_in_inches

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_DECADES = 5
# The numbers of an axis within these are short enough to be written out.
_PLAIN = (0.009, 1e5)
_LABEL_SIZE, _GAP = 7, 0.06


def log_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """Set the ticks of an axis with a log scale that shows `limits`.

    Over a decade or more there is a tick at powers of ten (and at 2 and 5 times these over less
    than two); over less than a decade ticks are at round numbers.
    """
    span = math.log10(limits[1] / limits[0])
    if span < 1:
        axis.set_major_locator(MaxNLocator(5))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 2 else (1,), numticks=_DECADES))
    write = plain if limits[0] >= _PLAIN[0] and limits[1] <= _PLAIN[1] else scientific
    axis.set_major_formatter(FuncFormatter(lambda value, _: write(value) if value > 0 else ""))
    axis.set_minor_formatter(NullFormatter())


def number_ticks(axis: Axis, numbers: Iterable[float], width: float) -> None:
    """Set ticks at `numbers` on a log axis that is `width` inches long, save where labels touch."""
    ordered = sorted(numbers)
    logs_per_inch = (math.log(ordered[-1] / ordered[0]) or 1.0) / width
    kept: list[float] = []
    for number in ordered:
        if kept:
            halves = [width_in_inches(plain(n), _LABEL_SIZE) / 2 for n in (kept[-1], number)]
            if math.log(number / kept[-1]) / logs_per_inch < sum(halves) + _GAP:
                continue
        kept.append(number)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def plain(value: float) -> str:
    """Return 0.01 as it is and 20000 as 20,000."""
    return f"{value:,.10g}"


def scientific(value: float) -> str:
    """Return 1e-05 as 10⁻⁵ and 20000 as 2·10⁴."""
    power = math.floor(math.log10(value) + 1e-9)
    factor = value / 10**power
    ten = "10" + str(power).translate(_RAISED)
    return ten if abs(factor - 1) < 1e-6 else f"{factor:.3g}·{ten}"
