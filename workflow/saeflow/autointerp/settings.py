"""Who explains latents, from how much text, and by which protocol.

The SSAE paper (Fig. 8) lets a language model explain a latent from contexts that activate it, and
predict from that explanation alone in which other contexts it is active. Model, prompts and sample
sizes are not known; the defaults here are those of the detection scoring that was common when it
appeared (sae-auto-interp, later delphi), or say their own reason.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic import model_validator as check

from saeflow.settings import Settings


class Price(Settings):
    """What an endpoint charges for a million tokens, in one currency."""

    input: NonNegativeFloat
    """Of the prompts."""
    output: NonNegativeFloat
    """Of the answers."""


class Endpoint(Settings):
    """A language model behind an OpenAI-compatible chat-completions endpoint."""

    kind: Literal["endpoint"]
    url: Annotated[str, Field(pattern=r"^https?://[!-\"$->@-~]+$")]
    """Base address, to which `/chat/completions` is added: ASCII, without `?` and `#`."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the model, as the endpoint knows it."""
    api_key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Environment variable that holds the key (never the key itself); null: none is sent."""
    timeout_seconds: PositiveFloat = 60.0
    """From the request to the last byte; an answer that takes longer is asked for again."""
    retries: NonNegativeInt = 4
    """Further tries after a timeout, a status 429 or 5xx, a broken answer, or one that is not what
    was asked for."""
    backoff_seconds: NonNegativeFloat = 1.0
    """Pause before the first further try; each doubles it, up to a minute."""
    concurrency: PositiveInt = 8
    """Latents that are judged at the same time; each has one request under way."""
    temperature: NonNegativeFloat = 0.0
    """Of the sampling; 0 makes answers as repeatable as the endpoint can."""
    max_tokens: PositiveInt = 500
    """Longest answer; explanations are asked for in a sentence after some reasoning."""
    price_per_million: Price | None = None
    """For the estimate before the first request and the cost in the manifest; null: unknown."""


class Local(Settings):
    """A causal language model of Hugging Face that runs in the job itself."""

    kind: Literal["local"]
    path: str | None = None
    """Its folder (as `save_pretrained` writes it) below `data_dir`; or else `id` and `revision`."""
    id: str | None = None
    """Repository on the hub (or in its local cache)."""
    revision: str | None = None
    """Commit hash, or a tag that does not move."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Of the weights."""
    max_new_tokens: PositiveInt = 500
    """Longest answer."""
    retries: NonNegativeInt = 1
    """Further tries where an answer is not what was asked for; decoding is greedy, so a try adds
    what was wrong to the prompt."""

    @check(mode="after")
    def _one_place(self) -> Local:
        if (self.path is None) == (self.id is None):
            raise ValueError("give either path (a folder) or id and revision, and not both")
        if (self.id is None) != (self.revision is None):
            raise ValueError("id and revision belong together: a commit hash or a tag pins the id")
        if self.revision in ("", "main", "master", "HEAD"):
            raise ValueError(f"revision: {self.revision!r} moves; give a commit hash or a tag")
        place = PurePosixPath(self.path or "")
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"path {self.path!r} leaves data_dir; give it relative to it")
        return self


class Lexical(Settings):
    """No language model: explains by tokens and n-grams, and predicts by their presence.

    Needs no network and gives the same answer every time. It can express "reads one of these", and
    neither meaning nor grammar, so its F1 is a lower bound on what can be explained.
    """

    kind: Literal["lexical"]
    max_terms: PositiveInt = 20
    """Tokens and n-grams of one explanation: on desk SAEs, 40 explain no better, and 10 worse."""
    max_ngram: Annotated[int, Field(ge=1, le=3)] = 3
    """Longest sequence of tokens taken as one term; three tokens are a word or two."""
    min_gain: Annotated[float, Field(gt=0, lt=1)] = 0.025
    """A term is added while it raises the share of activating contexts that have a term, less the
    same share of silent contexts, by so much: by one of 40 examples, if no silent one has it."""
    contrast: PositiveInt = 1000
    """Other contexts, in which the latent is silent, that terms must separate from; with as few as
    the 50 of the score, most rare tokens would look absent elsewhere."""


Judge = Annotated[Endpoint | Local | Lexical, Field(discriminator="kind")]


class Autointerp(Settings):
    """Explaining and scoring sampled latents of the SAEs of one point."""

    judge: Judge = Lexical(kind="lexical")
    """Who explains and predicts. The default needs neither network nor a further model."""
    tokens: PositiveInt = 100_000
    """Tokens read of the split, in whole windows: 5,000 contexts, so that a latent that is active
    in 1 context of 200 has a dozen on each side."""
    batch_tokens: PositiveInt = 2048
    """Tokens, padding included, in one forward pass of the subject."""
    latents: PositiveInt = 100
    """Latents explained for each SAE: the first of a random order that are active often enough.
    The order is the same for all SAEs of one seed and width, so that a fine-tuned SAE is compared
    with its origin on much the same latents."""
    candidates: PositiveInt | None = None
    """Only so many of that order are looked at, which bounds the memory of a wide dictionary over
    much text; null: all."""
    min_activations: PositiveInt = 8
    """Activating contexts that a latent needs among those for explaining, and among those for
    scoring; and silent ones among the latter. 16 in all, as SAEBench asks for more than 15
    firings; a higher bar leaves out the rare latents that the paper is about."""
    example_tokens: Annotated[int, Field(ge=2)] = 20
    """Length of a context: windows are cut into pieces of so many tokens, what is left over at the
    end is not used."""
    train_examples: PositiveInt = 40
    """Activating contexts that the judge explains from (fewer where there are fewer)."""
    test_examples: PositiveInt = 50
    """Activating contexts of other documents that it is scored on, 5 a quantile; fewer where there
    are fewer, or not enough silent ones to go with them."""
    negatives_per_positive: PositiveFloat = 1.0
    """Silent contexts among them for each activating one, drawn at random. With as many, chance has
    accuracy 1/2 for every latent, and F1 does not depend on how often a latent is active."""
    quantiles: PositiveInt = 10
    """Groups of equal size by a context's greatest activation; examples are spread over them, so
    that weak activations count as well."""
    active_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Tokens of an example that are shown as active: those with at least this share of the
    example's greatest activation. It marks the peak and what comes near it, and leaves the many
    faint activations of an L1 penalty unmarked."""
    examples_per_prompt: PositiveInt = 10
    """Contexts whose activity a language model predicts in one answer."""
    seed: NonNegativeInt = 0
    """Seed of the order of latents, of which documents explain and which score, and of examples."""

    @check(mode="after")
    def _enough_candidates(self) -> Autointerp:
        if self.candidates is not None and self.candidates < self.latents:
            raise ValueError(
                f"candidates: {self.candidates} are fewer than latents, {self.latents}"
            )
        return self
