"""From a row of a table to a document: its text, domain, labels and name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from saeflow.corpora.documents import CorpusError, Document, Tally
from saeflow.corpora.settings import DomainRule, Rows
from saeflow.corpora.text import has_undecodable, replace_undecodable


def columns_of(settings: Rows) -> list[str]:
    """Return the columns that the settings read, each once, text first."""
    named = [*settings.text, *settings.labels]
    if isinstance(settings.domain, DomainRule) and settings.domain.column is not None:
        named.append(settings.domain.column)
    return list(dict.fromkeys(named))


def check_columns(present: list[str], place: str, settings: Rows) -> None:
    """Raise CorpusError if a column that the settings read is not among those present."""
    missing = [column for column in columns_of(settings) if column not in present]
    if missing:
        raise CorpusError(f"{place}: no column {missing[0]!r}; it has {', '.join(present)}")


def values_of(column: pa.Array) -> list[Any]:
    """Return the column as Python values; strings that are not UTF-8 with surrogate escapes."""
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    else:
        return column.to_pylist()
    return [
        None if value is None else value.decode(errors="surrogateescape")
        for value in column.to_pylist()
    ]


def document_of(
    row: Mapping[str, Any], path: str, number: int | None, settings: Rows, tally: Tally
) -> Document | None:
    """Return the document of a row, or None for a row that is dropped (and counted).

    `path` and `number` say where the row stands; `path` may also give the domain. Raises
    CorpusError that names the place for a missing column, a value that is no text, a domain rule
    that finds nothing, and undecodable bytes if they are to be errors.
    """
    place = path if number is None else f"{path}:{number}"
    check_columns(list(row), place, settings)
    parts = [_text(row[column], column, place) for column in settings.text]
    text = "\n\n".join(part for part in parts if part)
    if not text:
        tally.dropped["no text"] += 1
        return None
    if has_undecodable(text):
        if settings.on_undecodable == "strict":
            raise CorpusError(
                f"{place}: bytes that are not UTF-8; convert the file, or set on_undecodable to "
                "replace or skip-document"
            )
        if settings.on_undecodable == "skip-document":
            tally.dropped["undecodable"] += 1
            return None
        tally.facts["documents_with_replaced_bytes"] = (
            tally.facts.get("documents_with_replaced_bytes", 0) + 1
        )
    labels = {
        column: replace_undecodable(_text(row[column], column, place))
        for column in settings.labels
        if row[column] is not None
    }
    domain = _domain(row, path, place, settings.domain)
    return Document(text, replace_undecodable(domain), replace_undecodable(place), labels or None)


def _text(value: object, column: str, place: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str | int | float):
        return str(value)
    raise CorpusError(
        f"{place}: column {column!r} holds a {type(value).__name__}, not text or a number"
    )


def _domain(row: Mapping[str, Any], path: str, place: str, rule: str | DomainRule) -> str:
    if isinstance(rule, str):
        return rule
    subject = path if rule.column is None else _text(row[rule.column], rule.column, place)
    found = re.search(rule.pattern, subject)
    if not found or not found[1]:
        raise CorpusError(
            f"{place}: the domain's pattern {rule.pattern!r} finds nothing in {subject!r}; it must "
            "match every row"
        )
    return found[1]
