"""Names in one section of the configuration that must exist in another."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from saeflow.asked_metrics import labelled_corpora, metric_mistakes
from saeflow.claims import ClaimSettings
from saeflow.conflicts import conflicts
from saeflow.corpora.derived_settings import DerivedSettings, Mixture
from saeflow.debias.names import method_names, subgroup_metrics
from saeflow.evaluation.settings import CURVE_METRICS
from saeflow.figures.debias_settings import Circuit, Methods
from saeflow.figures.decomposition_settings import Decomposition, Decompositions
from saeflow.figures.grid_settings import Shown
from saeflow.figures.settings import Figure, Ratio, Scaling, Sweep, Table
from saeflow.figures.sweep_settings import Lines, SweepShown
from saeflow.lineage import cycles
from saeflow.measures import CONCEPT_METRICS, DEBIAS_METRICS, SWEEP_METRICS
from saeflow.retrieval.settings import Selection
from saeflow.sae.settings import TIMING_METRIC, TrainedBase, TrainedInit

if TYPE_CHECKING:
    from saeflow.config import Config, Paper
    from saeflow.corpora.settings import Corpus
    from saeflow.grids import Debiasing, Grid, SeriesGrid

TIMING_SPLIT = "train"


class Reference(NamedTuple):
    """A key whose value must be one of the allowed."""

    key: str
    value: object
    allowed: Iterable[object]


def mistakes(config: Config) -> Iterator[str]:
    """Yield `key: what is wrong` for every reference that leads nowhere."""
    for cycle in cycles(config.corpora):
        yield f"corpora.{cycle[0]}: is made of itself: {' -> '.join(cycle)}"
    for key, value, allowed in _references(config):
        choices = list(allowed)
        if value not in choices:
            yield f"{key}: {unknown(value, choices)}"
    yield from conflicts(config)
    for paper in config.papers:
        yield from metric_mistakes(config, paper)


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
    for name, entry in config.corpora.items():
        yield from _corpus(config, f"corpora.{name}", entry)
    # What an SAE starts from, or corrects, needs no other SAE itself.
    whole = [v for v, e in config.variants.items() if e.error_of is None and e.init_from is None]
    for name, variant in config.variants.items():
        for key, other in (("error_of", variant.error_of), ("init_from", variant.init_from)):
            if isinstance(other, TrainedBase | TrainedInit):
                yield Reference(f"variants.{name}.{key}.variant", other.variant, whole)
                yield Reference(f"variants.{name}.{key}.corpus", other.corpus, config.corpora)
    for where, corpus in labelled_corpora(config):
        yield Reference(where, corpus, config.corpora)
    for paper in config.papers:
        section = config.paper(paper)
        for name, grid in section.grids.items():
            yield from _grid(config, f"{paper}.grids.{name}", grid)
            if name in section.sweeps:
                yield Reference(f"{paper}.sweeps", name, set(section.sweeps) - set(section.grids))
        for name, sweep in section.sweeps.items():
            yield from _sweep(config, f"{paper}.sweeps.{name}", sweep)
        if section.debias is not None:
            yield from _debias(config, f"{paper}.debias", section.debias)
        for name, timing in section.timings.items():
            where = f"{paper}.timings.{name}"
            yield Reference(f"{where}.grid", timing.grid, section.grids)
            for timed in timing.variants:
                yield Reference(f"{where}.variants", timed, config.variants)
        for name, figure in section.figures.items():
            yield from _any_shown(config, section, f"{paper}.figures.{name}", figure)
        for name, table in section.tables.items():
            yield from _any_shown(config, section, f"{paper}.tables.{name}", table)
        for claim in section.claims:
            yield from _any_claim(config, section, f"{paper}.claims.{claim.id}", claim)


def _grid(config: Config, where: str, grid: Grid) -> Iterator[Reference]:
    yield Reference(f"{where}.subject", grid.subject, config.subjects)
    yield Reference(f"{where}.corpus", grid.corpus, config.corpora)
    yield Reference(f"{where}.baseline", grid.baseline, grid.variants)
    for variant in grid.variants:
        yield Reference(f"{where}.variants", variant, config.variants)


def _any_shown(
    config: Config, section: Paper, where: str, shown: Figure | Table
) -> Iterator[Reference]:
    if isinstance(shown, SweepShown):
        yield from _of_sweep(section, where, shown)
    elif isinstance(shown, Circuit | Methods):
        yield from _of_debias(section, where, shown)
    else:
        timing = shown.timing if isinstance(shown, Sweep | Ratio | Scaling) else None
        if timing is not None:
            over_sizes = isinstance(shown, Scaling)
            known = [t for t, of in section.timings.items() if over_sizes == (of.d_sae is not None)]
            yield Reference(f"{where}.timing", timing, known)
        yield from _shown(config, section, where, shown, timing)


def _of_sweep(section: Paper, where: str, shown: SweepShown) -> Iterator[Reference]:
    yield Reference(f"{where}.sweep", shown.sweep, section.sweeps)
    if shown.sweep not in section.sweeps:
        return
    sweep = section.sweeps[shown.sweep]
    yield Reference(f"{where}.tested", shown.tested, sweep.tested)
    for series in shown.series:
        yield Reference(f"{where}.series", series, sweep.series)
    for panel in shown.panels if isinstance(shown, Lines) else ():
        known = {"curves": CURVE_METRICS, "concept_recall": CONCEPT_METRICS}
        allowed = known.get(panel.file, SWEEP_METRICS)
        yield Reference(f"{where}.panels.metric", panel.metric, allowed)
        for l0 in _levels(panel.l0):
            yield Reference(f"{where}.panels.l0", l0, sweep.l0)


def debias_metrics(section: Paper) -> list[str]:
    """Return the metrics of a paper's debiasing experiment, with those of its subgroups."""
    if section.debias is None:
        return []
    return [*DEBIAS_METRICS, *subgroup_metrics(section.debias.protocol).values()]


