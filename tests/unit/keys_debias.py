"""Cases of the debiasing experiment's keys: whole runs in the planted world, made less tidy.

Attention and MLP write something and the SAEs leave an error, so that effects depend on their
path; and the documents have a second label of the profession, which is wrong for some.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from debias_planted import (
    BASE,
    D_IN,
    HE,
    SITES,
    axes_sae,
    planted_subject,
    rows,
    write_corpus,
    write_saes,
)
from keys_case import Case, Result, Stage, watched

from saeflow.debias.biographies import BiographyError
from saeflow.debias.run import run_debias
from saeflow.debias.settings import DebiasSettings
from saeflow.sae.model import SAE


def prepare(world: Path) -> None:
    planted_subject(world / "subject", noise=0.4)
    documents = rows(
        {
            (split, g, p): n
            for split, n in (("train", 14), ("test", 12), ("validation", 8))
            for g in (0, 1)
            for p in (0, 1)
        }
    )
    rng = Random(1)
    for document in documents:
        labels = document["labels"]
        wrong = {"professor": "nurse", "nurse": "professor"}[labels["profession"]]
        labels["job"] = labels["profession"] if rng.random() < 0.7 else wrong
    documents.append({"split": "train", "text": "he and ward", "labels": None})
    write_corpus(world / "corpus", documents)
    write_saes(world / "gsae", untidy_sae(0))
    write_saes(world / "ssae", untidy_sae(1))
    (world / "person.json").write_text(json.dumps({"ablated": {"embed": [HE]}}))


def untidy_sae(seed: int) -> SAE:
    """The axes twice over, off by some noise, with thresholds of their own."""
    sae, generator = axes_sae(copies=2), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (sae.W_enc, sae.W_dec, sae.b_enc):
            tensor += 0.15 * torch.randn(tensor.shape, generator=generator)
    return sae


def run(settings: DebiasSettings, world: Path, out: Path) -> Result:
    saes = {kind: {site: world / kind / site for site in settings.sites} for kind in KINDS}
    calls = ("saeflow.debias.patched.states_at", "saeflow.debias.attribution.clean_pass")
    with watched(*calls) as seen:
        try:
            run_debias(
                settings, paper="ssae", subject=world / "subject", corpus=world / "corpus",
                saes=saes, d_sae=dict.fromkeys(KINDS, 2 * D_IN), seed=0, out=out, root=world,
            )  # fmt: skip
        except BiographyError as error:
            return {"refused": str(error)}
    passes = [call[1].numel() for call in seen if len(call) == 3]
    batches = [len(call[3][1]) for call in seen if len(call) == 4]
    return {
        "refused": "",
        "rows": table(out / "debias.parquet"),
        "latents": table(out / "latents.parquet"),
        "nodes": table(out / "nodes.parquet"),
        "edges": table(out / "edges.parquet"),
        "largest pass": max(passes),
        "examples together": max(batches),
    }


def table(path: Path) -> list[str]:
    return pd.read_parquet(path).to_csv(index=False).splitlines()


KINDS = ("gsae", "ssae")
SWAPPED: dict[str, Any] = {"male": "female", "female": "male"}
CLASSES: dict[str, Any] = {
    "professions": {
        "label": "profession",
        "values": {"professor": "professor", "nurse": "nurse"},
    },
    "genders": {"label": "gender", "values": {"male": "male", "female": "female"}},
}
STAGES = {
    "debias": Stage(
        DebiasSettings.model_validate,
        {
            **BASE,
            "on_unlabelled": "drop",
            "probe": {"epochs": 2, "batch_size": 8, "learning_rate": 0.05},
            "attribution": {"examples": 8, "batch_size": 8, "steps": 2, "threshold": 0.02},
            "circuit": {"examples": 2, "node_threshold": 0.05, "edge_threshold": 0.01},
            "judge": {"min_activations": 1, "margin": 0.0},
        },
        run,
        {
            "DebiasSettings.sites": Case("sites", {"embed": SITES["embed"]}, "latents"),
            "DebiasSettings.probe_site": Case("probe_site", "gpt_neox.layers.2", "latents"),
            "DebiasSettings.on_unlabelled": Case("on_unlabelled", "refuse", "refused"),
            "DebiasSettings.max_tokens": Case("max_tokens", 4, "rows"),
            "DebiasSettings.batch_tokens": Case("batch_tokens", 20, "largest pass"),
            "DebiasSettings.precision": Case("precision", "bfloat16", "latents"),
            "DebiasSettings.person": Case("person", {"ssae": "person.json"}, "latents"),
            "DebiasSettings.top_tokens": Case("top_tokens", 2, "latents"),
            "Classes.label": Case(
                "professions.label", "job", "rows", {**CLASSES, "probe.epochs": 20}
            ),
            "Classes.values": Case("genders.values", SWAPPED, "latents", CLASSES),
            "Sizes.ambiguous_train": Case("sizes.ambiguous_train", 6, "rows"),
            "Sizes.balanced_train": Case("sizes.balanced_train", 2, "rows"),
            "Sizes.test": Case("sizes.test", 5, "rows"),
            "Sizes.judge": Case("sizes.judge", 3, "latents"),
            "Probe.learning_rate": Case("probe.learning_rate", 0.5, "rows"),
            "Probe.weight_decay": Case("probe.weight_decay", 5.0, "latents"),
            "Probe.epochs": Case("probe.epochs", 20, "rows"),
            "Probe.batch_size": Case("probe.batch_size", 3, "latents"),
            "Attribution.examples": Case("attribution.examples", 3, "latents"),
            "Attribution.batch_size": Case("attribution.batch_size", 2, "examples together"),
            "Attribution.steps": Case("attribution.steps", 1, "latents"),
            "Attribution.path": Case("attribution.path", "joint", "latents"),
            "Attribution.precision": Case("attribution.precision", "bfloat16", "latents"),
            "Attribution.threshold": Case("attribution.threshold", 0.05, "latents"),
            "Circuit.node_threshold": Case("circuit.node_threshold", 0.1, "nodes"),
            "Circuit.edge_threshold": Case("circuit.edge_threshold", 0.1, "edges"),
            "Circuit.signs": Case(
                "circuit.signs", "both", "nodes", {"circuit.node_threshold": 0.001}
            ),
            "Circuit.examples": Case("circuit.examples", 4, "edges"),
            "ConceptBottleneck.keywords": Case("cbp.keywords", ["ward", "lecture"], "rows"),
            "ConceptBottleneck.normalise": Case(
                "cbp.normalise",
                "concepts",
                "rows",
                {"probe.learning_rate": 0.005, "probe.epochs": 6},
            ),
            "Skyline.count": Case("skyline.count", 9, "rows"),
            "Skyline.steps": Case("skyline.steps", 10, "rows", {"skyline.count": 9}),
            "Slice.share": Case("slice.share", 0.25, "latents"),
            "Slice.rule": Case("slice.rule", "first", "latents"),
            "Judge.statistic": Case("judge.statistic", "max", "latents"),
            "Judge.margin": Case("judge.margin", 0.2, "latents"),
            "Judge.min_activations": Case("judge.min_activations", 33, "latents"),
        },
        prepare,
    )
}
