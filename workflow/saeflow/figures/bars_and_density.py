"""Bars of several metrics at one L0 beside the density of a per-latent value."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from saeflow.figures.bars import draw_lying_bars
from saeflow.figures.drawn import as_table, mark
from saeflow.figures.frame import REFERENCE, legend_above
from saeflow.figures.kernel import kernel_density
from saeflow.figures.rows import FigureError, chosen_l0s, label_of, level, of_seeds
from saeflow.figures.settings import BarsAndDensity, Context, Density
from saeflow.figures.style import TWO_COLUMNS, Look, looks_of
from saeflow.figures.text import wrap
from saeflow.intervals import t_interval

_HEIGHT = 2.0
_LABEL_WIDTH = 1.7
# Cosines of equal vectors may pass 1 by rounding.
_ROUNDING = 1e-4
_DENSITY = "density"


def bar_and_density_marks(
    rows: pd.DataFrame, latents: pd.DataFrame, settings: BarsAndDensity, context: Context
) -> pd.DataFrame:
    """Return the marks: bars with the metric's interval as x, densities as x and y.

    Raises FigureError where a variant, metric, seed or per-latent table is missing.
    """
    l0 = chosen_l0s(settings.l0, context)[0]
    marks = []
    for panel in settings.panels:
        for name in settings.variants:
            x = t_interval(of_seeds(rows, panel.metric, name, l0, context))
            label = label_of(name, context)
            marks.append(mark(panel.metric, name, label, l0_target=l0, x=x, n=x.n))
    shape = settings.density
    for name in settings.variants:
        per_seed = _values_by_seed(latents, shape.column, name, l0, context)
        centres, heights = density(per_seed, shape)
        marks += [
            mark(_DENSITY, name, label_of(name, context), l0_target=l0, x=x, y=y, n=len(per_seed))
            for x, y in zip(centres, heights, strict=True)
        ]
    if shape.reference:
        at = level(rows, shape.reference.metric, settings.variants, (l0,), context)
        marks.append(mark(_DENSITY, None, shape.reference.label, x=at))
    return as_table(marks)


def _values_by_seed(
    latents: pd.DataFrame, column: str, variant: str, l0: int, context: Context
) -> list[np.ndarray]:
    here = latents[(latents["variant"] == variant) & (latents["l0_target"] == l0)]
    missing = sorted(set(context.seeds) - set(here["seed"]))
    if missing:
        raise FigureError(
            f"missing: per-latent {column!r} of variant {variant!r} at L0 {l0}, seeds {missing}"
        )
    return [here.loc[here["seed"] == seed, column].to_numpy(float) for seed in context.seeds]


def density(per_seed: list[np.ndarray], shape: Density) -> tuple[np.ndarray, np.ndarray]:
    """Return bin centres and the mean over seeds of the kernel density, which integrates to one.

    Raises FigureError for values outside the axis or not finite.
    """
    slack = (shape.high - shape.low) * _ROUNDING
    for values in per_seed:
        outside = ~((values >= shape.low - slack) & (values <= shape.high + slack))
        if outside.any():
            raise FigureError(
                f"{int(outside.sum())} values of {shape.column!r} lie outside "
                f"[{shape.low:g}, {shape.high:g}], the first is {values[outside][0]:g}: "
                "widen low and high of the figure's density"
            )
    inside = [values.clip(shape.low, shape.high) for values in per_seed]
    return kernel_density(inside, shape.low, shape.high, shape.bandwidth)


def draw_bars_and_density(marks: pd.DataFrame, settings: BarsAndDensity) -> Figure:
    """Draw what `bar_and_density_marks` returned."""
    figure = Figure(figsize=(TWO_COLUMNS, _HEIGHT))
    count = len(settings.panels)
    grid = figure.add_gridspec(1, count + 1, width_ratios=[1.0] * count + [0.55 + 0.45 * count])
    looks = looks_of(settings.variants)
    panel_width = TWO_COLUMNS / (1.9 * count + 1.5)
    first = None
    for index, panel in enumerate(settings.panels):
        axes = figure.add_subplot(grid[index], sharey=first)
        first = first or axes
        bars = marks[marks["panel"] == panel.metric]
        draw_lying_bars(axes, bars, [looks[name] for name in bars["variant"]])
        axes.set_xlabel(wrap(panel.label, 7.5, panel_width))
        axes.tick_params(labelleft=index == 0, left=False)
    axes = figure.add_subplot(grid[count])
    _draw_density(axes, marks[marks["panel"] == _DENSITY], settings, looks)
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure


def _draw_density(
    axes: Axes, marks: pd.DataFrame, settings: BarsAndDensity, looks: dict[str, Look]
) -> None:
    for name in settings.variants:
        line = marks[marks["variant"] == name]
        x, y = line["x"].astype(float), line["y"].astype(float)
        look = looks[name]
        axes.plot(x, y, color=look.color, linestyle=look.line, label=line["label"].iloc[0])
        axes.fill_between(x, y, color=look.color, alpha=0.1, linewidth=0)
    references = marks[marks["variant"].isna()]
    for label, x in zip(references["label"], references["x"], strict=True):
        axes.axvline(float(x), label=label, **REFERENCE)
    axes.set_ylim(bottom=0)
    axes.set_xlim(settings.density.low, settings.density.high)
    axes.set_xlabel(wrap(settings.density.label, 7.5, _LABEL_WIDTH))
    axes.set_ylabel("Density")
