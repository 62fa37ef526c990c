"""The cells of a table, and the files that they become."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from saeflow.artifacts import atomic_path
from saeflow.figures.table_formats import latex, markdown
from saeflow.intervals import Interval

LEVELS = "levels"


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


def cell(block: str, row: str, column: str, x: Interval, decimals: int, best: bool) -> Cell:
    """Return a mean with half the width of its interval."""
    text = number_text(x.mean, decimals)
    if x.half_width is not None:
        text += f" ± {x.half_width:.{decimals}f}"
    return Cell(block, row, column, x.mean, x.low, x.high, x.n, best, text)


def word_cell(block: str, row: str, column: str, text: str) -> Cell:
    """Return a cell of words."""
    return Cell(block, row, column, None, None, None, None, False, text)


def number_text(value: float | None, decimals: int) -> str:
    """Return a number as it is printed, or a dash for none."""
    return "–" if value is None else f"{value:.{decimals}f}"


def write_cells(cells: Sequence[Cell], caption: str, stem: Path) -> None:
    """Write `stem`.csv and .parquet (one row a cell), .md and .tex (booktabs)."""
    table = pd.DataFrame(cells).astype({"n": "Int64", "mean": float, "low": float, "high": float})
    with atomic_path(stem.with_name(f"{stem.name}.parquet")) as path:
        table.to_parquet(path, index=False)
    with atomic_path(stem.with_name(f"{stem.name}.csv")) as path:
        table.to_csv(path, index=False)
    body = table[table["block"] != LEVELS]
    with atomic_path(stem.with_name(f"{stem.name}.md")) as path:
        path.write_text(markdown(body, caption), encoding="utf-8")
    with atomic_path(stem.with_name(f"{stem.name}.tex")) as path:
        path.write_text(latex(body, caption, f"tab:{stem.name}"), encoding="utf-8")
