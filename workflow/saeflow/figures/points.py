"""A line through points, with error bars: the one look of all that is drawn so."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saeflow.figures.frame import error_bar
from saeflow.figures.style import ONE_COLUMN, Look
from saeflow.figures.text import wrap

_HEIGHT = 2.3


def line_chart(
    points: pd.DataFrame, looks: Mapping[str, Look], x_label: str, y_label: str
) -> tuple[Figure, Axes]:
    """Return a figure of one panel with a line through the points of each variant of `looks`."""
    figure = Figure(figsize=(ONE_COLUMN, _HEIGHT))
    axes = figure.add_subplot()
    for name, look in looks.items():
        draw_points(axes, points[points["variant"] == name], look)
    axes.set_xlabel(wrap(x_label, 7.5, ONE_COLUMN - 0.8))
    axes.set_ylabel(wrap(y_label, 7.5, _HEIGHT - 0.7))
    return figure, axes


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
