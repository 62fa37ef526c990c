"""A person's decisions on latents, from a file, in the place of the judge's.

The file says which latents to ablate and, so that a reader sees what was looked at, which were
looked at and kept. JSON:

    {"ablated": {"embed": [946, 7392], "mlp_0": [2995]}, "kept": {"embed": [5719]}}

or the sites alone, `{"embed": [946, 7392]}`, all of which are ablated; or a table (CSV, Parquet)
with the columns `site`, `latent` and, unless all are ablated, `ablated`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    from torch import Tensor

_SHIPPED = Path(__file__).parent / "data"

NAMED, NOT_NAMED = "person", "person: not named"


class TrimmingError(ValueError):
    """A file of decisions that cannot be used; the message says where and why."""


class Decisions(NamedTuple):
    """Latents by site, each sorted."""

    ablated: dict[str, list[int]]
    kept: dict[str, list[int]]


def decisions_path(file: str, root: Path | None) -> Path:
    """Return where a file of decisions is: one that is shipped, by its name, or below `root`.

    Raises TrimmingError for a file that is not shipped and has no root.
    """
    shipped = _SHIPPED / f"{file}.json"
    if shipped.is_file():
        return shipped
    if root is None:
        raise TrimmingError(f"{file} is a file below data_dir, which is not set")
    return root / file


def read_decisions(path: Path, widths: Mapping[str, int]) -> Decisions:
    """Return the decisions of a file; `widths` maps each site to the latents that its SAE has.

    Raises TrimmingError, naming file, site and latent, for a file that does not have the format,
    a site that is not attributed, a latent that the SAE lacks, and one decided on twice.
    """
    if not path.is_file():
        raise TrimmingError(f"{path}: no such file of decisions on latents")
    read = {".json": _from_json, ".csv": _from_table, ".parquet": _from_table}.get(path.suffix)
    if read is None:
        raise TrimmingError(f"{path}: decisions are read from .json, .csv or .parquet")
    return _checked(path, *read(path), widths)


def decide_by_person(
    decisions: Decisions, candidates: Mapping[str, Tensor | Sequence[int]]
) -> pd.DataFrame:
    """Return a row (`site`, `latent`, `ablated`, `decided_by`) for each latent that is decided on.

    First come the candidates by site, in their order; one that the file does not name is kept.
    Then come latents that the file ablates and that are no candidates: the person's list holds
    whatever effects were measured here.
    """
    rows: list[tuple[str, int, bool, str]] = []
    for site, latents in candidates.items():
        ablated, kept = set(decisions.ablated.get(site, ())), set(decisions.kept.get(site, ()))
        for latent in map(int, latents):
            by = NAMED if latent in ablated | kept else NOT_NAMED
            rows.append((site, latent, latent in ablated, by))
    known = {(site, latent) for site, latent, _, _ in rows}
    rows += [
        (site, latent, True, NAMED)
        for site, latents in decisions.ablated.items()
        for latent in latents
        if (site, latent) not in known
    ]
    return pd.DataFrame(rows, columns=["site", "latent", "ablated", "decided_by"])


_Pairs = list[tuple[str, Any]]


def _from_json(path: Path) -> tuple[_Pairs, _Pairs]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TrimmingError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise TrimmingError(f"{path} holds a {type(content).__name__}, not an object of sites")
    if not {"ablated", "kept"} & set(content):
        content = {"ablated": content}
    unknown = sorted(set(content) - {"ablated", "kept"})
    if unknown:
        raise TrimmingError(f"{path} has {unknown} beside ablated and kept")
    return _pairs(path, content, "ablated"), _pairs(path, content, "kept")


def _pairs(path: Path, content: Mapping[str, Any], part: str) -> _Pairs:
    sites = content.get(part, {})
    if not isinstance(sites, dict) or not all(isinstance(ids, list) for ids in sites.values()):
        raise TrimmingError(f"{path}: {part} must map sites to lists of latents")
    return [(site, latent) for site, latents in sites.items() for latent in latents]


def _from_table(path: Path) -> tuple[_Pairs, _Pairs]:
    try:
        table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except Exception as error:  # pandas and its engines raise whatever they like on damaged files.
        raise TrimmingError(f"{path} cannot be read as a table: {error}") from error
    missing = [column for column in ("site", "latent") if column not in table]
    if missing:
        raise TrimmingError(f"{path} lacks the columns {missing}; it has {list(table)}")
    ablated = table.get("ablated", pd.Series(True, index=table.index))
    if ablated.dtype != bool:
        raise TrimmingError(f"{path}: the column ablated must hold true or false alone")

    def pairs(rows: pd.DataFrame) -> _Pairs:
        return list(zip(rows["site"].tolist(), rows["latent"].tolist(), strict=True))

    return pairs(table[ablated]), pairs(table[~ablated])


def _checked(path: Path, ablated: _Pairs, kept: _Pairs, widths: Mapping[str, int]) -> Decisions:
    for site, latent in [*ablated, *kept]:
        if site not in widths:
            near = difflib.get_close_matches(str(site), widths, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {list(widths)}"
            raise TrimmingError(f"{path}: no SAE at a site {site!r}; {hint}")
        if not isinstance(latent, int) or isinstance(latent, bool):
            raise TrimmingError(f"{path}: {site} has {latent!r}, which is no latent's number")
        if not 0 <= latent < widths[site]:
            raise TrimmingError(
                f"{path}: {site} has latent {latent}, its SAE has 0 to {widths[site] - 1:,}; the "
                "decisions are those on another SAE"
            )
    twice = _first_twice([*ablated, *kept])
    if twice:
        raise TrimmingError(f"{path} decides twice on latent {twice[1]} of {twice[0]}")
    return Decisions(_by_site(ablated), _by_site(kept))


def _first_twice(pairs: _Pairs) -> tuple[str, Any] | None:
    seen = set()
    for pair in pairs:
        if pair in seen:
            return pair
        seen.add(pair)
    return None


def _by_site(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for site, latent in sorted(pairs):
        found.setdefault(site, []).append(latent)
    return found
