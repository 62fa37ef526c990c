"""What a paid judge has answered, in Parquet: asked once, kept through a kill.

Each answer is a file of one row as soon as it is there; a finished stage merges them into
`answers.parquet`. Both are read when a stage starts.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import ArtifactError, atomic_path

ANSWERS, PARTS = "answers.parquet", "answers"
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("judge", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("answer_tokens", pa.int64()),
    ]
)


class Answer(NamedTuple):
    """A language model's answer and its length; null where it is not known."""

    text: str
    prompt_tokens: int | None
    answer_tokens: int | None


class Answers:
    """The answers of one judge (`identity`: all that decides them) in the folder of a stage.

    Raises ArtifactError for a file that cannot be read: it was paid for, so it is not just
    forgotten.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder, self.identity = folder, identity
        self.lock = threading.Lock()
        self.questions: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.rows: dict[str, dict] = {}
        for path in (*sorted((folder / PARTS).glob("[!.]*.parquet")), folder / ANSWERS):
            if path.is_file():
                self.rows.update((row["key"], row) for row in _read(path))

    def get(self, prompt: str) -> Answer | None:
        """Return the answer to a prompt, if there is one."""
        row = self.rows.get(self._key(prompt))
        return Answer(row["answer"], row["prompt_tokens"], row["answer_tokens"]) if row else None

    @contextmanager
    def asking(self, prompt: str) -> Iterator[None]:
        """Let others with the same question wait, who then have the answer that is kept."""
        with self.lock:
            question = self.questions[self._key(prompt)]
        with question:
            yield

    def add(self, prompt: str, answer: Answer) -> None:
        """Keep an answer, on disk before this returns."""
        key = self._key(prompt)
        row = dict(zip(SCHEMA.names, (key, self.identity, prompt, *answer), strict=True))
        with self.lock:  # one writer at a time: the mode of a new file is read from the process
            _write(self.folder / PARTS / f"{key}.parquet", [row])
            self.rows[key] = row

    def merge(self) -> None:
        """Leave all answers in one file."""
        _write(self.folder / ANSWERS, [self.rows[key] for key in sorted(self.rows)])
        parts = self.folder / PARTS
        if parts.is_dir():
            for path in parts.iterdir():
                path.unlink()
            parts.rmdir()

    def _key(self, prompt: str) -> str:
        return hashlib.sha256(json.dumps([self.identity, prompt]).encode()).hexdigest()


def _read(path: Path) -> list[dict]:
    try:
        table = pq.read_table(path)
        rows = table.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is not a readable Parquet file ({error}); remove it, and its questions are "
            "asked again"
        ) from error
    if not table.schema.equals(SCHEMA):
        raise ArtifactError(f"{path} holds no answers of a judge; remove it")
    return rows


def _write(path: Path, rows: list[dict]) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary, compression="zstd")
