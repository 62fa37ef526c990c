"""How concept recall is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from saeflow.settings import Settings


class ConceptRecallSettings(Settings):
    """Which planted concepts some latent detects.

    The paper argues that SSAEs and TERM find rare concepts and measures no recall; with concepts
    whose places and frequencies are known it can be counted. All of this is a choice of ours.
    """

    bar: float = Field(default=0.85, gt=0.5, lt=1)
    """AUROC on test text from which on a concept counts as detected. At desk scale this is half way
    between the best single axis of the site (0.71) and a linear probe on the mean activation of a
    sentence (0.96): what the subject knows of the concepts, and needs no latent to tell."""
    unplanted: float = Field(default=0.25, ge=0)
    """Stretches of unplanted windows among the negatives, for each planted sentence. They are the
    easy ones; the sentences of other concepts, in the same frames, are the hard ones."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one forward pass of the subject."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the subject, as in `CoreSettings`."""
    seed: int = 0
    """Seed of the draw of unplanted stretches."""
