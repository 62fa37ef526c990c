"""Names in one section of the configuration that must exist in another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from saeflow.claims import ClaimSettings
from saeflow.evaluation.settings import CORE_METRICS
from saeflow.figures.settings import BarsAndDensity, Curve, Ratio, Shown, Sweep
from saeflow.sae.settings import TIMING_METRIC, TrainedBase
from saeflow.subjects.patterns import site_matches

if TYPE_CHECKING:
    from saeflow.config import Config, Paper
    from saeflow.grids import Grid

TIMING_SPLIT = "train"


class Reference(NamedTuple):
    """A key whose value must be one of the allowed."""

    key: str
    value: object
    allowed: Iterable[object]


def mistakes(config: Config) -> Iterator[str]:
    """Yield `key: what is wrong` for every reference that leads nowhere."""
    for key, value, allowed in _references(config):
        choices = list(allowed)
        if value not in choices:
            yield f"{key}: {unknown(value, choices)}"
    for paper in config.papers:
        yield from _site_mistakes(config, paper)
        yield from _timing_mistakes(config, paper)


def unknown(value: object, allowed: Iterable[object]) -> str:
    """Say that a value is not among the allowed ones, with the nearest."""
    choices = [str(choice) for choice in allowed]
    close = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{value!r} is not known{hint}; allowed: {', '.join(choices) or 'none'}"


def _references(config: Config) -> Iterator[Reference]:
    yield Reference("activations.tokens", "train", config.activations.tokens)
    for name, subject in config.subjects.items():
        if subject.source == "pretrain" and subject.pretrain:
            for corpus in subject.training.mixture:
                yield Reference(f"subjects.{name}.training.mixture", corpus, config.corpora)
    for name, entry in config.variants.items():
        if isinstance(entry.error_of, TrainedBase):
            where, base = f"variants.{name}.error_of", entry.error_of
            whole = [other for other, v in config.variants.items() if v.error_of is None]
            yield Reference(f"{where}.variant", base.variant, whole)
            yield Reference(f"{where}.corpus", base.corpus, config.corpora)
    for paper in config.papers:
        section = config.paper(paper)
        for name, grid in section.grids.items():
            yield from _grid(config, f"{paper}.grids.{name}", grid)
        for name, timing in section.timings.items():
            where = f"{paper}.timings.{name}"
            yield Reference(f"{where}.grid", timing.grid, section.grids)
            for variant in timing.variants:
                yield Reference(f"{where}.variants", variant, config.variants)
        for name, figure in section.figures.items():
            yield from _shown(config, section, f"{paper}.figures.{name}", figure, None)
        for name, table in section.tables.items():
            where = f"{paper}.tables.{name}"
            if table.timing is not None:
                yield Reference(f"{where}.timing", table.timing, section.timings)
            yield from _shown(config, section, where, table, table.timing)
        for claim in section.claims:
            yield from _claim(config, section, f"{paper}.claims.{claim.id}", claim)


def _grid(config: Config, where: str, grid: Grid) -> Iterator[Reference]:
    yield Reference(f"{where}.subject", grid.subject, config.subjects)
    yield Reference(f"{where}.corpus", grid.corpus, config.corpora)
    for variant in grid.variants:
        yield Reference(f"{where}.variants", variant, config.variants)


def _shown(
    config: Config, section: Paper, where: str, shown: Shown, timing: str | None
) -> Iterator[Reference]:
    yield Reference(f"{where}.grid", shown.grid, section.grids)
    if shown.grid not in section.grids:
        return
    grid = section.grids[shown.grid]
    timed = section.timings.get(timing or "")
    variants = timed.variants if timed else grid.variants
    for variant in shown.variants:
        yield Reference(f"{where}.variants", variant, variants)
    for metric in _metrics(shown):
        yield Reference(f"{where}.metric", metric, (TIMING_METRIC,) if timed else CORE_METRICS)
    splits = (TIMING_SPLIT,) if timed else tuple(config.evaluation.core.splits)
    yield Reference(f"{where}.split", shown.split, splits)
    if isinstance(shown, Ratio):
        yield Reference(f"{where}.baseline", shown.baseline, shown.variants)
    for l0 in _levels(getattr(shown, "l0", "all")):
        yield Reference(f"{where}.l0", l0, grid.l0)


def _metrics(shown: Shown) -> Iterator[str]:
    if isinstance(shown, BarsAndDensity):
        yield from (panel.metric for panel in shown.panels)
        if shown.density.reference is not None:
            yield shown.density.reference.metric
    elif isinstance(shown, Curve | Sweep | Ratio):
        yield shown.metric
    if isinstance(shown, Curve) and shown.reference is not None:
        yield shown.reference.metric
    if isinstance(shown, Sweep):
        yield from shown.levels.values()


def _levels(chosen: object) -> tuple[int, ...]:
    if isinstance(chosen, tuple):
        return chosen
    return (chosen,) if isinstance(chosen, int) else ()


def _claim(config: Config, section: Paper, where: str, claim: ClaimSettings) -> Iterator[Reference]:
    yield Reference(f"{where}.grid", claim.grid, section.grids)
    if claim.grid not in section.grids:
        return
    grid = section.grids[claim.grid]
    timings = [timing for timing in section.timings.values() if timing.grid == claim.grid]
    timed = dict.fromkeys(variant for timing in timings for variant in timing.variants)
    for part in claim.parts:
        is_timing = part.metric == TIMING_METRIC and bool(timings)
        for metric in filter(None, (part.metric, part.baseline_metric)):
            known = (*CORE_METRICS, TIMING_METRIC) if timings else CORE_METRICS
            yield Reference(f"{where}.metric", metric, known)
        for variant in filter(None, (part.variant, part.baseline)):
            yield Reference(f"{where}.variants", variant, timed if is_timing else grid.variants)
        splits = (TIMING_SPLIT,) if is_timing else tuple(config.evaluation.core.splits)
        yield Reference(f"{where}.split", part.split, splits)
        for l0 in _levels(part.at_l0):
            yield Reference(f"{where}.at_l0", l0, grid.l0)


def _site_mistakes(config: Config, paper: str) -> Iterator[str]:
    for name, grid in config.paper(paper).grids.items():
        subject = config.subjects.get(grid.subject)
        if subject and not any(site_matches(grid.site, p) for p in subject.sites):
            yield (
                f"{paper}.grids.{name}.site: {grid.site!r} is not cached; "
                f"subjects.{grid.subject}.sites asks for {', '.join(subject.sites)}"
            )


def _timing_mistakes(config: Config, paper: str) -> Iterator[str]:
    for name, timing in config.paper(paper).timings.items():
        where = f"{paper}.timings.{name}"
        if timing.rounds % len(timing.variants):
            yield (
                f"{where}.rounds: {timing.rounds} is no multiple of the {len(timing.variants)} "
                "variants, which take turns to go first"
            )
        for variant in timing.variants:
            if variant not in config.variants:
                continue
            term = config.variants[variant].orthogonality
            if config.variants[variant].error_of is not None:
                yield f"{where}.variants: {variant} needs a frozen SAE, with which none is timed"
            if config.variants[variant].by_document:
                yield (
                    f"{where}.variants: {variant} tilts over sequences, and batches of whole "
                    "documents are not timed; time it with tilt.over: token"
                )
            if term is not None and timing.steps % term.every:
                yield (
                    f"{where}.steps: {timing.steps} is no multiple of orthogonality.every "
                    f"{term.every} of {variant}, so rounds would differ in work"
                )
