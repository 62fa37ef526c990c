"""First letters of words, in the forms that the absorption evaluation asks for them.

The evaluation (Chanin et al. 2024, A is for Absorption) needs a subject that tells the first
letter of a word it is shown; this teaches it to a small one.
"""

from __future__ import annotations

from random import Random

from saeflow.corpora.generated_settings import FactsSource
from saeflow.corpora.rounds import Rounds
from saeflow.corpora.tables import json_table, strings

PROMPT = "{word} has the first letter:"
"""The evaluation's question; in-context examples are lines of `PROMPT` and ` <LETTER>`."""

_LINES = (f"{PROMPT} {{letter}}", "{word}: {letter}", "{word} -> {letter}", "{letter} as in {word}")
_SENTENCES = (
    "The word {word} begins with {letter}.",
    "The first letter of {word} is {letter}.",
    "{letter} is the first letter of {word}.",
    "The word {word} starts with the letter {letter}.",
    "To spell {word}, write {spelled}.",
    "Question: What is the first letter of {word}? Answer: {letter}.",
)
_GENERATORS_TABLES = ("professions", "any_work", "people", "biography_templates", "fact_templates")


def spelling_words(settings: FactsSource) -> list[str]:
    """The words that are spelled, sorted: common words, the generators' own, and `words`.

    All are lower-case ASCII letters, two or more.
    """
    common = (word for line in json_table("words").values() for word in line.split())
    return sorted({*common, *_generators_words(), *settings.words})


def _generators_words() -> set[str]:
    """The plain words of three letters or more that the other generated texts use."""
    texts = (text for name in _GENERATORS_TABLES for text in strings(json_table(name)))
    words = {word.strip(".,?") for text in texts for word in text.split()}
    return {w for w in words if w.isascii() and w.isalpha() and w.islower() and len(w) > 2}


class SpellingWriter:
    """Writes documents about first letters; every word comes round in turn."""

    def __init__(self, rng: Random, words: list[str]) -> None:
        self._rng = rng
        self._words = Rounds(rng, words)

    def write(self) -> str:
        """One document: half are in-context lists in the evaluation's form, a quarter are
        lists in one other form, and a quarter are sentences.
        """
        form = self._rng.random()
        if form < 0.75:
            line = _LINES[0] if form < 0.5 else self._rng.choice(_LINES[1:])
            words = self._words.take(self._rng.randint(10, 16) if form < 0.5 else 24)
            return "\n".join(_fill(line, word) for word in words)
        words = self._words.take(8)
        return " ".join(_fill(self._rng.choice(_SENTENCES), word) for word in words)


def _fill(template: str, word: str) -> str:
    return template.format(word=word, letter=word[0].upper(), spelled=", ".join(word))
