"""How an SAE is built and trained: a composition of parts, each with the field's defaults."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from saeflow.settings import Settings

TIMING_METRIC = "step_seconds"
"""Metric of the rows that `timing.time_variants` writes."""

Share = Annotated[float, Field(ge=0, lt=1)]
Within = Annotated[float, Field(gt=0, lt=1)]
Precision = Literal["float32", "bfloat16"]

TOP_K = ("topk", "batchtopk")
"""Activation functions that fix L0 themselves, by comparing latents with one another."""


class L1(Settings):
    """Sum of latent activations, each weighted by its decoder row's norm.

    With `decoder_norm: unit` that is the plain sum. A gated SAE's penalty is on its gates.
    """

    coefficient: PositiveFloat = 2e-2
    """The penalty's weight; where `match_l0` is on, its starting value, unless the SAE of
    `init_from` was steered as well: then the value that it ended with."""
    match_l0: bool = True
    """Steer the coefficient, to the end, so that the batch L0 is the grid's L0."""
    match_gain: PositiveFloat = 20.0
    """Relative change of the coefficient per step, in units of the learning rate, where L0 is off
    by a factor of e or more. L0 answers at the pace of the learning rate: 5 lags behind a
    coefficient that has to fall all along, 40 swings at the start."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps over which the coefficient rises linearly from zero."""

    @model_validator(mode="after")
    def _steered_or_warmed_up(self) -> L1:
        if self.match_l0 and self.warmup:
            raise ValueError("warmup needs match_l0: false; a steered coefficient is no schedule")
        if not self.match_l0 and self.match_gain != type(self).model_fields["match_gain"].default:
            raise ValueError("match_gain needs match_l0: true; nothing is steered without it")
        return self


class L0(Settings):
    """Squared relative distance of the batch L0 from the grid's L0 (JumpReLU)."""

    coefficient: PositiveFloat = 1.0
    """The penalty's weight (dictionary_learning: 1, with a reconstruction loss of order 1)."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps over which the coefficient rises linearly from zero."""


class JumpReLU(Settings):
    """Thresholds that learn through a straight-through estimator (Rajamanoharan et al. 2024b)."""

    threshold: PositiveFloat = 0.05
    """Every latent's threshold at the start, where the mean square of an input entry is 1 (Gemma
    Scope: 0.001 for inputs of unit norm, which is this at d_in = 2,500)."""
    bandwidth: PositiveFloat = 0.05
    """Width of the estimator's rectangle, on the same scale (Gemma Scope: 0.001)."""


class AuxK(Settings):
    """Reconstruction of the error by the top dead latents (Gao et al. 2024)."""

    coefficient: PositiveFloat = 1 / 32
    """Weight alpha (OrtSAE appendix: 1/32 for all variants except ReLU)."""
    k: PositiveInt | None = None
    """Dead latents used per token; null is d_in / 2."""
    normalise: bool = True
    """Divide by the error's variance over the batch (Gao et al.); off: the mean square itself
    (the code of BatchTopK's authors)."""


