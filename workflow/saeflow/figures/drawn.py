"""The data of a figure: one row for every mark, written beside it as Parquet and CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from saeflow.artifacts import atomic_path
from saeflow.intervals import Interval

NOTE = "note"
# x and y are data coordinates; low and high are the ends of the drawn error bars, empty where
# a single seed gives no interval. `kind` tells apart what else shares a panel; a row of kind `note`
# is a sentence (its label) for the caption.
COLUMNS = {
    "panel": "string",
    "kind": "string",
    "variant": "string",
    "label": "string",
    "l0_target": "Int64",
    "x": "Float64",
    "x_low": "Float64",
    "x_high": "Float64",
    "y": "Float64",
    "y_low": "Float64",
    "y_high": "Float64",
    "n": "Int64",
}


def mark(panel: str, variant: str | None, label: str, **values: Any) -> dict[str, Any]:
    """Return one row; `x` and `y` may be numbers or intervals, other columns stay empty."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"panel": panel, "variant": variant, "label": label}
    for name, value in values.items():
        if isinstance(value, Interval):
            row |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        else:
            row[name] = value
    return row


def note(text: str) -> dict[str, Any]:
    """Return the row of a sentence that the data adds to the caption."""
    return mark("", None, text, kind=NOTE)


def notes_in(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the sentences that the data adds to the caption."""
    if "kind" not in table:
        return ()
    return tuple(table.loc[(table["kind"] == NOTE).fillna(False), "label"])


def as_table(marks: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows as a table of fixed columns and types."""
    return pd.DataFrame(marks, columns=list(COLUMNS)).astype(COLUMNS)


def write_drawn(table: pd.DataFrame, stem: Path) -> None:
    """Write `stem`.parquet and `stem`.csv."""
    with atomic_path(stem.with_name(f"{stem.name}.parquet")) as path:
        table.to_parquet(path, index=False)
    with atomic_path(stem.with_name(f"{stem.name}.csv")) as path:
        table.to_csv(path, index=False)
