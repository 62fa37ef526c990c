"""The list of targets: every figure, table, claims table and report, and what each costs."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from saeflow.config import Config
from saeflow.grids import Grid
from saeflow.paths import Paths


class Job(NamedTuple):
    """One job of the workflow: its rule and the key of its log and benchmark."""

    rule: str
    key: str


class Target(NamedTuple):
    """Something to ask Snakemake for, and all the jobs that it needs."""

    path: str
    title: str
    jobs: frozenset[Job]


def targets(config: Config) -> Iterator[Target]:
    """Yield the targets of the chosen papers, figures first, the report last."""
    paths = Paths(config.root)
    everything: frozenset[Job] = frozenset()
    for paper in config.papers:
        section = config.paper(paper)
        for name, figure in section.figures.items():
            jobs = _grid_jobs(config, section.grids[figure.grid], figure.variants)
            jobs |= {Job("figure", f"{paper}-{name}")}
            yield Target(f"{paths.figure(paper, name)}.svg", figure.title, jobs)
            everything |= jobs
        for name, table in section.tables.items():
            if table.timing is not None:
                jobs = _timing_jobs(config, paper, table.timing)
            else:
                jobs = _grid_jobs(config, section.grids[table.grid], table.variants)
            jobs |= {Job("table", f"{paper}-{name}")}
            yield Target(f"{paths.table(paper, name)}.md", table.title, jobs)
            everything |= jobs
        if section.claims:
            jobs = frozenset({Job("claims", paper)})
            for grid in section.grids.values():
                jobs |= _grid_jobs(config, grid, grid.variants)
            for timing in section.timings:
                jobs |= _timing_jobs(config, paper, timing)
            yield Target(f"{paths.claims(paper)}.md", f"Claims of {section.title}", jobs)
            everything |= jobs
    yield Target(paths.report(), "Report", everything | {Job("report", "report")})


def _cache_jobs(config: Config, grid: Grid) -> frozenset[Job]:
    subject = config.subjects[grid.subject]
    corpora = {grid.corpus}
    rule = "load_subject"
    if subject.source == "pretrain" and subject.pretrain:
        rule = "pretrain_subject"
        corpora |= set(subject.training.mixture)
    jobs = {Job("corpus", corpus) for corpus in corpora}
    jobs |= {Job(rule, grid.subject), Job("tokenise", f"{grid.subject}-{grid.corpus}")}
    jobs.add(Job("cache_activations", f"{grid.subject}-{grid.corpus}-train"))
    return frozenset(jobs)


def _grid_jobs(config: Config, grid: Grid, variants: tuple[str, ...]) -> frozenset[Job]:
    jobs = set(_cache_jobs(config, grid))
    for point in grid.points():
        if point.variant in variants:
            jobs.add(Job("evaluate_core", point.path))
            jobs |= {Job("train_sae", f"{point.path}-seed{seed}") for seed in config.seeds}
    return frozenset(jobs)


def _timing_jobs(config: Config, paper: str, name: str) -> frozenset[Job]:
    section = config.paper(paper)
    grid = section.grids[section.timings[name].grid]
    return _cache_jobs(config, grid) | {Job("time_variants", f"{paper}-{name}")}


def describe(config: Config) -> str:
    """Return the list as aligned text: path, jobs from scratch, measured seconds, title."""
    paths = Paths(config.root)
    rows = [("target", "jobs", "job seconds", "what")]
    for target in targets(config):
        measured = [_seconds(Path(paths.benchmark(*job))) for job in target.jobs]
        known = [seconds for seconds in measured if seconds is not None]
        cost = f"{sum(known):,.0f}" if known else "not yet run"
        if known and len(known) < len(measured):
            cost += f" for {len(known)} of {len(measured)}"
        rows.append((target.path, str(len(target.jobs)), cost, target.title))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]) for row in rows]
    return "\n".join(lines)


def _seconds(benchmark: Path) -> float | None:
    """Wall seconds of a job's last run, if it has run."""
    try:
        with benchmark.open() as handle:
            row = next(csv.DictReader(handle, delimiter="\t"), None)
    except FileNotFoundError:
        return None
    return float(row["s"]) if row else None