class Matryoshka(Settings):
    """Nested prefixes of the dictionary, each of which must reconstruct (Bussmann et al. 2025)."""

    fractions: tuple[PositiveFloat, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
    """Share of the latents in each group; they sum to one."""
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    """Weight of each prefix's reconstruction, in proportion; null weighs all alike."""

    def boundaries(self, d_sae: int, added: int = 0) -> list[int]:
        """Return where each group ends among `d_sae` latents: rounded sums of the fractions.

        Of the latents that were there before so many were `added`, which are in the last group.
        """
        ends = [round(end * (d_sae - added)) for end in accumulate(self.fractions)]
        return [*ends[:-1], d_sae]

    @model_validator(mode="after")
    def _fractions_and_weights_fit(self) -> Matryoshka:
        if abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions must sum to 1, they sum to {sum(self.fractions):g}")
        if self.weights is not None and len(self.weights) != len(self.fractions):
            raise ValueError(
                f"weights must be one for each of the {len(self.fractions)} fractions, "
                f"they are {len(self.weights)}"
            )
        if self.weights is not None and self.weights[-1] == 0:
            raise ValueError("the last weight must not be 0: no latent of its group would learn")
        return self


class Orthogonality(Settings):
    """OrtSAE's penalty on the nearest decoder neighbour within random chunks (Eqs. 3-5)."""

    gamma: PositiveFloat = 0.25
    """Weight of the penalty when it is evaluated at every step."""
    chunk_size: int = Field(default=8192, ge=2)
    """Latents compared with one another; K = ceil(d_sae / chunk_size)."""
    chunks: PositiveInt | None = None
    """K itself, whatever the dictionary size; null goes by `chunk_size`."""
    every: PositiveInt = 1
    """Evaluate at every n-th step with n times gamma (5 is the paper's cheap variant)."""
    search: Precision = "float32"
    """Precision of the products that find a latent's nearest neighbour; its cosine is computed in
    float32. bfloat16 is faster where the processor multiplies it, and of neighbours whose cosines
    differ by less than its rounding it may take the other."""
    delta: PositiveFloat = 1e-8
    """Floor of the product of norms in the cosine; the paper gives no value."""

    @model_validator(mode="after")
    def _one_rule(self) -> Orthogonality:
        size = type(self).model_fields["chunk_size"].default
        if self.chunks is not None and self.chunk_size != size:
            raise ValueError(f"chunks {self.chunks} and chunk_size {self.chunk_size}: give one")
        return self


class Tilt(Settings):
    """Tilted empirical risk instead of the mean: (1/t) log mean exp(t loss) (Li et al. 2021)."""

    t: float
    """The tilt: above 0 leans towards the largest loss (SSAE: 500 and 1e9), below 0 away from it.
    Losses are of order 1 with `input_scaling: rms`."""
    over: Literal["token", "sequence"] = "token"
    """What has one loss: a token, or the tokens of one document in the batch, averaged; then
    batches are made of whole documents as far as they fit. SSAE does not say which."""
    of: Literal["reconstruction", "loss"] = "reconstruction"
    """Tilt the reconstruction alone, or the sum of all terms that a token has. SSAE does not say
    which."""
    running: float | None = Field(default=None, gt=0, lt=1)
    """Weight of the present batch in a running normaliser (TERM's stochastic form; its authors
    use 0.2 and 0.5); null normalises each batch by itself."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps over which t rises linearly from zero."""

    @model_validator(mode="after")
    def _tilts(self) -> Tilt:
        if self.t == 0:
            raise ValueError("t = 0 is the mean: remove the tilt section")
        return self


class TrainedBase(Settings):
    """A frozen SAE of this workflow, on the same subject and site and of the same seed."""

    source: Literal["trained"] = "trained"
    variant: str
    """Name in `variants`."""
    corpus: str
    """Corpus that it was trained on."""
    d_sae: PositiveInt
    l0: PositiveInt


class FolderBase(Settings):
    """An SAE on disk, in any layout that `formats.load_sae` reads."""

    source: Literal["folder"]
    path: str
    """Folder or file below `data_dir`."""


class TrainedInit(Settings):
    """An SAE of this workflow, on the same subject and site and of the same width, less what
    `extend` adds."""

    source: Literal["trained"] = "trained"
    variant: str
    """Name in `variants`."""
    corpus: str
    """Corpus that it was trained on."""
    l0: PositiveInt | None = None
    """Its place in the grid; null is that of the SAE that starts from it."""
    seed: int | None = None
    """null is the seed of the SAE that starts from it."""


class Extension(Settings):
    """New latents beside those of the SAE of `init_from` (SAE Boost's baseline "extended SAE")."""

    latents: PositiveInt = 1024
    """How many are new (SAE Boost: 1,024); d_sae less these is the width of the SAE before."""
    initialise: Literal["active", "random"] = "active"
    """`active` copies the latents of the largest mean activation on training data, turned by seeded
    noise; `random` starts as the latents of a new SAE do."""
    noise: PositiveFloat = 1.0
    """Length of the noise on a copied row, as a share of the row's: at 1 its cosine to the row is
    0.7. Nearer copies of frozen latents find everything written already, and fall silent."""
    frozen: bool = True
    """Train the new latents alone: those that there were, and b_dec, stay as they are. SAE Boost
    does not say; `init_from` is there to be kept."""

    @model_validator(mode="after")
    def _noise_is_read(self) -> Extension:
        if self.initialise == "random" and self.noise != type(self).model_fields["noise"].default:
            raise ValueError("noise needs initialise: active; random latents are no copies")
        return self


class Training(Settings):
    """The optimisation, the same for all variants of a comparison."""

    tokens: PositiveInt
    """Activations seen; the cache is read again from its start where it is shorter."""
    batch_size: PositiveInt = 2048
    """Activations a step."""
    learning_rate: PositiveFloat = 2e-4
    """Peak learning rate of Adam (OrtSAE appendix)."""
    betas: tuple[Share, Share] = (0.9, 0.99)
    """Adam's betas; not stated by OrtSAE, those of its code base."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps with a linearly rising rate."""
    decay: float = Field(default=0.2, ge=0, le=1)
    """Share of the steps at the end with a rate falling linearly to zero."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest gradient norm; null does not clip."""
    input_scaling: Literal["none", "rms", "unit_norm", "standardise"] = "rms"
    """`rms` divides by one global factor so that the mean square of an entry is 1, `unit_norm` so
    that the mean squared norm of a token is 1 (both are folded back); `standardise` gives every
    token mean 0 and deviation 1, which the finished SAE does as well."""
    selection: Precision = "float32"
    """Precision of the dense product that proposes what a top k selects. The proposed are computed
    again, and the cut is made, in float32. bfloat16 is faster where the processor multiplies it;
    other activation functions and data-parallel BatchTopK stay in float32."""
    dead_after_tokens: PositiveInt = 200_000
    """A latent is dead when it has not fired for so many tokens."""
    calibration_batches: PositiveInt = 64
    """Batches after the last step, at most one epoch, on which BatchTopK's inference threshold is
    set so that their mean L0 is k."""
    checkpoint_minutes: float = Field(default=5.0, ge=0)
    """Minutes between resumable checkpoints; 0 saves at every step."""
    snapshots: tuple[Within, ...] = ()
    """Shares of the steps after which the SAE of that moment is kept, for what compares several
    checkpoints (TracIn). BatchTopK's threshold is then set on the batch of that step."""

    @model_validator(mode="after")
    def _phases_fit(self) -> Training:
        if any(first >= second for first, second in pairwise(self.snapshots)):
            raise ValueError(f"snapshots {list(self.snapshots)} must rise")
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup + decay = {self.warmup + self.decay:g} exceeds 1")
        if self.batch_size > self.tokens:
            raise ValueError(f"batch_size {self.batch_size} exceeds tokens {self.tokens}")
        return self


class Variant(Settings):
    """One way to build and train an SAE; any meaningful combination is one config entry."""

    label: str = ""
    """Name in figures and tables; training does not depend on it."""
    activation: Literal["relu", "topk", "batchtopk", "jumprelu", "gated"]
    """What selects the active latents."""
    jumprelu: JumpReLU | None = None
    """Threshold and estimator of jumprelu; its defaults where absent."""
    l1: L1 | None = None
    """Sparsity penalty; required for relu and gated, refused for the others."""
    l0: L0 | None = None
    """Sparsity penalty; required for jumprelu, refused for the others."""
    auxk: AuxK | None = None
    """Dead-latent term."""
    matryoshka: Matryoshka | None = None
    """Nested prefixes."""
    orthogonality: Orthogonality | None = None
    """OrtSAE's penalty."""
    tilt: Tilt | None = None
    """Tilted risk in place of the mean over tokens."""
    error_of: Annotated[TrainedBase | FolderBase, Field(discriminator="source")] | None = None
    """The frozen SAE whose error is the target; absent: the activation is the target."""
    init_from: Annotated[TrainedInit | FolderBase, Field(discriminator="source")] | None = None
    """The SAE that is trained further; absent: training starts from seeded weights. The first step
    finds the very function of that SAE, with a fresh optimiser (see `continued`)."""
    extend: Extension | None = None
    """New latents beside those of `init_from`; the grid's d_sae and l0 are of both together."""
    decoder_norm: Literal["unit", "free"] = "unit"
    """Keep decoder rows at unit norm, or let them grow and weigh the L1 penalty by their norm;
    free norms are folded back."""
    decoder_bias: bool = True
    """Whether b_dec is learnt; off, it is zero."""
    apply_b_dec_to_input: bool | None = None
    """Subtract b_dec before the encoder; null does as the field: yes, but not for jumprelu, nor
    where b_dec is no point among the activations."""
    training: dict[str, float | int | str | list[float] | None] = Field(default_factory=dict)
    """Keys of `Training` that this variant changes, e.g. its learning rate. `tokens` only with
    `init_from`: what is trained further has a budget of its own."""

    @property
    def by_document(self) -> bool:
        """Whether batches are made of whole documents."""
        return self.tilt is not None and self.tilt.over == "sequence"

    @property
    def centred(self) -> bool:
        """Whether the encoder sees x less b_dec."""
        if self.apply_b_dec_to_input is not None:
            return self.apply_b_dec_to_input
        return self.activation != "jumprelu" and self.decoder_bias and self.error_of is None

    @property
    def steered(self) -> bool:
        """Whether training moves L0 to the grid's."""
        return self.l0 is not None or (self.l1 is not None and self.l1.match_l0)

    @property
    def architecture(self) -> str:
        """The parts that shape the SAE, e.g. `batchtopk+matryoshka`."""
        optional = ("matryoshka", "orthogonality", "tilt", "extend")
        parts = {name: getattr(self, name) for name in optional}
        named = [self.activation, *(name for name, part in parts.items() if part)]
        return "+".join([*named, "error"] if self.error_of else named)

    @model_validator(mode="after")
    def _meaningful(self) -> Variant:
        for reason in self._objections():
            raise ValueError(reason)
        return self

    def _objections(self) -> Iterator[str]:
        """Yield why this combination is refused."""
        kind = self.activation
        if kind in ("relu", "gated") and self.l1 is None:
            yield f"activation {kind} needs an l1 section: nothing else makes it sparse"
        if kind == "jumprelu" and self.l0 is None:
            yield "activation jumprelu needs an l0 section: nothing else makes it sparse"
        if kind == "jumprelu" and self.l1 is not None:
            yield "activation jumprelu has an l0 section in place of l1, which shrinks activations"
        if kind in TOP_K and (self.l1 or self.l0):
            section = "l1" if self.l1 else "l0"
            yield f"activation {kind} fixes L0 itself; remove the {section} section"
        if kind != "jumprelu" and self.l0 is not None:
            yield f"activation {kind} has no threshold that an l0 section could move"
        if kind != "jumprelu" and self.jumprelu is not None:
            yield f"activation {kind} does not read a jumprelu section"
        compares = f"activation {kind}" if kind in TOP_K else "auxk" if self.auxk else None
        if compares and self.decoder_norm == "free":
            yield (
                f"{compares} compares latents with one another, which means something only "
                "with decoder_norm: unit"
            )
        if kind == "gated" and self.auxk is not None:
            yield (
                "auxk ranks and revives latents by their pre-activation, of which a gated one has "
                "two; remove the auxk section"
            )
        if "selection" in self.training and kind not in TOP_K:
            yield f"training.selection does nothing for activation {kind}, which ranks nothing"
        if self.apply_b_dec_to_input and not self.decoder_bias:
            yield "apply_b_dec_to_input: true has nothing to subtract with decoder_bias: false"
        if self.apply_b_dec_to_input and self.error_of is not None:
            yield (
                "apply_b_dec_to_input: true would subtract a bias of the frozen SAE's error from "
                "activations"
            )
        if self.init_from is not None:
            yield from self._objections_to_start()
        if self.extend is not None:
            yield from self._objections_to_extension(self.extend)

    def _objections_to_start(self) -> Iterator[str]:
        if self.error_of is not None:
            yield (
                "init_from and error_of cannot be combined: no SAE's weights tell whose error they "
                "write"
            )
        fresh = JumpReLU()
        random = self.extend is not None and self.extend.initialise == "random"
        if (self.jumprelu or fresh).threshold != fresh.threshold and not random:
            yield "jumprelu.threshold does nothing with init_from, whose thresholds are taken over"

    def _objections_to_extension(self, extend: Extension) -> Iterator[str]:
        if self.init_from is None:
            yield "extend adds latents to the SAE of init_from, and there is none: name one"
        if extend.frozen and self.matryoshka is not None:
            yield (
                "matryoshka does nothing with extend.frozen, as new latents are all in its last "
                "group; remove the matryoshka section, or set extend.frozen: false"
            )


class SAESettings(Settings):
    """Everything one training job reads: the variant at one point of the grid."""

    variant: Variant
    training: Training
    d_sae: PositiveInt
    l0: PositiveInt
    """k of TopK and BatchTopK; the L0 that the other activation functions are steered to."""
    seed: int

    @property
    def steps(self) -> int:
        """Optimisation steps of the whole training."""
        return self.training.tokens // self.training.batch_size

    @property
    def start_width(self) -> int:
        """Latents of the SAE of `init_from`, the first of the dictionary."""
        return self.d_sae - self.added_latents

    @property
    def added_latents(self) -> int:
        """Latents that `extend` adds, the last of the dictionary."""
        return 0 if self.variant.extend is None else self.variant.extend.latents

    @property
    def frozen_latents(self) -> int:
        """How many of the first latents stay as they are; b_dec stays where any does."""
        extend = self.variant.extend
        return self.start_width if extend is not None and extend.frozen else 0

    @property
    def snapshot_steps(self) -> dict[int, float]:
        """Share of the training by the number of steps after which its snapshot is taken."""
        return {round(share * self.steps): share for share in self.training.snapshots}

    def identity(self) -> dict[str, Any]:
        """Return what decides the result, as JSON types from which the settings can be built.

        Without label and `checkpoint_minutes`: who renames a legend need not train again.
        """
        excluded: Any = {"variant": {"label"}, "training": {"checkpoint_minutes"}}
        return self.model_dump(mode="json", exclude=excluded)

    @model_validator(mode="after")
    def _point_is_possible(self) -> SAESettings:
        for reason in self._objections_to_width():
            raise ValueError(reason)
        if self.l0 > self.d_sae:
            raise ValueError(f"l0 {self.l0} exceeds d_sae {self.d_sae}: k must be at most d_sae")
        wanted, found = len(self.training.snapshots), self.snapshot_steps
        if len(found) < wanted or not all(0 < step < self.steps for step in found):
            raise ValueError(
                f"snapshots {list(self.training.snapshots)} do not fall on {wanted} steps of "
                f"their own between the first and the last of {self.steps}"
            )
        nested = self.variant.matryoshka
        ends = [0] if nested is None else [0, *nested.boundaries(self.d_sae, self.added_latents)]
        if any(start >= end for start, end in pairwise(ends)):
            raise ValueError(
                f"matryoshka.fractions leave a group of the {self.d_sae} latents empty: groups "
                f"would end at {ends[1:]}"
            )
        if self.training.input_scaling == "standardise" and self.variant.error_of is not None:
            raise ValueError(
                "input_scaling: standardise cannot have an error_of target: a token's mean, which "
                "is put back into every reconstruction, is no part of an error"
            )
        return self

    def _objections_to_width(self) -> Iterator[str]:
        """Yield why no SAE can be extended to `d_sae` latents."""
        extend = self.variant.extend
        if extend is None:
            return
        if self.start_width < 1:
            yield (
                f"d_sae {self.d_sae} leaves nothing beside the {extend.latents} latents of extend: "
                f"set it to the width of the SAE of init_from plus {extend.latents}"
            )
        if extend.initialise == "active" and extend.latents > self.start_width:
            yield (
                f"extend.latents {extend.latents} exceeds the {self.start_width} latents of the "
                "SAE of init_from, and initialise: active copies a latent once: set fewer, or "
                "initialise: random"
            )


def merge_training(base: Training, variant: Variant) -> Training:
    """Return `base` with the variant's own training keys; unknown keys raise ValidationError."""
    return Training.model_validate({**base.model_dump(), **variant.training})
