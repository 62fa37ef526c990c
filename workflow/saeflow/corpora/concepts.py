"""Concepts that can be planted: what they are, and sentences about them.

A concept is a meaning with many expressions (a nurse's duties, topics, workplaces; laureates in
physics), told in frames that all concepts of its kind share. No word names it, half of its
phrases may be kept for evaluation, and frames for evaluation are others than for training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from saeflow.corpora.tables import json_table, tsv_table

_WORK = ("duty", "topic", "workplace", "degree", "work", "people")
_LIVES = {"women": ("female", "male"), "men": ("male", "female")}


class Concept(NamedTuple):
    """A concept, or with the name `none` what fills the frames of its kind without meaning one."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}"


NO_CONCEPT = tuple(Concept(kind, "none") for kind in ("profession", "field", "continent", "life"))


@cache
def concepts() -> tuple[Concept, ...]:
    """Every concept, kind by kind."""
    fields = sorted({row["field"] for row in tsv_table("laureates")})
    continents = sorted({row["continent"] for row in tsv_table("cities")})
    return (
        *(Concept("profession", name) for name in json_table("professions")),
        *(Concept("field", name) for name in fields),
        *(Concept("continent", name.lower().replace(" ", "_")) for name in continents),
        *(Concept("life", name) for name in _LIVES),
    )


@cache
def phrases(concept: Concept) -> dict[str, tuple[str, ...]]:
    """The expressions of a concept, by slot of its frames."""
    found = _no_phrases(concept.kind) if concept.name == "none" else _phrases(concept)
    return {slot: tuple(values) for slot, values in found.items()}


def _phrases(concept: Concept) -> dict[str, Sequence[str]]:
    people = json_table("people")
    match concept.kind:
        case "profession":
            return _of_work(json_table("professions")[concept.name])
        case "field":
            rows = tsv_table("laureates")
            return {"laureate": [r["laureate"] for r in rows if r["field"] == concept.name]}
        case "continent":
            name = concept.name.replace("_", " ").title()
            return {"place": [r["city"] for r in tsv_table("cities") if r["continent"] == name]}
        case _:
            own, other = _LIVES[concept.name]
            return {
                "first": people[own]["first_names"].split(),
                "spouse": people[other]["first_names"].split(),
                "group": people[own]["groups"],
                "college": people[own]["colleges"],
            }


def _no_phrases(kind: str) -> dict[str, Sequence[str]]:
    people = json_table("people")
    names = people["unisex_names"].split()
    match kind:
        case "profession":
            return _of_work(json_table("any_work"))
        case "field":
            return {"laureate": [f"{first} {{surname}}" for first in names]}
        case "continent":
            return {"place": people["cities"].split()}
        case _:
            neutral = json_table("concept_frames")["no_concept"]
            return {"first": names, "spouse": names, **neutral}


def _of_work(table: dict[str, list[str]]) -> dict[str, Sequence[str]]:
    plurals = {"duty": "duties", "people": "people"}
    return {slot: table[plurals.get(slot, f"{slot}s")] for slot in _WORK}


class Writer:
    """Writes sentences about a concept in one of two disjoint styles: to train on, or held out.

    The frames of the two never meet. Of each slot's phrases the share `held_out_phrases` is drawn
    by `seed` for the held-out style alone, at least one staying for either; at 0 both use all.
    """

    def __init__(self, held_out_phrases: float, seed: int) -> None:
        self._share, self._seed = held_out_phrases, seed
        self._parts: dict[tuple[Concept, bool], dict[str, list[str]]] = {}

    def write(self, rng: Random, concept: Concept, *, held_out: bool) -> str:
        """One sentence."""
        style = "held_out" if held_out else "train"
        frame = rng.choice(json_table("concept_frames")[concept.kind][style])
        text = frame.format_map(_Slots(rng, self.part(concept, held_out=held_out)))
        return text[0].upper() + text[1:]

    def part(self, concept: Concept, *, held_out: bool) -> dict[str, list[str]]:
        """The phrases of a concept that a style uses, by slot."""
        if (concept, held_out) not in self._parts:
            self._parts[concept, held_out] = {
                slot: self._part(values, f"{concept}/{slot}", held_out)
                for slot, values in phrases(concept).items()
            }
        return self._parts[concept, held_out]

    def _part(self, values: Sequence[str], what: str, held_out: bool) -> list[str]:
        if not self._share:
            return list(values)
        order = Random(f"phrases/{self._seed}/{what}").sample(values, len(values))
        kept_out = min(max(round(self._share * len(values)), 1), len(values) - 1)
        return order[:kept_out] if held_out else order[kept_out:]


class _Slots:
    """Fills one sentence: a concept's phrases without repetition, and names that mean nothing."""

    def __init__(self, rng: Random, part: dict[str, list[str]]) -> None:
        self._rng, self._part = rng, part
        self._used: set[str] = set()

    def __getitem__(self, slot: str) -> str:
        values = self._part.get(slot.removesuffix("2"))
        if values is None:
            return self._neutral(slot)
        left = [value for value in values if value not in self._used]
        value = self._rng.choice(left or values)
        self._used.add(value)
        return value.format_map(self) if "{" in value else value

    def _neutral(self, slot: str) -> str:
        people = json_table("people")
        match slot:
            case "name":
                return f"{self._rng.choice(people['unisex_names'].split())} {self['surname']}"
            case "surname" | "surname2":
                return self._rng.choice(people["surnames"].split())
            case "city" | "home":
                return self._rng.choice(people["cities"].split())
            case "year":
                return str(self._rng.randrange(1985, 2022))
            case "university":
                return self._rng.choice(people["universities"]).format_map(self)
            case "saint" | "male_saint" | "female_saint":
                kinds = ("male_saints", "female_saints") if slot == "saint" else (f"{slot}s",)
                return self._rng.choice(" ".join(people[kind] for kind in kinds).split())
        raise KeyError(f"a frame or phrase of the concepts names the unknown slot {slot!r}")
