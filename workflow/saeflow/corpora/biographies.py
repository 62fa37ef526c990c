"""Biographies of invented people: profession and gender, correlated by a knob.

A desk-scale stand-in for Bias in Bios (De-Arteaga et al. 2019). Neither label hangs on one
token: gender shows in first name, pronouns, title, family, groups, colleges and honours (and
weakly in hobbies); profession in workplace, degree, duties, topics, works and colleagues (and
weakly in hobbies). Some people have a first name that tells no gender, and some sentences about
work fit every profession, so that gender is the easier label, as it is in Bias in Bios.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from itertools import count
from random import Random
from typing import Any

from saeflow.corpora.documents import Document
from saeflow.corpora.generated_settings import BiographiesSource
from saeflow.corpora.tables import json_table

_PRONOUNS = {
    "female": {"S": "She", "s": "she", "P": "Her", "p": "her", "o": "her"},
    "male": {"S": "He", "s": "he", "P": "His", "p": "his", "o": "him"},
}
_DOCTORS = frozenset({"professor", "surgeon", "psychologist", "physician", "dentist"})
_WORK_KINDS = ("workplace", "degree", "duty", "topic", "work", "honor", "people")
_GENDER_KINDS = ("family", "group", "college", "gender_honor", "praise")
_NEUTRAL_KINDS = ("leisure", "place")

_UNISEX_NAME = 0.15
"""P(the first name tells no gender)."""
_DOCTOR_TITLE = 0.6
"""P(`Dr.` in place of a gendered title), where the profession has doctors."""
_HOBBY_LEAN = 0.2
"""P(a hobby leans to the person's gender), and the same again for the profession."""
_LATE_MENTION = 0.25
"""P(the profession is named in a later sentence instead of the first)."""


@cache
def _words(*keys: str) -> tuple[str, ...]:
    """A space-separated list of the people table, split once."""
    value: Any = json_table("people")
    for key in keys:
        value = value[key]
    return tuple(value.split())


def stereotyped_gender(profession: str) -> str:
    """The gender that `correlation` ties to a profession: `female` or `male`."""
    return json_table("professions")[profession]["stereotype"]


def generate(settings: BiographiesSource) -> Iterator[Document]:
    """Yield `settings.n` biographies, all different; the first n do not depend on n.

    Labels are `gender` and `profession`; the domain is `biographies.<profession>`.
    """
    seen: set[bytes] = set()
    for index in range(settings.n):
        for attempt in count():
            rng = Random(f"biographies/{settings.seed}/{index}/{attempt}")
            text, gender, profession = _biography(rng, settings)
            digest = blake2b(text.encode(), digest_size=16).digest()
            if digest not in seen:
                break
        seen.add(digest)
        yield Document(
            text=text,
            domain=f"biographies.{profession}",
            name=f"biography-{index:07d}",
            labels={"gender": gender, "profession": profession},
        )


def _biography(rng: Random, settings: BiographiesSource) -> tuple[str, str, str]:
    profession = rng.choice(settings.professions)
    gender = stereotyped_gender(profession)
    if rng.random() >= settings.correlation:
        gender = "male" if gender == "female" else "female"
    named = rng.random() < settings.mention_profession
    person = _Person(rng, gender, profession, settings.detail)
    return " ".join(person.write(kind) for kind in _outline(rng, named)), gender, profession


def _outline(rng: Random, named: bool) -> list[str]:
    """The kinds of sentence, in order: an opening, then work, life and leisure mixed."""
    late = named and rng.random() < _LATE_MENTION
    body = rng.sample(_WORK_KINDS, rng.choice((3, 4)))
    body += rng.sample(_GENDER_KINDS, rng.choice((1, 2)))
    body += ["later_named"] if late else rng.sample(_NEUTRAL_KINDS, rng.choice((0, 1)))
    if rng.random() < 0.5:  # half tell the career first, as most real ones do; half mix
        rng.shuffle(body)
    return ["open_named" if named and not late else "open_plain", *body]


class _Person:
    """One invented person: fixed facts, and a draw without repetition for the rest.

    A template's fields are looked up here through `format_map`, so a value that itself has
    fields (a workplace with a `{city}`) is filled the same way.
    """

    def __init__(self, rng: Random, gender: str, profession: str, detail: float) -> None:
        self._rng = rng
        self._detail = detail
        self._job: dict[str, Any] = json_table("professions")[profession]
        self._work = self._job
        self._life: dict[str, Any] = json_table("people")[gender]
        self._decks: dict[str, list[str]] = {}
        noun = self._job["noun"]
        article = "an" if noun[0] in "aeiou" else "a"
        first = rng.choice(
            _words("unisex_names") if rng.random() < _UNISEX_NAME else _words(gender, "first_names")
        )
        surname = rng.choice(_words("surnames"))
        doctor = profession in _DOCTORS and rng.random() < _DOCTOR_TITLE
        title = "Dr." if doctor else rng.choice(self._life["titles"])
        self._names = (f"{title} {surname}", first, surname, _PRONOUNS[gender]["S"])
        self._fixed = {
            **_PRONOUNS[gender],
            "full": f"{first} {surname}",
            "surname": surname,
            "noun": noun,
            "a": article,
            "A": article.capitalize(),
            "home": rng.choice(_words("cities")),
        }

    def write(self, kind: str) -> str:
        """One sentence of a kind; one about work may be such as fits every profession."""
        self._work = self._job if self._rng.random() < self._detail else json_table("any_work")
        templates = (
            self._life[kind] if kind in self._life else json_table("biography_templates")[kind]
        )
        return self._deal(f"template {kind}", templates).format_map(self)

    def __getitem__(self, field: str) -> str:
        if field in self._fixed:
            return self._fixed[field]
        value = self._draw(field.rstrip("2") if field != "surname2" else field)
        return value.format_map(self) if "{" in value else value

    def _draw(self, field: str) -> str:
        rng = self._rng
        match field:
            case "N":
                return rng.choice(self._names)
            case "city":
                city = rng.choice(_words("cities"))
                return city if city != self._fixed["home"] else self._draw("city")
            case "surname2":
                return rng.choice(_words("surnames"))
            case "year":
                return str(rng.randrange(1985, 2022))
            case "years":
                return str(rng.randrange(4, 30))
            case "age":
                return str(rng.randrange(8, 30))
            case "k":
                return rng.choice(("two", "three", "four", "five"))
            case "saint":
                return rng.choice(_words("male_saints") + _words("female_saints"))
            case "male_saint" | "female_saint":
                return rng.choice(_words(f"{field}s"))
            case "spouse_male" | "kin_male":
                return rng.choice(_words("male", "first_names"))
            case "spouse_female" | "kin_female":
                return rng.choice(_words("female", "first_names"))
            case "university":
                return self._deal(field, json_table("people")["universities"])
            case "group" | "college":
                return self._deal(f"{field}s", self._life[f"{field}s"])
            case "gender_honor":
                return self._deal(field, self._life["honors"])
            case "hobby":
                return self._hobby()
            case "people":
                return self._deal_work("people")
            case "duty":
                return self._deal_work("duties")
            case "workplace" | "degree" | "topic" | "work" | "honor":
                return self._deal_work(f"{field}s")
        raise KeyError(f"biography template names the unknown field {field!r}")

    def _hobby(self) -> str:
        lean = self._rng.random()
        if lean < _HOBBY_LEAN:
            return self._deal("hobby of gender", self._life["hobbies"])
        if lean < 2 * _HOBBY_LEAN:
            return self._deal("hobby of profession", self._job["hobbies"])
        return self._deal("hobby", json_table("people")["hobbies"])

    def _deal_work(self, values: str) -> str:
        deck = f"{values} of {self._work.get('noun', 'any work')}"
        return self._deal(deck, self._work[values])

    def _deal(self, deck: str, values: list[str]) -> str:
        """The next of `values` in a random order; starts over when all were dealt."""
        left = self._decks.get(deck)
        if not left:
            left = self._decks[deck] = self._rng.sample(values, len(values))
        return left.pop()
