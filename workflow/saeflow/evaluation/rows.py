"""The one tidy schema of all measurements, and the only code that writes and reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import ArtifactError, atomic_path


class Point(NamedTuple):
    """One point of an experiment's grid; every seed of it is measured together."""

    paper: str
    subject: str
    site: str
    corpus: str
    selection: str
    variant: str
    d_sae: int
    l0_target: int


class Row(NamedTuple):
    """One measured number: where it comes from, what it is, and over how many items (`n`)."""

    paper: str
    subject: str
    site: str
    corpus: str
    split: str
    selection: str
    variant: str
    d_sae: int
    l0_target: int
    seed: int
    metric: str
    value: float
    n: int


SCHEMA = pa.schema(
    [
        ("paper", pa.string()),
        ("subject", pa.string()),
        ("site", pa.string()),
        ("corpus", pa.string()),
        ("split", pa.string()),
        ("selection", pa.string()),
        ("variant", pa.string()),
        ("d_sae", pa.int64()),
        ("l0_target", pa.int64()),
        ("seed", pa.int64()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("n", pa.int64()),
    ]
)
KEY = tuple(name for name in SCHEMA.names if name not in ("value", "n"))


def make_row(point: Point, *, split: str, seed: int, metric: str, value: float, n: int) -> Row:
    """Return the row of one metric of one seed at `point`."""
    return Row(**point._asdict(), split=split, seed=seed, metric=metric, value=value, n=n)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as Parquet, atomically and sorted by their key.

    Raises ValueError if there are none, if a value is NaN or infinite, or if two rows share a key.
    """
    ordered = sorted(rows, key=lambda row: tuple(getattr(row, name) for name in KEY))
    table = pa.Table.from_pylist([row._asdict() for row in ordered], schema=SCHEMA)
    _check(table.to_pandas(), str(path), ValueError)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def read_rows(paths: Iterable[Path]) -> pd.DataFrame:
    """Return the rows of several files as one frame with the columns of `SCHEMA`.

    Raises ArtifactError that names the file for a missing file, another schema or a bad value,
    and for a key that two files (or rows) share.
    """
    frames = [_read_one(Path(path)) for path in paths]
    if not frames:
        raise ValueError("no metric files given")
    rows = pd.concat(frames, ignore_index=True)
    _check(rows, "the metric files together", ArtifactError)
    return rows


def _read_one(path: Path) -> pd.DataFrame:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{path} is not a readable Parquet file ({error}); "
            f"remove it and rerun: snakemake --cores all {path}"
        ) from error
    if not table.schema.equals(SCHEMA):
        found = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise ArtifactError(f"{path} does not hold metric rows; its columns are {found}")
    frame = table.to_pandas()
    _check(frame, str(path), ArtifactError)
    return frame


def _check(rows: pd.DataFrame, where: str, kind: type[Exception]) -> None:
    if rows.empty:
        raise kind(f"{where}: no rows")
    finite = rows["value"].map(math.isfinite)
    if not finite.all():
        bad = rows[~finite].iloc[0]
        raise kind(
            f"{where}: value {bad['value']} of {_describe(bad)}; "
            "a metric that is undefined must be an error where it is computed, not a row"
        )
    for column in SCHEMA.names:
        if rows[column].isna().any():
            raise kind(f"{where}: column {column} has an empty entry")
    twice = rows.duplicated(subset=list(KEY))
    if twice.any():
        raise kind(f"{where}: two rows for {_describe(rows[twice].iloc[0])}")


def _describe(row: pd.Series) -> str:
    return ", ".join(f"{name}={row[name]}" for name in KEY)
