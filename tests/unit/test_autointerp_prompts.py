"""What is asked of a language model, and which answers are taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from saeflow.autointerp.examples import Contexts, Examples, Pieces
from saeflow.autointerp.prompts import (
    Unreadable,
    again_prompt,
    detect_prompt,
    diversity_prompt,
    explain_prompt,
    read_detection,
    read_diversity,
    read_explanation,
)

PIECES = Pieces({0: "the", 1: " cat", 2: "\n", 3: " $5"})
CONTEXTS = Contexts(np.array([[0, 1, 2], [0, 3, 1]]), PIECES)
EXAMPLES = Examples(CONTEXTS, np.eye(2, 3), np.array([[False, True, True], [False, True, False]]))


def test_prompts_hold_what_may_be_seen() -> None:
    explain, diversity = explain_prompt(EXAMPLES), diversity_prompt("about $x", EXAMPLES)
    for prompt in (explain, diversity):
        assert "the<< cat\\n>>\nthe<< $5>> cat" in prompt
    detect = detect_prompt("about $x", CONTEXTS)
    assert "1: the cat\\n\n2: the $5 cat" in detect
    assert "about $x" in detect and "<<" not in detect
    assert "list of 2 numbers" in detect
    assert again_prompt(detect, 1, "it has $y").startswith(detect)


@pytest.mark.parametrize(
    ("read", "answer", "expected"),
    [
        (read_explanation, "Well.\nEXPLANATION: the word cat", "the word cat"),
        (read_explanation, "**Explanation:** \"cat\", or\nEXPLANATION: 'dog'", "'dog'"),
        (read_detection(3), "[1, 0, 1]", [True, False, True]),
        (read_detection(2), "It is\n```json\n[true, false]\n```", [True, False]),
        (read_detection(1), "[0, 1] no, I mean [1].", [True]),
        (read_diversity, '{"score": 40, "justification": "x"}', (40, "x")),
        (read_diversity, 'So: {"justification": "x", "score": 99.5}', (99.5, "x")),
        (
            read_diversity,
            '{"score": 5, "justification": "braces, { or }, in code"}',
            (5, "braces, { or }, in code"),
        ),
        (
            read_diversity,
            '{x} gives {"score": 5,\n"justification": "a\nb"} (see {1}).',
            (5, "a\nb"),
        ),
    ],
)
def test_answers_are_read(read: Callable[[str], Any], answer: str, expected: Any) -> None:
    assert read(answer) == expected


@pytest.mark.parametrize(
    ("read", "answer", "message"),
    [
        (read_explanation, "the word cat", "no line"),
        (read_explanation, "EXPLANATION:   ", "no line"),
        (read_explanation, "", "no line"),
        (read_explanation, "**EXPLANATION:**", "no line"),
        (read_detection(2), "yes, no", "no JSON list"),
        (read_detection(2), "[1]", "1 entries for 2"),
        (read_detection(2), "[1, 2]", "other than 0 and 1"),
        (read_detection(2), "[1, 'a']", "can be read"),
        (read_diversity, "50", "no JSON object"),
        (read_diversity, '{"score": 101, "justification": "x"}', "from 0 to 100"),
        (read_diversity, '{"score": NaN, "justification": "x"}', "from 0 to 100"),
        (read_diversity, '{"score": true, "justification": "x"}', "from 0 to 100"),
        (read_diversity, '{"score": 5}', "no justification"),
        (read_diversity, r'{"score": 5, "justification": "\ud800"}', "half a character"),
        (read_diversity, '{"score": ' + "[" * 100_000 + "}", "can be read"),
    ],
)
def test_other_answers_say_why_not(read: Callable[[str], Any], answer: str, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read(answer)
