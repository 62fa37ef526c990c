"""A line through points, with error bars: the one look of all that is drawn so."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from saeflow.figures.frame import error_bar
from saeflow.figures.style import Look


def draw_points(axes: Axes, points: pd.DataFrame, look: Look) -> None:
    """Draw points in the order of their x, with the error bars of x and y that they have."""
    points = points.sort_values("x")
    x, y = points["x"].astype(float), points["y"].astype(float)
    axes.errorbar(
        x, y, xerr=error_bar(points, "x"), yerr=error_bar(points, "y"), fmt="none",
        ecolor=look.color, elinewidth=0.7, capsize=1.6, capthick=0.7,
    )  # fmt: skip
    axes.plot(
        x, y, label=points["label"].iloc[0], color=look.color, linestyle=look.line,
        marker=look.marker, markersize=6.5 if look.marker == "*" else None,
        markeredgecolor="white", markeredgewidth=0.4,
    )  # fmt: skip
