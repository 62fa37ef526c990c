"""How spurious correlation removal is measured."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from saeflow.evaluation.labelled_text_settings import LabelledPair, LabelledTextSettings
from saeflow.evaluation.linear_probes_settings import RemovalProbe


class ScrSettings(LabelledTextSettings):
    """Whether ablating a spurious attribute's latents mends a probe that relies on it."""

    pairs: dict[str, LabelledPair] = Field(min_length=1)
    """Pairs of attributes by name; SAEBench has eight."""
    n: tuple[PositiveInt, ...] = Field(default=(2, 5, 10, 20, 50, 100, 500), min_length=1)
    """Numbers of latents that are ablated (SAEBench)."""
    probe: RemovalProbe = RemovalProbe()
    """The probes, of the site's activations."""
    seed: int = 0
    """Seed of the probes, the same for all SAEs."""
