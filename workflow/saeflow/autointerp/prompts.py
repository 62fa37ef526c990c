"""The questions to a language model, and how its answers are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

from saeflow.autointerp.examples import CLOSE, OPEN, Contexts, Examples
from saeflow.autointerp.judges import Diversity

_FILE = Path(__file__).with_name("data") / "prompts.json"
_EXPLANATION = re.compile(r"^[\s*#]*EXPLANATION[\s*]*:[\s*]*([^\s*].*)$", re.I | re.M)
_LIST = re.compile(r"\[[^\[\]]*\]")
_JSON = json.JSONDecoder(strict=False)
"""Takes line breaks within strings, as models write them."""


class Unreadable(ValueError):
    """An answer that is not what was asked for; the message says why, for the next try."""


def explain_prompt(examples: Examples) -> str:
    """Ask for an explanation of marked examples."""
    return _filled("explain", open=OPEN, close=CLOSE, examples=_marked(examples))


def detect_prompt(explanation: str, contexts: Contexts) -> str:
    """Ask in which of the contexts a latent of that explanation is active."""
    texts = [f"{i + 1}: {_line(contexts.text(i))}" for i in range(len(contexts))]
    return _filled(
        "detect", explanation=explanation, count=str(len(contexts)), examples="\n".join(texts)
    )


def diversity_prompt(explanation: str, examples: Examples) -> str:
    """Ask how varied the examples are."""
    marked = _marked(examples)
    return _filled("diversity", open=OPEN, close=CLOSE, explanation=explanation, examples=marked)


def again_prompt(prompt: str, number: int, reason: str) -> str:
    """Ask once more after answer `number` could not be used."""
    return _filled("again", prompt=prompt, number=str(number), reason=reason)


def read_explanation(answer: str) -> str:
    """Return the explanation of the answer's last line that has one."""
    found = _EXPLANATION.findall(answer)
    if not found:
        raise Unreadable("it has no line that begins with EXPLANATION: and goes on")
    return found[-1].strip()


def read_detection(count: int) -> Callable[[str], list[bool]]:
    """Return a reader of an answer's last JSON list, which must hold `count` zeros and ones."""

    def read(answer: str) -> list[bool]:
        found = _last_list(answer)
        if len(found) != count:
            raise Unreadable(f"its list has {len(found)} entries for {count} excerpts")
        if any(entry not in (0, 1) for entry in found):
            raise Unreadable("its list has entries other than 0 and 1")
        return [bool(entry) for entry in found]

    return read


def read_diversity(answer: str) -> Diversity:
    """Return the score and justification of an answer's last JSON object."""
    found = _last_object(answer)
    score, justification = found.get("score"), found.get("justification")
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 100:
        raise Unreadable("its score is no number from 0 to 100")
    if not isinstance(justification, str) or not justification.strip():
        raise Unreadable("it has no justification")
    if any("\ud800" <= letter <= "\udfff" for letter in justification):
        raise Unreadable("its justification has half a character")
    return Diversity(float(score), justification.strip())


def _last_list(answer: str) -> list[Any]:
    found = _LIST.findall(answer)
    if not found:
        raise Unreadable("it has no JSON list")
    try:
        return json.loads(found[-1])
    except ValueError as error:
        raise Unreadable(f"it has no JSON list that can be read ({error})") from error


def _last_object(answer: str) -> dict[str, Any]:
    """Return the last JSON object of an answer, whose texts may have braces of their own."""
    found: dict[str, Any] | None = None
    reason = ""
    place = answer.find("{")
    while place >= 0:
        try:
            found, end = _JSON.raw_decode(answer, place)
        except (ValueError, RecursionError) as error:
            reason, end = f" that can be read ({error})", place + 1
        place = answer.find("{", end)
    if found is None:
        raise Unreadable(f"it has no JSON object{reason}")
    return found


def _filled(name: str, **fields: str) -> str:
    return _template(name).substitute(fields)


@cache
def _template(name: str) -> Template:
    return Template("\n".join(json.loads(_FILE.read_text())[name]))


def _marked(examples: Examples) -> str:
    return "\n".join(_line(examples.marked(i)) for i in range(len(examples)))


def _line(text: str) -> str:
    return text.replace("\r", "").replace("\n", "\\n")
