"""Write one table of a grid from metric files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import Field, TypeAdapter

from saeflow.figures.captions import caption_of
from saeflow.figures.cells import LEVELS, Cell, cell, number_text, write_cells
from saeflow.figures.decomposition_settings import Decompositions
from saeflow.figures.decomposition_table import decomposition_cells
from saeflow.figures.rows import (
    FigureError,
    by_seed,
    chosen_l0s,
    label_of,
    level,
    of_seeds,
    read_rows,
)
from saeflow.figures.settings import Context, GridTable, Published, Ratio, Sweep
from saeflow.figures.single_l0_settings import Metrics, MetricsColumn
from saeflow.intervals import Interval, ratio_interval, t_interval

_GRID_TABLE: TypeAdapter[GridTable] = TypeAdapter(Annotated[GridTable, Field(discriminator="kind")])


def write_table(
    settings: GridTable | Mapping[str, Any],
    rows: Sequence[Path],
    context: Context | Mapping[str, Any],
    out_stem: Path,
) -> None:
    """Write `out_stem`.csv and .parquet (one row a cell), .md and .tex (booktabs).

    Raises FigureError that names the variant, L0, metric or seed that is missing.
    """
    settings, context = _GRID_TABLE.validate_python(settings), Context.model_validate(context)
    table = read_rows(rows, settings, context)
    if isinstance(settings, Sweep):
        cells = sweep_cells(table, settings, context)
    elif isinstance(settings, Metrics):
        cells = metrics_cells(table, settings, context)
    elif isinstance(settings, Decompositions):
        cells = decomposition_cells(rows, settings, context)
    else:
        cells = ratio_cells(table, settings, context)
    if isinstance(settings.published, Published):
        cells += published_cells(settings.published)
    levels = {one.row: one.text for one in cells if one.block == LEVELS}
    caption = caption_of(settings, context, levels)
    write_cells(cells, caption, out_stem)


def sweep_cells(rows: pd.DataFrame, settings: Sweep, context: Context) -> list[Cell]:
    """Return a cell per variant and L0 target, and one per level for the caption."""
    l0s = chosen_l0s(settings.l0, context)
    shared = {name: getattr(settings, name) for name in ("metric", "decimals", "best")}
    cells: list[Cell] = []
    for l0 in l0s:
        column = MetricsColumn(label=f"L0 = {l0}", **shared)
        cells += _column_cells(rows, column, settings.variants, l0, context)
    for label, metric in settings.levels.items():
        value = level(rows, metric, settings.variants, l0s, context)
        exact = Interval(value, None, None, len(context.seeds))
        cells.append(cell(LEVELS, label, metric, exact, settings.decimals, False))
    return cells


def metrics_cells(rows: pd.DataFrame, settings: Metrics, context: Context) -> list[Cell]:
    """Return a cell per variant and metric."""
    l0 = chosen_l0s(settings.l0, context)[0]
    cells: list[Cell] = []
    for column in settings.columns:
        cells += _column_cells(rows, column, settings.variants, l0, context)
    return cells


def _column_cells(
    rows: pd.DataFrame,
    column: MetricsColumn,
    variants: Sequence[str],
    l0: int,
    context: Context,
) -> list[Cell]:
    found = {
        name: t_interval(of_seeds(rows, column.metric, name, l0, context)) for name in variants
    }
    best, block = best_of(found, column.best), _own_block(context)
    return [
        cell(block, label_of(name, context), column.label, x, column.decimals, name == best)
        for name, x in found.items()
    ]


def ratio_cells(rows: pd.DataFrame, settings: Ratio, context: Context) -> list[Cell]:
    """Return per variant the cost and its ratio to the baseline's, paired by seed or round.

    Raises FigureError where a variant lacks a round that another has.
    """
    l0 = chosen_l0s(settings.l0, context)[0]
    block = _own_block(context)
    base = by_seed(rows, settings.metric, settings.baseline, l0)
    ratio_heading = f"ratio to {label_of(settings.baseline, context)}"
    cells: list[Cell] = []
    for name in settings.variants:
        values = by_seed(rows, settings.metric, name, l0)
        if list(values.index) != list(base.index):
            raise FigureError(
                f"missing: {settings.metric!r} of {name!r} and {settings.baseline!r} do not have "
                f"the same rounds: {sorted(set(values.index) ^ set(base.index))}"
            )
        label = label_of(name, context)
        cost = t_interval(list(values * settings.factor))
        cells.append(cell(block, label, settings.unit, cost, settings.decimals, False))
        if name == settings.baseline:
            ratio = Interval(1.0, None, None, cost.n)
        else:
            ratio = ratio_interval(list(values), list(base))
        cells.append(_ratiocell(block, label, ratio_heading, ratio))
    return cells


def published_cells(published: Published) -> list[Cell]:
    """Return the paper's numbers as a block of their own."""
    return [
        Cell(
            published.label, row, column, value, None, None, None, False, number_text(value, digits)
        )
        for row, values in published.rows.items()
        for column, value, digits in zip(published.columns, values, published.decimals, strict=True)
    ]  # fmt: skip


def best_of(found: Mapping[str, Interval], end: str | None) -> str | None:
    """Return the best name if its 95% interval overlaps no other's, else None."""
    if end is None:
        return None
    sign = 1 if end == "max" else -1
    ranked = sorted(found, key=lambda name: sign * found[name].mean, reverse=True)
    first, others = found[ranked[0]], [found[name] for name in ranked[1:]]
    return ranked[0] if all(_apart(first, other) for other in others) else None


def _apart(one: Interval, other: Interval) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low > other.high or one.high < other.low


def _own_block(context: Context) -> str:
    return f"this run: {context.subject} at {context.site}, {context.scale} scale"


def _ratiocell(block: str, row: str, column: str, x: Interval) -> Cell:
    """A ratio shows both ends: its interval, symmetric on the log scale, is not so here."""
    text = number_text(x.mean, 2)
    if x.low is not None and x.high is not None:
        text += f" [{x.low:.2f}, {x.high:.2f}]"
    return Cell(block, row, column, x.mean, x.low, x.high, x.n, False, text)
