"""Lying bars, so that names stand on the left, whatever their length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saeflow.figures.drawn import as_table, mark
from saeflow.figures.frame import error_bar
from saeflow.figures.grid_settings import Context
from saeflow.figures.rows import chosen_l0s, of_seeds
from saeflow.figures.single_l0_settings import Bars, BarsPanel
from saeflow.figures.style import ONE_COLUMN, PANEL_GAP, TWO_COLUMNS, Look, looks_of
from saeflow.figures.text import wrap
from saeflow.intervals import t_interval

_LABEL_SIZE = 7
_LABEL_WIDTH = 1.1
_LABEL_LINE = 0.125
_BAR, _AROUND = 0.3, 0.55


def bar_marks(rows: pd.DataFrame, settings: Bars, context: Context) -> pd.DataFrame:
    """Return the marks: per panel and bar the metric's mean and interval over seeds as x.

    `kind` is the bar's metric. Raises FigureError where a variant, metric or seed is missing.
    """
    l0 = chosen_l0s(settings.l0, context)[0]
    marks = []
    for number, panel in enumerate(settings.panels):
        for bar in panel.bars:
            x = t_interval(of_seeds(rows, bar.metric, bar.variant, l0, context))
            place = {"kind": bar.metric, "l0_target": l0, "x": x, "n": x.n}
            marks.append(mark(_name(number, panel), bar.variant, bar.label, **place))
    return as_table(marks)


def _name(number: int, panel: BarsPanel) -> str:
    """Return the name of a panel in the drawn data; two may have one label."""
    return f"{number + 1}: {panel.label}"


def draw_bars(marks: pd.DataFrame, settings: Bars) -> Figure:
    """Draw what `bar_marks` returned."""
    count = len(settings.panels)
    width = ONE_COLUMN if count == 1 else TWO_COLUMNS / count
    label_width = min(0.4 * width, 1.5 * _LABEL_WIDTH)
    most = max(len(panel.bars) for panel in settings.panels)
    labels = [wrap(label, _LABEL_SIZE, label_width) for label in marks["label"]]
    bar = max(_BAR, _LABEL_LINE * (1 + max(label.count("\n") for label in labels)) + 0.06)
    figure = Figure(figsize=(width * count, most * bar + _AROUND))
    shown = [bar.look or bar.variant for panel in settings.panels for bar in panel.bars]
    looks = looks_of(tuple(dict.fromkeys(shown)))
    grid = figure.add_gridspec(1, count, wspace=PANEL_GAP)
    for number, panel in enumerate(settings.panels):
        axes = figure.add_subplot(grid[number])
        styles = [looks[bar.look or bar.variant] for bar in panel.bars]
        here = marks[marks["panel"] == _name(number, panel)]
        draw_lying_bars(axes, here, styles, label_width)
        axes.set_xlabel(wrap(panel.label, 7.5, width - label_width - 0.2))
        axes.tick_params(left=False)
    return figure


def draw_lying_bars(
    axes: Axes, bars: pd.DataFrame, styles: Sequence[Look], label_width: float = _LABEL_WIDTH
) -> None:
    """Draw a bar a mark, top to bottom, with its label, interval and value."""
    places = np.arange(len(bars))[::-1]
    lengths = bars["x"].astype(float).to_numpy()
    drawn = axes.barh(places, lengths, height=0.66, color=[s.color for s in styles], zorder=2)
    for bar, style in zip(drawn, styles, strict=True):
        bar.set(hatch=style.hatch, edgecolor="white", linewidth=0)
    errors = error_bar(bars, "x")
    if errors is not None:
        axes.errorbar(
            lengths, places, xerr=errors, fmt="none", ecolor="#1a1a1a", elinewidth=0.8, capsize=2
        )
    _write_values(axes, bars, places)
    axes.set_yticks(places, [wrap(label, _LABEL_SIZE, label_width) for label in bars["label"]])
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(3))


def _write_values(axes: Axes, bars: pd.DataFrame, places: np.ndarray) -> None:
    ends = bars["x_high"].fillna(bars["x"]).clip(lower=0).astype(float)
    starts = bars["x_low"].fillna(bars["x"]).clip(upper=0).astype(float)
    reach = float(ends.max() - starts.min()) or 1.0  # bars of nothing but zeros
    axes.set_xlim(float(starts.min()) - (0.05 * reach if starts.min() < 0 else 0), None)
    axes.set_xlim(right=float(ends.max()) + 0.42 * reach)
    for place, end, value in zip(places, ends, bars["x"], strict=True):
        axes.annotate(
            f"{value:.3f}",
            (end, place),
            xytext=(2.5, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
        )
