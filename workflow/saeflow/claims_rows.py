"""The rows that claims are judged on, from the metric files of one experiment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from saeflow.artifacts import ArtifactError
from saeflow.evaluation.rows import KEY, read_rows


def claim_rows(paths: Iterable[Path]) -> pd.DataFrame:
    """Return the rows of all files; one that several files hold alike is there once.

    Relations to a baseline repeat the L0 of the points that they relate. Raises ArtifactError for a
    file that holds no rows and for one key with two values.
    """
    rows = pd.concat([read_rows([path]) for path in paths], ignore_index=True)
    rows = rows.drop_duplicates(subset=[*KEY, "value"])
    twice = rows[rows.duplicated(subset=list(KEY))]
    if not twice.empty:
        first = twice.iloc[0]
        raise ArtifactError(
            f"two values of {first['metric']} of {first['variant']}, seed {first['seed']}, on "
            f"{first['corpus']}: one of the metric files is out of date; run snakemake again"
        )
    return rows