def debias_methods(section: Paper) -> tuple[str, ...]:
    """Return the methods of a paper's debiasing experiment."""
    return method_names(section.debias.saes) if section.debias else ()


def _of_debias(section: Paper, where: str, shown: Circuit | Methods) -> Iterator[Reference]:
    kinds = section.debias.saes if section.debias else ()
    if isinstance(shown, Circuit):
        yield Reference(f"{where}.sae", shown.sae, kinds)
    else:
        for column in shown.columns:
            allowed = debias_metrics(section)
            yield Reference(f"{where}.columns.metric", column.metric, allowed)
        for method in (method for group in shown.groups for method in group.methods):
            yield Reference(f"{where}.groups.methods", method, debias_methods(section))


def _corpus(config: Config, where: str, corpus: Corpus | Selection) -> Iterator[Reference]:
    if isinstance(corpus, DerivedSettings):
        key = "parts" if isinstance(corpus, Mixture) else "corpus"
        for parent in corpus.parents:
            yield Reference(f"{where}.{key}", parent, config.corpora)
    if isinstance(corpus, Selection):
        own = [name for name, other in config.corpora.items() if not isinstance(other, Selection)]
        yield Reference(f"{where}.corpus", corpus.corpus, own)
        yield Reference(f"{where}.domain", corpus.domain, own)
        yield Reference(f"{where}.subject", corpus.subject, config.subjects)
        if corpus.dense is not None:
            yield Reference(f"{where}.dense", corpus.dense, config.retrieval.dense)
        if corpus.tracin is not None:
            sae = corpus.tracin.sae
            yield Reference(f"{where}.tracin.sae.variant", sae.variant, config.variants)
            yield Reference(f"{where}.tracin.sae.corpus", sae.corpus, config.corpora)


def _sweep(config: Config, where: str, sweep: SeriesGrid) -> Iterator[Reference]:
    yield Reference(f"{where}.subject", sweep.subject, config.subjects)
    for name, series in sweep.series.items():
        yield Reference(f"{where}.series.{name}.corpus", series.corpus, config.corpora)
        yield Reference(f"{where}.series.{name}.variant", series.variant, config.variants)
    for name, tested in sweep.tested.items():
        yield Reference(f"{where}.tested.{name}.corpus", tested.corpus, config.corpora)


def _debias(config: Config, where: str, debias: Debiasing) -> Iterator[Reference]:
    yield Reference(f"{where}.subject", debias.subject, config.subjects)
    yield Reference(f"{where}.corpus", debias.corpus, config.corpora)
    for kind, points in debias.points().items():
        yield Reference(f"{where}.saes.{kind}.corpus", points[0].corpus, config.corpora)
        whole = [name for name, variant in config.variants.items() if variant.error_of is None]
        yield Reference(f"{where}.saes.{kind}.variant", points[0].variant, whole)


