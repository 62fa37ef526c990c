"""Settings of the corpora that are made of others: a domain, one with plants, a mixture."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from saeflow.settings import Settings


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Globs = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
Share = Annotated[float, Field(gt=0, lt=1)]


class DerivedSettings(Settings):
    """What derived corpora share: documents that are not changed keep their id and split."""

    source: str

    @property
    def parents(self) -> tuple[str, ...]:
        """Corpora of `corpora` that this one is made of."""
        raise NotImplementedError


class OfOneCorpus(DerivedSettings):
    """A corpus that is made of one other."""

    corpus: str
    """Corpus of `corpora` that this one is made of."""

    @property
    def parents(self) -> tuple[str, ...]:
        """That corpus alone."""
        return (self.corpus,)


class Domain(OfOneCorpus):
    """The documents of another corpus that speak of one subject: `domain`, `name` and `labels` of
    a document must each match one of the globs given for it, case counts, and `exclude_names` must
    not."""

    source: Literal["domain"]
    domains: Globs = ()
    """Globs of domains (`sympy.physics`, `transformers.*`)."""
    names: Globs = ()
    """Globs of document names (`sympy.physics.optics.*`)."""
    labels: dict[str, Globs] = Field(default_factory=dict)
    """Globs by label: a document needs each label named here, with a value that matches."""
    exclude_names: Globs = ()
    """Globs of names that are left out all the same."""
    min_documents: PositiveInt = 10
    """Fewer documents are refused: three splits of a handful are no domain to learn and judge."""

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        if not (self.domains or self.names or self.labels):
            raise ValueError("give domains, names or labels: without any, it is the whole corpus")
        return self


class Planted(OfOneCorpus):
    """Another corpus with sentences about rare concepts planted in it: how rare is then known.

    Concepts are what the generated biographies and facts speak of: professions, fields of
    laureates, continents of cities, women's and men's lives. Of these a small subject that was
    trained on them has learnt the meaning, which it cannot have of words that it never saw. The
    sentences of a kind share their frames, so that none is told by a frame.
    """

    source: Literal["planted"]
    frequencies: tuple[Share, ...] = Field((1e-2, 3e-3, 1e-3, 3e-4, 1e-4), min_length=1)
    """Levels of rarity: share of the train split's characters in sentences of one concept. Of
    characters, because their share is nearest to that of any subject's tokens. A sentence has some
    25 tokens, so the default is one sentence in 2,500 to 250,000 tokens."""
    concepts_per_frequency: PositiveInt = 5
    """Concepts at each level, kinds mixed alike; there are 28 in all."""
    background: Share = 1e-3
    """Share of the train split's characters in the same frames filled with what belongs to no
    concept; held-out splits hold as many such sentences as of a concept."""
    sentences_per_document: PositiveInt = 4
    """Sentences of a concept that a document receives, at places of their own: a document that
    speaks of a rare thing comes back to it, and is one that retrieval can tell from others."""
    held_out_phrases: float = Field(0.5, ge=0, lt=1)
    """Share of each concept's phrases that the train split never uses. The held-out splits have
    frames of their own in any case; they fill them with these phrases alone, or with all if 0."""
    validation_instances: PositiveInt = 20
    """Sentences of each concept in the validation split."""
    test_instances: PositiveInt = 40
    """Sentences of each concept in the test split."""
    seed: int = 0

    @field_validator("frequencies")
    @classmethod
    def _distinct(cls, frequencies: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(frequencies)) < len(frequencies):
            raise ValueError(f"a frequency is listed twice in {list(frequencies)}")
        return frequencies

    @model_validator(mode="after")
    def _leaves_text(self) -> Self:
        share = sum(self.frequencies) * self.concepts_per_frequency + self.background
        if share > 0.5:
            raise ValueError(
                f"plants would make {share:.0%} of the train split: lower frequencies, "
                "concepts_per_frequency or background until they are at most half of it"
            )
        return self


class Mixture(DerivedSettings):
    """Whole documents of several corpora in given shares: general text like what a subject learnt.

    The shares have the meaning of a subject's `training.mixture`, of the text that is trained on,
    but of its characters in place of its tokens: a corpus has no tokeniser. No document is
    repeated, so that the corpus that is scarcest for its share bounds the size.
    """

    source: Literal["mixture"]
    parts: dict[str, Share] = Field(min_length=2)
    """Share of the train split's characters by corpus; the shares sum to 1. The held-out splits of
    a corpus are thinned as its train split is."""
    max_train_chars: PositiveInt | None = None
    """Characters of the train split, at most; null is as many as the shares allow."""
    seed: int = 0
    """Which documents are drawn of a corpus that is larger than its share."""

    @property
    def parents(self) -> tuple[str, ...]:
        """The corpora that are mixed."""
        return tuple(self.parts)

    @field_validator("parts")
    @classmethod
    def _sum_to_one(cls, parts: dict[str, float]) -> dict[str, float]:
        if abs(sum(parts.values()) - 1) > 1e-6:
            raise ValueError(f"the shares must sum to 1, they sum to {sum(parts.values()):g}")
        return parts
