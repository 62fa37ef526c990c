"""Cases of absorption's keys: words behind a random block, and latents that overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from absorption_world import BLOCK, D_IN, make_world
from concept_recall_world import write_sae
from keys_case import Case, Result, Stage, watched
from torch import nn

from saeflow.evaluation.absorption import evaluate_absorption
from saeflow.evaluation.absorption_settings import AbsorptionSettings
from saeflow.evaluation.origin import Member
from saeflow.evaluation.rows import Point
from saeflow.sae.model import SAE

D_SAE = 96
BASE: dict[str, Any] = {
    "letters": {
        "words": "corpus",
        "corpus_words": 60,
        "template": "{word} :",
        "examples": 1,
        "test_share": 0.5,
        "min_f1": 0.3,
        "min_classes": 2,
    },
    "domains": {"context": 4, "min_f1": 0.3, "min_classes": 2},
    "probe": {"epochs": 20},
    "selection": {"batch_size": 16},
}


def overlapping_sae() -> SAE:
    """Random directions, a third of them near that of a letter."""
    generator = torch.Generator().manual_seed(0)
    w_fd = torch.randn(D_SAE, D_IN, generator=generator) / 3
    for latent in range(0, D_SAE, 3):
        w_fd[latent, latent % 9 // 3] += 2
    w_fd /= w_fd.norm(dim=1, keepdim=True)
    return SAE(w_fd.T.clone(), w_fd, torch.full((D_SAE,), -2.0), torch.zeros(D_IN), nn.ReLU())


def prepare(world: Path) -> None:
    make_world(world)
    write_sae(world / "overlapping", overlapping_sae(), BLOCK, world / "cache")


def run(settings: AbsorptionSettings, world: Path, out: Path) -> Result:
    """The tables, or what the job refuses."""
    with watched("saeflow.evaluation.site_rows.run_to_sites") as passes:
        try:
            evaluate_absorption(
                settings,
                [Member(4, 0, world / "overlapping")],
                subject=world / "subject",
                activations=world / "cache",
                corpus=world / "corpus",
                point=Point("ortsae", "subject", BLOCK, "docs", "all", "batchtopk", D_SAE, 4),
                out=out,
            )
        except ValueError as error:
            return {"scores": str(error)}
    tables = {
        name: pd.read_parquet(out / f"{file}.parquet").to_json()
        for name, file in (
            ("scores", "absorption"),
            ("classes", "absorption_details"),
            ("latents", "absorption_latents"),
        )
    }
    largest = max(tokens_bt.numel() for _, tokens_bt, _ in passes)
    return {**tables, "largest pass": largest}


def _probe_cases(name: str, section: str) -> dict[str, Case]:
    decays = {f"{section}.weight_decay": 0.1}  # without, Adam and AdamW are the same
    return {
        f"{name}.{key}": Case(
            f"{section}.{key}", value, "classes", decays if key == "optimiser" else {}
        )
        for key, value in {
            "optimiser": "adamw",
            "learning_rate": 0.1,
            "final_learning_rate": None,
            "epochs": 2,
            "batch_size": 5,
            "l1": 0.3,
            "weight_decay": 0.3,
            "positive_weight": False,
        }.items()
    }


STAGES = {
    "absorption": Stage(
        AbsorptionSettings.model_validate,
        BASE,
        run,
        {
            "FirstLetters.min_rows": Case("letters.min_rows", 7, "classes"),
            "FirstLetters.min_f1": Case("letters.min_f1", 0.999, "classes"),
            "FirstLetters.min_classes": Case("letters.min_classes", 4, "scores"),
            "FirstLetters.words": Case("letters.words", "vocabulary", "classes"),
            "FirstLetters.corpus_words": Case("letters.corpus_words", 50, "classes"),
            "FirstLetters.template": Case("letters.template", ": {word}", "classes"),
            "FirstLetters.examples": Case("letters.examples", 2, "classes"),
            "FirstLetters.position": Case("letters.position", -1, "scores"),
            "FirstLetters.test_share": Case("letters.test_share", 0.3, "classes"),
            "Domains.min_rows": Case("domains.min_rows", 7, "classes"),
            "Domains.min_f1": Case("domains.min_f1", 0.999, "classes"),
            "Domains.min_classes": Case("domains.min_classes", 4, "scores"),
            "Domains.depth": Case("domains.depth", 2, "scores"),
            "Domains.context": Case("domains.context", 3, "classes"),
            "Domains.train_documents": Case("domains.train_documents", 30, "classes"),
            "Domains.test_documents": Case("domains.test_documents", 15, "classes"),
            "AbsorptionSettings.letters": Case("letters", None, "classes"),
            "AbsorptionSettings.domains": Case("domains", None, "classes"),
            "AbsorptionSettings.batch_tokens": Case("batch_tokens", 16, "largest pass"),
            "AbsorptionSettings.precision": Case("precision", "bfloat16", "latents"),
            "AbsorptionSettings.candidates": Case("candidates", 3, "classes"),
            "AbsorptionSettings.max_latents": Case("max_latents", 1, "classes"),
            "AbsorptionSettings.logistic_iterations": Case("logistic_iterations", 1, "classes"),
            "AbsorptionSettings.f1_jump": Case("f1_jump", 0.5, "scores"),
            "AbsorptionSettings.silent": Case("silent", 100.0, "scores"),
            "AbsorptionSettings.full_cosine": Case("full_cosine", 0.9, "scores", {"silent": 100.0}),
            "AbsorptionSettings.fraction_cosine": Case("fraction_cosine", 0.9, "scores"),
            "AbsorptionSettings.projection_share": Case("projection_share", 1.0, "scores"),
            "AbsorptionSettings.max_absorbers": Case("max_absorbers", 1, "latents"),
            "AbsorptionSettings.seed": Case("seed", 1, "classes"),
            **_probe_cases("DirectionProbe", "probe"),
            **_probe_cases("SelectionProbe", "selection"),
        },
        prepare,
    )
}
