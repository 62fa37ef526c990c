"""The rows that claims are judged on, from the metric files of one experiment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from saeflow.artifacts import ArtifactError
from saeflow.claims_settings import ClaimSettings
from saeflow.evaluation.rows import KEY, read_rows
from saeflow.measures import DETECTION_METRICS, EXPLAINED_METRICS, FILES

_JUDGED = {
    FILES["explained"]: "scores.parquet",
    FILES["detection"]: "detection_details.parquet",
}
"""The table beside a file of rows that says who judged."""
_BY_JUDGE = frozenset({*EXPLAINED_METRICS, *DETECTION_METRICS})


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


def judges_of(claims: Sequence[ClaimSettings], paths: Iterable[Path]) -> dict[str, str]:
    """Return who explained the latents that claims rest on, by the ids of those claims.

    Raises ArtifactError where several judges did, whose scores do not compare.
    """
    tables = [path.with_name(_JUDGED[path.name]) for path in paths if path.name in _JUDGED]
    of_tables = [pd.read_parquet(table, columns=["judge_definition"]) for table in tables]
    judges = sorted({judge for table in of_tables for judge in table["judge_definition"]})
    if len(judges) > 1:
        raise ArtifactError(
            f"latents were explained by several judges ({'; '.join(judges)}): some of the metric "
            "files are out of date; run snakemake again"
        )
    return {
        claim.id: f"latents explained and scored by: {judges[0]}"
        for claim in claims
        if judges and _metrics(claim) & _BY_JUDGE
    }


def _metrics(claim: ClaimSettings) -> set[str | None]:
    return {metric for part in claim.parts for metric in (part.metric, part.baseline_metric)}
