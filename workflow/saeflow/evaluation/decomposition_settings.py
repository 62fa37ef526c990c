"""When a latent counts as made of another SAE's."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from saeflow.settings import Settings


class DecompositionSettings(Settings):
    """How latents are written as sums of another SAE's decoder vectors, and which sums count."""

    terms: int = Field(default=3, ge=2, le=5)
    """Most decoder vectors in a sum: the paper's examples have two and three."""
    min_cosine: float = Field(default=0.95, gt=0, lt=1)
    """Cosine between a latent's decoder vector and the sum that has to be exceeded (OrtSAE)."""
    min_coefficient: PositiveFloat = 0.1
    """Least coefficient of every vector in the sum, all of unit norm (OrtSAE)."""
