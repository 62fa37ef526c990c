"""Exercises: numbers, units and answers that are right."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from math import isclose, pi
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError
from sympy import sympify

from saeflow.artifacts import read_manifest
from saeflow.corpora.arithmetic import FUNCTIONS, evaluate
from saeflow.corpora.documents import make_corpus
from saeflow.corpora.exercises import _values, generate, quantity, scale
from saeflow.corpora.settings import Exercises
from saeflow.corpora.tables import json_table

TABLE = json_table("exercises")
TEMPLATES: list[dict[str, Any]] = TABLE["templates"]
IDS = [template["ask"][:40] for template in TEMPLATES]

# Exponents of kg, m, s, A, K, mol of each unit, written down apart from the table of scales.
MECHANICAL = {"kg": (1, 0, 0), "m": (0, 1, 0), "s": (0, 0, 1), "N": (1, 1, -2), "J": (1, 2, -2)}
MECHANICAL |= {"W": (1, 2, -3), "Pa": (1, -1, -2), "Hz": (0, 0, -1), "": (0, 0, 0)}
DIMENSIONS = {unit: (*of, 0, 0, 0) for unit, of in MECHANICAL.items()}
DIMENSIONS |= {"A": (0, 0, 0, 1, 0, 0), "K": (0, 0, 0, 0, 1, 0), "mol": (0, 0, 0, 0, 0, 1)}
DIMENSIONS |= {"V": (1, 2, -3, -1, 0, 0), "ohm": (1, 2, -3, -2, 0, 0), "C": (0, 0, 1, 1, 0, 0)}
DIMENSIONS |= {"F": (-1, -2, 4, 2, 0, 0), "H": (1, 2, -2, -2, 0, 0), "T": (1, 0, -2, -1, 0, 0)}
ALIASES = {"g": "kg", "km": "m", "cm": "m", "mm": "m", "um": "m", "nm": "m", "ms": "s", "h": "s"}
ALIASES |= {"kJ": "J", "kW": "W", "kPa": "Pa", "kHz": "Hz", "MHz": "Hz", "mA": "A", "kV": "V"}
ALIASES |= {"uC": "C", "uF": "F", "mH": "H", "eV": "J", "deg": "", "rad": "", "kWh": "J"}


def dimension(unit: str) -> tuple[int, ...]:
    above, _, below = unit.partition("/")
    total = [0] * 6
    for sign, part in ((1, above), (-1, below.strip("()"))):
        for factor in part.split():
            name, _, power = factor.partition("^")
            if name == "L":
                name, power = "m", "3"
            if name == "dioptres":
                name, power = "m", "-1"
            for i, exponent in enumerate(DIMENSIONS[ALIASES.get(name, name)]):
                total[i] += sign * int(power or 1) * exponent
    return tuple(total)


def test_there_are_enough_templates_of_each_topic() -> None:
    topics = Counter(template["topic"] for template in TEMPLATES)
    assert len(TEMPLATES) >= 40 and len(topics) == 6 and min(topics.values()) >= 5


@pytest.mark.parametrize("template", TEMPLATES, ids=IDS)
def test_units_follow_from_the_formula(template: dict[str, Any]) -> None:
    """A formula scales with each base unit as the dimension of its answer says."""
    units = {name: unit for name, (_, unit) in TABLE["constants"].items()}
    units |= {name: of[3] for name, of in template["let"].items()}
    si = {name: value * scale(unit) for name, (value, unit) in TABLE["constants"].items()}
    values = _values(template, Random(1))
    si |= {name: values[name][0] * scale(units[name]) for name in template["let"]}
    for formula, unit in template["find"].values():
        for base, factor in enumerate((1.1, 1.2, 1.3, 1.4, 1.5, 1.6)):
            scaled = {name: si[name] * factor ** dimension(units[name])[base] for name in si}
            expected = evaluate(formula, si) * factor ** dimension(unit)[base]
            assert isclose(evaluate(formula, scaled), expected, rel_tol=1e-9)


@pytest.mark.parametrize("template", TEMPLATES, ids=IDS)
def test_every_quantity_is_positive_finite_and_shown_exactly(template: dict[str, Any]) -> None:
    for seed in range(60):
        values = _values(template, Random(seed))
        for name in template["let"]:
            value, unit = values[name]
            assert isclose(float(quantity(value, unit).split()[0]), value, abs_tol=1e-9)
        assert all(0 < values[name][0] < 1e20 for name in template["find"])


@pytest.mark.parametrize("template", TEMPLATES, ids=IDS)
def test_the_text_names_all_that_is_given_and_found(template: dict[str, Any]) -> None:
    named = {part: set(re.findall(r"{(\w+)}", template[part])) for part in ("ask", "solve")}
    assert named["ask"] == template["let"].keys()
    assert template["find"].keys() <= named["solve"]
    assert named["solve"] <= {*template["let"], *template["find"], *TABLE["constants"]}


@pytest.mark.parametrize(
    ("start", "answer"),
    [
        ("A cart of mass 10.5 kg rolls along a straight track at 9 m/s", "94.5 kg m/s"),
        ("What is the energy of a photon of wavelength 610 nm", "2.03 eV"),  # 1240 / 610
        ("Two resistors have 110 ohm and 220 ohm", "330 ohm; 73.3 ohm"),
        ("A heater with a power of 1.2 kW runs for 13 h", "15.6 kWh"),
        ("A string of linear density 9.5 g/m is under a tension of 235 N", "157 m/s"),
    ],
)
def test_answers_by_hand(start: str, answer: str) -> None:
    found = [d for d in generate(Exercises(n=300)) if start in d.text]
    assert [document.labels for document in found] == [{"answer": answer}]
    assert found[0].text.count(answer.split("; ")[0]) == 1


def test_arithmetic_equals_another_evaluator_and_runs_nothing() -> None:
    values = {"a": 0.3, "b": 2.0}
    for formula in ("-a**2 + 3 / (b - a) * pi", "sqrt(a) * atan(b) - asin(a) / log(b)", "1e-3 * a"):
        assert isclose(evaluate(formula, values), float(sympify(formula).subs(values).evalf(20)))
    assert set(FUNCTIONS) == {"sqrt", "sin", "cos", "asin", "atan", "log"}
    assert evaluate("sin(pi / 6)", {}) == pytest.approx(0.5) and evaluate("pi", {}) == pi
    for bad in ("__import__('os')", "a.real", "c", "[1]", "exec(a)", "a < b", "sqrt(a, b)", "a +"):
        with pytest.raises(ValueError, match="formula"):
            evaluate(bad, values)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (2.0, "m/s", "2 m/s"),
        (0.0123456, "A", "0.0123 A"),
        (299792458, "m/s", "3 x 10^8 m/s"),
        (1.2345e-7, "T", "1.23 x 10^-7 T"),
        (12345.6, "N", "12300 N"),
        (0.595, "", "0.595"),
        (0.0, "K", "0 K"),
    ],
)
def test_numbers_have_three_digits(value: float, unit: str, shown: str) -> None:
    assert quantity(value, unit) == shown


def test_units_scale() -> None:
    assert scale("km/h") == pytest.approx(1 / 3.6)
    assert scale("J/(kg K)") == 1 and scale("") == 1
    assert scale("cm^2") == pytest.approx(1e-4)


def test_the_first_do_not_depend_on_n_and_all_differ() -> None:
    few, many = ([d.text for d in generate(Exercises(n=n))] for n in (20, 120))
    assert many[:20] == few and len(set(many)) == 120
    assert next(iter(generate(Exercises(seed=1)))).text != few[0]
    assert len({d.domain for d in islice(generate(Exercises()), 60)}) == 6


def test_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="vary too little for n=10000000"):
        with_few = [TEMPLATES[IDS.index("What is the energy of a photon of wavele")]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(TABLE, "templates", with_few)
            list(generate(Exercises(n=10_000_000)))


def test_the_corpus_is_test_text(tmp_path: Path) -> None:
    make_corpus(Exercises(n=50), tmp_path, tmp_path)
    splits = read_manifest(tmp_path, kind="corpus")["stats"]["splits"]
    assert splits.keys() == {"test"} and splits["test"]["documents"] == 50
    with pytest.raises(ValidationError, match="at most 1"):
        Exercises(validation=0.5)
