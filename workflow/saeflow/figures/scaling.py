"""Training time against the dictionary size: how a cost grows, as a power of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from saeflow.figures.drawn import as_table, mark, note
from saeflow.figures.frame import REFERENCE, legend_above
from saeflow.figures.points import line_chart
from saeflow.figures.rows import FigureError, label_of
from saeflow.figures.settings import Context, Scaling
from saeflow.figures.style import looks_of
from saeflow.figures.ticks import log_ticks, plain
from saeflow.intervals import Interval, from_logs, t_interval

_POINT, _EXPONENT, _GUIDE = "point", "exponent", "guide"
_IN_PROPORTION = "in proportion to the size"


def scaling_marks(rows: pd.DataFrame, settings: Scaling, context: Context) -> pd.DataFrame:
    """Return the marks: per variant and size the geometric mean and interval over rounds.

    Rows of kind `exponent` have in y the slope of log cost over log size, fitted by least squares
    in each round, and its interval; those of kind `guide` are a line of slope 1 through the
    first variant's last point. A size at which some round cost no more than the baseline's has no
    place on log axes; a note says so, and there is no exponent where fewer than two sizes are left.
    Raises FigureError where a variant, size or round is missing, and where nothing is left to draw.
    """
    marks, fitted, notes = [], {}, []
    for name in settings.variants:
        label = label_of(name, context)
        costs, left_out = _costs(rows, settings, name)
        if left_out:
            at = ", ".join(f"{size:,}" for size in left_out)
            notes.append(note(f"Not drawn: {label} at {at}, where no cost could be told."))
        logs = np.log(costs.to_numpy(dtype=float))
        for d_sae, of_rounds in zip(costs.index, logs, strict=True):
            y = from_logs(t_interval(list(of_rounds)))
            marks.append(mark(settings.metric, name, label, kind=_POINT, x=d_sae, y=y, n=y.n))
        if len(costs) > 1:
            slope = exponent(np.log(costs.index.to_numpy(dtype=float)), logs)
            marks.append(mark(settings.metric, name, label, kind=_EXPONENT, y=slope, n=slope.n))
            fitted[label] = slope
    if not marks:
        raise FigureError(
            f"nothing to draw: at no size does {settings.metric!r} exceed that of "
            f"{settings.baseline!r} in every round; time more steps a round, or larger sizes"
        )
    points = [row for row in marks if row["kind"] == _POINT]
    sizes = [row["x"] for row in points]
    end = [row for row in points if row["variant"] == points[0]["variant"]][-1]
    for x in (min(sizes), max(sizes)):
        y = end["y"] * x / end["x"]
        marks.append(mark(settings.metric, None, _IN_PROPORTION, kind=_GUIDE, x=x, y=y))
    return as_table([*marks, *_sentences(fitted), *notes])


def exponent(log_x: np.ndarray, log_y: np.ndarray) -> Interval:
    """Return the slope of `log_y` (sizes, rounds) over `log_x` (sizes,): mean over the rounds."""
    return t_interval([float(slope) for slope in np.polyfit(log_x, log_y, 1)[0]])


def _costs(
    rows: pd.DataFrame, settings: Scaling, variant: str
) -> tuple[pd.DataFrame, tuple[int, ...]]:
    """Return a variant's costs, a row a size and a column a round, and the sizes left out."""
    costs = _by_round(rows, settings, variant)
    if settings.baseline is not None:
        base = _by_round(rows, settings, settings.baseline)
        if not (costs.index.equals(base.index) and costs.columns.equals(base.columns)):
            raise FigureError(
                f"{variant!r} and {settings.baseline!r} were not timed at the same sizes and rounds"
            )
        costs = costs - base
    above = (costs > 0).all(axis=1)
    return settings.factor * costs[above], tuple(costs.index[~above])


def _by_round(rows: pd.DataFrame, settings: Scaling, variant: str) -> pd.DataFrame:
    here = rows[(rows["metric"] == settings.metric) & (rows["variant"] == variant)]
    if here["d_sae"].nunique() < 2:
        raise FigureError(
            f"missing: {settings.metric!r} of {variant!r} at two dictionary sizes or more"
        )
    table = here.pivot(index="d_sae", columns="seed", values="value")
    if (gaps := table.isna().any(axis=1)).any():
        raise FigureError(
            f"missing: rounds of {settings.metric!r} of {variant!r} at d_sae {table.index[gaps][0]}"
        )
    return table


def _sentences(fitted: Mapping[str, Interval]) -> Iterator[dict[str, Any]]:
    """Say how the costs grow; one round has no interval."""
    parts = []
    for label, slope in fitted.items():
        ends = "" if slope.low is None else f" [{slope.low:.2f}, {slope.high:.2f}]"
        parts.append(f"{label} {slope.mean:.2f}{ends}")
    if parts:
        how = "least squares of the logarithms in each round"
        yield note(f"Fitted exponents ({how}): {'; '.join(parts)}.")


def draw_scaling(marks: pd.DataFrame, settings: Scaling) -> Figure:
    """Draw what `scaling_marks` returned."""
    points = marks[marks["kind"] == _POINT]
    looks = looks_of(settings.variants)
    left = {name: looks[name] for name in dict.fromkeys(points["variant"])}
    figure, axes = line_chart(points, left, settings.x_label, settings.y_label)
    axes.set(xscale="log", yscale="log")
    guide = marks[marks["kind"] == _GUIDE]
    label = guide["label"].iloc[0]
    axes.plot(guide["x"].astype(float), guide["y"].astype(float), label=label, **REFERENCE)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(points["x"]))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    log_ticks(axes.yaxis, axes.get_ylim())
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure
