"""What figures and tables of a grid have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt, model_validator

from saeflow.figures.common_settings import Described, SAEContext


class Context(SAEContext):
    """The origin of a figure of a grid."""

    training_tokens: PositiveInt
    """Activations that each SAE saw."""


class Shown(Described):
    """What is shown of a grid."""

    grid: str
    """Grid of the paper whose points are shown."""
    split: str = "test"
    """Held-out part of the corpus that was measured."""
    selection: str = "all"
    """Documents that the SAEs were trained on."""

    if TYPE_CHECKING:  # to pydantic, a property would stand in the way of a key of this name

        @property
        def variants(self) -> tuple[str, ...]:
            """The variants that are shown: a key, or all that other keys name."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are shown."""
        raise NotImplementedError


class ShownVariants(Shown):
    """What is shown of each variant of a list."""

    variants: tuple[str, ...] = Field(min_length=1)
    """Variants in drawing order."""

    @model_validator(mode="after")
    def _variants_are_distinct(self) -> ShownVariants:
        if len(set(self.variants)) < len(self.variants):
            raise ValueError(f"variants {self.variants} holds one twice")
        return self
