"""Residual SAEs, trained for some steps on the error of an SAE in a folder."""

from __future__ import annotations

from pathlib import Path

from sae_planted import SITE, settings

from saeflow.sae.settings import L1, FolderBase, Variant
from saeflow.sae.trainer import train_sae

_PENALTY = {"gated": {"l1": L1(coefficient=0.03)}}


def train_residual(
    base: Path, cache: Path, out: Path, *, activation: str = "batchtopk", seed: int = 0
) -> Path:
    """Train a residual SAE of 16 latents without decoder bias and return its folder."""
    variant = Variant(
        activation=activation,
        error_of=FolderBase(source="folder", path="base"),
        decoder_bias=False,
        **_PENALTY.get(activation, {}),
    )
    training = {"tokens": 30 * 64, "calibration_batches": 4}
    job = settings(variant, d_sae=16, l0=2, seed=seed, **training)
    train_sae(job, cache, SITE, out, base=base)
    return out
