"""How an SAE is built and trained: a composition of parts, each with the field's defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from saeflow.settings import Settings

TIMING_METRIC = "step_seconds"
"""Metric of the rows that `timing.time_variants` writes."""


class L1(Settings):
    """Sum of latent activations (decoder rows have unit norm, so none is weighted)."""

    coefficient: PositiveFloat = 2e-2
    """The penalty's weight; where `match_l0` is on, its starting value."""
    match_l0: bool = True
    """Steer the coefficient, to the end, so that the batch L0 is the grid's L0."""
    match_gain: PositiveFloat = 20.0
    """Relative change of the coefficient per step, in units of the learning rate, where L0 is off
    by a factor of e or more. L0 answers at the pace of the learning rate: 5 lags behind a
    coefficient that has to fall all along, 40 swings at the start."""


class AuxK(Settings):
    """Reconstruction of the error by the top dead latents (Gao et al. 2024)."""

    coefficient: PositiveFloat = 1 / 32
    """Weight alpha (OrtSAE appendix: 1/32 for all variants except ReLU)."""
    k: PositiveInt | None = None
    """Dead latents used per token; null is d_in / 2."""


class Matryoshka(Settings):
    """Nested prefixes of the dictionary, each of which must reconstruct (Bussmann et al. 2025)."""

    fractions: tuple[PositiveFloat, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
    """Share of the latents in each group; they sum to one."""

    @model_validator(mode="after")
    def _fractions_sum_to_one(self) -> Matryoshka:
        if abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions must sum to 1, they sum to {sum(self.fractions):g}")
        return self


class Orthogonality(Settings):
    """OrtSAE's penalty on the nearest decoder neighbour within random chunks (Eqs. 3-5)."""

    gamma: PositiveFloat = 0.25
    """Weight of the penalty when it is evaluated at every step."""
    chunk_size: int = Field(default=8192, ge=2)
    """Latents compared with one another; K = ceil(d_sae / chunk_size)."""
    every: PositiveInt = 1
    """Evaluate at every n-th step with n times gamma (5 is the paper's cheap variant)."""
    delta: PositiveFloat = 1e-8
    """Floor of the product of norms in the cosine; the paper gives no value."""


class Training(Settings):
    """The optimisation, the same for all variants of a comparison."""

    tokens: PositiveInt
    """Activations seen; the cache is read again from its start where it is shorter."""
    batch_size: PositiveInt = 2048
    """Activations a step."""
    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate of Adam (OrtSAE appendix)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's betas; not stated by OrtSAE, those of its code base."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps with a linearly rising rate."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps at the end with a rate falling linearly to zero."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest gradient norm; null does not clip."""
    input_scaling: Literal["none", "rms"] = "rms"
    """`rms` divides by one global factor so that the mean square of an entry is 1 (folded back)."""
    dead_after_tokens: PositiveInt = 200_000
    """A latent is dead when it has not fired for so many tokens."""
    calibration_batches: PositiveInt = 64
    """Batches after the last step, at most one epoch, on which BatchTopK's inference threshold is
    set so that their mean L0 is k."""
    checkpoint_minutes: float = Field(default=5.0, ge=0)
    """Minutes between resumable checkpoints; 0 saves at every step."""

    @model_validator(mode="after")
    def _phases_fit(self) -> Training:
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay = {self.warmup + self.decay:g} exceeds 1")
        if self.batch_size > self.tokens:
            raise ValueError(f"batch_size {self.batch_size} exceeds tokens {self.tokens}")
        return self


class Variant(Settings):
    """One way to build and train an SAE; any meaningful combination is one config entry."""

    label: str = ""
    """Name in figures and tables; training does not depend on it."""
    activation: Literal["relu", "topk", "batchtopk"]
    """What selects the active latents."""
    l1: L1 | None = None
    """Sparsity penalty; required for relu, refused for topk and batchtopk."""
    auxk: AuxK | None = None
    """Dead-latent term."""
    matryoshka: Matryoshka | None = None
    """Nested prefixes."""
    orthogonality: Orthogonality | None = None
    """OrtSAE's penalty."""
    training: dict[str, float | int | str | list[float] | None] = Field(default_factory=dict)
    """Keys of `Training` that this variant changes, e.g. its learning rate."""

    @model_validator(mode="after")
    def _meaningful(self) -> Variant:
        if self.activation == "relu" and self.l1 is None:
            raise ValueError("activation relu needs an l1 section: nothing else makes it sparse")
        if self.activation != "relu" and self.l1 is not None:
            raise ValueError(f"activation {self.activation} fixes L0 itself; remove the l1 section")
        return self

    @property
    def architecture(self) -> str:
        """The parts that shape the SAE, e.g. `batchtopk+matryoshka`."""
        parts = {"matryoshka": self.matryoshka, "orthogonality": self.orthogonality}
        return "+".join([self.activation, *(name for name, part in parts.items() if part)])


class SAESettings(Settings):
    """Everything one training job reads: the variant at one point of the grid."""

    variant: Variant
    training: Training
    d_sae: PositiveInt
    l0: PositiveInt
    """k of TopK and BatchTopK; the L0 that an L1 coefficient is steered to."""
    seed: int

    def identity(self) -> dict[str, Any]:
        """Return what decides the result, as JSON types from which the settings can be built.

        Without label and `checkpoint_minutes`: who renames a legend need not train again.
        """
        excluded: Any = {"variant": {"label"}, "training": {"checkpoint_minutes"}}
        return self.model_dump(mode="json", exclude=excluded)

    @model_validator(mode="after")
    def _point_is_possible(self) -> SAESettings:
        if self.l0 > self.d_sae:
            raise ValueError(f"l0 {self.l0} exceeds d_sae {self.d_sae}: k must be at most d_sae")
        return self


def merge_training(base: Training, variant: Variant) -> Training:
    """Return `base` with the variant's own training keys; unknown keys raise ValidationError."""
    return Training.model_validate({**base.model_dump(), **variant.training})
