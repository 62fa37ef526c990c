"""A metric against the measured L0: one line a variant, error bars over seeds."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from saeflow.figures.drawn import as_table, mark
from saeflow.figures.frame import REFERENCE, legend_above
from saeflow.figures.points import line_chart
from saeflow.figures.rows import chosen_l0s, label_of, level, of_seeds
from saeflow.figures.settings import Context, Curve
from saeflow.figures.style import looks_of
from saeflow.intervals import t_interval


def curve_points(rows: pd.DataFrame, settings: Curve, context: Context) -> pd.DataFrame:
    """Return the marks: per variant and L0 target the mean and interval of L0 and of the metric.

    Points of different seeds belong together by their L0 target; x is what they measured.
    Raises FigureError where a variant, L0, metric or seed is missing.
    """
    l0s = chosen_l0s(settings.l0, context)
    marks = []
    for name in settings.variants:
        for l0 in l0s:
            x = t_interval(of_seeds(rows, "l0", name, l0, context))
            y = t_interval(of_seeds(rows, settings.metric, name, l0, context))
            label = label_of(name, context)
            marks.append(mark(settings.metric, name, label, l0_target=l0, x=x, y=y, n=y.n))
    if settings.reference:
        line = settings.reference
        height = level(rows, line.metric, settings.variants, l0s, context)
        marks.append(mark(settings.metric, None, line.label, y=height))
    return as_table(marks)


def draw_curve(points: pd.DataFrame, settings: Curve) -> Figure:
    """Draw what `curve_points` returned."""
    looks = looks_of(settings.variants)
    figure, axes = line_chart(points, looks, settings.x_label, settings.y_label)
    _scale_x(axes, settings, points)
    references = points[points["variant"].isna()]
    for label, y in zip(references["label"], references["y"], strict=True):
        axes.axhline(float(y), label=label, **REFERENCE)
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure


def _scale_x(axes: Axes, settings: Curve, points: pd.DataFrame) -> None:
    if settings.x_scale == "linear":
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(points["l0_target"].dropna()))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
