"""Settings of the generated corpora: biographies, facts and exercises."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from saeflow.settings import Settings

BIAS_PAIRS: tuple[tuple[str, str], ...] = (
    ("professor", "nurse"),
    ("architect", "journalist"),
    ("surgeon", "psychologist"),
    ("attorney", "teacher"),
)
"""The pairs of the spurious-correlation evaluations: stereotyped male, stereotyped female."""

PROFESSIONS: tuple[str, ...] = (
    *(profession for pair in BIAS_PAIRS for profession in pair),
    "physician",
    "dentist",
    "photographer",
    "accountant",
    "software_engineer",
    "poet",
)
"""Every profession that the biographies know; the table in `data/professions.json` has each."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class BiographiesSource(Settings):
    """Biographies of invented people, with a profession, a gender and a known correlation."""

    source: Literal["biographies"] = "biographies"
    n: Annotated[int, Field(gt=0)] = 20_000
    """Number of documents."""
    seed: int = 0
    correlation: Share = 0.5
    """P(a person has the gender stereotyped for the profession); 0.5 is independence."""
    mention_profession: Share = 0.5
    """P(the profession is named); the others read like the `hard_text` of Bias in Bios."""
    detail: Share = 0.6
    """P(a sentence about work tells what the work is; the others fit every profession).

    At 1 every text is plain, and a probe has no need of gender as a shortcut."""
    professions: tuple[str, ...] = PROFESSIONS

    @field_validator("professions")
    @classmethod
    def _known_professions(cls, professions: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(professions) - set(PROFESSIONS))
        if unknown:
            raise ValueError(f"unknown professions {unknown}; choose from {list(PROFESSIONS)}")
        if not professions:
            raise ValueError(f"name at least one profession of {list(PROFESSIONS)}")
        if len(set(professions)) < len(professions):
            raise ValueError(f"a profession is listed twice in {list(professions)}")
        return professions


class FactsSource(Settings):
    """Templated facts about real cities and laureates, and first-letter spelling."""

    source: Literal["facts"] = "facts"
    n: Annotated[int, Field(gt=0)] = 20_000
    """Number of documents."""
    seed: int = 0
    spelling: Share = 0.25
    """Share of documents about spelling; the rest are facts."""
    words: tuple[str, ...] = ()
    """Words to spell besides the generator's own; lower-case ASCII letters, two or more."""

    @field_validator("words")
    @classmethod
    def _spellable(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        bad = [w for w in words if not (len(w) > 1 and w.isascii() and w.isalpha() and w.islower())]
        if bad:
            raise ValueError(f"words must be two or more lower-case ASCII letters, not {bad[:5]}")
        return words


class ExercisesSource(Settings):
    """Physics questions with worked answers: instructions, in place of the paper's unnamed
    "physics instruction" data (SSAE Fig. 9)."""

    source: Literal["exercises"] = "exercises"
    n: Annotated[int, Field(gt=0)] = 300
    """Number of documents: about 25,000 tokens, more than an evaluation reads."""
    seed: int = 0
