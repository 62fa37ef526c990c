"""The benchmark's tables, and what they say to the targets."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median

import torch
from limits import Limits


@dataclass
class Result:
    """What one contender measured, or why it could not."""

    family: str
    label: str
    peer: bool
    seconds: list[float] = field(default_factory=list)
    """Mean seconds of a step in each round."""
    others: list[float] = field(default_factory=list)
    """CPUs that other processes used in each round's turn."""
    peak_mib: float = 0.0
    l0: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Run:
    """All results of one command."""

    shape: str
    size: Mapping[str, object]
    threads: int
    limits: Limits
    results: dict[str, list[Result]]
    """By allocator setting."""


FASTER: dict[tuple[str, str], dict[str, float]] = {
    ("TopK", "saeflow"): {"default": 1.6, "raised": 1.1},
    ("TopK", "saeflow, bf16 selection"): {"default": 2.3, "raised": 1.5},
    ("BatchTopK", "saeflow"): {"default": 5, "raised": 5},
    ("Matryoshka", "saeflow"): {"default": 4.5, "raised": 4.5},
    ("TopK, AuxK at work", "saeflow"): {"default": 5, "raised": 5},
    ("BatchTopK, AuxK at work", "saeflow"): {"default": 5, "raised": 5},
    ("Matryoshka, AuxK at work", "saeflow"): {"default": 5, "raised": 5},
    ("ReLU", "saeflow"): {"default": 1, "raised": 1},
    ("JumpReLU", "saeflow"): {"default": 1, "raised": 1},
    ("Gated", "saeflow"): {"default": 1, "raised": 1},
}
"""Least speed as a multiple of the family's fastest peer."""
LEANER = {("TopK", "saeflow"): 0.7, ("BatchTopK", "saeflow"): 0.7, ("Matryoshka", "saeflow"): 0.7}
"""Largest peak memory as a share of the family's leanest peer."""
DEARER = {"saeflow": "saeflow without penalty"}
DEARER["saeflow, bf16 search"] = "saeflow without penalty"
DEARER["saeflow, bf16 search and selection"] = "saeflow without penalty, bf16 selection"
DEARER_BOUND = 1.15
"""Longest step with OrtSAE's penalty, as a multiple of the step without."""


CALM = 0.15
"""CPUs that other processes may use during a turn before it counts as disturbed."""


def step_ratios(slow: Result, fast: Result) -> list[float]:
    """How often the fast one's step fits into the slow one's, in each round."""
    return [s / f for s, f in zip(slow.seconds, fast.seconds, strict=True)]


def fastest_peer(results: Sequence[Result], family: str) -> Result | None:
    peers = [r for r in results if r.family == family and r.peer and not r.error]
    return min(peers, key=lambda r: median(r.seconds), default=None)


def leanest_peer(results: Sequence[Result], family: str) -> Result | None:
    peers = [r for r in results if r.family == family and r.peer and not r.error]
    return min(peers, key=lambda r: r.peak_mib, default=None)


def markdown(run: Run) -> str:
    """Return the report: machine, then targets and contenders for each allocator setting."""
    size = ", ".join(f"{name} {run.size[name]:,}" for name in ("d_in", "d_sae", "k", "batch"))
    lines = [
        f"# Training step, shape {run.shape}: {size}",
        "",
        f"{platform.node()}: {cpu_model()}, {run.threads} threads, torch {torch.__version__}, "
        f"{date.today().isoformat()}. An ideal float32 step takes {1e3 * run.limits.step:.0f} ms: "
        f"dense product {1e3 * run.limits.product:.0f}, four sparse sums "
        f"{4e3 * run.limits.bag:.0f}, Adam {1e3 * run.limits.adam:.0f}.",
    ]
    for allocator, results in run.results.items():
        lines += ["", f"## Memory allocator: {allocator}", ""]
        targets = list(target_rows(results, allocator))
        if targets:
            lines += table(["target", "wanted", "measured", "rounds", "verdict"], targets)
            lines.append("")
        lines += contender_table(run, results)
        busiest = max((max(r.others) for r in results if r.others), default=0)
        lines += ["", f"Other processes used at most {busiest:.2f} CPUs during a turn counted."]
    return "\n".join([*lines, ""])


def target_rows(results: Sequence[Result], allocator: str) -> Iterator[list[str]]:
    """Yield target, bound, median ratio, the rounds' range and the verdict, of what was run."""
    found = {(r.family, r.label): r for r in results if not r.error}
    for key, bounds in FASTER.items():
        if key in found and (peer := fastest_peer(results, key[0])):
            name = f"{': '.join(key)}, speed / {peer.label}"
            yield speed_row(name, bounds[allocator], peer, found[key])
    for key, bound in LEANER.items():
        if key in found and (peer := leanest_peer(results, key[0])):
            share = found[key].peak_mib / peer.peak_mib
            name = f"{': '.join(key)}, peak memory / {peer.label}"
            yield [name, f"≤ {bound:g}", f"{share:.2f}", "", verdict(share <= bound)]
    for label, plain in DEARER.items():
        if ("OrtSAE", label) in found and ("OrtSAE", plain) in found:
            pair = found["OrtSAE", label], found["OrtSAE", plain]
            yield speed_row(f"OrtSAE: {label}, time / {plain}", DEARER_BOUND, *pair, at_most=True)


def speed_row(
    name: str, bound: float, slow: Result, fast: Result, at_most: bool = False
) -> list[str]:
    values = step_ratios(slow, fast)
    value = median(values)
    met = value <= bound if at_most else value >= bound
    calm = max(slow.others + fast.others) <= CALM
    spread = f"{min(values):.2f}–{max(values):.2f}"
    return [
        name,
        f"{'≤' if at_most else '≥'} {bound:g}",
        f"{value:.2f}",
        spread,
        verdict(met, calm),
    ]


def verdict(met: bool, calm: bool = True) -> str:
    return ("met" if met else "**missed**") + ("" if calm else " (disturbed)")


def contender_table(run: Run, results: Sequence[Result]) -> list[str]:
    """Return the table's lines; ratios are to the fastest and the leanest peer of the family."""
    batch = run.size["batch"]
    assert isinstance(batch, int)
    rows = []
    for result in results:
        name = f"{result.family}: {result.label}"
        if result.error:
            rows.append([name, result.error, *[""] * 7])
            continue
        seconds = median(result.seconds)
        fastest, leanest = (of(results, result.family) for of in (fastest_peer, leanest_peer))
        ratio = f"{median(step_ratios(fastest, result)):.2f}" if fastest else ""
        memory = f"{result.peak_mib / leanest.peak_mib:.2f}" if leanest else ""
        rows.append(
            [
                name, f"{1e3 * seconds:.0f}", f"{1e3 * min(result.seconds):.0f}",
                f"{batch / seconds:,.0f}", ratio, f"{run.limits.step / seconds:.0%}",
                f"{result.peak_mib:,.0f}", memory, f"{result.l0:.0f}",
            ]
        )  # fmt: skip
    heads = ["contender", "ms/step", "least", "tokens/s", "× fastest peer", "share of limit"]
    return table([*heads, "peak MiB", "× leanest peer", "L0"], rows)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows)]


def cpu_model() -> str:
    """Return the processor's name, the number of cores and whether it multiplies bf16."""
    info = Path("/proc/cpuinfo").read_text()
    models = [line.split(":")[1].strip() for line in info.splitlines() if "model name" in line]
    bf16 = next((name for name in ("amx_bf16", "avx512_bf16") if name in info), "no bf16 products")
    return f"{models[0]}, {os.cpu_count()} cores, {bf16}"
