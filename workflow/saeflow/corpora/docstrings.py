"""From a raw docstring to prose: no code, no placeholders, no empty sections."""

from __future__ import annotations

import inspect
import re
from itertools import islice

_DIRECTIVE = re.compile(r"\s*\.\. ([\w-]+)::")
_CODE_DIRECTIVES = {
    *("code", "code-block", "sourcecode", "ipython", "testcode", "testsetup", "testoutput"),
    *("doctest", "plot", "highlight", "jupyter-execute", "index", "currentmodule", "autosummary"),
}
_PLACEHOLDER = re.compile(r"\s*(\{\w*\}|\$[A-Z_]+|%\(\w[\w:]*\)s|</?\w+>)+\.?\s*")
_INLINE_PLACEHOLDER = re.compile(r"(?<![{\w])\{[a-z_]\w*\}(?!\})|%\(\w[\w:]*\)s|\$[A-Z_]{3,}")
_UNDERLINE = re.compile(r"\s*([-=~^])\1{2,}\s*")
_EXAMPLE = re.compile(r"\s*Examples?:{1,2}")
_WORD = re.compile(r"[A-Za-z]+")
_FUNCTION_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be been but by can do does for from has have if in into is it its may "
        "more must not of on one only or other same see should such than that the their then there "
        "these this to used using was when where which will with"
    )
)
_LICENCE = re.compile(
    r"Licensed under|Permission is hereby granted|Redistribution and use in source|"
    r"GNU (Lesser )?General Public License|All rights reserved",
    re.IGNORECASE,
)


def prose_of(docstring: str) -> str:
    """Return the docstring dedented and without code.

    Dropped are doctests with their output (from `>>>` to the next empty line), fenced blocks, the
    bodies of code directives and of `::` literal blocks, lines that are a placeholder of a
    template (`{input}`, `%(name)s`, `$PARAMS`), and section headings that nothing follows.
    """
    lines = inspect.cleandoc(docstring).splitlines()
    return "\n".join(_without_empty_sections(_without_code(lines)))


def is_english(text: str) -> bool:
    """Whether at least one word in ten is a common English function word, and at least nine
    letters in ten are ASCII."""
    words = _WORD.findall(text)
    letters = sum(map(str.isalpha, text))
    common = sum(word.lower() in _FUNCTION_WORDS for word in words)
    return common * 10 >= max(len(words), 1) and sum(map(len, words)) * 10 >= letters * 9


def is_licence(text: str) -> bool:
    """Whether the text is a copyright notice."""
    return _LICENCE.search(text) is not None


def _without_code(lines: list[str]) -> list[str]:
    kept: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        bare = line.strip()
        if bare.startswith(">>>"):
            at = _next_empty(lines, at)
        elif bare.startswith("```"):
            at = _after_fence(lines, at)
        elif _opens_code(line):
            if not _DIRECTIVE.match(line):
                kept.append(_INLINE_PLACEHOLDER.sub("", line.rstrip()[:-1]))
            at = _after_indented(lines, at)
        else:
            if not _PLACEHOLDER.fullmatch(line):
                kept.append(_INLINE_PLACEHOLDER.sub("", line))
            at += 1
    return kept


def _opens_code(line: str) -> bool:
    directive = _DIRECTIVE.match(line)
    if directive:
        return directive[1] in _CODE_DIRECTIVES
    return line.rstrip().endswith("::")


def _next_empty(lines: list[str], at: int) -> int:
    while at < len(lines) and lines[at].strip():
        at += 1
    return at


def _after_fence(lines: list[str], at: int) -> int:
    for end in range(at + 1, len(lines)):
        if lines[end].strip().startswith("```"):
            return end + 1
    return len(lines)


def _after_indented(lines: list[str], at: int) -> int:
    """Return the place after the last line that is deeper than line `at`."""
    depth = _indent(lines[at])
    end = at + 1
    for below in range(at + 1, len(lines)):
        if lines[below].strip():
            if _indent(lines[below]) <= depth:
                break
            end = below + 1
    return end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _without_empty_sections(lines: list[str]) -> list[str]:
    """Drop the underlined headings and `Example:` lines that introduce nothing."""
    kept: list[str] = []  # reversed, for what follows a heading must be settled first
    for line in reversed(lines):
        is_heading = bool(kept) and line.strip() and _UNDERLINE.fullmatch(kept[-1])
        if is_heading and _is_empty(kept[:-1]):
            kept.pop()
        elif not _EXAMPLE.fullmatch(line) or _goes_deeper(kept, _indent(line)):
            kept.append(line)
    return kept[::-1]


def _goes_deeper(following: list[str], depth: int) -> bool:
    line = next((line for line in reversed(following) if line.strip()), "")
    return bool(line) and _indent(line) > depth


def _is_empty(following: list[str]) -> bool:
    """Whether the (reversed) lines after a heading end, or are another heading."""
    first_two = list(islice((line for line in reversed(following) if line.strip()), 2))
    return not first_two or (len(first_two) == 2 and bool(_UNDERLINE.fullmatch(first_two[1])))
