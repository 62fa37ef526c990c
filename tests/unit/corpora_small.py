"""A small corpus in three splits for tests of what is made of corpora."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from saeflow.corpora.documents import make_corpus
from saeflow.corpora.settings import Files

TOPICS = ("physics.optics", "physics.waves", "biology.cells")
NOUNS = "apple birch cedar dune ember fjord grove heath isle jetty knoll ledge marsh".split()  # noqa: SIM905


def write_corpus(folder: Path, documents: int = 240) -> Path:
    """Write the corpus into `folder` and return it; documents are of 3 topics in turn."""
    lines = []
    for i in range(documents):
        a, b, c = (NOUNS[i // 13**power % 13] for power in range(3))
        text = f"The {a} is here. It has a {b} too.\n\nNote the {c} as well; that is number {i}."
        row = {"text": text, "topic": TOPICS[i % 3], "kind": "even" if i % 2 == 0 else "odd"}
        lines.append(json.dumps(row) + "\n")
    (folder / "small.jsonl").write_text("".join(lines))
    settings = Files(
        source="files",
        paths="small.jsonl",
        domain={"column": "topic"},
        labels=["kind"],
        min_chars=1,
        duplicates="exact",
        validation=0.25,
        test=0.25,
    )
    make_corpus(settings, folder / "small", folder)
    return folder / "small"


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The documents of a corpus, in order."""
    return pq.read_table(folder / "documents.parquet").to_pylist()
