"""What each evaluation measures and on how much held-out text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from saeflow.evaluation.absorption_settings import AbsorptionSettings
from saeflow.evaluation.clustering_settings import ClusteringSettings
from saeflow.evaluation.composition_settings import CompositionSettings
from saeflow.evaluation.concept_recall_settings import ConceptRecallSettings
from saeflow.evaluation.decomposed_latents_settings import DecomposedLatentsSettings
from saeflow.evaluation.decomposition_settings import DecompositionSettings
from saeflow.evaluation.detection_settings import DetectionSettings
from saeflow.evaluation.ravel_settings import RavelSettings
from saeflow.evaluation.scr_settings import ScrSettings
from saeflow.evaluation.sparse_probing_settings import SparseProbingSettings
from saeflow.evaluation.tpp_settings import TppSettings
from saeflow.evaluation.uniqueness_settings import UniquenessSettings
from saeflow.settings import Settings

CORE_METRICS = (
    "explained_variance",
    "fvu",
    "l0",
    "dead_latents",
    "ce_clean",
    "ce_zero",
    "ce_sae",
    "ce_loss_score",
    "perplexity_clean",
    "perplexity_sae",
    "kl_zero",
    "kl_sae",
    "kl_score",
    "mean_decoder_cosine",
    "mean_decoder_cosine_random",
)
"""Metrics that the core evaluation writes for every seed and split."""

ADDED_METRICS = ("l0_base", "l0_added", "dead_latents_added")
"""Metrics that it writes besides where latents were added to a base."""

PARETO_METRICS = (
    "l0",
    "perplexity_clean",
    "perplexity_sae",
    "perplexity_ratio",
    "perplexity_difference",
    "perplexity_ratio_overlap",
)
"""Metrics that relate the series of a sweep to its baseline."""

TOKEN_METRICS = (
    "coverage_argmax",
    "coverage_mass",
    "tail_coverage_argmax",
    "tail_coverage_mass",
    "tail_error_mean",
    "tail_error_std",
    "tail_error_max",
    "token_entropy",
    "token_max_activation",
    "token_peak_activation",
    "median_latent_count",
    "active_latents",
    "mean_pair_cosine",
)
"""Scalars of the token measures."""

CURVE_METRICS = (
    "coverage_argmax",
    "coverage_mass",
    "cumulative_coverage_argmax",
    "cumulative_coverage_mass",
    "error_mean_by_rank",
    "error_std_by_rank",
    "error_max_by_rank",
    "latent_count_by_rank",
    "decoder_cosine_density",
)
"""Curves of the token measures."""

COUNT_RATIO_METRICS = (
    "median_log_count_ratio",
    "mean_log_count_ratio",
    "share_of_ratios_below_zero",
)
"""Metrics of how often a series' latents fire against the baseline's."""

MAP_METRICS = ("decoder_spread",)
"""Scalars beside a map."""

Precision = Literal["auto", "float32", "bfloat16"]


class CoreSettings(Settings):
    """Settings of the core metrics of one SAE point (a variant at one sparsity, all seeds)."""

    splits: dict[Literal["train", "validation", "test"], PositiveInt] = Field(min_length=1)
    """Tokens read of each split: whole windows from its start until they hold so many."""
    batch_tokens: PositiveInt = 2048
    """Tokens, padding included, in one forward pass of the subject."""
    precision: Precision = "float32"
    """Arithmetic of the subject; `auto` is bfloat16 autocast where the device has it. The SAE is
    always run in float32."""


class SeriesSettings(Settings):
    """Settings of the core metrics of a series: every L0 and seed in one pass over a text."""

    tokens: PositiveInt = 8192
    """Tokens read of the tested split: whole windows from its start until they hold so many. The
    series of a sweep are compared on the same predictions, so that the spread between texts, which
    a larger budget narrows, cancels."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one forward pass of the subject."""
    precision: Precision = "float32"
    """Arithmetic of the subject, as in `CoreSettings`."""


class ParetoSettings(Settings):
    """How series are related to the baseline at the same measured L0."""

    extrapolate: NonNegativeFloat = 0.1
    """Largest relative distance in L0 beyond the ends of the baseline's curve at which a point is
    still compared to it, along the curve's last segment: SAEs that aim at the same L0 end a few
    per cent apart, so that without any margin the ends of every sweep would be lost. Points
    further out have no ratio."""
    overlap_margin: NonNegativeFloat = 0.25
    """Share of L0 by which the range of `perplexity_ratio_overlap` lies inside the ends of the
    baseline's curve, from lowest * (1 + m) to highest / (1 + m). The range is the same for all
    series, and one that does not reach its ends (within `extrapolate`) has no number: a
    fine-tuned SAE's L0 drifts from that of the SAE that it starts from, and the margin is the room
    that is left for it, at the price of a narrower range."""


