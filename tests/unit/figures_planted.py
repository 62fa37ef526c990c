"""Planted metric files that look like a real sweep, for the tests of figures and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saeflow.evaluation.rows import Point, Row, make_row, write_rows

VARIANTS = {
    "relu": "ReLU",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "matryoshka": "Matryoshka",
    "ortsae": "OrtSAE",
}
TIMED = {"ortsae_every5": "OrtSAE (every 5th step)", "ortsae_every5_k64": "OrtSAE (K = 64)"}
L0S = (8, 16, 32, 64)
SEEDS = (0, 1, 2)
SUBJECT, SITE, CORPUS, D_SAE = "desk-neox", "gpt_neox.layers.3", "installed-docs", 1536
_EV = {"relu": 0.66, "topk": 0.755, "batchtopk": 0.765, "matryoshka": 0.735, "ortsae": 0.76}
_COSINE = {"relu": 0.58, "topk": 0.36, "batchtopk": 0.38, "matryoshka": 0.24, "ortsae": 0.17}
_STEP = {
    "batchtopk": 0.025,
    "matryoshka": 0.029,
    "ortsae": 0.031,
    "ortsae_every5": 0.027,
    "ortsae_every5_k64": 0.026,
}
CE_CLEAN, CE_ZERO, KL_ZERO = 2.4533, 7.21, 4.8


def context(**changes: Any) -> dict[str, Any]:
    base = {
        "scale": "desk",
        "subject": SUBJECT,
        "site": SITE,
        "corpus": CORPUS,
        "training_tokens": 2_000_000,
        "d_sae": D_SAE,
        "l0s": L0S,
        "reference_l0": 32,
        "seeds": SEEDS,
        "labels": VARIANTS | TIMED,
    }
    return base | changes


def metrics_of(variant: str, l0: int, rng: np.random.Generator) -> dict[str, float]:
    gain = 0.045 * np.log2(l0 / 32)
    ev = _EV[variant] + gain + rng.normal(0, 0.003)
    ce = CE_CLEAN + 1.1 * (1 - ev) ** 1.3 + rng.normal(0, 0.002)
    kl = KL_ZERO * (1 - ev) ** 2.2
    exact = variant == "topk"
    spread = 0.10 if variant == "relu" else 0.015
    return {
        "explained_variance": ev,
        "fvu": 1 - ev,
        "l0": l0 * (1.0 if exact else 1 + rng.normal(0, spread)),
        "dead_latents": float(abs(rng.normal(0.03, 0.01))),
        "mean_decoder_cosine": _COSINE[variant] - gain / 2 + rng.normal(0, 0.004),
        "mean_decoder_cosine_random": 0.262 + rng.normal(0, 0.0004),
        "ce_clean": CE_CLEAN,
        "ce_sae": ce,
        "ce_zero": CE_ZERO,
        "ce_loss_score": (CE_ZERO - ce) / (CE_ZERO - CE_CLEAN),
        "kl_sae": kl,
        "kl_zero": KL_ZERO,
        "kl_score": (KL_ZERO - kl) / KL_ZERO,
    }


def point(variant: str, l0: int) -> Point:
    return Point("ortsae", SUBJECT, SITE, CORPUS, "all", variant, D_SAE, l0)


def rows_of(variant: str, l0: int, seeds: tuple[int, ...] = SEEDS) -> list[Row]:
    rows = []
    for seed in seeds:
        rng = np.random.default_rng([seed, l0, list(VARIANTS).index(variant)])
        for metric, value in metrics_of(variant, l0, rng).items():
            row = make_row(
                point(variant, l0),
                split="test",
                seed=seed,
                metric=metric,
                value=float(value),
                n=16_384,
            )
            rows.append(row)
    return rows


def plant_rows(folder: Path, seeds: tuple[int, ...] = SEEDS) -> list[Path]:
    paths = []
    for variant in VARIANTS:
        for l0 in L0S:
            path = folder / variant / f"l0_{l0}" / "core.parquet"
            write_rows(path, rows_of(variant, l0, seeds))
            paths.append(path)
    return paths


def plant_latents(folder: Path, l0: int = 32) -> list[Path]:
    paths = []
    for variant in VARIANTS:
        tables = []
        for seed in SEEDS:
            rng = np.random.default_rng([seed, l0])
            tail = rng.random(D_SAE) < 0.1
            cosine = rng.normal(_COSINE[variant], 0.06, D_SAE)
            cosine = np.where(tail, rng.uniform(_COSINE[variant], 0.99, D_SAE), cosine)
            columns = {
                "split": "test",
                "variant": variant,
                "d_sae": D_SAE,
                "l0_target": l0,
                "seed": seed,
                "latent": np.arange(D_SAE),
                "max_decoder_cosine": np.clip(cosine, -1, 1).astype(np.float32),
                "firing_rate": rng.random(D_SAE),
                "mean_activation": rng.random(D_SAE),
            }
            tables.append(pd.DataFrame(columns))
        path = folder / variant / f"l0_{l0}" / "latents.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(tables).to_parquet(path)
        paths.append(path)
    return paths


def plant_timing(folder: Path, rounds: int = 6) -> Path:
    rows = []
    for number in range(rounds):
        rng = np.random.default_rng([7, number])
        busy = 1 + abs(rng.normal(0, 0.2))
        for variant, seconds in _STEP.items():
            value = float(seconds * busy * (1 + rng.normal(0, 0.01)))
            rows.append(
                make_row(
                    point(variant, 32),
                    split="train",
                    seed=number,
                    metric="step_seconds",
                    value=value,
                    n=20,
                )
            )
    path = folder / "timing" / "timing.parquet"
    write_rows(path, rows)
    return path
