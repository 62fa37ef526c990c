"""Cleaning, hashes of text, and when two documents are the same."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from saeflow.corpora.settings import DuplicateRule

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")
_UNDECODABLE = re.compile("[\ud800-\udfff]+")  # left by surrogateescape, lone escapes
_LINE_END = re.compile(r"\r\n?|[\u0085\u2028\u2029]")
_TRAILING = re.compile(r"[ \t\u00a0]+$", re.MULTILINE)
_GAP = re.compile(r"\n{3,}")
_NOT_LETTERS = re.compile(r"[\W\d_]+")
_PLAIN_WORD = re.compile(r"(?<![\w.])[a-z]{2,}(?![\w.]*[\w])")


def clean(text: str) -> str:
    """Return `text` in NFC with `\\n` line ends, no control characters, no trailing white space,
    at most one empty line in a row, and U+FFFD for what is no character.

    Tabs are kept: in code and tables they mean something.
    """
    text = unicodedata.normalize("NFC", _LINE_END.sub("\n", text))
    text = _TRAILING.sub("", _CONTROL.sub("", replace_undecodable(text)))
    return _GAP.sub("\n\n", text).strip()


def has_undecodable(text: str) -> bool:
    """Whether text decoded with `surrogateescape` had bytes that are not UTF-8."""
    return _UNDECODABLE.search(text) is not None


def replace_undecodable(text: str) -> str:
    """Return `text` with U+FFFD for each run of what is no character."""
    return _UNDECODABLE.sub("\ufffd", text)


def duplicate_key(text: str, rule: DuplicateRule) -> str:
    """Return the part of `text` in which duplicates agree (see `CorpusSettings.duplicates`).

    A text without any letter or plain word is its own key, so that a table of numbers is no
    duplicate of another.
    """
    if rule == "letters":
        key = _NOT_LETTERS.sub(" ", text.casefold()).strip()
    elif rule == "prose":
        key = " ".join(_PLAIN_WORD.findall(text))
    else:
        key = ""
    return key or " ".join(text.split())


def integer_of(text: str, purpose: str) -> int:
    """Return a hash of `text` in [0, 2^63); different purposes give independent numbers."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=purpose.encode())
    return int.from_bytes(digest.digest(), "big") >> 1


def fraction_of(text: str, purpose: str) -> float:
    """Return a hash of `text` in [0, 1)."""
    return (integer_of(text, purpose) >> 10) / 2**53
