"""Activations with a known dictionary, settings of small SAEs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeflow.activations.settings import ActivationSettings
from saeflow.activations.shards import group_rows, write_shard
from saeflow.artifacts import write_manifest
from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import (
    L0,
    L1,
    AuxK,
    Matryoshka,
    Orthogonality,
    SAESettings,
    Tilt,
    Training,
    Variant,
)
from saeflow.sae.trainer import train_sae

SITE = "layers.1"
VARIANTS = {
    "relu": Variant(label="ReLU", activation="relu", l1=L1(coefficient=0.03)),
    "relu_free": Variant(activation="relu", l1=L1(coefficient=0.03), decoder_norm="free"),
    "topk": Variant(label="TopK", activation="topk", auxk=AuxK()),
    "batchtopk": Variant(label="BatchTopK", activation="batchtopk", auxk=AuxK()),
    "jumprelu": Variant(label="JumpReLU", activation="jumprelu", l0=L0(), auxk=AuxK()),
    "gated": Variant(label="Gated", activation="gated", l1=L1(coefficient=0.03)),
    "gated_nested": Variant(
        activation="gated", l1=L1(coefficient=0.03), matryoshka=Matryoshka(fractions=(0.7, 0.3))
    ),
    "matryoshka": Variant(
        label="Matryoshka", activation="batchtopk", auxk=AuxK(), matryoshka=Matryoshka()
    ),
    "ortsae": Variant(
        label="OrtSAE",
        activation="batchtopk",
        auxk=AuxK(),
        orthogonality=Orthogonality(chunk_size=16, every=2),
    ),
    "tilted": Variant(activation="topk", auxk=AuxK(normalise=False), tilt=Tilt(t=0.5, of="loss")),
}


def planted(
    n: int, features: int = 40, d: int = 32, active: float = 3, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return sparse positive sums (n, d) of unit directions plus a constant, and the directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = normalize(torch.randn(features, d, generator=generator), dim=1)
    on = torch.rand(n, features, generator=generator) < active / features
    strengths = on * (1 + torch.rand(n, features, generator=generator))
    return 3 * strengths @ directions + 0.5, directions


def settings(
    variant: str | Variant, *, d_sae: int = 64, l0: int = 3, seed: int = 0, **training: Any
) -> SAESettings:
    """Settings of an SAE on `planted` activations."""
    values = {"tokens": 100 * 64, "batch_size": 64, "learning_rate": 3e-3} | training
    return SAESettings(
        variant=VARIANTS[variant] if isinstance(variant, str) else variant,
        training=Training.model_validate(values),
        d_sae=d_sae, l0=l0, seed=seed,
    )  # fmt: skip


def planted_cache(folder: Path, rows_nd: Tensor) -> Path:
    """Write a one-site cache in two shards."""
    folder.mkdir(parents=True, exist_ok=True)
    sites = {SITE: rows_nd.shape[1]}
    stats: dict[str, int] = {}
    for number, part in enumerate(np.array_split(rows_nd.numpy().astype("<f4"), 2)):
        name, first = f"shard-{number:05d}.parquet", sum(stats.values())
        index = np.arange(first, first + len(part))
        ids = {
            "document": index // 4,
            "position": index.astype(np.int32),
            "token": (index % 50).astype(np.int32),
        }
        order = np.random.default_rng(number).permutation(len(part))
        write_shard(folder / name, ids, {SITE: part}, order)
        stats[name] = len(part)
    acts = ActivationSettings(tokens={"train": 10**6}, dtype="float32")
    write_manifest(
        folder,
        kind="activations",
        settings={"activations": acts.model_dump()},
        files=stats,
        stats={
            "rows": len(rows_nd),
            "sites": sites,
            "shards": stats,
            "group_rows": group_rows(sites, "float32"),
        },
    )
    return folder


class Stop(Exception):
    """Stands in for a crash."""


def interrupt_after(
    monkeypatch: pytest.MonkeyPatch, steps: int, error: type[BaseException] = Stop
) -> None:
    """Let the trainer fail after so many further steps."""
    original, taken = Trainer.step, iter(range(steps))

    def step(self: Trainer, raw_bd: Tensor, sequence_b: Tensor | None = None) -> Any:
        if next(taken, None) is None:
            raise error
        return original(self, raw_bd, sequence_b)

    monkeypatch.setattr(Trainer, "step", step)


def training_job(config: dict[str, Any], cache: Path, out: Path) -> None:
    """Run one training in a process of its own, with standard error in a file."""
    os.fsync = lambda handle: None  # a killed process loses no page; only a power cut would
    torch.set_num_threads(1)
    out.mkdir(exist_ok=True)
    with (out / "stderr.txt").open("w") as sys.stderr:
        train_sae(SAESettings.model_validate(config), cache, SITE, out)
