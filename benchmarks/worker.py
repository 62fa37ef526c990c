"""One contender in a process of its own: takes training steps when told, reports time and memory.

Started by training.py with a job as JSON. Reads lines: `ready`, a number of steps to time, or `l0`;
answers each with a line of JSON. Needs Linux's /proc. Imports nothing of saeflow, so that it also
runs in the environment of the peers.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Job:
    """What a contender is built for."""

    module: str
    """`own` or `peers`: where its builder is found under (family, label)."""
    family: str
    label: str
    data: str
    """File of float32 activations, row after row."""
    d_in: int
    d_sae: int
    k: int
    batch: int
    dead: int
    """Latents kept dead in the AuxK families."""
    threads: int

    def batches(self) -> Callable[[], Tensor]:
        """Return a reader of one batch after the other, again from the start at the end."""
        bytes_each = 4 * self.batch * self.d_in
        count, position = Path(self.data).stat().st_size // bytes_each, -1

        def read() -> Tensor:
            nonlocal position
            position = (position + 1) % count
            flat = np.fromfile(
                self.data, np.float32, self.batch * self.d_in, offset=position * bytes_each
            )
            return torch.from_numpy(flat).view(self.batch, self.d_in)

        return read


@dataclass
class Contender:
    """A library's training step on a batch (batch, d_in) in memory."""

    step: Callable[[Tensor], object]
    """Everything a step does: loss, backward, clipping, decoder norm, optimiser, dead counters."""
    l0: Callable[[Tensor], float]
    """Mean number of active latents a token of a batch; may take a step."""
    before: Callable[[], None] = field(default=lambda: None)
    """Untimed, before each step: keeps latents dead."""


class QuietRows:
    """Keeps the last `dead` latents too weak to be selected, yet half of them positive.

    So AuxK always has work, and no library un-marks them because they fired. `W_fd` is the
    encoder, a latent a row, as a view of the parameter.
    """

    def __init__(self, W_fd: Tensor, dead: int) -> None:
        self.rows = W_fd.data[-dead:]
        self.rows.mul_(1e-3)
        self.kept = self.rows.clone()

    def restore(self) -> None:
        self.rows.copy_(self.kept)


def memory_mib(key: str) -> float:
    """Read VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise KeyError(key)


def busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used."""
    user, nice, system, _idle, _wait, *rest = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def timed_turn(contender: Contender, read: Callable[[], Tensor], steps: int) -> dict[str, float]:
    """Return the mean seconds of a step, and the CPUs that other processes used meanwhile."""
    stepping = 0.0
    wall, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    for _ in range(steps):
        x_bd = read()
        contender.before()
        started = time.perf_counter()
        contender.step(x_bd)
        stepping += time.perf_counter() - started
    own = time.process_time() - own
    others = (busy_seconds() - busy - own) / (time.perf_counter() - wall)
    return {"seconds": stepping / steps, "others": max(others, 0), "peak_mib": memory_mib("VmHWM")}


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    imported = importlib.import_module(job.module)
    read = job.batches()
    contender = imported.CONTENDERS[job.family, job.label](job, read())
    for line in sys.stdin:
        if line.strip() == "ready":
            answer = {}
        elif line.strip() == "l0":
            contender.before()
            answer = {"l0": contender.l0(read())}
        else:
            answer = timed_turn(contender, read, int(line))
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
