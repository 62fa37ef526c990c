"""At which levels, the part of a metric's name after an @, the settings measure it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from saeflow.evaluation.absorption_settings import OVER_CONCEPTS
from saeflow.evaluation.settings import EvaluationSettings
from saeflow.measures import measure_of


class _Levels(NamedTuple):
    key: str
    """Key of `evaluation` that decides them."""
    levels: tuple[str, ...]
    plain: bool = False
    """Whether the metric has rows without a level too."""


def level_mistake(
    evaluation: EvaluationSettings, metric: str, *, all_levels: bool = False
) -> str | None:
    """Say why there are no rows of a metric, or nothing where there are.

    `all_levels` is for a metric named without the level of its rows, of which all are meant.
    """
    plain, at, level = metric.partition("@")
    if plain == "composition_rate_random" and not evaluation.composition.random_reference:
        return f"{metric} is not measured; evaluation.composition.random_reference is false"
    if measure_of(metric) == "concepts":  # its levels are frequencies, which a corpus has
        return None
    known = _levels(evaluation, plain)
    if known is None:
        return f"{metric} is not measured; {plain} has no levels" if at or all_levels else None
    if level in known.levels or (not at and (known.plain or all_levels)):
        return None
    what = metric if at else f"{metric} without a level after an @"
    return f"{what} is not measured; evaluation.{known.key} has {', '.join(known.levels)}"


def _levels(evaluation: EvaluationSettings, plain: str) -> _Levels | None:
    """Return the levels of a metric whose measure is set, or none where it has no levels."""
    if plain == "scr" and evaluation.scr is not None:
        return _Levels("scr.n", _names(evaluation.scr.n))
    if plain in ("tpp", "tpp_intended", "tpp_unintended") and evaluation.tpp is not None:
        return _Levels("tpp.n", _names(evaluation.tpp.n))
    if plain == "sparse_probing_accuracy" and evaluation.sparse_probing is not None:
        sizes = _names(evaluation.sparse_probing.k)
        return _Levels("sparse_probing.k", (*sizes, "all", "residual"))
    if plain in ("unique_share", "baseline_unique_share"):
        thresholds = _names(evaluation.uniqueness.thresholds)
        return _Levels("uniqueness.thresholds", thresholds, plain=True)
    if plain in ("decomposed_share", "baseline_decomposed_share"):
        parts = _names(range(2, evaluation.decomposition.terms + 1))
        return _Levels("decomposition.terms", parts, plain=True)
    if plain in ("clustering_coefficient", "edge_density", "edge_cosine"):
        return _Levels("clustering.levels", _names(evaluation.clustering.levels))
    if measure_of(plain) == "absorption":
        chosen = {
            "letters": evaluation.absorption.letters,
            "domains": evaluation.absorption.domains,
        }
        concepts = tuple(name for name, of in chosen.items() if of is not None)
        return _Levels("absorption", concepts, plain=plain in OVER_CONCEPTS)
    return None


def _names(levels: Iterable[float]) -> tuple[str, ...]:
    return tuple(f"{level:g}" for level in levels)
