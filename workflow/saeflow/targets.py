"""The list of targets: every figure, table, claims table and report, and what each has cost."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from saeflow.artifacts import MANIFEST


class Target(NamedTuple):
    """Something to ask Snakemake for, and the folders that it is made from."""

    path: str
    title: str
    folders: tuple[str, ...]


def describe(targets: Iterable[Target]) -> str:
    """Return the list as aligned text: path, artefacts behind it, seconds they took, title.

    The artefacts are found from manifest to manifest; those that were never made are not known.
    """
    rows = [("target", "artefacts", "job seconds", "what")]
    for target in targets:
        made = list(_behind(target.folders))
        missing = sum(not (Path(folder) / MANIFEST).is_file() for folder in target.folders)
        cost = f"{sum(_seconds(folder) for folder in made):,.0f}"
        if missing:
            cost = f"{cost}, {missing} to be made" if made else "not yet run"
        rows.append((target.path, str(len(made)), cost, target.title))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    return "\n".join(lines)


def _behind(folders: Sequence[str]) -> Iterator[str]:
    """Yield the finished artefacts in `folders` and all that they were made from, once each."""
    seen, waiting = set(folders), list(folders)
    while waiting:
        folder = waiting.pop()
        if not (manifest := _manifest(folder)):
            continue
        yield folder
        new = {entry["path"] for entry in manifest["inputs"].values()} - seen
        seen |= new
        waiting.extend(new)


@cache
def _manifest(folder: str) -> dict[str, Any]:
    try:
        return json.loads((Path(folder) / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}


@cache
def _seconds(folder: str) -> float:
    """Wall seconds of an artefact; of an SAE its own share of a job that trains several."""
    if _manifest(folder)["kind"] == "sae":
        seconds = pq.read_table(Path(folder) / "log.parquet", columns=["seconds"])["seconds"]
        return float(seconds[-1].as_py())
    return float(_manifest(folder)["wall_seconds"])
