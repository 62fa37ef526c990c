"""Source `files`: text, JSONL, CSV, TSV and Parquet files, read as streams."""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.corpora.documents import CorpusError, Document, Tally
from saeflow.corpora.rows import check_columns, columns_of, document_of, values_of
from saeflow.corpora.settings import FileFormat, Files

_SUFFIXES: dict[str, FileFormat] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_TITLE = re.compile(r"\s*= [^=\s](.*[^=\s])? =\s*")
_PARQUET_ROWS = 128

NumberedRows = Iterator[tuple[int, dict[str, Any]]]
"""(number, row): the line on which a row starts, or its ordinal in a Parquet file; from 1."""


def documents(settings: Files, root: Path, tally: Tally) -> Iterator[Document]:
    """Yield the documents of the files that the globs find under `root`, in order of path and row.

    No more than a row (or the `.txt` file that is one document) is held in memory. Raises
    CorpusError for a glob that finds nothing, a file of unknown format, a missing column and a
    malformed row, naming file and line.
    """
    found = find_files(settings.paths, root)
    tally.inputs.update(found)
    for name, path in found.items():
        for number, row in _rows(path, name, settings):
            document = document_of(row, name, number, settings, tally)
            if document is not None:
                yield document


def find_files(globs: tuple[str, ...], root: Path) -> dict[str, Path]:
    """Return path relative to `root` -> path of the files that the globs find, sorted.

    Raises CorpusError for a glob that finds no file.
    """
    found = {}
    for glob in globs:
        matches = [path for path in root.glob(glob) if path.is_file()]
        if not matches:
            raise CorpusError(
                f"files: {glob!r} finds no file under {root.resolve()}; check the glob and data_dir"
            )
        found.update({path.relative_to(root).as_posix(): path for path in matches})
    return dict(sorted(found.items()))


def _rows(path: Path, name: str, settings: Files) -> NumberedRows:
    file_format = settings.format or _format_of(path, name)
    if file_format == "parquet":
        yield from _parquet_rows(path, name, settings)
        return
    read = _READERS[file_format]
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        # Universal new lines are off: csv wants to see the line ends inside quotes.
        with opener(
            path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as handle:
            yield from read(handle, name, settings)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorpusError(f"{name}: damaged or truncated gzip file ({error})") from error


def _format_of(path: Path, name: str) -> FileFormat:
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix not in _SUFFIXES:
        raise CorpusError(
            f"{name}: unknown file type {suffix!r}; known are {', '.join(_SUFFIXES)} (text formats "
            "also with .gz). Set `format` if the content is one of these"
        )
    return _SUFFIXES[suffix]


def _text_rows(handle: TextIO, name: str, settings: Files) -> NumberedRows:
    if settings.document == "file":
        yield 1, {"text": handle.read()}
        return
    by_title = settings.document == "wikitext-title"
    lines: list[str] = []
    start, after_empty = 1, True
    for number, line in enumerate(handle, start=1):
        empty = not line.strip()
        opens = after_empty and _TITLE.fullmatch(line) is not None if by_title else empty
        if opens and lines:
            yield start, {"text": "".join(lines)}
            lines = []
        if not (empty and not lines):
            start = start if lines else number
            lines.append(line)
        after_empty = empty
    if lines:
        yield start, {"text": "".join(lines)}


def _jsonl_rows(handle: TextIO, name: str, settings: Files) -> NumberedRows:
    for number, line in enumerate(handle, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{name}:{number}: malformed JSON ({error})") from error
        if not isinstance(row, dict):
            raise CorpusError(f"{name}:{number}: a JSON {type(row).__name__}, expected an object")
        yield number, row


def _csv_rows(handle: TextIO, name: str, settings: Files) -> NumberedRows:
    yield from _table_rows(csv.reader(handle, strict=True), name, settings)


def _tsv_rows(handle: TextIO, name: str, settings: Files) -> NumberedRows:
    reader = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
    yield from _table_rows(reader, name, settings)


def _table_rows(reader: Any, name: str, settings: Files) -> NumberedRows:
    csv.field_size_limit(sys.maxsize)  # the default refuses documents above 128 KiB
    header = next(reader, None)
    if header is None:
        return
    check_columns(header, name, settings)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CorpusError(f"{name}:{start}: malformed row ({error})") from error
        if not cells:
            continue
        if len(cells) != len(header):
            raise CorpusError(
                f"{name}:{start}: malformed row of {len(cells)} fields, the header has "
                f"{len(header)}"
            )
        yield start, dict(zip(header, cells, strict=True))


_READERS: dict[str, Callable[[TextIO, str, Files], NumberedRows]] = {
    "txt": _text_rows,
    "jsonl": _jsonl_rows,
    "csv": _csv_rows,
    "tsv": _tsv_rows,
}


def _parquet_rows(path: Path, name: str, settings: Files) -> NumberedRows:
    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise CorpusError(f"{name}: not a readable Parquet file ({error})") from error
    with table:
        check_columns(table.schema_arrow.names, name, settings)
        columns = columns_of(settings)
        number = 0
        for batch in table.iter_batches(_PARQUET_ROWS, columns=columns):
            values = {column: values_of(batch.column(column)) for column in columns}
            for row in zip(*values.values(), strict=True):
                number += 1
                yield number, dict(zip(values, row, strict=True))
