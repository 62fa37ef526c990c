"""How fast an SAE trains, in memory and time, next to other libraries on the same work.

python benchmarks/training.py --peers peers/bin/python [--shape small|medium|large|wide] ...

Families of contenders run one after the other. Within a family each contender is a process of its
own, all alive, and in each round each takes a turn while the others sleep: a ratio is between turns
of the same round. README.md beside this file says what is counted and what is not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import own
import peers
import torch
from limits import Limits
from tables import CALM, Result, Run, markdown
from worker import Job

from saeflow.sae.seeding import generator

HERE = Path(__file__).parent
ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "raised": {
        "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
    },
}
CYCLE = 5
"""OrtSAE works harder at every fifth step: turns of its family are whole cycles."""
TURN_SECONDS = 1.5
"""A turn has as many steps as fit, at least one."""
LARGEST_TURN = 20


@dataclass(frozen=True)
class Shape:
    """A size of SAE, and which families and how many rounds it has unless told otherwise."""

    d_in: int
    d_sae: int
    families: tuple[str, ...]
    rounds: int = 3
    k: int = 32
    batch: int = 4096
    dead: int = 1024


ALL = tuple(dict.fromkeys(family for family, _ in own.CONTENDERS))
SHAPES = {
    "small": Shape(192, 3072, ALL),
    "medium": Shape(512, 8192, ALL),
    "large": Shape(2304, 16384, ("TopK", "BatchTopK", "Matryoshka"), rounds=2),
    "wide": Shape(512, 65536, ("OrtSAE",), rounds=2),
}


@dataclass
class Process:
    """A contender's process and what it answered."""

    job: Job
    handle: subprocess.Popen[str]
    log: Path
    result: Result = field(init=False)

    def __post_init__(self) -> None:
        key = self.job.family, self.job.label
        self.result = Result(*key, peer=self.job.module == "peers" and key not in peers.PARTIAL)

    def ask(self, question: str) -> dict[str, float] | None:
        """Return the answer, or None where the process has ended; the result tells why."""
        assert self.handle.stdin and self.handle.stdout
        try:
            self.handle.stdin.write(question + "\n")
            self.handle.stdin.flush()
            return json.loads(self.handle.stdout.readline())
        except (OSError, ValueError):
            code = self.handle.wait()
            lines = self.log.read_text().strip().splitlines() or [""]
            self.result.error = f"failed, code {code}: {lines[-1][:200]}"
            return None


@contextmanager
def processes(
    jobs: Sequence[Job], pythons: dict[str, str], environment: dict[str, str], logs: Path
) -> Iterator[list[Process]]:
    """Start all contenders of a family; end them."""
    started = []
    try:
        for number, job in enumerate(jobs):
            log = logs / f"{number}.log"
            with log.open("w") as errors:
                handle = subprocess.Popen(
                    [pythons[job.module], str(HERE / "worker.py"), json.dumps(asdict(job))],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                    env=os.environ | environment,
                )  # fmt: skip
            started.append(Process(job, handle, log))
        yield started
    finally:
        for process in started:
            process.handle.kill()
            process.handle.wait()


