"""What an activation cache holds and which tokens it leaves out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from saeflow.settings import Settings


class ActivationSettings(Settings):
    """Settings of one activation cache; the sites come from the subject."""

    tokens: dict[Literal["train", "validation", "test"], PositiveInt]
    """Rows to cache for each split; the cache may hold fewer if the corpus does."""
    dtype: Literal["float16", "float32"] = "float16"
    """Stored precision; float16 halves the size and is refused on overflow."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the forward pass; `auto` is bfloat16 autocast where the device has it."""
    batch_tokens: PositiveInt = 4096
    """Tokens in one forward pass."""
    shuffle_rows: PositiveInt = 262_144
    """Rows permuted together in memory before they are written."""
    skip_positions: int = Field(default=1, ge=0)
    """Rows dropped at the start of each window, where attention sinks sit."""
    sink_norm: float | None = Field(default=10.0, gt=1.0)
    """Drop rows whose norm exceeds this multiple of the site's median norm; null keeps them."""
    seed: int = Field(default=0, ge=0)
    """Seed of the write-time shuffle."""
