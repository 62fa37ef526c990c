"""What the core evaluation measures and on how much held-out text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from saeflow.settings import Settings

CORE_METRICS = (
    "explained_variance",
    "fvu",
    "l0",
    "dead_latents",
    "ce_clean",
    "ce_zero",
    "ce_sae",
    "ce_loss_score",
    "kl_zero",
    "kl_sae",
    "kl_score",
    "mean_decoder_cosine",
    "mean_decoder_cosine_random",
)
"""Metrics that the core evaluation writes for every seed and split."""


class CoreSettings(Settings):
    """Settings of the core metrics of one SAE point (a variant at one sparsity, all seeds)."""

    splits: dict[Literal["train", "validation", "test"], PositiveInt] = Field(min_length=1)
    """Tokens read of each split: whole windows from its start until they hold so many."""
    batch_tokens: PositiveInt = 2048
    """Tokens, padding included, in one forward pass of the subject."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the subject; `auto` is bfloat16 autocast where the device has it. The SAE is
    always run in float32."""


class EvaluationSettings(Settings):
    """One section for each evaluation."""

    core: CoreSettings
    """Reconstruction, sparsity, decoder geometry and the subject's loss with an SAE spliced in."""
