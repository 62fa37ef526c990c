"""Source `domain`: the documents of another corpus that match, with their ids and splits."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from saeflow.artifacts import read_manifest
from saeflow.corpora.derived_settings import Domain
from saeflow.corpora.documents import DOCUMENTS, CorpusError, Tally
from saeflow.corpora.spool import Row

_READ_ROWS = 2000


def rows(settings: Domain, parents: Mapping[str, Path], tally: Tally) -> Iterator[Row]:
    """Yield the rows of the corpus, its folder in `parents`, that match `settings`, in its order.

    Raises CorpusError where fewer than `min_documents` match, and for a glob of `domains` that
    matches nothing, with the nearest domains that there are; ArtifactError for a damaged corpus.
    """
    parent = parents[settings.corpus]
    manifest = read_manifest(parent, kind="corpus")
    _check_domains(settings, sorted(manifest["stats"]["domains"]))
    matches = _Matcher(settings)
    found = 0
    for row in parent_rows(parent):
        if matches(row):
            found += 1
            yield row
    if found < settings.min_documents:
        raise CorpusError(
            f"{parent}: {found} documents match {_asked(settings)}, min_documents is "
            f"{settings.min_documents}; it has {manifest['stats']['documents']:,} documents with "
            f"the domains {_some(sorted(manifest['stats']['domains']))}"
        )


def parent_rows(parent: Path) -> Iterator[Row]:
    """Yield the rows of the corpus in folder `parent`, streaming, in its order."""
    with pq.ParquetFile(parent / DOCUMENTS) as file:
        for batch in file.iter_batches(_READ_ROWS):
            columns = [batch.column(name).to_pylist() for name in Row._fields]
            yield from map(Row._make, zip(*columns, strict=True))


class _Matcher:
    """Whether a row matches; each distinct domain is compared once."""

    def __init__(self, settings: Domain) -> None:
        self._settings = settings
        self._domain_matches = cache(lambda domain: _any(domain, settings.domains))

    def __call__(self, row: Row) -> bool:
        settings = self._settings
        return (
            (not settings.domains or self._domain_matches(row.domain))
            and (not settings.names or _any(row.name, settings.names))
            and not _any(row.name, settings.exclude_names)
            and (not settings.labels or self._labels_match(row.labels))
        )

    def _labels_match(self, text: str | None) -> bool:
        labels: dict[str, Any] = json.loads(text) if text else {}
        return all(
            label in labels and _any(labels[label], globs)
            for label, globs in self._settings.labels.items()
        )


def _any(value: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, glob) for glob in globs)


def _check_domains(settings: Domain, domains: list[str]) -> None:
    for glob in settings.domains:
        if not any(fnmatchcase(domain, glob) for domain in domains):
            near = difflib.get_close_matches(glob.strip("*."), domains, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise CorpusError(
                f"corpus {settings.corpus!r} has no domain that matches {glob!r}; {hint}"
                f"There are {len(domains)}: {_some(domains)}"
            )


def _some(domains: list[str]) -> str:
    return ", ".join(domains[:20]) + (", ..." if len(domains) > 20 else "")


def _asked(settings: Domain) -> str:
    asked = settings.model_dump(include={"domains", "names", "labels", "exclude_names"})
    return ", ".join(f"{key} {value}" for key, value in asked.items() if value)
