"""Cases of the keys of evaluations that read decoders alone: random and planted vectors."""

from __future__ import annotations

from pathlib import Path

from decoders_planted import (
    KEY,
    POINT,
    compared,
    of_decoder,
    random_vectors,
    sums_of_atoms,
)
from keys_case import Case, Result, Stage

from saeflow.evaluation.clustering import measure_clustering
from saeflow.evaluation.clustering_settings import ClusteringSettings
from saeflow.evaluation.composition import measure_composition
from saeflow.evaluation.composition_settings import CompositionSettings
from saeflow.evaluation.decomposition import measure_decomposition
from saeflow.evaluation.decomposition_settings import DecompositionSettings
from saeflow.evaluation.rows import Row
from saeflow.evaluation.uniqueness import measure_uniqueness
from saeflow.evaluation.uniqueness_settings import UniquenessSettings


def by_metric(rows: list[Row]) -> Result:
    return {"metrics": sorted(row.metric for row in rows), **{r.metric: r.value for r in rows}}


def run_composition(settings: CompositionSettings, world: Path, out: Path) -> Result:
    saes = {KEY: of_decoder(random_vectors(40, 8))}
    return by_metric(measure_composition(settings, saes, point=POINT, split="test"))


def run_uniqueness(settings: UniquenessSettings, world: Path, out: Path) -> Result:
    pairs = compared(random_vectors(60, 16), random_vectors(60, 16, seed=1))
    return by_metric(measure_uniqueness(settings, pairs, point=POINT, split="test")[0])


def run_clustering(settings: ClusteringSettings, world: Path, out: Path) -> Result:
    saes = {KEY: of_decoder(random_vectors(60, 6))}
    return by_metric(measure_clustering(settings, saes, point=POINT, split="test")[0])


def run_decomposition(settings: DecompositionSettings, world: Path, out: Path) -> Result:
    """The variant has sums of up to three of the baseline's vectors, a little off."""
    atoms = random_vectors(20, 12, seed=1)
    variant = sums_of_atoms(60, 12, atoms=20, terms=3) + 0.05 * random_vectors(60, 12, seed=7)
    pairs = compared(variant, atoms)
    return by_metric(measure_decomposition(settings, pairs, point=POINT, split="test")[0])


STAGES = {
    "composition": Stage(
        CompositionSettings.model_validate,
        {"steps": 4, "batch_size": 16},
        run_composition,
        {
            "CompositionSettings.width_ratio": Case("width_ratio", 0.5, "composition_rate"),
            "CompositionSettings.k": Case("k", 2, "composition_rate"),
            "CompositionSettings.steps": Case("steps", 5, "composition_rate"),
            "CompositionSettings.batch_size": Case("batch_size", 17, "composition_rate"),
            "CompositionSettings.learning_rate": Case("learning_rate", 1e-2, "composition_rate"),
            "CompositionSettings.betas": Case("betas", [0.5, 0.9], "composition_rate"),
            "CompositionSettings.random_reference": Case("random_reference", False, "metrics"),
        },
    ),
    "uniqueness": Stage(
        UniquenessSettings.model_validate,
        {"relative_threshold": 1.0},
        run_uniqueness,
        {
            "UniquenessSettings.thresholds": Case("thresholds", [0.25], "metrics"),
            "UniquenessSettings.relative_threshold": Case(
                "relative_threshold", 1.1, "unique_share"
            ),
        },
    ),
    "clustering": Stage(
        ClusteringSettings.model_validate,
        {"levels": [0.1, 0.3]},
        run_clustering,
        {
            "ClusteringSettings.levels": Case("levels", [0.2], "metrics"),
            "ClusteringSettings.by": Case("by", "cosine", "clustering_coefficient@0.3"),
        },
    ),
    "decomposition": Stage(
        DecompositionSettings.model_validate,
        {},
        run_decomposition,
        {
            "DecompositionSettings.terms": Case("terms", 2, "decomposed_share"),
            "DecompositionSettings.min_cosine": Case("min_cosine", 0.999, "decomposed_share"),
            "DecompositionSettings.min_coefficient": Case(
                "min_coefficient", 0.6, "decomposed_share"
            ),
        },
    ),
}