def _shown(
    config: Config, section: Paper, where: str, shown: Shown, timing: str | None
) -> Iterator[Reference]:
    yield Reference(f"{where}.grid", shown.grid, section.grids)
    if shown.grid not in section.grids:
        return
    grid = section.grids[shown.grid]
    timed = section.timings.get(timing or "")
    variants = timed.variants if timed else grid.variants
    if isinstance(shown, Decomposition | Decompositions):
        yield from _sums(config, grid, where, shown)
    else:
        for variant in shown.variants:
            yield Reference(f"{where}.variants", variant, variants)
    for metric in shown.metrics:
        known = (TIMING_METRIC,) if timed else SWEEP_METRICS
        yield Reference(f"{where}.metric", metric.partition("@")[0], known)
    splits = (TIMING_SPLIT,) if timed else tuple(config.evaluation.core.splits)
    yield Reference(f"{where}.split", shown.split, splits)
    if isinstance(shown, Ratio):
        yield Reference(f"{where}.baseline", shown.baseline, shown.variants)
    if isinstance(shown, Scaling) and shown.baseline is not None:
        yield Reference(f"{where}.baseline", shown.baseline, variants)
    for l0 in _levels(getattr(shown, "l0", "all")):
        yield Reference(f"{where}.l0", l0, grid.l0)


def _sums(
    config: Config, grid: Grid, where: str, shown: Decomposition | Decompositions
) -> Iterator[Reference]:
    yield Reference(f"{where}.baseline", shown.baseline, (grid.baseline,))
    others = [variant for variant in grid.variants if variant != grid.baseline]
    yield Reference(f"{where}.variant", shown.variant, others)
    numbers = range(len(config.evaluation.decomposed_latents.parts))
    if isinstance(shown, Decomposition):
        yield Reference(f"{where}.example", shown.example, numbers)
    else:
        for number in shown.examples:
            yield Reference(f"{where}.examples", number, numbers)


def _levels(chosen: object) -> tuple[int, ...]:
    if isinstance(chosen, tuple):
        return chosen
    return (chosen,) if isinstance(chosen, int) else ()


def _any_claim(
    config: Config, section: Paper, where: str, claim: ClaimSettings
) -> Iterator[Reference]:
    if claim.grid is not None:
        yield from _claim(config, section, where, claim)
    elif claim.debias:
        for part in claim.parts:
            yield Reference(f"{where}.metric", part.metric, debias_metrics(section))
        for method in claim.variants:
            yield Reference(f"{where}.variants", method, debias_methods(section))
    else:
        yield Reference(f"{where}.sweep", claim.sweep, section.sweeps)
        if claim.sweep in section.sweeps:
            yield from _sweep_claim(section.sweeps[str(claim.sweep)], where, claim)


def _sweep_claim(sweep: SeriesGrid, where: str, claim: ClaimSettings) -> Iterator[Reference]:
    if claim.corpus is not None:
        texts = [tested.corpus for tested in sweep.tested.values()]
        yield Reference(f"{where}.corpus", claim.corpus, texts)
    for series in claim.variants:
        yield Reference(f"{where}.variants", series, sweep.series)
    for part in claim.parts:
        for metric in filter(None, (part.metric, part.baseline_metric)):
            yield Reference(f"{where}.metric", metric.partition("@")[0], SWEEP_METRICS)
        for l0 in _levels(part.at_l0):
            yield Reference(f"{where}.at_l0", l0, sweep.l0)


def _claim(config: Config, section: Paper, where: str, claim: ClaimSettings) -> Iterator[Reference]:
    yield Reference(f"{where}.grid", claim.grid, section.grids)
    if claim.grid not in section.grids:
        return
    assert claim.grid is not None
    grid = section.grids[claim.grid]
    timings = [t for t in section.timings.values() if t.grid == claim.grid and t.d_sae is None]
    timed = dict.fromkeys(variant for timing in timings for variant in timing.variants)
    for part in claim.parts:
        is_timing = part.metric == TIMING_METRIC and bool(timings)
        for metric in filter(None, (part.metric, part.baseline_metric)):
            known = (*SWEEP_METRICS, TIMING_METRIC) if timings else SWEEP_METRICS
            yield Reference(f"{where}.metric", metric.partition("@")[0], known)
        for variant in filter(None, (part.variant, part.baseline)):
            yield Reference(f"{where}.variants", variant, timed if is_timing else grid.variants)
        splits = (TIMING_SPLIT,) if is_timing else tuple(config.evaluation.core.splits)
        yield Reference(f"{where}.split", part.split, splits)
        for l0 in _levels(part.at_l0):
            yield Reference(f"{where}.at_l0", l0, grid.l0)
