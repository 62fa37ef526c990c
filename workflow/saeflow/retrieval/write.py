"""Write a selection: the chosen documents as a corpus, and why each was chosen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.corpora.documents import DOCUMENTS
from saeflow.corpora.spool import SCHEMA, Row
from saeflow.progress import say
from saeflow.retrieval.settings import Selection

SELECTION = "selection.parquet"
SELECTION_SCHEMA = pa.schema(
    [
        ("document", pa.int64()),
        ("score", pa.float64()),
        ("rank", pa.int32()),
        ("method", pa.string()),
        ("tokens", pa.int32()),
        ("cumulative_tokens", pa.int64()),
        ("in_domain", pa.bool_()),
    ]
)
ROW_GROUP = 10_000


def write_selection(
    settings: Selection,
    chosen: pd.DataFrame,
    rows: Mapping[int, Row],
    out: Path,
    *,
    inputs: Mapping[str, Path],
    stats: Mapping[str, Any],
    device: str,
    code: str,
    clock: Clock,
) -> None:
    """Write documents.parquet, selection.parquet and the manifest into folder `out`.

    `chosen` has the columns `document`, `score`, `tokens` and `in_domain`, best first; `rows` has
    their documents, which all become training documents.
    """
    out = begin(out)
    documents = [rows[document]._replace(split="train") for document in sorted(chosen.document)]
    with atomic_path(out / DOCUMENTS) as path:
        table = pa.Table.from_pylist([row._asdict() for row in documents], schema=SCHEMA)
        pq.write_table(table, path, ROW_GROUP, compression="zstd")
    with atomic_path(out / SELECTION) as path:
        pq.write_table(_table(chosen, settings.label), path, compression="zstd")
    tokens = int(chosen.tokens.sum())
    say(f"{out}: {len(documents):,} documents, {tokens:,} tokens")
    write_manifest(
        out,
        kind="corpus",
        settings=settings.model_dump(mode="json"),
        files=[DOCUMENTS, SELECTION],
        inputs=inputs,
        stats={**_counts(documents), "tokens": tokens, **stats},
        device=device,
        code=code,
        clock=clock,
    )


def _table(chosen: pd.DataFrame, method: str) -> pa.Table:
    columns = {
        "document": chosen.document,
        "score": chosen.score,
        "rank": range(1, len(chosen) + 1),
        "method": [method] * len(chosen),
        "tokens": chosen.tokens,
        "cumulative_tokens": chosen.tokens.cumsum(),
        "in_domain": chosen.in_domain,
    }
    arrays = [pa.array(columns[field.name], field.type) for field in SELECTION_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SELECTION_SCHEMA)


def _counts(documents: list[Row]) -> dict[str, Any]:
    """Count documents and characters as every corpus does."""
    domains: dict[str, Counter[str]] = {}
    for row in documents:
        domains.setdefault(row.domain, Counter()).update(documents=1, characters=len(row.text))
    total = Counter(documents=len(documents), characters=sum(len(row.text) for row in documents))
    by_domain = {name: dict(count) for name, count in sorted(domains.items())}
    return {**total, "domains": by_domain, "splits": {"train": dict(total)}}
