"""A metric against another, both measured at several levels: one line a variant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from saeflow.figures.drawn import as_table, mark, note
from saeflow.figures.frame import legend_above
from saeflow.figures.grid_settings import Context
from saeflow.figures.points import line_chart
from saeflow.figures.rows import FigureError, chosen_l0s, label_of, mean_on
from saeflow.figures.single_l0_settings import Paired
from saeflow.figures.style import looks_of
from saeflow.figures.ticks import log_ticks


def paired_marks(rows: pd.DataFrame, settings: Paired, context: Context) -> pd.DataFrame:
    """Return the marks: per variant and level the means and intervals over seeds of x and y.

    `kind` is the level. Levels at which some seed has no value of both, or for which a log axis has
    no place, are left out and counted in a note. Raises FigureError where a variant, metric or
    seed has no level at all, and where nothing is left of a variant.
    """
    l0 = chosen_l0s(settings.l0, context)[0]
    marks: list[dict[str, Any]] = []
    lacking: dict[str, tuple[int, int]] = {}
    unplaced: dict[str, tuple[int, int]] = {}
    for name in settings.variants:
        label = label_of(name, context)
        x_ls, y_ls = (_by_level(rows, metric, name, l0, context) for metric in settings.metrics)
        every = x_ls.index.union(y_ls.index, sort=False)
        both = x_ls.dropna().index.intersection(y_ls.dropna().index, sort=False)
        points = []
        for at in both:
            x = mean_on(settings.x_scale, list(x_ls.loc[at]))
            y = mean_on(settings.y_scale, list(y_ls.loc[at]))
            if x is not None and y is not None:
                points.append(mark(settings.y, name, label, kind=at, l0_target=l0, x=x, y=y, n=y.n))
        if not points:
            raise FigureError(f"nothing to draw: {settings.y!r} against {settings.x!r} of {name!r}")
        marks += points
        lacking[label] = len(every) - len(both), len(every)
        unplaced[label] = len(both) - len(points), len(every)
    marks += _notes("not every seed has a value", lacking)
    marks += _notes("a log axis has no place for it", unplaced)
    return as_table(marks)


def _by_level(
    rows: pd.DataFrame, metric: str, variant: str, l0: int, context: Context
) -> pd.DataFrame:
    """Return a metric's values, a row a level and a column a seed; empty where there is none."""
    of_levels = rows["metric"].str.startswith(f"{metric}@")
    here = rows[of_levels & (rows["variant"] == variant) & (rows["l0_target"] == l0)]
    missing = sorted(set(context.seeds) - set(here["seed"]))
    if missing:
        where = "" if here.empty else f", seeds {missing}"
        raise FigureError(
            f"missing: levels of metric {metric!r} of variant {variant!r} at L0 {l0}{where}"
        )
    here = here.assign(level=here["metric"].str.partition("@")[2])
    return here.pivot(index="level", columns="seed", values="value")[list(context.seeds)]


def _notes(why: str, counts: Mapping[str, tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """Yield the note on levels that are left out, if there are any."""
    parts = [
        f"{some} of {every} levels of {label}" for label, (some, every) in counts.items() if some
    ]
    if parts:
        yield note(f"Not drawn, as {why}: {', '.join(parts)}.")


def draw_paired(marks: pd.DataFrame, settings: Paired) -> Figure:
    """Draw what `paired_marks` returned."""
    looks = looks_of(settings.variants)
    figure, axes = line_chart(marks, looks, settings.x_label, settings.y_label)
    axes.set(xscale=settings.x_scale, yscale=settings.y_scale)
    _ticks(axes.xaxis, settings.x_scale, axes.get_xlim())
    _ticks(axes.yaxis, settings.y_scale, axes.get_ylim())
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure


def _ticks(axis: Axis, scale: str, limits: tuple[float, float]) -> None:
    if scale == "log":
        log_ticks(axis, limits)
    else:
        axis.set_major_locator(MaxNLocator(5))
