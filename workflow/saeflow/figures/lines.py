"""Panels of lines, one a series: points with error bars, or curves with bands, over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from saeflow.figures.common_settings import FixedLine
from saeflow.figures.drawn import as_table, mark, note
from saeflow.figures.frame import REFERENCE, legend_above
from saeflow.figures.points import draw_points
from saeflow.figures.rows import FigureError, chosen_l0s, label_of, level, mean_on, of_seeds
from saeflow.figures.style import ONE_COLUMN, TWO_COLUMNS, Look, looks_of
from saeflow.figures.sweep_settings import LinePanel, Lines, SweepContext
from saeflow.figures.text import wrap
from saeflow.figures.ticks import log_ticks
from saeflow.intervals import Interval, t_interval

_HEIGHT = 2.3
_Point = tuple[int | None, Interval | float, Interval]
"""L0 target or None, x, y."""


def line_marks(
    tables: Mapping[str, pd.DataFrame], settings: Lines, context: SweepContext
) -> pd.DataFrame:
    """Return the marks: per panel, series and place the mean and interval over seeds.

    `tables` are the rows of each file that a panel names. Raises FigureError where a series,
    metric or seed is missing.
    """
    marks = []
    for number, panel in enumerate(settings.panels):
        rows, name = tables[panel.file], panel_name(number, panel)
        series = panel.series or settings.series
        left_out = 0
        for one in series:
            points = list(_points(rows, panel, one, context))
            kept = [point for point in points if point is not None]
            left_out += len(points) - len(kept)
            if not kept:
                raise FigureError(f"nothing to draw: {panel.metric!r} of series {one!r}")
            marks += [
                mark(name, one, label_of(one, context), l0_target=l0, x=x, y=y, n=y.n)
                for l0, x, y in kept
            ]
        if left_out:
            marks.append(note(_left_out(panel, left_out)))
        if panel.reference:
            marks.append(mark(name, None, panel.reference.label, y=_level(rows, panel, context)))
    return as_table(marks)


def panel_name(number: int, panel: LinePanel) -> str:
    """Return the name of a panel in the drawn data; two may show one metric."""
    return f"{number + 1}: {panel.metric}"


def _points(
    rows: pd.DataFrame, panel: LinePanel, series: str, context: SweepContext
) -> Iterator[_Point | None]:
    """Yield the points of a line; None where there is nothing to draw at a place."""
    if panel.over_l0:
        return _points_over_l0(rows, panel, series, context)
    return _points_over_x(rows, panel, series, context)


def _points_over_l0(
    rows: pd.DataFrame, panel: LinePanel, series: str, context: SweepContext
) -> Iterator[_Point | None]:
    """Points of different seeds belong together by their L0 target; x is what they measured."""
    here = rows[(rows["metric"] == panel.metric) & (rows["variant"] == series)]
    for l0 in chosen_l0s(panel.l0, context):
        # A point that lies beyond the baseline's L0 is related to nothing; core has all points.
        seeds = set(here.loc[here["l0_target"] == l0, "seed"])
        if panel.file == "pareto" and not seeds.issuperset(context.seeds):
            yield None
            continue
        x = t_interval(of_seeds(rows, "l0", series, l0, context))
        y = mean_on(panel.y_scale, of_seeds(rows, panel.metric, series, l0, context))
        yield None if y is None else (l0, x, y)


def _points_over_x(
    rows: pd.DataFrame, panel: LinePanel, series: str, context: SweepContext
) -> Iterator[_Point | None]:
    here = rows[rows["variant"] == series]
    if panel.file == "curves":
        here = here[here["metric"] == panel.metric]
    else:
        name, number = panel.metric + "@", here["metric"].str.partition("@")[2]
        here = here.assign(x=pd.to_numeric(number, errors="coerce"))
        here = here[here["metric"].str.startswith(name)]
    if here.empty:
        raise FigureError(f"missing: metric {panel.metric!r} of series {series!r}")
    by_x = here.pivot_table(index="x", columns="seed", values="value", aggfunc="first")
    missing = sorted(set(context.seeds) - set(by_x.columns))
    gaps = by_x[[seed for seed in context.seeds if seed in by_x]].isna().any(axis=1)
    if missing or gaps.any():
        where = f"seeds {missing}" if missing else f"a seed at x = {by_x.index[gaps][0]:g}"
        raise FigureError(f"missing: {where} of {panel.metric!r}, series {series!r}")
    for x, values in zip(by_x.index, by_x[list(context.seeds)].to_numpy(), strict=True):
        y = None if panel.x_scale == "log" and x <= 0 else mean_on(panel.y_scale, list(values))
        yield None if y is None else (None, float(x), y)


def _left_out(panel: LinePanel, count: int) -> str:
    points = f"{count} point{'s' if count > 1 else ''} of “{panel.y_label}”"
    if panel.file == "pareto":
        return f"Not drawn: {points}, whose L0 lies beyond the baseline's."
    return f"Not drawn: {points}, for which a log axis has no place."


def _level(rows: pd.DataFrame, panel: LinePanel, context: SweepContext) -> float:
    if isinstance(panel.reference, FixedLine):
        return panel.reference.value
    assert panel.reference is not None
    metric = panel.reference.metric
    here = rows[rows["metric"] == metric]
    series = tuple(dict.fromkeys(here["variant"]))
    if not series:
        raise FigureError(f"missing: metric {metric!r} of the reference line")
    l0s = chosen_l0s(panel.l0, context) if panel.over_l0 else (context.reference_l0,)
    return level(rows, metric, series, l0s, context)


def draw_lines(marks: pd.DataFrame, settings: Lines) -> Figure:
    """Draw what `line_marks` returned."""
    count = len(settings.panels)
    figure = Figure(figsize=(ONE_COLUMN if count == 1 else TWO_COLUMNS, _HEIGHT))
    looks = looks_of(settings.series)
    handles: dict[str, object] = {}
    for number, panel in enumerate(settings.panels):
        axes = figure.add_subplot(1, count, number + 1)
        points = marks[marks["panel"] == panel_name(number, panel)]
        for name in panel.series or settings.series:
            _draw_series(axes, points[points["variant"] == name], panel, looks[name])
        _draw_reference(axes, points[points["variant"].isna()])
        if settings.shade and panel.over_l0:
            shade = settings.shade
            axes.axvspan(
                shade.low, shade.high, color="#e9e3d0", linewidth=0, zorder=0, label=shade.label
            )
        _label(axes, panel, count)
        _scale(axes, panel, points)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend_above(figure, list(handles.values()), list(handles))
    return figure


def _draw_series(axes: Axes, points: pd.DataFrame, panel: LinePanel, look: Look) -> None:
    if panel.file != "curves":
        draw_points(axes, points, look)
        return
    points = points.sort_values("x")
    x, y, low, high = (points[name].astype(float) for name in ("x", "y", "y_low", "y_high"))
    axes.plot(x, y, color=look.color, linestyle=look.line, label=points["label"].iloc[0])
    axes.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)


def _draw_reference(axes: Axes, references: pd.DataFrame) -> None:
    for label, y in zip(references["label"], references["y"], strict=True):
        axes.axhline(float(y), label=label, **REFERENCE)


def _label(axes: Axes, panel: LinePanel, count: int) -> None:
    width = (TWO_COLUMNS / count if count > 1 else ONE_COLUMN) - 0.8
    axes.set_xlabel(wrap(panel.x_label, 7.5, width))
    axes.set_ylabel(wrap(panel.y_label, 7.5, _HEIGHT - 0.7))
    if panel.title:
        axes.set_title(wrap(panel.title, 8, width), loc="left")


def _scale(axes: Axes, panel: LinePanel, points: pd.DataFrame) -> None:
    axes.set(xscale=panel.x_scale, yscale=panel.y_scale)
    if panel.x_from is not None or panel.x_to is not None:
        axes.set_xlim(panel.x_from, panel.x_to)
    if panel.y_scale == "log":
        log_ticks(axes.yaxis, axes.get_ylim())
    if panel.x_scale == "linear":
        axes.xaxis.set_major_locator(MaxNLocator(5))
    elif panel.over_l0:
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(points["l0_target"].dropna()))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        log_ticks(axes.xaxis, axes.get_xlim())
