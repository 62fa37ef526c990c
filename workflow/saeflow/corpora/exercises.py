"""Physics questions with worked answers, made of templates and random quantities.

A stand-in for the "physics instruction" data of SSAE's Fig. 9, whose source is unknown: text of
the domain in another form than the documentation that SSAEs are specialised on. Formulas are
evaluated in SI units, from the very numbers that the question shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import floor, log10
from random import Random
from typing import Any

from saeflow.corpora.arithmetic import evaluate
from saeflow.corpora.documents import Document
from saeflow.corpora.generated_settings import ExercisesSource
from saeflow.corpora.rounds import Rounds
from saeflow.corpora.tables import json_table

_DIGITS = 3
_TRIES = 10_000
"""Questions in a row that were there already, after which the templates count as used up."""


def generate(settings: ExercisesSource) -> Iterator[Document]:
    """Yield `settings.n` exercises, all different; the first n do not depend on n.

    Templates come round in turn. Domains are `exercises.<topic>`; the label `answer` holds what
    is asked for, with its unit. Raises ValueError where n is more than the templates can vary.
    """
    rng = Random(f"exercises/{settings.seed}")
    templates = Rounds(rng, json_table("exercises")["templates"])
    forms = json_table("exercises")["forms"]
    seen: set[str] = set()
    repeats = 0
    while len(seen) < settings.n:
        template = templates.next()
        values = _values(template, rng)
        shown = {name: quantity(value, unit) for name, (value, unit) in values.items()}
        parts = {part: template[part].format_map(shown) for part in ("ask", "solve")}
        if parts["ask"] in seen:
            repeats += 1
            if repeats == _TRIES:
                raise ValueError(
                    f"exercises: the templates vary too little for n={settings.n} different "
                    f"questions, {len(seen)} were found; lower n"
                )
            continue
        repeats = 0
        topic = template["topic"]
        yield Document(
            text=rng.choice(forms).format(topic=topic, **parts),
            domain=f"exercises.{topic.replace(' ', '_')}",
            name=f"exercise-{len(seen):07d}",
            labels={"answer": "; ".join(shown[name] for name in template["find"])},
        )
        seen.add(parts["ask"])


def _values(template: dict[str, Any], rng: Random) -> dict[str, tuple[float, str]]:
    """Return name -> (value, unit) of the constants, the given and the found quantities."""
    table = json_table("exercises")
    values = {name: (value, unit) for name, (value, unit) in table["constants"].items()}
    for name, (low, high, step, unit) in template["let"].items():
        values[name] = (low + step * rng.randint(0, round((high - low) / step)), unit)
    for name, (formula, unit) in template["find"].items():
        si = {known: value * scale(of) for known, (value, of) in values.items()}
        values[name] = (evaluate(formula, si) / scale(unit), unit)
    return values


def scale(unit: str) -> float:
    """Return how many SI units of its kind a unit is: `km/h`, `J/(kg K)`, `m/s^2` or empty."""
    above, _, below = unit.partition("/")
    return _product(above) / _product(below.strip("()"))


def _product(factors: str) -> float:
    product = 1.0
    for factor in factors.split():
        name, _, power = factor.partition("^")
        product *= json_table("exercises")["units"][name] ** int(power or 1)
    return product


def quantity(value: float, unit: str) -> str:
    """Return a number to three digits with its unit: `12.5 m/s`, `3.1 x 10^-7 T`."""
    power = floor(log10(abs(value))) if value else 0
    rounded = round(value, _DIGITS - 1 - power)
    if -4 < power < 6:
        number = f"{rounded:.10g}"
    else:
        number = f"{rounded / 10.0**power:.{_DIGITS}g} x 10^{power}"
    return f"{number} {unit}".rstrip()
