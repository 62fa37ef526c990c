"""What the manifests say: where every number comes from, and with which software."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from saeflow.artifacts import MANIFEST, ArtifactError, read_manifest


class Artefact(NamedTuple):
    """One folder, as its manifest describes it."""

    path: str
    """Folder, relative to the results."""
    kind: str
    manifest: dict[str, Any]

    @property
    def settings(self) -> str:
        """The settings as indented JSON."""
        return json.dumps(self.manifest["settings"], indent=2, sort_keys=True)


def read_artefacts(folders: Iterable[Path], root: Path) -> list[Artefact]:
    """Return the checked manifests of `folders`, by kind and path.

    Raises ArtifactError for a folder that is unfinished or differs from its manifest.
    """
    found = []
    for folder in folders:
        manifest = read_manifest(folder, kind=_kind(folder))
        found.append(Artefact(os.path.relpath(folder, root), manifest["kind"], manifest))
    return sorted(found, key=lambda artefact: (artefact.kind, artefact.path))


def _kind(folder: Path) -> str:
    """The kind that a manifest claims; the reader then checks the rest."""
    try:
        return str(json.loads((folder / MANIFEST).read_text())["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST} cannot be read ({error}); remove it and run snakemake again"
        ) from error


def software(artefacts: Iterable[Artefact]) -> dict[str, str]:
    """Return the versions of each package; more than one where artefacts differ."""
    versions: dict[str, set[str]] = defaultdict(set)
    for artefact in artefacts:
        for package, number in artefact.manifest["software"].items():
            versions[package].add(str(number))
    return {package: ", ".join(sorted(numbers)) for package, numbers in sorted(versions.items())}


def made_between(artefacts: Iterable[Artefact]) -> tuple[str, str] | None:
    """Return when the first and the last job of the artefacts started, in UTC."""
    times = [artefact.manifest["started"] for artefact in artefacts]
    if not times:
        return None
    first, last = (datetime.fromtimestamp(t, UTC) for t in (min(times), max(times)))
    return f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}"
