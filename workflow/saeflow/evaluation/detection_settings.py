"""How well explanations of latents are scored, by two protocols."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from saeflow.settings import Settings


class OrtSAESequences(Settings):
    """Sequences of a latent by OrtSAE's protocol (App. A)."""

    explain: PositiveInt = 10
    """Strongest sequences to explain from; the paper's "up to 10", which no latent that has enough
    to be scored on falls short of."""
    active: PositiveInt = 50
    """Activating sequences to be scored on (paper)."""
    silent: PositiveInt = 50
    """Random sequences to be scored on in which the latent is silent (paper)."""
    quantiles: PositiveInt = 10
    """Groups by strength over which the activating ones are spread. The paper says "of various
    strengths"; ten is a choice of ours, as of sae-auto-interp."""


class SAEBenchSequences(Settings):
    """Sequences of a latent by SAEBench's protocol: 14 to be scored on, 4 of them activating."""

    explain_top: PositiveInt = 10
    """Strongest sequences to explain from (SAEBench)."""
    explain_weighted: NonNegativeInt = 5
    """Further ones, drawn in proportion to the squared activation (SAEBench)."""
    top: PositiveInt = 2
    """Strongest sequences to be scored on: which of the strongest these are is drawn (SAEBench)."""
    weighted: NonNegativeInt = 2
    """Further ones, drawn in proportion to the squared activation (SAEBench)."""
    silent: PositiveInt = 10
    """Random sequences to be scored on in which the latent is silent. SAEBench draws ten from all
    text and counts them as silent even where the latent is active."""


class DetectionSettings(Settings):
    """Explaining latents in words and predicting from them in which sequences they are active.

    Who explains and predicts is the judge of `autointerp`.
    """

    ortsae: OrtSAESequences | None = OrtSAESequences()
    """OrtSAE's protocol, `detection_accuracy`; null leaves it out."""
    saebench: SAEBenchSequences | None = SAEBenchSequences()
    """SAEBench's protocol, `detection_accuracy_saebench`; null leaves it out."""
    tokens: PositiveInt = 2_000_000
    """Tokens read of the split, in whole windows (SAEBench)."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one forward pass of the subject."""
    latents: PositiveInt = 1000
    """Latents of each SAE, the first live ones of a random order (OrtSAE and SAEBench). The order
    is the same for all SAEs of one seed and width."""
    candidates: PositiveInt = 2000
    """Latents of that order that are looked at, live or not: it bounds memory, which holds every
    activation of these. Twice as many as `latents`, so that half may be dead."""
    min_firings: PositiveInt = 16
    """Tokens of the text read on which a latent must be active to be live: SAEBench's "more than
    15". OrtSAE says "live" alone."""
    side_tokens: PositiveInt = 10
    """Tokens on each side of the one that a sequence is centred on (SAEBench). OrtSAE says no
    length."""
    active_share: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the latent's greatest activation above which a token counts as active: it is marked,
    and its sequence is an activating one (SAEBench). A sequence is silent where no token is active
    at all."""
    seed: NonNegativeInt = 0
    """Seed of the order of latents and of the sequences drawn."""

    @model_validator(mode="after")
    def _something_to_do(self) -> DetectionSettings:
        if self.ortsae is None and self.saebench is None:
            raise ValueError("detection by no protocol: give ortsae or saebench")
        if self.candidates < self.latents:
            raise ValueError(
                f"candidates: {self.candidates} are fewer than latents, {self.latents}"
            )
        return self


Protocol = OrtSAESequences | SAEBenchSequences


def protocols_of(settings: DetectionSettings) -> dict[str, Protocol]:
    """Return the protocols that the settings do not leave out, by name."""
    both = {"ortsae": settings.ortsae, "saebench": settings.saebench}
    return {name: of for name, of in both.items() if of is not None}
