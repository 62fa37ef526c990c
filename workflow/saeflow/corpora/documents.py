"""A source's documents, cleaned, deduplicated and split by hash, as one Parquet file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.corpora.derived_settings import DerivedSettings
from saeflow.corpora.settings import Corpus, CorpusSettings
from saeflow.corpora.spool import SCHEMA, Row, Spool
from saeflow.corpora.text import clean, duplicate_key, fraction_of, integer_of
from saeflow.fingerprint import fingerprint
from saeflow.progress import say

DOCUMENTS = "documents.parquet"
ROW_GROUP_CHARS = 8_000_000


class CorpusError(RuntimeError):
    """A source cannot be read; the message says what, where and what to do."""


class Document(NamedTuple):
    """One document as a source gives it."""

    text: str
    domain: str
    name: str
    """Where it came from: a dotted object path, or file:row."""
    labels: dict[str, str] | None = None


@dataclass
class Tally:
    """What a source reports beside its documents, for the manifest."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Documents not passed on, by reason."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is worth knowing: package versions, replaced bytes."""
    inputs: dict[str, Path] = field(default_factory=dict)
    """Files that were read, by name."""


Source = Callable[[Any, Path, Tally], Iterator[Document]]

SOURCES = {
    "installed-docs": "installed_docs",
    "files": "files",
    "hub": "hub",
    "biographies": "generated",
    "facts": "generated",
    "exercises": "generated",
    "domain": "domain",
    "planted": "planted",
    "mixture": "mixture",
}
"""Source -> module of this room, imported when used: with `documents(settings, root, tally)`, or
for what is derived from other corpora with `rows(settings, parents, tally)`."""


def read_source(settings: Corpus, root: Path, tally: Tally) -> Iterator[Document]:
    """Yield the documents of the source that `settings` names, as they come.

    `root` is the folder that relative paths of the settings start from.
    """
    source: Source = import_module(_module(settings)).documents
    return source(settings, root, tally)


def derive_rows(
    settings: DerivedSettings, parents: Mapping[str, Path], tally: Tally
) -> Iterator[Row]:
    """Yield the rows that `settings` makes of other corpora, whose folders are in `parents`.

    Raises ValueError where a folder is not given and ArtifactError where one is unfinished.
    """
    for name in settings.parents:
        if name not in parents:
            raise ValueError(
                f"source {settings.source!r} is made of the corpus {name!r}, whose folder is not "
                f"given; there are: {', '.join(parents) or 'none'}"
            )
        tally.inputs[name] = parents[name]
    folders = {name: parents[name] for name in settings.parents}
    yield from import_module(_module(settings)).rows(settings, folders, tally)


def _module(settings: Corpus | DerivedSettings) -> str:
    return f"saeflow.corpora.{SOURCES[settings.source]}"


def make_corpus(
    settings: Corpus, out: Path, root: Path, parents: Mapping[str, Path] | None = None
) -> None:
    """Write the corpus of `settings` into folder `out`: documents.parquet and manifest.json.

    Documents are cleaned (`text.clean`); the short and the duplicate are dropped, the first of a
    group of duplicates in the order of the source being kept; the rest is ordered by a hash of
    the text, cut to the budget and split by a hash of the group, so that documents that are added
    later move no other one to another split. A corpus that is derived from others (their folders
    in `parents`, by name) takes over ids, order and splits instead. Memory: the hashes of all
    documents and 1/64 of the text, or 256 MB if that is more. Raises CorpusError for a source that
    cannot be read or leaves no document.
    """
    clock, out = Clock(), begin(out)
    tally = Tally()
    spool = Spool(out / "spool")
    try:
        if isinstance(settings, DerivedSettings):
            for row in derive_rows(settings, parents or {}, tally):
                spool.add(row)
            kept = _write(spool, None, out / DOCUMENTS, tally)
        else:
            _fill(spool, settings, read_source(settings, root, tally), tally)
            kept = _write(spool, settings, out / DOCUMENTS, tally)
    finally:
        spool.close()
    if not kept.documents:
        (out / DOCUMENTS).unlink()
        raise CorpusError(_nothing_left(settings, out, root, tally))
    say(f"{out}: {kept.documents:,} documents, {kept.chars:,} characters")
    write_manifest(
        out,
        kind="corpus",
        settings=settings.model_dump(mode="json"),
        files=[DOCUMENTS],
        inputs=tally.inputs,
        stats={**kept.stats(), "dropped": dict(tally.dropped), **tally.facts},
        code=fingerprint(__name__, _module(settings)),
        clock=clock,
    )


def _fill(
    spool: Spool, settings: CorpusSettings, documents: Iterator[Document], tally: Tally
) -> None:
    seen: set[int] = set()
    for document in documents:
        text = clean(document.text)
        if len(text) < settings.min_chars:
            tally.dropped["short"] += 1
            continue
        key = duplicate_key(text, settings.duplicates)
        group = integer_of(key, "group")
        if group in seen:
            tally.dropped["duplicate"] += 1
            continue
        seen.add(group)
        spool.add(
            Row(
                document=integer_of(text, "document"),
                domain=document.domain,
                split=_split(key, settings),
                name=document.name,
                text=text,
                labels=json.dumps(document.labels, sort_keys=True) if document.labels else None,
            )
        )


def _split(key: str, settings: CorpusSettings) -> str:
    fraction = fraction_of(key, "split")
    if fraction < settings.test:
        return "test"
    return "validation" if fraction < settings.test + settings.validation else "train"


@dataclass
class _Kept:
    """Documents and characters that were written, in all and by domain and split."""

    documents: int = 0
    chars: int = 0
    by_domain: dict[str, Counter[str]] = field(default_factory=dict)
    by_split: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.documents += 1
        self.chars += len(row.text)
        for group in (
            self.by_domain.setdefault(row.domain, Counter()),
            self.by_split.setdefault(row.split, Counter()),
        ):
            group.update(documents=1, characters=len(row.text))

    def stats(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "characters": self.chars,
            "domains": {name: dict(count) for name, count in sorted(self.by_domain.items())},
            "splits": {name: dict(count) for name, count in sorted(self.by_split.items())},
        }


def _write(spool: Spool, budget: CorpusSettings | None, path: Path, tally: Tally) -> _Kept:
    kept = _Kept()
    group: list[Row] = []
    chars = 0
    full = False
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer,
    ):
        for row in spool.in_order():
            full = full or (budget is not None and _over_budget(kept, row, budget))
            if full:
                tally.dropped["over budget"] += 1
                continue
            kept.add(row)
            group.append(row)
            chars += len(row.text)
            if chars >= ROW_GROUP_CHARS:
                writer.write_table(_table(group))
                group, chars = [], 0
        if group:
            writer.write_table(_table(group))
    return kept


def _over_budget(kept: _Kept, row: Row, settings: CorpusSettings) -> bool:
    documents, chars = settings.max_documents, settings.max_chars
    return (documents is not None and kept.documents >= documents) or (
        chars is not None and kept.chars + len(row.text) > chars
    )


def _table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA)


def _nothing_left(settings: Corpus, out: Path, root: Path, tally: Tally) -> str:
    dropped = ", ".join(f"{count} {reason}" for reason, count in tally.dropped.items())
    read = ", ".join([*list(tally.inputs)[:5], *(f"{k} {v}" for k, v in tally.facts.items())])
    shortest = f"; min_chars={settings.min_chars}" if isinstance(settings, CorpusSettings) else ""
    return (
        f"corpus {out.name!r} is empty: source {settings.source!r} under {root} gave no document "
        f"that could be kept (dropped: {dropped or 'none'}; read: {read or 'nothing'}{shortest})"
    )
