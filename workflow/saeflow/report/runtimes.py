"""Run times of the jobs, from Snakemake's benchmark files."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from saeflow.artifacts import ArtifactError


class RuleTimes(NamedTuple):
    """What the jobs of one rule took."""

    rule: str
    jobs: int
    seconds: float
    """Wall seconds of all jobs together."""
    longest: float
    """Wall seconds of the longest job."""
    cpu_seconds: float | None
    """Processor seconds of all jobs; None where a job was too short to be measured."""
    peak_mib: float | None
    """Largest resident set of any job, in MiB; None where none was measured."""


def rule_times(benchmarks: Path) -> list[RuleTimes]:
    """Return a row a rule, longest first; `benchmarks` holds one folder a rule.

    Raises ArtifactError for a file that is no benchmark.
    """
    found = []
    for folder in sorted(path for path in benchmarks.glob("*") if path.is_dir()):
        jobs = [_job(path) for path in sorted(folder.rglob("*.tsv"))]
        if jobs:
            found.append(_of_rule(folder.name, jobs))
    return sorted(found, key=lambda times: -times.seconds)


def _of_rule(rule: str, jobs: list[dict[str, float | None]]) -> RuleTimes:
    seconds = [job["s"] or 0.0 for job in jobs]
    cpu = list(_measured(jobs, "cpu_time"))
    return RuleTimes(
        rule=rule,
        jobs=len(jobs),
        seconds=sum(seconds),
        longest=max(seconds),
        cpu_seconds=sum(cpu) if len(cpu) == len(jobs) else None,
        peak_mib=max(_measured(jobs, "max_rss"), default=None),
    )


def _measured(jobs: list[dict[str, float | None]], column: str) -> Iterator[float]:
    return (value for job in jobs if (value := job[column]) is not None)


def _job(path: Path) -> dict[str, float | None]:
    with path.open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    if not rows or not {"s", "cpu_time", "max_rss"} <= set(rows[0]):
        raise ArtifactError(f"{path} is not a benchmark of Snakemake; remove it and run again")
    return {name: _number(rows[-1][name]) for name in ("s", "cpu_time", "max_rss")}


def _number(text: str) -> float | None:
    """Snakemake writes NA or - for what it could not measure in a short job."""
    return None if text in ("NA", "-", "") else float(text)