class TokenMeasureSettings(Settings):
    """What is measured for each token type, latent and pair of decoder vectors.

    The paper defines none of coverage, tail and spread; every choice is a key.
    """

    tokens: PositiveInt = 32768
    """Tokens read of the tested split: whole windows from its start until they hold so many."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one forward pass of the subject."""
    precision: Precision = "float32"
    """Arithmetic of the subject, as in `CoreSettings`."""
    frequency_split: Literal["train", "validation", "test"] = "train"
    """Split of the tested corpus whose counts are the frequency of a token type: the largest, as
    the counts of rare types in a small one are mostly noise."""
    argmax: Literal["token", "type"] = "token"
    """Which type a latent stands for (`coverage_argmax`): that of the one token on which it is
    largest, as in the lists of top examples by which latents are read, or the type with the largest
    mean activation."""
    mass_share: float = Field(default=0.1, gt=0, le=1)
    """Least share of a latent's activation mass that has to fall on a type for the type to be
    covered (`coverage_mass`). A latent can cover at most ten types at 0.1, one above 0.5."""
    tail: float = Field(default=0.5, gt=0, lt=1)
    """The tail holds the types whose frequency is at most this quantile of the frequencies of the
    types seen: the rarer half."""
    cumulative: Literal["types", "tokens"] = "types"
    """What `x` of the cumulative coverage counts: token types, as its `value` does, or the tokens
    that are of these types."""
    bins: PositiveInt = Field(default=12, ge=2)
    """Logarithmic bins of frequency and of rank: with fewer the tail is a single point, with more
    the rarest hold too few types."""
    points: PositiveInt = Field(default=100, ge=2)
    """Points of a cumulative curve and of the curve of counts by rank, logarithmically spaced."""
    cosine_bins: PositiveInt = Field(default=200, ge=2)
    """Bins of the cosine between decoder vectors, over [-1, 1]."""
    cosine_latents: PositiveInt = Field(default=8192, ge=2)
    """Latents of which all pairs are compared, out of those that fire on the text: vectors of the
    others are left as they were drawn, far from all. Of more so many are drawn by the SAE's seed,
    as pairs grow with the square of it."""


class CountRatioSettings(Settings):
    """How often latents fire, against the same latents of the baseline."""

    epsilon: PositiveFloat = 1.0
    """Added to every count, so that a latent that fires in one of the two SAEs only has a ratio
    too; one token, the smallest count that there is."""


class MapSettings(Settings):
    """UMAP of token activations and decoder vectors (SSAE Fig. 19)."""

    tokens: PositiveInt = 16384
    """Tokens read of the tested split: whole windows from its start until they hold so many."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one forward pass of the subject."""
    activations: PositiveInt = 1500
    """Rows drawn of them without replacement: as many as a panel shows without hiding itself."""
    latents: PositiveInt = 1500
    """Decoder vectors drawn of each SAE, the same latents of all."""
    neighbours: PositiveInt = Field(default=15, ge=2)
    """UMAP's n_neighbors (its default)."""
    min_distance: float = Field(default=0.1, ge=0, le=1)
    """UMAP's min_dist (its default)."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """Distance in the space of activations. Decoder vectors have unit norm and activations have
    not, so that only their directions compare."""
    centre: bool = True
    """Take the mean off the activations, as the SAE's decoder bias does: otherwise all of them
    share one direction, far from every decoder vector."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the draws and of the layout."""


class EvaluationSettings(Settings):
    """One section for each evaluation."""

    core: CoreSettings
    """Reconstruction, sparsity, decoder geometry and the subject's loss with an SAE spliced in."""
    series: SeriesSettings = SeriesSettings()
    """The same for all SAEs of a series at once, on any text."""
    pareto: ParetoSettings = ParetoSettings()
    """Series against a baseline at the same measured L0."""
    tokens: TokenMeasureSettings = TokenMeasureSettings()
    """Coverage, error and activation by token type."""
    counts: CountRatioSettings = CountRatioSettings()
    """Activation counts against the baseline's."""
    map: MapSettings = MapSettings()
    """Activations and decoder vectors in the plane."""
    concepts: ConceptRecallSettings = ConceptRecallSettings()
    """Which planted concepts some latent detects."""
    composition: CompositionSettings = CompositionSettings()
    """How much of the decoder vectors a meta-SAE explains."""
    clustering: ClusteringSettings = ClusteringSettings()
    """Whether similar latents are similar to the same others."""
    uniqueness: UniquenessSettings = UniquenessSettings()
    """Latents that the baseline has nothing like."""
    decomposition: DecompositionSettings = DecompositionSettings()
    """Latents that are sums of the baseline's, and the other way round."""
    decomposed_latents: DecomposedLatentsSettings = DecomposedLatentsSettings()
    """Examples of the baseline's latents that are sums, with what they stand for."""
    absorption: AbsorptionSettings = AbsorptionSettings()
    """Latents of a class that are silent where more specific ones fire."""
    sparse_probing: SparseProbingSettings | None = None
    """Classes of text told by single latents; null where no text with classes is named."""
    scr: ScrSettings | None = None
    """Spurious correlations removed by ablating latents; null as above."""
    tpp: TppSettings | None = None
    """Classes that are ablated one at a time; null as above."""
    ravel: RavelSettings = RavelSettings()
    """Attributes of entities that latents carry, one without the others."""
    detection: DetectionSettings = DetectionSettings()
    """How well explanations of latents predict where they are active."""
