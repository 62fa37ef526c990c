"""Which measure of a sweep has a metric, and in which file: for claims and checks of the config."""

from __future__ import annotations

from saeflow.evaluation.settings import (
    CORE_METRICS,
    COUNT_RATIO_METRICS,
    MAP_METRICS,
    PARETO_METRICS,
    TOKEN_METRICS,
)

EXPLAINED_METRICS = (
    "mean_f1",
    "mean_precision",
    "mean_recall",
    "mean_accuracy",
    "f1_always_active",
    "mean_diversity",
    "diversity_sd",
    "share_failed",
    "share_eligible",
)
CONCEPT_METRICS = ("concept_recall", "concept_auroc")
DEBIAS_METRICS = (
    "profession_accuracy",
    "gender_accuracy",
    "worst_group_accuracy",
    "ambiguous_accuracy",
    "ablated_latents",
    "circuit_latents",
)

FILES = {
    "pareto": "pareto.parquet",
    "core": "core.parquet",
    "tokens": "tokens.parquet",
    "ratios": "count_ratios.parquet",
    "map": "spread.parquet",
    "explained": "explained.parquet",
    "concepts": "concept_recall.parquet",
}
"""File of tidy rows of each measure."""

# Relations repeat the L0 and the perplexity of the points that they relate, so they come first.
_MEASURES = {
    "pareto": PARETO_METRICS,
    "core": CORE_METRICS,
    "tokens": TOKEN_METRICS,
    "ratios": COUNT_RATIO_METRICS,
    "map": MAP_METRICS,
    "explained": EXPLAINED_METRICS,
    "concepts": CONCEPT_METRICS,
}
SWEEP_METRICS = tuple(dict.fromkeys(metric for known in _MEASURES.values() for metric in known))


def measure_of(metric: str) -> str:
    """Return the measure of a sweep that has `metric` (`concept_recall@0.001` is of one level).

    Raises ValueError for a metric of no measure.
    """
    plain = metric.partition("@")[0]
    for measure, metrics in _MEASURES.items():
        if plain in metrics:
            return measure
    raise ValueError(f"no measure of a sweep has the metric {metric!r}: {', '.join(SWEEP_METRICS)}")
