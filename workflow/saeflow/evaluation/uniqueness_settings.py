"""How latents that another SAE has nothing like are told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, model_validator

from saeflow.settings import Settings


class UniquenessSettings(Settings):
    """Below which cosine to all decoder vectors of another SAE a latent is unique."""

    thresholds: tuple[Annotated[float, Field(gt=-1, lt=1)], ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    """Cosines below which a latent is unique, each a metric of its own; 0.2 is the paper's."""
    relative_threshold: PositiveFloat = 2.24
    """A further one, as a multiple of the random level: the expected largest cosine between a
    direction and as many random ones as the other SAE has decoder vectors. The paper's 0.2 is 2.24
    times that of its shape, 0.0892 for 65,536 vectors of width 2,304. In a narrow site random
    directions are closer to one another, and a fixed cosine means something else."""

    @model_validator(mode="after")
    def _each_once(self) -> UniquenessSettings:
        if len(set(self.thresholds)) < len(self.thresholds):
            raise ValueError(f"thresholds {list(self.thresholds)} name one twice")
        return self
