"""Which metrics the figures, tables and claims ask for, and whether they are measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from saeflow.figures.decomposition_settings import Decomposition, Decompositions
from saeflow.figures.grid_settings import Shown
from saeflow.figures.single_l0_settings import Bars, Paired
from saeflow.measured_levels import level_mistake
from saeflow.measures import FILES, PAIR_MEASURES, SWEEP_METRICS, measure_of

if TYPE_CHECKING:
    from saeflow.claims import ClaimSettings
    from saeflow.config import Config, Paper


class Asked(NamedTuple):
    """A metric of the evaluations that something asks for."""

    where: str
    """What asks for it: `figures.fig6a`."""
    metric: str
    variant: str | None
    """The variant of which it is asked for; null is none in particular."""
    grid: str | None
    """Grid of the rows; null is a sweep."""
    all_levels: bool = False
    """Whether every level of the metric is asked for, of which its name says none."""

    @property
    def measure(self) -> str:
        """The measure that has the metric."""
        return measure_of(self.metric)


def asked_metrics(section: Paper) -> Iterator[Asked]:
    """Yield the metrics that a paper asks for of its grids and sweeps, those of timings not."""
    for kind, everything in (("figures", section.figures), ("tables", section.tables)):
        for name, shown in everything.items():
            if isinstance(shown, Shown):
                yield from filter(_is_measured, _shown(f"{kind}.{name}", shown))
    for claim in section.claims:
        if not claim.debias:
            yield from filter(_is_measured, _claim(f"claims.{claim.id}", claim))


def asked_measures(config: Config) -> set[str]:
    """Return the measures of which the chosen papers ask for a metric."""
    return {
        asked.measure for paper in config.papers for asked in asked_metrics(config.paper(paper))
    }


def labelled_corpora(config: Config) -> Iterator[tuple[str, str]]:
    """Yield key and name of the corpora whose classes the chosen papers have measured."""
    measures = asked_measures(config)
    for measure in ("sparse_probing", "tpp", "scr"):
        settings = getattr(config.evaluation, measure)
        if settings is None or measure not in measures:
            continue
        key = "pairs" if measure == "scr" else "datasets"
        for name, classes in getattr(settings, key).items():
            yield f"evaluation.{measure}.{key}.{name}.corpus", classes.corpus


def metric_mistakes(config: Config, paper: str) -> Iterator[str]:
    """Yield metrics that a paper asks for and that the settings do not measure."""
    section = config.paper(paper)
    found = (
        f"{paper}.{asked.where}: {mistake}"
        for asked in asked_metrics(section)
        if (mistake := _mistake(config, section, asked)) is not None
    )
    yield from dict.fromkeys(found)


def _mistake(config: Config, section: Paper, asked: Asked) -> str | None:
    metric, measure = asked.metric, asked.measure
    if measure in FILES and getattr(config.evaluation, measure, ...) is None:
        return f"{metric} is measured where evaluation.{measure} is set"
    if measure in PAIR_MEASURES:
        if asked.grid is None:
            return f"{metric} is measured of grids, not of sweeps"
        grid = section.grids.get(asked.grid)
        if grid is not None and asked.variant == grid.baseline:
            return f"{metric} is of a variant against the baseline {grid.baseline}, which has none"
    return level_mistake(config.evaluation, metric, all_levels=asked.all_levels)


def _is_measured(asked: Asked) -> bool:
    return asked.metric.partition("@")[0] in SWEEP_METRICS


def _shown(where: str, shown: Shown) -> Iterator[Asked]:
    if isinstance(shown, Bars):
        for bar in (bar for panel in shown.panels for bar in panel.bars):
            yield Asked(where, bar.metric, bar.variant, shown.grid)
    elif isinstance(shown, Decomposition | Decompositions):
        for metric in shown.metrics:
            yield Asked(where, metric, None, shown.grid)
    else:
        for metric in shown.metrics:
            for variant in shown.variants:
                yield Asked(where, metric, variant, shown.grid, isinstance(shown, Paired))


def _claim(where: str, claim: ClaimSettings) -> Iterator[Asked]:
    for pair in (pair for part in claim.parts for pair in part.pairs):
        yield Asked(where, pair.metric, pair.variant, claim.grid)
        if pair.baseline is not None:
            yield Asked(where, pair.baseline_metric or pair.metric, pair.baseline, claim.grid)
