"""What is shown of latents that are sums of another SAE's (OrtSAE Figs. 5, 8-10)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from saeflow.figures.grid_settings import Shown
from saeflow.settings import Settings


class _ShownSums(Shown):
    """Sums of the latents of a variant that are latents of the baseline."""

    variant: str
    """Variant whose latents are the parts."""
    baseline: str
    """Variant whose latents are sums: the grid's baseline."""
    contexts: PositiveInt = 3
    """Contexts of each latent, those in which it fires most; no more than were measured."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants whose latents are shown."""
        return (self.baseline, self.variant)

    @property
    def metrics(self) -> tuple[str, ...]:
        """A metric of the measure whose table is shown."""
        return ("decomposed_examples",)


class Decomposition(_ShownSums):
    """One latent as a sum: a box for it and for each part, beside contexts in which they fire."""

    kind: Literal["decomposition"]
    example: NonNegativeInt
    """Number of the example, from 0, in the order of `evaluation.decomposed_latents.parts`."""


class PublishedSum(Settings):
    """A sum that the paper shows."""

    label: str
    """Whose latents, and of which model."""
    latent: str
    """What the latent stands for."""
    parts: tuple[str, ...] = Field(min_length=2)
    """What its parts stand for."""


class Decompositions(_ShownSums):
    """Several sums: a block each, with a row for the latent and for each part."""

    kind: Literal["decompositions"]
    examples: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2, 3), min_length=1)
    """Numbers of the examples, as for one of them in a figure."""
    published: tuple[PublishedSum, ...] = ()
    """The paper's own sums, a block each."""
