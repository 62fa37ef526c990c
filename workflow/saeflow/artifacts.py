"""Atomic writes, manifests and hashes: how a stage leaves a folder that a reader can trust.

A stage writes its files and then `manifest.json`, last and atomically. A folder without a
manifest is unfinished; a folder whose files differ from its manifest is damaged.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_TEMPORARY = ".tmp-"
_SMALL_BYTES = 2**26
_RECORDED_PACKAGES = ("saeflow", "torch", "transformers", "numpy", "pyarrow", "datasets")


class ArtifactError(RuntimeError):
    """An artefact is missing, damaged or of another kind; the message says how to rebuild it."""


class Clock:
    """Wall time since construction and the peak memory of the process, for the manifest."""

    def __init__(self) -> None:
        self.started = time.time()

    def read(self) -> dict[str, float]:
        """Return seconds since start and the process's peak resident set in MiB."""
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "started": round(self.started, 3),
            "wall_seconds": round(time.time() - self.started, 3),
            "peak_memory_mib": round(peak_kib / 1024, 1),
        }


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it on success and vanishes on error.

    The bytes are flushed to disk before the rename, so that a crash leaves the old file or the
    whole new one. What a killed run left of the same file is removed; a file has one writer.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{_TEMPORARY}{path.name}-"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*"):
        leftover.unlink(missing_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, obj: Any) -> None:
    """Write `obj` as sorted, indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(obj, indent=2, sort_keys=True, default=str) + "\n")


def file_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def clear_folder(folder: str | Path) -> None:
    """Remove what a killed or outdated run left in `folder`, so that nothing stale is listed."""
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(parents=True)


def begin(folder: str | Path) -> Path:
    """Make `folder` ready for a stage that fills it alone, and return it.

    An old manifest goes before the first new file comes, so that it never vouches for files that
    it does not describe; so do the temporary files of a killed run. Finished files stay.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for leftover in folder.glob(f"{_TEMPORARY}*"):
        leftover.unlink()
    return folder


def write_manifest(
    folder: str | Path,
    *,
    kind: str,
    settings: Mapping[str, Any],
    files: Iterable[str | Path],
    inputs: Mapping[str, str | Path] | None = None,
    stats: Mapping[str, Any] | None = None,
    seed: int | None = None,
    device: str = "cpu",
    code: str | None = None,
    clock: Clock | None = None,
) -> Path:
    """Write `folder/manifest.json` over finished files and return its path.

    `files` are names inside `folder`; `inputs` are artefact folders (their manifest is hashed) or
    files; `code` is the fingerprint of the stage's code. Raises FileNotFoundError for a file or
    an input that is not there.
    """
    folder = Path(folder)
    described = {}
    for name in sorted(str(f) for f in files):
        path = folder / name
        described[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    manifest = {
        "schema": SCHEMA_VERSION,
        "kind": kind,
        "settings": settings,
        "files": described,
        "inputs": {name: _describe_input(Path(p)) for name, p in (inputs or {}).items()},
        "stats": stats or {},
        "seed": seed,
        "device": device,
        "code": code,
        "software": _software(),
        **(clock or Clock()).read(),
    }
    write_json(folder / MANIFEST, manifest)
    return folder / MANIFEST


def _describe_input(path: Path) -> dict[str, Any]:
    target = path / MANIFEST if path.is_dir() else path
    found = target.stat()
    return {
        "path": str(path),
        "bytes": found.st_size,
        "modified": found.st_mtime_ns,
        "sha256": file_digest(target),
    }


def is_unchanged(path: Path, entry: Mapping[str, Any]) -> bool:
    """Whether the file `path` is still the input that a manifest's `entry` describes.

    A large file of the same size and time of modification is not read again; all others are
    hashed.
    """
    if not path.is_file():
        return False
    found = path.stat()
    same = (found.st_size, found.st_mtime_ns) == (entry.get("bytes"), entry.get("modified"))
    return (same and found.st_size >= _SMALL_BYTES) or file_digest(path) == entry["sha256"]


def rebuild_command(folder: Path) -> str:
    """Return the shell command that makes the artefact in `folder` anew."""
    return f"rm {folder / MANIFEST} && snakemake --cores all {folder / MANIFEST}"


def _software() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_manifest(folder: str | Path, *, kind: str, deep: bool = False) -> dict[str, Any]:
    """Return the manifest of `folder` after checking the folder against it.

    Checks kind, schema and every file's size; with `deep`, every file's hash too. Raises
    ArtifactError that names the file and the command that rebuilds the artefact.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    rebuild = f"rebuild it with: {rebuild_command(folder)}"
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {MANIFEST}: it was never finished; {rebuild}")
    try:
        manifest = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} is not readable JSON ({error}); {rebuild}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA_VERSION:
        raise ArtifactError(f"{path} is not of schema {SCHEMA_VERSION}; {rebuild}")
    if manifest.get("kind") != kind:
        raise ArtifactError(
            f"{path} describes a {manifest.get('kind')!r}, expected a {kind!r}; {rebuild}"
        )
    for name, entry in manifest["files"].items():
        _check_file(folder / name, entry, deep, rebuild)
    return manifest


def _check_file(path: Path, entry: Mapping[str, Any], deep: bool, rebuild: str) -> None:
    if not path.is_file():
        raise ArtifactError(f"{path} is listed in its manifest but missing; {rebuild}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise ArtifactError(
            f"{path} has {size} bytes, its manifest says {entry['bytes']}: truncated or replaced; "
            f"{rebuild}"
        )
    if deep and file_digest(path) != entry["sha256"]:
        raise ArtifactError(f"{path} does not have the hash of its manifest; {rebuild}")
