"""The small data tables that the generated corpora are made of (`data/`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_DATA = Path(__file__).parent / "data"


@cache
def json_table(name: str) -> dict[str, Any]:
    """The table `data/<name>.json`, read once."""
    return json.loads((_DATA / f"{name}.json").read_text(encoding="utf-8"))


@cache
def tsv_table(name: str) -> tuple[dict[str, str], ...]:
    """The rows of `data/<name>.tsv`, by column; ValueError for a row of another length."""
    header, *lines = (_DATA / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    columns = header.split("\t")
    return tuple(dict(zip(columns, line.split("\t"), strict=True)) for line in lines)


def strings(value: Any) -> Iterator[str]:
    """Every string in a table, keys left out."""
    if isinstance(value, str):
        yield value
    else:
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)
