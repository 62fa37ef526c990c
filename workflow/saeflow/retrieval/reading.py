"""Read documents and count their tokens, a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saeflow.artifacts import read_manifest
from saeflow.corpora.documents import DOCUMENTS
from saeflow.corpora.spool import Row

BATCH_ROWS = 4096


class RetrievalError(RuntimeError):
    """Nothing, too little or the wrong thing can be retrieved; the message says what to do."""


class Part(NamedTuple):
    """Some documents of a split, in the order of their ids."""

    documents_n: NDArray[np.int64]
    texts: list[str]


def read_split(corpus: Path, split: str) -> Iterator[Part]:
    """Yield the documents of a split, `BATCH_ROWS` rows of the corpus at a time."""
    for table in _batches(corpus, ["document", "split", "text"]):
        kept = table.filter(pc.equal(table["split"], split))
        yield Part(_ids(kept), kept["text"].to_pylist())


def read_shards(corpus: Path, split: str, size: int) -> Iterator[Part]:
    """Yield the documents of a split, `size` at a time and the rest in the last shard."""
    ids: list[NDArray[np.int64]] = []
    texts: list[str] = []
    for part in read_split(corpus, split):
        ids.append(part.documents_n)
        texts += part.texts
        while len(texts) >= size:
            held = np.concatenate(ids)
            yield Part(held[:size], texts[:size])
            ids, texts = [held[size:]], texts[size:]
    if texts:
        yield Part(np.concatenate(ids), texts)


def read_ids(corpus: Path, split: str) -> NDArray[np.int64]:
    """Return the ids of the documents of a split, in ascending order."""
    tables = _batches(corpus, ["document", "split"])
    return np.concatenate([_ids(table.filter(pc.equal(table["split"], split))) for table in tables])


def read_label(corpus: Path, split: str, label: str) -> dict[int, str]:
    """Return the documents of a split that have a label, by rising id, with what it says."""
    found: dict[int, str] = {}
    for table in _batches(corpus, ["document", "split", "labels"]):
        kept = table.filter(pc.equal(table["split"], split))
        for document, labels in zip(_ids(kept).tolist(), kept["labels"].to_pylist(), strict=True):
            if labels and label in (known := json.loads(labels)):
                found[document] = str(known[label])
    return dict(sorted(found.items()))


def read_rows(corpus: Path, documents: Collection[int]) -> dict[int, Row]:
    """Return the rows of `documents` by id; ids that the corpus does not have are left out.

    Text is read of those row groups alone that hold a wanted document.
    """
    wanted = pa.array(sorted(documents), pa.int64())
    file = pq.ParquetFile(corpus / DOCUMENTS)
    groups = [
        group
        for group in range(file.num_row_groups)
        if _holds(file.read_row_group(group, columns=["document"]), wanted)
    ]
    rows: dict[int, Row] = {}
    for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=list(Row._fields)):
        for row in batch.filter(pc.is_in(batch["document"], wanted)).to_pylist():
            rows[row["document"]] = Row(**row)
    return rows


def _holds(ids: pa.Table, wanted: pa.Array) -> bool:
    return bool(pc.any(pc.is_in(ids["document"], wanted)).as_py())


def count_tokens(tokens: Path, split: str) -> pd.Series:
    """Return the text tokens of each document of a split that has any, indexed by document.

    `tokens` is a folder of windows; tokens of dropped windows and begin tokens do not count.
    """
    begin = int(read_manifest(tokens, kind="tokens")["settings"]["prepend_bos"])
    documents = [np.empty(0, np.int64)]
    lengths = [np.empty(0, np.int64)]
    file = pq.ParquetFile(tokens / f"{split}.parquet")
    for batch in file.iter_batches(BATCH_ROWS, columns=["document", "tokens"]):
        documents.append(batch["document"].to_numpy())
        lengths.append(pc.list_value_length(batch["tokens"]).to_numpy() - begin)
    counted = pd.Series(np.concatenate(lengths), np.concatenate(documents), name="tokens")
    return counted.groupby(level=0).sum()


def _batches(corpus: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    file = pq.ParquetFile(corpus / DOCUMENTS)
    for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
        yield pa.Table.from_batches([batch])


def _ids(table: pa.Table) -> NDArray[np.int64]:
    return table["document"].to_numpy().astype(np.int64, copy=False)
