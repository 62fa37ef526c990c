"""How targeted probe perturbation is measured."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from saeflow.evaluation.labelled_text_settings import LabelledClasses, LabelledTextSettings
from saeflow.evaluation.linear_probes_settings import RemovalProbe


class TppSettings(LabelledTextSettings):
    """Whether ablating a class's latents hurts the probe of that class and no other."""

    datasets: dict[str, LabelledClasses] = Field(min_length=1)
    """Sets of classes by name; SAEBench has two of five classes."""
    n: tuple[PositiveInt, ...] = Field(default=(2, 5, 10, 20, 50, 100, 500), min_length=1)
    """Numbers of latents that are ablated (SAEBench)."""
    probe: RemovalProbe = RemovalProbe()
    """The probes, of the site's activations."""
    seed: int = 0
    """Seed of the probes, the same for all SAEs."""
