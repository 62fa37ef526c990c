"""Planted rows of what is shown at one L0: ablations, metrics of levels, comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import figures_planted as planted

from saeflow.evaluation.rows import Row, make_row, write_rows

CHUNKS = (4, 8, 16, 32, 64)
EVERY_STEP = {k: "ortsae" if k == 8 else f"ortsae_k{k}" for k in CHUNKS}
EVERY_5TH = {k: "ortsae_every5" if k == 8 else f"ortsae_every5_k{k}" for k in CHUNKS}
BASELINES = {"relu": "ReLU", "batchtopk": "BatchTopK", "matryoshka": "Matryoshka"}
LABELS = BASELINES | {name: name for name in (*EVERY_STEP.values(), *EVERY_5TH.values())}
LEVELS = (0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
# Of each metric the number of an SAE with 4 chunks, what another doubling adds, and the baselines'.
_METRICS: dict[str, tuple[float, float, dict[str, float]]] = {
    "explained_variance": (0.775, -0.001, {"relu": 0.70, "batchtopk": 0.785, "matryoshka": 0.755}),
    "mean_decoder_cosine": (0.10, 0.025, {"relu": 0.5, "batchtopk": 0.32, "matryoshka": 0.17}),
    "absorption_fraction": (0.15, 0.0125, {"relu": 0.4, "batchtopk": 0.26, "matryoshka": 0.02}),
    "composition_rate": (0.34, 0.005, {"relu": 0.45, "batchtopk": 0.40, "matryoshka": 0.345}),
    "scr@20": (0.32, -0.002, {"relu": 0.14, "batchtopk": 0.30, "matryoshka": 0.385}),
    "unique_share@0.2": (0.09, -0.002, {"relu": 0.12, "matryoshka": 0.1}),
    "baseline_unique_share@0.2": (0.015, 0.0, {"relu": 0.02, "matryoshka": 0.03}),
}
SPREAD = 0.004


def context(**changes: Any) -> dict[str, Any]:
    return planted.context(labels=LABELS) | changes


def mean(metric: str, variant: str, l0: int) -> float | None:
    """Return the planted mean over seeds of a metric, or None where a variant has none."""
    start, step, baselines = _METRICS[metric]
    if variant in BASELINES:
        value = baselines.get(variant)
    else:
        chunks = next(k for k in CHUNKS if variant in (EVERY_STEP[k], EVERY_5TH[k]))
        value = start + step * CHUNKS.index(chunks) + (0.004 if "every5" in variant else 0)
    return None if value is None else value + 0.0001 * (l0 - 32)


def rows_of(variant: str, l0: int, seeds: tuple[int, ...] = planted.SEEDS) -> list[Row]:
    """Return rows whose mean over seeds 0, 1, 2 is exact; level 0.0003 lacks seed 2 for ReLU."""
    rows = []
    for seed in seeds:
        off = SPREAD * (seed - 1)
        found: dict[str, float] = {
            metric: value * (1 + off)
            for metric in _METRICS
            if (value := mean(metric, variant, l0)) is not None
        }
        found["mean_decoder_cosine_random"] = 0.089
        found["clustering_levels_skipped"] = float(variant == "relu" and seed == 2)
        for number, level in enumerate(LEVELS):
            cosine = mean("mean_decoder_cosine", variant, l0) or 0.0
            found[f"edge_density@{level:g}"] = level * (1 + off)
            if (variant, number, seed) != ("relu", 0, 2):
                coefficient = min(0.9, cosine * (0.4 + 0.2 * number)) * (1 + 5 * off)
                found[f"clustering_coefficient@{level:g}"] = coefficient
        at = planted.point(variant, l0)
        rows += [
            make_row(at, split="test", seed=seed, metric=metric, value=value, n=1000)
            for metric, value in found.items()
        ]
    return rows


def plant(folder: Path, seeds: tuple[int, ...] = planted.SEEDS) -> list[Path]:
    """Write the rows of all variants at L0 16 and 32 into one file."""
    path = folder / "single_l0.parquet"
    write_rows(path, [row for v in LABELS for l0 in (16, 32) for row in rows_of(v, l0, seeds)])
    return [path]
