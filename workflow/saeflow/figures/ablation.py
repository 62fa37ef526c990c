"""Metrics against a number in which variants differ, beside variants that have no such number."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saeflow.figures.drawn import as_table, mark
from saeflow.figures.frame import REFERENCE, legend_above
from saeflow.figures.grid_settings import Context
from saeflow.figures.points import draw_points
from saeflow.figures.rows import chosen_l0s, label_of, level, of_seeds
from saeflow.figures.single_l0_settings import Ablation, AblationPanel
from saeflow.figures.style import ONE_COLUMN, PANEL_GAP, TWO_COLUMNS, Look, looks_of, looks_of_lines
from saeflow.figures.text import wrap
from saeflow.figures.ticks import number_ticks
from saeflow.intervals import t_interval

_HEIGHT = 2.2
_AXIS_AND_LABEL = 0.65
LINE, LEVEL, REFERENCE_LINE = "line", "level", "reference"


def ablation_marks(rows: pd.DataFrame, settings: Ablation, context: Context) -> pd.DataFrame:
    """Return the marks of each panel: means and intervals over seeds.

    Of kind `line`, labelled by the line, are points with the number as x; of kind `level` the
    variants to compare with, which have no x; of kind `reference` the level of a metric. Raises
    FigureError where a variant, metric or seed is missing.
    """
    l0 = chosen_l0s(settings.l0, context)[0]
    marks = []
    for number, panel in enumerate(settings.panels):
        name = panel_name(number, panel)
        points: list[tuple[str, str, str, float | None]] = [
            (LINE, variant, label, x)
            for label, line in settings.lines.items()
            for x, variant in sorted(line.items())
        ]
        points += [
            (LEVEL, variant, label_of(variant, context), None) for variant in settings.levels
        ]
        for kind, variant, label, x in points:
            y = t_interval(of_seeds(rows, panel.metric, variant, l0, context))
            marks.append(mark(name, variant, label, kind=kind, l0_target=l0, x=x, y=y, n=y.n))
        if panel.reference:
            height = level(rows, panel.reference.metric, settings.variants, (l0,), context)
            marks.append(mark(name, None, panel.reference.label, kind=REFERENCE_LINE, y=height))
    return as_table(marks)


def panel_name(number: int, panel: AblationPanel) -> str:
    """Return the name of a panel in the drawn data; two may show one metric."""
    return f"{number + 1}: {panel.metric}"


def draw_ablation(marks: pd.DataFrame, settings: Ablation) -> Figure:
    """Draw what `ablation_marks` returned."""
    count = len(settings.panels)
    width = ONE_COLUMN if count == 1 else TWO_COLUMNS / count
    figure = Figure(figsize=(width * count, _HEIGHT))
    grid = figure.add_gridspec(1, count, wspace=PANEL_GAP)
    handles: dict[str, object] = {}
    for number, panel in enumerate(settings.panels):
        axes = figure.add_subplot(grid[number])
        _draw_panel(axes, marks[marks["panel"] == panel_name(number, panel)], settings)
        axes.set_xlabel(wrap(settings.x_label, 7.5, width - _AXIS_AND_LABEL))
        axes.set_ylabel(wrap(panel.y_label, 7.5, _HEIGHT - 0.6))
        axes.set_xscale(settings.x_scale)
        if settings.x_scale == "log":
            numbers = {x for line in settings.lines.values() for x in line}
            number_ticks(axes.xaxis, numbers, width - _AXIS_AND_LABEL)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend_above(figure, list(handles.values()), list(handles))
    return figure


def _draw_panel(axes: Axes, marks: pd.DataFrame, settings: Ablation) -> None:
    on_lines = {label: tuple(line.values()) for label, line in settings.lines.items()}
    for label, look in looks_of_lines(on_lines, beside=settings.levels).items():
        points = marks[(marks["kind"] == LINE) & (marks["label"] == label)]
        draw_points(axes, points, look)
    for variant, look in looks_of(settings.levels).items():
        _draw_level(axes, marks[(marks["kind"] == LEVEL) & (marks["variant"] == variant)], look)
    references = marks[marks["kind"] == REFERENCE_LINE]
    for label, y in zip(references["label"], references["y"], strict=True):
        axes.axhline(float(y), label=label, **REFERENCE)
    axes.autoscale(axis="y")  # with a margin beyond the horizontal lines too


def _draw_level(axes: Axes, row: pd.DataFrame, look: Look) -> None:
    """Draw a variant's mean across the panel, and its interval as a light band."""
    [(label, y, low, high)] = row[["label", "y", "y_low", "y_high"]].itertuples(index=False)
    axes.axhline(y, color=look.color, linestyle=look.line, linewidth=1.0, label=label, zorder=1.5)
    if not pd.isna(low):
        axes.axhspan(low, high, color=look.color, alpha=0.12, linewidth=0, zorder=0.5)
