"""How feature absorption is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from saeflow.corpora.spelling import PROMPT
from saeflow.evaluation.linear_probes_settings import ProbeTraining
from saeflow.settings import Settings

Share = Annotated[float, Field(ge=0, le=1)]
OVER_CONCEPTS = ("absorption_fraction", "full_absorption")
"""Metrics that are also averaged over the concepts measured."""


class DirectionProbe(ProbeTraining):
    """Training of the probes whose directions stand for the classes; SAEBench's."""

    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: PositiveFloat = 1e-2
    final_learning_rate: PositiveFloat | None = 1e-5
    epochs: PositiveInt = 50
    batch_size: PositiveInt = 64
    l1: NonNegativeFloat = 0.0
    weight_decay: NonNegativeFloat = 1e-6
    positive_weight: bool = True


class SelectionProbe(ProbeTraining):
    """Training of the probes on latents that rank them for the k-sparse probes; SAEBench's."""

    optimiser: Literal["adam", "adamw"] = "adam"
    learning_rate: PositiveFloat = 1e-2
    final_learning_rate: PositiveFloat | None = 1e-5
    epochs: PositiveInt = 50
    batch_size: PositiveInt = 4096
    """Rows in one step: thirty steps an epoch of SAEBench's words, but one of 3,000. After fifty
    steps of Adam all weights are about as large and the order is nearly arbitrary; 256 gives so
    few rows enough steps."""
    l1: NonNegativeFloat = 0.01
    weight_decay: NonNegativeFloat = 1e-6
    positive_weight: bool = True


class ClassBars(Settings):
    """Which classes of a concept count."""

    min_rows: PositiveInt = 1
    """Fewest training rows, and fewest held-out ones, of a class that counts. SAEBench draws no
    line; below about five F1 is chance."""
    min_f1: Share = 0.6
    """Held-out F1 of its probe above which a class counts: below it the subject has no direction
    for the class that latents could stand for (SAEBench)."""
    min_classes: PositiveInt
    """Fewest classes that count; with fewer there is no score."""


class FirstLetters(ClassBars):
    """First letters of words, by SAEBench's rules."""

    words: Literal["vocabulary", "corpus"] = "vocabulary"
    """`vocabulary`: each token of ASCII letters, with or without a leading space (SAEBench).
    `corpus`: the corpus's most frequent words, of any number of tokens, for subjects whose
    vocabulary is too small to be words."""
    corpus_words: PositiveInt = 3000
    """Words taken of the corpus."""
    template: str = PROMPT
    """The question, with `{word}` once (SAEBench's)."""
    examples: NonNegativeInt = 10
    """Answered questions before it about other words of the same part of the split (SAEBench)."""
    position: Literal["word"] | Annotated[int, Field(lt=0)] = "word"
    """Where the activation is read: at the word's last token, which is SAEBench's -6 for its
    template and tokenizer, or at a token counted from the question's end. Small subjects have a
    direction for the letter only where they answer, at -1."""
    test_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the words that is held out (SAEBench)."""
    min_classes: PositiveInt = 20
    """Fewest letters that count (SAEBench)."""

    @field_validator("template")
    @classmethod
    def _one_word(cls, template: str) -> str:
        if template.count("{word}") != 1 or template.replace("{word}", "").count("{"):
            raise ValueError(f"give {{word}} once and no other braces, unlike {template!r}")
        return template


class Domains(ClassBars):
    """Packages and their subpackages: does a latent for `sympy.physics` absorb the one for `sympy`?

    OrtSAE speaks of "hierarchical concept domains" and measures first letters only; all of this
    is a choice of ours.
    """

    depth: PositiveInt = 1
    """Components of a document's dotted domain that name its class; what follows tells apart the
    parts of the class, which absorbing latents may stand for."""
    context: PositiveInt = Field(default=128, ge=2)
    """Tokens read from the start of a document, the begin token included. The activation is that
    of the last of them, by which the subject has seen most."""
    train_documents: PositiveInt = 2000
    """Documents of the train split on which probes are trained."""
    test_documents: PositiveInt = 2000
    """Documents of the test split on which absorption is measured."""
    min_classes: PositiveInt = 3
    """Fewest packages that count."""


class AbsorptionSettings(Settings):
    """How often latents for a class are silent because more specific latents stand in for them."""

    letters: FirstLetters | None = FirstLetters()
    """First letters; null leaves them out."""
    domains: Domains | None = None
    """Packages of a corpus whose domains are a hierarchy; null leaves them out."""
    batch_tokens: PositiveInt = 4096
    """Tokens, padding included, in one forward pass of the subject."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the subject, as in `CoreSettings`."""
    probe: DirectionProbe = DirectionProbe()
    """Probes of the classes on the site's activations."""
    selection: SelectionProbe = SelectionProbe()
    """Probes of the classes on latents."""
    candidates: PositiveInt = 4096
    """Latents that enter `selection`: all that fire on training rows, and of more than this those
    that are highest on some class, in standard deviations, as many of each class. It bounds
    memory; SAEBench takes all."""
    max_latents: PositiveInt = 10
    """Most latents of a k-sparse probe (SAEBench)."""
    logistic_iterations: PositiveInt = 500
    """Most iterations of a k-sparse probe's logistic regression (SAEBench)."""
    f1_jump: NonNegativeFloat = 0.03
    """Gain in held-out F1 above which another latent counts as one of the class's main latents,
    among which it is split (SAEBench)."""
    silent: NonNegativeFloat = 1e-8
    """Activation below which a latent is silent (SAEBench)."""
    full_cosine: Share = 0.025
    """Least cosine to the probe of the latent that absorbs fully (SAEBench)."""
    fraction_cosine: Share = 0.1
    """Least cosine to the probe of latents that absorb a fraction (SAEBench)."""
    projection_share: Share = 0.4
    """Least share of the activation's projection on the probe that absorbing latents make up
    (SAEBench)."""
    max_absorbers: PositiveInt = 3
    """Most latents that absorb a fraction together (SAEBench)."""
    seed: int = 0
    """Seed of the split, of the questions' examples and of the order of training rows."""

    @model_validator(mode="after")
    def _has_a_concept(self) -> AbsorptionSettings:
        if self.letters is None and self.domains is None:
            raise ValueError("absorption of nothing: give letters or domains")
        return self

    @property
    def reads_documents(self) -> bool:
        """Whether words or packages of a corpus are looked at."""
        of_corpus = self.letters is not None and self.letters.words == "corpus"
        return of_corpus or self.domains is not None
