"""Documents to windows of tokens, exactly as they are fed to a subject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saeflow.artifacts import (
    ArtifactError,
    Clock,
    atomic_path,
    begin,
    read_manifest,
    write_manifest,
)
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress
from saeflow.subjects.folder import load_tokenizer
from saeflow.subjects.settings import WindowSettings

SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema(
    {
        "window": pa.int64(),
        "document": pa.int64(),
        "start": pa.int32(),
        "tokens": pa.list_(pa.int32()),
    }
)
BATCH_DOCUMENTS = 2000


@dataclass
class _Windows:
    """Windows of one split that are not yet written."""

    writer: pq.ParquetWriter
    counts: Counter[str] = field(default_factory=Counter)
    documents: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    tokens: list[NDArray[np.int32]] = field(default_factory=list)

    def flush(self) -> None:
        """Write them as one row group."""
        n = len(self.tokens)
        if n == 0:
            return
        first = self.counts["windows"] - n
        lengths = [len(tokens) for tokens in self.tokens]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        columns = [
            pa.array(np.arange(first, first + n)),
            pa.array(self.documents, pa.int64()),
            pa.array(self.starts, pa.int32()),
            pa.ListArray.from_arrays(offsets, np.concatenate(self.tokens)),
        ]
        self.writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA))
        self.documents, self.starts, self.tokens = [], [], []


def tokenise(settings: WindowSettings, subject: Path, corpus: Path, out: Path) -> None:
    """Write `{split}.parquet` for each split of `corpus`, and the manifest, into folder `out`.

    A row is a window: the begin token if the settings ask for one, then up to `context` tokens
    in all from one document, whose token offset is `start`. A longer document makes several
    windows; windows with fewer than `min_window` tokens of text are dropped and counted. What
    looks like a special token in a document is text. Raises ArtifactError if nothing is left.
    """
    clock, out = Clock(), begin(out)
    read_manifest(corpus, kind="corpus")
    tokenizer = load_tokenizer(subject)
    bos = [_begin_token(tokenizer)] if settings.prepend_bos else []
    bpe = tokenizer.backend_tokenizer
    bpe.encode_special_tokens = True
    with ExitStack() as stack:
        windows = {}
        for split in SPLITS:
            path = stack.enter_context(atomic_path(out / f"{split}.parquet"))
            writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
            windows[split] = _Windows(stack.enter_context(writer))
        for documents, splits, texts in _batches(corpus):
            encodings = bpe.encode_batch_fast(texts, add_special_tokens=False)
            for document, split, encoding in zip(documents, splits, encodings, strict=True):
                _cut(settings, document, encoding.ids, bos, windows[split])
            for part in windows.values():
                part.flush()
        stats = {split: dict(sorted(part.counts.items())) for split, part in windows.items()}
    if not any(counts.get("windows") for counts in stats.values()):
        raise ArtifactError(
            f"{corpus}: no document has min_window={settings.min_window} tokens; lower min_window"
        )
    write_manifest(
        out,
        kind="tokens",
        settings=settings.model_dump(mode="json"),
        files=[f"{split}.parquet" for split in SPLITS],
        inputs={"subject": subject, "corpus": corpus},
        stats=stats,
        code=fingerprint(__name__),
        clock=clock,
    )


def _begin_token(tokenizer: object) -> int:
    begin = tokenizer.bos_token_id  # type: ignore[attr-defined]
    return tokenizer.eos_token_id if begin is None else begin  # type: ignore[attr-defined]


def _batches(corpus: Path) -> Iterator[tuple[list[int], list[str], list[str]]]:
    documents = pq.ParquetFile(corpus / "documents.parquet")
    columns = ["document", "split", "text"]
    with Progress(documents.metadata.num_rows, "documents", "tokenising") as progress:
        for batch in documents.iter_batches(BATCH_DOCUMENTS, columns=columns):
            ids, splits, texts = (column.to_pylist() for column in batch.columns)
            yield ids, splits, texts
            progress.update(len(ids))


def _cut(
    settings: WindowSettings,
    document: int,
    ids: Sequence[int],
    bos: list[int],
    windows: _Windows,
) -> None:
    counts = windows.counts
    counts["documents"] += 1
    room = settings.context - len(bos)
    text = np.asarray(ids, dtype=np.int32)
    for start in range(0, len(text), room):
        part = text[start : start + room]
        if len(part) < settings.min_window:
            counts["dropped_windows"] += 1
            counts["dropped_tokens"] += len(part)
            continue
        windows.documents.append(document)
        windows.starts.append(start)
        windows.tokens.append(np.concatenate([np.asarray(bos, dtype=np.int32), part]))
        counts["windows"] += 1
        counts["text_tokens"] += len(part)
