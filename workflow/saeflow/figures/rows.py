"""Read tidy metric rows and take out exactly what a figure or a table needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd
import pyarrow.parquet as pq

from saeflow.evaluation.rows import read_rows as read_tidy_rows
from saeflow.figures.common_settings import L0Selection, SAEContext
from saeflow.figures.grid_settings import Context, Shown
from saeflow.figures.settings import AnyContext, Scaling
from saeflow.intervals import Interval, from_logs, t_interval

LATENT_COLUMNS = ("split", "variant", "d_sae", "l0_target", "seed", "latent")


class FigureError(ValueError):
    """The data does not hold what a figure or a table is to show; the message says what."""


def read_rows(paths: Sequence[Path], settings: Shown, context: Context) -> pd.DataFrame:
    """Return the rows of all files that belong to the figure's split, selection and grid.

    Raises ArtifactError for a file that holds no tidy rows, and FigureError where rows are of
    another subject, site, corpus or (save in a figure over these) dictionary size.
    """
    rows = read_tidy_rows(paths)
    sizes = () if isinstance(settings, Scaling) else ("d_sae",)
    for column in ("subject", "site", "corpus", *sizes):
        expected = getattr(context, column)
        others = sorted(set(rows[column].astype(str)) - {str(expected)})
        if others:
            raise FigureError(f"{settings.source}: rows of {column} {others}, expected {expected}")
    kept = rows[(rows["split"] == settings.split) & (rows["selection"] == settings.selection)]
    if kept.empty:
        raise FigureError(
            f"{settings.source}: no row has split {settings.split!r} and selection "
            f"{settings.selection!r}; there are splits {sorted(set(rows['split']))} and "
            f"selections {sorted(set(rows['selection']))}"
        )
    return kept


def read_latents(paths: Sequence[Path], column: str, split: str) -> pd.DataFrame:
    """Return the per-latent rows of one split; raises FigureError where a column is missing."""
    if not paths:
        raise FigureError("no per-latent tables were given")
    wanted = [*LATENT_COLUMNS, column]
    tables = []
    for path in paths:
        missing = sorted(set(wanted) - set(pq.read_schema(path).names))
        if missing:
            raise FigureError(f"{path} lacks the columns {missing}")
        tables.append(pd.read_parquet(path, columns=wanted))
    latents = pd.concat(tables, ignore_index=True)
    return latents[latents["split"] == split]


def chosen_l0s(selection: L0Selection | int, context: SAEContext) -> tuple[int, ...]:
    """Return the L0 targets that a selection means here; raises FigureError if foreign."""
    if selection == "all":
        return tuple(sorted(context.l0s))
    if selection == "reference":
        return (context.reference_l0,)
    chosen = (selection,) if isinstance(selection, int) else tuple(selection)
    foreign = [l0 for l0 in chosen if l0 not in context.l0s]
    if foreign:
        raise FigureError(f"l0 {foreign} is not in the grid {context.l0s}")
    return tuple(int(l0) for l0 in chosen)


def by_seed(rows: pd.DataFrame, metric: str, variant: str, l0: int) -> pd.Series:
    """Return the values of one point, indexed and ordered by seed.

    Raises FigureError where there is none, or two for one seed.
    """
    here = (rows["metric"] == metric) & (rows["variant"] == variant) & (rows["l0_target"] == l0)
    values = rows[here].set_index("seed")["value"].sort_index()
    if values.empty:
        raise FigureError(f"missing: metric {metric!r} of variant {variant!r} at L0 {l0}")
    if values.index.has_duplicates:
        twice = sorted(set(values.index[values.index.duplicated()]))
        raise FigureError(
            f"metric {metric!r} of variant {variant!r} at L0 {l0}: seeds {twice} occur twice"
        )
    return values


def of_seeds(
    rows: pd.DataFrame, metric: str, variant: str, l0: int, context: AnyContext
) -> list[float]:
    """Return the values of one point, one for each seed of the context, in its order.

    Raises FigureError that names the seeds that are missing.
    """
    values = by_seed(rows, metric, variant, l0)
    missing = [seed for seed in context.seeds if seed not in values.index]
    if missing:
        raise FigureError(
            f"missing: seeds {missing} of metric {metric!r}, variant {variant!r}, L0 {l0}"
        )
    return [float(values[seed]) for seed in context.seeds]


def mean_on(scale: str, values: Sequence[float]) -> Interval | None:
    """Return mean and interval on the scale of an axis: on a log axis the geometric mean.

    None where a log axis has no place for a value.
    """
    if scale == "linear":
        return t_interval(values)
    if min(values) <= 0:
        return None
    return from_logs(t_interval([math.log(value) for value in values]))


def level(
    rows: pd.DataFrame,
    metric: str,
    variants: Sequence[str],
    l0s: Sequence[int],
    context: AnyContext,
) -> float:
    """Return the mean of a metric over all points, e.g. of the clean model's loss."""
    points = [of_seeds(rows, metric, name, l0, context) for name in variants for l0 in l0s]
    return fmean(value for point in points for value in point)


def label_of(variant: str, context: SAEContext) -> str:
    """Return a variant's or series' name; raises FigureError if the context has none."""
    if variant not in context.labels:
        raise FigureError(f"variant {variant!r} has no label; there are {sorted(context.labels)}")
    return context.labels[variant]
