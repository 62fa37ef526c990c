"""Ticks of log axes: few, and in plain numbers where those are short."""

from __future__ import annotations

import math

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_DECADES = 5
# The numbers of an axis within these are short enough to be written out.
_PLAIN = (0.009, 1e5)


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


def plain(value: float) -> str:
    """Return 0.01 as it is and 20000 as 20,000."""
    return f"{value:,.10g}"


def scientific(value: float) -> str:
    """Return 1e-05 as 10⁻⁵ and 20000 as 2·10⁴."""
    power = math.floor(math.log10(value) + 1e-9)
    factor = value / 10**power
    ten = "10" + str(power).translate(_RAISED)
    return ten if abs(factor - 1) < 1e-6 else f"{factor:.3g}·{ten}"
