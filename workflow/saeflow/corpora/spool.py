"""Order rows by document id without holding them all in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

BUCKETS = 64
SPILL_CHARS = 128_000_000  # about 256 MB of Python strings and their rows

SCHEMA = pa.schema(
    [
        ("document", pa.int64()),
        ("domain", pa.string()),
        ("split", pa.string()),
        ("name", pa.string()),
        ("text", pa.large_string()),
        ("labels", pa.string()),
    ]
)


class Row(NamedTuple):
    """A row of documents.parquet."""

    document: int
    domain: str
    split: str
    name: str
    text: str
    labels: str | None


class Spool:
    """Takes rows in any order and gives them back by document id.

    Ids are hashes, so their leading bits share the rows evenly among the buckets. Buckets are
    spilled to `folder` when the rows in memory outgrow `spill_chars`, and sorted one at a time.
    """

    def __init__(self, folder: Path, spill_chars: int = SPILL_CHARS) -> None:
        self._folder = folder
        self._spill_chars = spill_chars
        self._buckets: list[list[Row]] = [[] for _ in range(BUCKETS)]
        self._writers: dict[int, pa.RecordBatchFileWriter] = {}
        self._chars = 0
        shutil.rmtree(folder, ignore_errors=True)

    def add(self, row: Row) -> None:
        """Take a row; its document id is in [0, 2^63)."""
        self._buckets[row.document * BUCKETS >> 63].append(row)
        self._chars += len(row.text)
        if self._chars >= self._spill_chars:
            self._spill()

    def in_order(self) -> Iterator[Row]:
        """Yield all rows by document id; no row may be added after that."""
        for writer in self._writers.values():
            writer.close()
        for bucket, rows in enumerate(self._buckets):
            if bucket in self._writers:
                with pa.ipc.open_file(self._file(bucket)) as reader:
                    rows.extend(Row(**row) for row in reader.read_all().to_pylist())
            rows.sort()
            yield from rows
            rows.clear()

    def close(self) -> None:
        """Remove what was spilled."""
        for writer in self._writers.values():
            writer.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spill(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for bucket, rows in enumerate(self._buckets):
            if not rows:
                continue
            if bucket not in self._writers:
                self._writers[bucket] = pa.ipc.new_file(self._file(bucket), SCHEMA)
            self._writers[bucket].write_batch(
                pa.RecordBatch.from_pylist([row._asdict() for row in rows], schema=SCHEMA)
            )
            rows.clear()
        self._chars = 0

    def _file(self, bucket: int) -> str:
        return str(self._folder / f"bucket-{bucket:02d}.arrow")
