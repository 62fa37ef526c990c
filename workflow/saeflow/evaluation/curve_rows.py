"""Tidy rows with a place on a curve: the columns of `rows.SCHEMA`, and `x`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import ArtifactError, atomic_path
from saeflow.evaluation.rows import SCHEMA, Row

CURVE_SCHEMA = SCHEMA.append(pa.field("x", pa.float64()))


def write_curves(path: Path, marks: Iterable[tuple[Row, float]]) -> None:
    """Write points of curves, each a row and its x, as Parquet, atomically and in their order."""
    rows = [{**row._asdict(), "x": x} for row, x in marks]
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=CURVE_SCHEMA), temporary)


def read_curves(path: Path) -> pd.DataFrame:
    """Return the points of one file, with the columns of `CURVE_SCHEMA`.

    Raises ArtifactError that names the file where it cannot be read or has other columns.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ArtifactError(
            f"{path} is not a readable Parquet file ({error}); "
            f"remove it and rerun: snakemake --cores all {path}"
        ) from error
    if not table.schema.equals(CURVE_SCHEMA):
        raise ArtifactError(
            f"{path} does not hold curves; its columns are {', '.join(table.column_names)}"
        )
    return table.to_pandas()
