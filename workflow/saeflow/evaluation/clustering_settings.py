"""At which densities the graph of decoder vectors is looked at."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from saeflow.settings import Settings

Level = Annotated[float, Field(gt=-1, lt=1)]


class ClusteringSettings(Settings):
    """The graph whose nodes are latents and whose edges join similar decoder vectors."""

    levels: tuple[Level, ...] = Field(
        default=(3e-4, 5e-4, 8e-4, 1.3e-3, 2e-3, 3.2e-3, 5e-3, 8e-3, 1.3e-2, 2e-2), min_length=1
    )
    """Ten graphs, as in the paper, which does not say at which cosines. By density they reach from
    the few closest pairs to about as many edges as can be held at the paper's width."""
    by: Literal["density", "cosine"] = "density"
    """What a level is: the share of all pairs that are joined, the closest ones, so that SAEs are
    compared at the same number of edges; or the cosine above which a pair is joined."""

    @model_validator(mode="after")
    def _levels_are_possible(self) -> ClusteringSettings:
        if len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels {list(self.levels)} name one twice")
        if self.by == "density" and min(self.levels) <= 0:
            raise ValueError(f"levels {list(self.levels)}: a density is above 0")
        return self
