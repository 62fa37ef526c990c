"""Start a training in this process or in several, and what each of them does.

By hand, with a task (see `Task`) in a JSON file, on one machine or, with torchrun's own options, on
several:

    torchrun --standalone --nproc-per-node 2 -m saeflow.sae.launch task.json

Each process reads all batches and takes its slice of them. Give each OMP_NUM_THREADS threads. The
folders of a task must be the same on all machines, on a file system that they share: one process
writes the checkpoints that all read.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypedDict

from saeflow.job import keep_freed_memory, plain_errors
from saeflow.sae.ranks import ALONE, Ranks

_PR_SET_PDEATHSIG = 1
_SECONDS_TO_SAVE = 300


class WantedTask(TypedDict):
    """An SAE of a task."""

    settings: dict[str, Any]
    """`SAESettings` as JSON."""
    out: str
    """Its folder."""
    base: str | None
    """The frozen SAE of a variant with `error_of`."""
    init: str | None
    """The SAE that a variant with `init_from` trains further."""


class Task(TypedDict):
    """What `train_saes` is given, as JSON."""

    wanted: list[WantedTask]
    activations: str
    site: str
    device: str
    """`cpu`, or `cuda`: then each process has the GPU of its number on its machine."""


def train(task: Task, processes: int = 1) -> None:
    """Train the SAEs of `task` in so many processes of this machine, or in this one.

    On SIGTERM all save after the same step, and SystemExit(143) is raised. If a process fails,
    SystemExit with its exit status, after it has told the reason on standard error.
    """
    if processes == 1:
        _train(task, ALONE, task["device"])
        return
    with NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        _torchrun(processes, file.name)


def _torchrun(processes: int, file: str) -> None:
    """Start the processes and wait for them, as the command `torchrun` does."""
    os.dup2(sys.stderr.fileno(), 2)  # what the processes inherit
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SECONDS_TO_SAVE))
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = ["--standalone", "--nproc-per-node", str(processes)]
    try:
        run(parse_args([*options, "-m", __name__, file]))
    except SignalException as error:
        raise SystemExit(128 + int(error.sigval)) from error
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        raise SystemExit(128 - code if code < 0 else code) from None


def _join(task: Task) -> None:
    """Train as one of the processes that torchrun started."""
    from saeflow.sae.parallel import joined

    with joined(task["device"]) as (ranks, device), _told_by_one(ranks):
        _train(task, ranks, device)


def _told_by_one(ranks: Ranks) -> AbstractContextManager[Any]:
    """Let the first process alone tell how far all are; what a failing one raises is told too."""
    return redirect_stderr(io.StringIO()) if ranks.rank else nullcontext()


def _train(task: Task, ranks: Ranks, device: str) -> None:
    from saeflow.sae.settings import SAESettings
    from saeflow.sae.trainer import Wanted, train_saes

    wanted = [
        Wanted(SAESettings.model_validate(w["settings"]), Path(w["out"]), w["base"], w["init"])
        for w in task["wanted"]
    ]
    train_saes(wanted, task["activations"], task["site"], device=device, ranks=ranks)


def _die_with_parent() -> None:
    """End this process when the one that started it is killed, so that no two write one state."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    keep_freed_memory()
    with plain_errors():
        _join(json.loads(Path(sys.argv[1]).read_text()))
