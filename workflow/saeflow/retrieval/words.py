"""A text's terms."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from saeflow.retrieval.settings import Words

_FUNCTION_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Lucene's English stop words."""


def splitter(settings: Words) -> Callable[[str], list[str]]:
    """Return the function from a text to its terms, in order and with repetitions."""
    find = re.compile(settings.pattern).findall
    stop = STOP_WORDS if settings.stop_words == "english" else frozenset()
    stem = cache(singular) if settings.stemming == "plural" else None

    def terms(text: str) -> list[str]:
        found = [term for term in find(text.lower()) if term not in stop]
        return [stem(term) for term in found] if stem else found

    return terms


def singular(term: str) -> str:
    """Return a lower-case English word without its plural ending (Harman 1991, S stemmer)."""
    if term.endswith("ies") and not term.endswith(("eies", "aies")):
        return term[:-3] + "y"
    if term.endswith("es") and not term.endswith(("aes", "ees", "oes")):
        return term[:-1]
    if term.endswith("s") and not term.endswith(("us", "ss")):
        return term[:-1]
    return term
