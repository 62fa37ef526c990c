"""Write one table from metric files: the entry point for every kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from saeflow.artifacts import atomic_path
from saeflow.figures.captions import caption_of
from saeflow.figures.rows import (
    FigureError,
    by_seed,
    chosen_l0s,
    label_of,
    level,
    of_seeds,
    read_rows,
)
from saeflow.figures.settings import Context, Published, Ratio, Sweep, parse_table
from saeflow.figures.table_formats import latex, markdown
from saeflow.intervals import Interval, ratio_interval, t_interval


class Cell(NamedTuple):
    """One cell; a table's Parquet and CSV have one row a cell."""

    block: str
    """Whose numbers: this run's or a paper's."""
    row: str
    """Label of the row, in most tables the variant's."""
    column: str
    """Heading of the column."""
    mean: float | None
    """Mean over seeds, or the published number."""
    low: float | None
    """Low end of the 95% interval; empty for one seed and for published numbers."""
    high: float | None
    """High end of the 95% interval."""
    n: int | None
    """Seeds or rounds; empty for published numbers."""
    best: bool
    """Best of its column, and its interval overlaps no other's."""
    text: str
    """The cell as it is printed."""


LEVELS = "levels"


def write_table(
    settings: Sweep | Ratio | Mapping[str, Any],
    rows: Sequence[Path],
    context: Context | Mapping[str, Any],
    out_stem: Path,
) -> None:
    """Write `out_stem`.csv and .parquet (one row a cell), .md and .tex (booktabs).

    Raises FigureError that names the variant, L0, metric or seed that is missing.
    """
    settings, context = parse_table(settings), Context.model_validate(context)
    table = read_rows(rows, settings, context)
    if isinstance(settings, Sweep):
        cells = sweep_cells(table, settings, context)
    else:
        cells = ratio_cells(table, settings, context)
    if settings.published:
        cells += published_cells(settings.published)
    levels = {cell.row: cell.text for cell in cells if cell.block == LEVELS}
    caption = caption_of(settings, context, levels)
    _write(pd.DataFrame(cells).astype({"n": "Int64"}), caption, out_stem)


def sweep_cells(rows: pd.DataFrame, settings: Sweep, context: Context) -> list[Cell]:
    """Return a cell per variant and L0 target, and one per level for the caption."""
    l0s = chosen_l0s(settings.l0, context)
    block = _own_block(context)
    cells: list[Cell] = []
    for l0 in l0s:
        found = {
            name: t_interval(of_seeds(rows, settings.metric, name, l0, context))
            for name in settings.variants
        }
        best = best_of(found, settings.best)
        cells += [
            _cell(block, label_of(name, context), f"L0 = {l0}", x, settings.decimals, name == best)
            for name, x in found.items()
        ]
    for label, metric in settings.levels.items():
        value = level(rows, metric, settings.variants, l0s, context)
        exact = Interval(value, None, None, len(context.seeds))
        cells.append(_cell(LEVELS, label, metric, exact, settings.decimals, False))
    return cells


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
        cells.append(_cell(block, label, settings.unit, cost, settings.decimals, False))
        if name == settings.baseline:
            ratio = Interval(1.0, None, None, cost.n)
        else:
            ratio = ratio_interval(list(values), list(base))
        cells.append(_ratio_cell(block, label, ratio_heading, ratio))
    return cells


def published_cells(published: Published) -> list[Cell]:
    """Return the paper's numbers as a block of their own."""
    return [
        Cell(published.label, row, column, value, None, None, None, False, _number(value, digits))
        for row, values in published.rows.items()
        for column, value, digits in zip(published.columns, values, published.decimals, strict=True)
    ]


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


def _cell(block: str, row: str, column: str, x: Interval, decimals: int, best: bool) -> Cell:
    text = _number(x.mean, decimals)
    if x.half_width is not None:
        text += f" ± {x.half_width:.{decimals}f}"
    return Cell(block, row, column, x.mean, x.low, x.high, x.n, best, text)


def _ratio_cell(block: str, row: str, column: str, x: Interval) -> Cell:
    """A ratio shows both ends: its interval, symmetric on the log scale, is not so here."""
    text = _number(x.mean, 2)
    if x.low is not None and x.high is not None:
        text += f" [{x.low:.2f}, {x.high:.2f}]"
    return Cell(block, row, column, x.mean, x.low, x.high, x.n, False, text)


def _number(value: float | None, decimals: int) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"


def _write(cells: pd.DataFrame, caption: str, stem: Path) -> None:
    with atomic_path(stem.with_name(f"{stem.name}.parquet")) as path:
        cells.to_parquet(path, index=False)
    with atomic_path(stem.with_name(f"{stem.name}.csv")) as path:
        cells.to_csv(path, index=False)
    body = cells[cells["block"] != LEVELS]
    with atomic_path(stem.with_name(f"{stem.name}.md")) as path:
        path.write_text(markdown(body, caption), encoding="utf-8")
    with atomic_path(stem.with_name(f"{stem.name}.tex")) as path:
        path.write_text(latex(body, caption, f"tab:{stem.name}"), encoding="utf-8")