def run_family(contenders: list[Process], rounds: int, retries: int, cycle: int) -> list[Result]:
    """Return what each contender measured over the rounds; a dead one says why."""
    steps = {}
    for process in contenders:
        process.ask("ready")
    for process in [process for process in contenders if not process.result.error]:
        if warm := process.ask(str(cycle)):
            wanted = math.ceil(TURN_SECONDS / warm["seconds"] / cycle) * cycle
            steps[process.job.label] = max(cycle, min(wanted, LARGEST_TURN // cycle * cycle))
    for number in range(rounds):
        for process in [*contenders[number:], *contenders[:number]]:
            if not process.result.error:
                take_turn(process, steps[process.job.label], retries)
    for process in contenders:
        if not process.result.error and (answer := process.ask("l0")):
            process.result.l0 = answer["l0"]
    return [process.result for process in contenders]


def take_turn(process: Process, steps: int, retries: int) -> None:
    """Time some steps; again while others disturb, and keep the calmest turn."""
    turns = []
    for _ in range(retries + 1):
        if not (turn := process.ask(str(steps))):
            return
        turns.append(turn)
        if turn["others"] <= CALM:
            break
        time.sleep(1)
    calmest = min(turns, key=lambda turn: turn["others"])
    process.result.seconds.append(calmest["seconds"])
    process.result.others.append(calmest["others"])
    process.result.peak_mib = turns[-1]["peak_mib"]


def write_activations(path: Path, rows: int, d_in: int, k: int) -> None:
    """Write float32 rows: sparse sums of directions of power-law frequency, low rank, noise."""
    draw = generator(0, "benchmark")
    directions = torch.randn(2048, d_in, generator=draw)
    directions /= directions.norm(dim=1, keepdim=True)
    frequency = torch.arange(1, 2049) ** -0.7
    common = torch.randn(32, d_in, generator=draw) / d_in**0.5
    mean = 0.2 * torch.randn(d_in, generator=draw)
    with path.open("wb") as file:
        for part in torch.arange(rows).split(4096):
            n = len(part)
            active = frequency.expand(n, -1).multinomial(k // 2, generator=draw)
            sizes = 0.5 + torch.empty(n, k // 2).exponential_(generator=draw)
            x_nd = mean + torch.randn(n, 32, generator=draw) @ common
            x_nd += 0.05 * torch.randn(n, d_in, generator=draw)
            x_nd += torch.nn.functional.embedding_bag(
                active, directions, per_sample_weights=sizes, mode="sum"
            )
            file.write(x_nd.numpy().tobytes())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", help="interpreter of the environment of envs/peers.txt")
    parser.add_argument("--shape", choices=SHAPES, default="medium")
    parser.add_argument("--allocator", choices=[*ALLOCATORS, "both"], default="both")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", default="", help=f"families, by ';': {'; '.join(ALL)}")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--retries", type=int, default=3, help="of a turn that others disturb")
    parser.add_argument("--out", type=Path, help="write the Markdown here, too")
    args = parser.parse_args(arguments)
    args.families = [family.strip() for family in args.only.split(";") if family.strip()]
    args.allocators = list(ALLOCATORS) if args.allocator == "both" else [args.allocator]
    if unknown := set(args.families) - set(ALL):
        parser.error(f"--only: no such family {sorted(unknown)}; choose of {list(ALL)}")
    if args.peers and not Path(args.peers).is_file():
        parser.error(f"--peers: no interpreter {args.peers}; README.md beside this file makes one")
    return args


def measure_family(
    family: str, args: argparse.Namespace, allocator: str, data: Path
) -> list[Result]:
    """Run all contenders of a family under one allocator setting."""
    shape = SHAPES[args.shape]
    size = (shape.d_in, shape.d_sae, shape.k, shape.batch, shape.dead, args.threads)
    contenders = {"own": own.CONTENDERS, "peers": peers.CONTENDERS if args.peers else {}}
    jobs = [
        Job(module, family, label, str(data), *size)
        for module, builders in contenders.items()
        for of, label in builders
        if of == family
    ]
    environment = {"OMP_NUM_THREADS": str(args.threads), **ALLOCATORS[allocator]}
    environment |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    pythons = {"own": sys.executable, "peers": args.peers}
    with processes(jobs, pythons, environment, data.parent) as started:
        cycle = CYCLE if family == "OrtSAE" else 1
        return run_family(started, args.rounds or shape.rounds, args.retries, cycle)


def main() -> None:
    args = parse()
    shape = SHAPES[args.shape]
    torch.set_num_threads(args.threads)
    run = Run(args.shape, asdict(shape), args.threads, Limits(), {})
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "activations"
        write_activations(data, 4 * shape.batch, shape.d_in, shape.k)
        for allocator in args.allocators:
            run.results[allocator] = []
            for family in args.families or shape.families:
                run.limits.measure(shape.batch, shape.d_in, shape.d_sae, shape.k)
                run.results[allocator] += measure_family(family, args, allocator, data)
                print(f"{allocator}, {family}: done", file=sys.stderr)
                if args.out:  # after each family, so that what ends the command early loses one
                    args.out.parent.mkdir(parents=True, exist_ok=True)
                    args.out.write_text(markdown(run))
    print(markdown(run))


if __name__ == "__main__":
    main()
