"""Which measure has a metric, and in which file: for figures, claims and checks of the config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from saeflow.evaluation.absorption_settings import OVER_CONCEPTS
from saeflow.evaluation.settings import (
    ADDED_METRICS,
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
COMPOSITION_METRICS = ("composition_rate", "composition_rate_random", "dead_meta_latents")
CLUSTERING_METRICS = (
    "clustering_coefficient",
    "edge_density",
    "edge_cosine",
    "clustering_levels_skipped",
)
UNIQUENESS_METRICS = tuple(
    prefix + metric
    for prefix in ("", "baseline_")
    for metric in ("unique_share", "unique_threshold", "unique_random_level", "nearest_cosine")
)
DECOMPOSITION_METRICS = tuple(
    prefix + metric
    for prefix in ("", "baseline_")
    for metric in ("matched_share", "decomposed_share", "decomposed_latents")
)
DECOMPOSED_METRICS = (
    "decomposed_cofiring",
    "decomposed_cofiring_chance",
    "decomposed_eligible",
    "decomposed_examples",
)
ABSORPTION_METRICS = (
    *OVER_CONCEPTS,
    "absorption_main_latents",
    "absorption_main_f1",
    "absorption_probe_f1",
    "absorption_rows",
    "absorption_classes_skipped",
)
SPARSE_PROBING_METRICS = ("sparse_probing_accuracy", "sparse_probing_classes_skipped")
SCR_METRICS = ("scr", "scr_pairs_without_gap", "scr_pairs_skipped")
TPP_METRICS = ("tpp", "tpp_intended", "tpp_unintended", "tpp_classes_skipped")
RAVEL_METRICS = (
    *(
        f"ravel_{score}{of}"
        for of in ("", "_whole", "_subspace")
        for score in ("cause", "isolation", "disentanglement")
    ),
    "ravel_latents",
    "ravel_unexplained",
    "ravel_known",
    "ravel_pairs",
    "ravel_attributes_skipped",
)
DETECTION_METRICS = (
    *(
        f"detection_{metric}"
        for suffix in ("", "_saebench")
        for metric in (f"accuracy{suffix}", f"accuracy{suffix}_always_no", f"not_scored{suffix}")
    ),
    "detection_live",
)
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
    "composition": "composition.parquet",
    "clustering": "clustering.parquet",
    "uniqueness": "uniqueness.parquet",
    "decomposition": "decomposition.parquet",
    "decomposed_latents": "decomposed_cofiring.parquet",
    "absorption": "absorption.parquet",
    "sparse_probing": "sparse_probing.parquet",
    "scr": "scr.parquet",
    "tpp": "tpp.parquet",
    "ravel": "ravel.parquet",
    "detection": "detection.parquet",
    "timing": "timing.parquet",
}
"""File of tidy rows of each measure."""

PAIR_MEASURES = frozenset({"uniqueness", "decomposition", "decomposed_latents"})
"""Measures of a variant against the baseline, which has none itself."""

# Relations repeat the L0 and the perplexity of the points that they relate, so they come first.
_MEASURES = {
    "pareto": PARETO_METRICS,
    "core": (*CORE_METRICS, *ADDED_METRICS),
    "tokens": TOKEN_METRICS,
    "ratios": COUNT_RATIO_METRICS,
    "map": MAP_METRICS,
    "explained": EXPLAINED_METRICS,
    "concepts": CONCEPT_METRICS,
    "composition": COMPOSITION_METRICS,
    "clustering": CLUSTERING_METRICS,
    "uniqueness": UNIQUENESS_METRICS,
    "decomposition": DECOMPOSITION_METRICS,
    "decomposed_latents": DECOMPOSED_METRICS,
    "absorption": ABSORPTION_METRICS,
    "sparse_probing": SPARSE_PROBING_METRICS,
    "scr": SCR_METRICS,
    "tpp": TPP_METRICS,
    "ravel": RAVEL_METRICS,
    "detection": DETECTION_METRICS,
}
SWEEP_METRICS = tuple(dict.fromkeys(metric for known in _MEASURES.values() for metric in known))


def measure_of(metric: str) -> str:
    """Return the measure that has `metric` (`concept_recall@0.001` is of one level).

    Raises ValueError for a metric of no measure.
    """
    plain = metric.partition("@")[0]
    for measure, metrics in _MEASURES.items():
        if plain in metrics:
            return measure
    raise ValueError(f"no measure of a sweep has the metric {metric!r}: {', '.join(SWEEP_METRICS)}")


def measure_of_grid(metric: str) -> str:
    """Return the measure of a grid that has `metric`: its points' own rows are `core`.

    Raises ValueError for a metric of no measure.
    """
    return "core" if metric in _MEASURES["core"] else measure_of(metric)


def grid_files(folders: Mapping[str, Mapping[str, str]]) -> list[Path]:
    """Return the files of tidy rows in the folders of a grid's measures, by measure and name."""
    return [
        Path(folder) / FILES[measure]
        for measure, of_measure in folders.items()
        for folder in of_measure.values()
    ]
