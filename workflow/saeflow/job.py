"""The frame of a workflow job: its log, its threads, its memory allocator, its error message."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


@contextmanager
def job(log: str | Path, threads: int) -> Iterator[None]:
    """Run a job with standard error in `log`, `threads` threads and a thrifty allocator.

    Must be entered before torch is imported, whose thread pools read the environment once.
    """
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(threads)
    keep_freed_memory()
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    sys.stderr = Path(log).open("w", buffering=1)  # noqa: SIM115
    with plain_errors():
        yield


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
