"""How causal effects on attributes of entities are measured."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from saeflow.settings import Settings


class RavelSettings(Settings):
    """Whether latents change one attribute of an entity and leave its others alone."""

    file: str | None = None
    """JSON file below `data_dir` with entities and templates (`ravel_entities.read_entities`);
    null takes the shipped facts with their held-out templates."""
    prompts: PositiveInt = 20_000
    """Prompts that the subject is asked of each kind of entity, drawn at random from all (SAEBench
    draws too)."""
    position: Literal["entity", "prompt"] = "entity"
    """Where activations are interchanged: at the last token of the entity (SAEBench), or of the
    prompt, where the answer is read. Small subjects have moved what they know of an entity to the
    prompt's end after few blocks; then interchange at the entity does nothing, whatever the SAE:
    `ravel_cause_whole` is near 0."""
    answer_tokens: PositiveInt = 6
    """Tokens of an answer that have to be right (SAEBench generates as many)."""
    max_entities: PositiveInt = 500
    """Entities of a kind that are used, those with the most right answers (SAEBench)."""
    max_templates: PositiveInt = 90
    """Templates of a kind that are used, those with the most right answers (SAEBench)."""
    min_entities: Annotated[int, Field(ge=2)] = 20
    """Fewest entities that the subject knows the attribute of; it is skipped with fewer. SAEBench
    draws no line; below this the pairs are few combinations over and over."""
    pairs: Annotated[int, Field(ge=2)] = 5000
    """Pairs of prompts about an attribute, and as many about the others (SAEBench)."""
    train_share: float = Field(default=0.7, gt=0, lt=1)
    """Share of the pairs on which the mask is learned; the others are scored (SAEBench)."""
    epochs: PositiveInt = 2
    """Passes over the training pairs (SAEBench)."""
    batch_pairs: PositiveInt = 32
    """Training pairs in one step. SAEBench's is the subject's batch size, which varies."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's, of the mask (SAEBench)."""
    final_temperature: float = Field(default=1e-4, gt=0, le=1)
    """Temperature of the mask's sigmoid at the last step, from 1 at the first, geometrically
    (SAEBench)."""
    keep_error: bool = False
    """Whether what the SAE does not reconstruct stays in the activation. SAEBench drops it, so that
    an SAE that reconstructs poorly loses answers by that alone."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one forward pass of the subject without gradients."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the subject, as in `CoreSettings`."""
    seed: int = 0
    """Seed of the prompts, the pairs and the order of training pairs, the same for all SAEs."""

    @field_validator("file")
    @classmethod
    def _below_data_dir(cls, file: str | None) -> str | None:
        if file is not None and (PurePosixPath(file).is_absolute() or ".." in file.split("/")):
            raise ValueError(f"file {file!r} leaves data_dir; give it relative to it")
        return file
