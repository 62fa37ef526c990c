"""How sparse probing is measured."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from saeflow.evaluation.labelled_text_settings import LabelledClasses, LabelledTextSettings


class SparseProbingSettings(LabelledTextSettings):
    """How well single latents tell classes of text apart."""

    datasets: dict[str, LabelledClasses] = Field(min_length=1)
    """Sets of classes by name; SAEBench has eight of up to five classes."""
    k: tuple[PositiveInt, ...] = Field(default=(1, 2, 5), min_length=1)
    """Numbers of latents that a probe reads (SAEBench)."""
