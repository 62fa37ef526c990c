"""Which sums of latents are shown, and on how much text it is read what they stand for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from saeflow.settings import Settings


class DecomposedLatentsSettings(Settings):
    """Examples of latents that are sums of another SAE's, with what all of them stand for."""

    parts: tuple[Annotated[int, Field(ge=2, le=5)], ...] = Field(default=(2, 2, 3, 3), min_length=1)
    """Number of parts of each example: as in Figs. 5, 8, 9 and 10 of OrtSAE."""
    tokens: PositiveInt = 32768
    """Tokens read of the tested split: whole windows from its start until they hold so many."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one forward pass of the subject."""
    min_tokens: PositiveInt = 20
    """Tokens on which a latent and each of its parts have to fire for the sum to be drawn: of rarer
    ones a few contexts are all there is, which say little."""
    context: PositiveInt = 10
    """Tokens on each side of one on which a latent fires: 21 in all, about the 20 by which latents
    are explained and scored elsewhere."""
    contexts: PositiveInt = 3
    """Top activating contexts of each latent, each of another document; latents that fire in fewer
    have fewer."""
    words: PositiveInt = 5
    """Most tokens and short sequences of tokens that tell a latent's contexts from others: the
    first few of a lexical explanation hold most of it."""
    min_gain: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the contexts, less that of those in which the latent is silent, by which each of
    them has to add to the ones before: what is in fewer is as likely chance as meaning."""
    word_contexts: PositiveInt = 40
    """Contexts that these are taken from, spread over the strengths at which the latent fires: as
    many as latents are explained from elsewhere."""
    seed: NonNegativeInt = 0
    """Seed of the draws, of examples and of contexts in which a latent is silent."""
