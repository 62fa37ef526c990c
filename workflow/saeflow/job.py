"""The frame of a workflow job: its log, its threads, its memory allocator, its error message."""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import ValidationError
from snakemake.iocontainers import Namedlist

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30
_running = False


@contextmanager
def job(log: str | Path, threads: int) -> Iterator[None]:
    """Run a job with standard error in `log`, `threads` threads and a thrifty allocator.

    Must be entered before torch is imported, whose thread pools read the environment once. Within
    another job (`run_script`) all of that is the other's.
    """
    global _running
    if _running:
        yield
        return
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(threads)
    keep_freed_memory()
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    sys.stderr = Path(log).open("w", buffering=1)  # noqa: SIM115
    _running = True
    try:
        with plain_errors():
            yield
    finally:
        _running = False


def run_script(script: Path, snakemake: Any, given: Mapping[str, Any]) -> None:
    """Run the script of one job in the process of a job that runs several.

    `given` is what Snakemake would give it (wildcards, input, output, params); the rest, such as
    its resources, is that of the running job, `snakemake`.
    """
    names = ("wildcards", "input", "params")
    alone = {name: Namedlist(fromdict=given[name]) for name in names}
    shared = {name: getattr(snakemake, name) for name in ("log", "threads", "resources")}
    one = SimpleNamespace(**alone, **shared, output=given["output"])
    runpy.run_path(str(script), {"snakemake": one})


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the process with the message alone of an error that names its cause for the user.

    Those are saeflow's own; anything else keeps its traceback.
    """
    try:
        yield
    except Exception as error:
        if not _names_its_cause(error):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def _names_its_cause(error: Exception) -> bool:
    own = any(kind.__module__.startswith("saeflow.") for kind in type(error).__mro__)
    return own or isinstance(error, ValidationError)


def share_library() -> None:
    """Let jobs import the library that this process imported, also from other environments."""
    library = str(Path(__file__).resolve().parents[1])
    others = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [library, *(path for path in others if path not in ("", library))]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def keep_freed_memory() -> None:
    """Ask glibc to keep freed buffers, whose page faults otherwise cost a third of a CPU step.

    Does nothing where the C library has no `mallopt`.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
