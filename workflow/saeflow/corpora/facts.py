"""Templated facts about real cities and Nobel laureates, and first letters of words.

So that a small subject knows attributes by entity (cause and isolation as in RAVEL, Huang et
al. 2024). Some templates are held out: they never occur in the corpus, and `queries` asks with
them, so that a right answer shows knowledge of the pair and not of a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from random import Random
from typing import Any, NamedTuple

from saeflow.corpora.documents import Document
from saeflow.corpora.generated_settings import FactsSource
from saeflow.corpora.rounds import Rounds
from saeflow.corpora.spelling import SpellingWriter, spelling_words
from saeflow.corpora.tables import json_table, tsv_table

_TABLES = {"city": "cities", "laureate": "laureates"}

HELD_OUT_TEMPLATES: dict[str, tuple[str, ...]] = {
    attribute: tuple(forms["held_out"]) for attribute, forms in json_table("fact_templates").items()
}
"""By attribute: sentences for evaluation only, each ending in the value and a full stop."""


class Fact(NamedTuple):
    """The value of one attribute of one entity."""

    kind: str
    entity: str
    attribute: str
    value: str


class Query(NamedTuple):
    """A held-out sentence cut right before the value: `prompt + answer` is how it reads."""

    prompt: str
    answer: str
    """Begins with the space that parts it from the prompt."""
    entity: str
    attribute: str


@cache
def facts() -> tuple[Fact, ...]:
    """Every (entity, attribute) pair with its one value.

    Countries, also those of birth, are today's; a city's language is the one that most of its
    inhabitants, or its offices, use.
    """
    return tuple(
        Fact(kind, row[kind], attribute, value)
        for kind, table in _TABLES.items()
        for row in tsv_table(table)
        for attribute, value in row.items()
        if attribute != kind
    )


def queries() -> list[Query]:
    """Every pair under every held-out template: what a subject of this corpus should know."""
    return [
        Query(
            prompt=template.removesuffix(" {value}.").format(entity=fact.entity),
            answer=f" {fact.value}",
            entity=fact.entity,
            attribute=fact.attribute,
        )
        for fact in facts()
        for template in HELD_OUT_TEMPLATES[fact.attribute]
    ]


def generate(settings: FactsSource) -> Iterator[Document]:
    """Yield `settings.n` documents, all different; the first n do not depend on n.

    Domains are `facts.city`, `facts.laureate` and `facts.spelling`. A document about one pair
    has the labels `entity` and `attribute`. Pairs, entities and words come round in turn, so
    that each is met about equally often: at the default `spelling` every pair has had a document
    of its own, under six templates, after about 6,800 documents.
    """
    rng = Random(f"facts/{settings.seed}")
    writer = _FactWriter(rng)
    speller = SpellingWriter(rng, spelling_words(settings))
    seen: set[bytes] = set()
    while len(seen) < settings.n:
        if rng.random() < settings.spelling:
            kind, text, labels = "spelling", speller.write(), None
        else:
            kind, text, labels = writer.write()
        digest = blake2b(text.encode(), digest_size=16).digest()
        if digest not in seen:
            yield Document(text, f"facts.{kind}", f"fact-{len(seen):07d}", labels)
            seen.add(digest)


class _Group:
    """The facts of one attribute: its templates, and its facts dealt in turn."""

    def __init__(self, rng: Random, attribute: str) -> None:
        self.forms: dict[str, Any] = json_table("fact_templates")[attribute]
        self.by_entity = {f.entity: f for f in facts() if f.attribute == attribute}
        self.turns = Rounds(rng, list(self.by_entity.values()))


class _FactWriter:
    """Writes documents of about 60 words, in one of five forms."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._groups = {attribute: _Group(rng, attribute) for attribute in HELD_OUT_TEMPLATES}
        self._pairs = Rounds(rng, facts())
        self._entities = Rounds(rng, list(dict.fromkeys((f.kind, f.entity) for f in facts())))
        self._forms = Rounds(
            rng, (self._pair, self._entity, self._mixed, self._list, self._compare)
        )

    def write(self) -> tuple[str, str, dict[str, str] | None]:
        """The kind of entity, the text and the labels of one document."""
        return self._forms.next()()

    def _pair(self) -> tuple[str, str, dict[str, str] | None]:
        fact = self._pairs.next()
        text = " ".join(self._sentences(fact, 6))
        return fact.kind, text, {"entity": fact.entity, "attribute": fact.attribute}

    def _entity(self) -> tuple[str, str, None]:
        """Everything about one entity, twice, mixed."""
        kind, entity = self._entities.next()
        known = [g.by_entity[entity] for g in self._groups.values() if entity in g.by_entity]
        sentences = [text for fact in known for text in self._sentences(fact, 2)]
        self._rng.shuffle(sentences)
        return kind, " ".join(sentences), None

    def _mixed(self) -> tuple[str, str, None]:
        """Facts of one attribute about several entities."""
        group = self._any_group()
        picked = group.turns.take(8)
        return picked[0].kind, " ".join(self._sentences(f, 1)[0] for f in picked), None

    def _list(self) -> tuple[str, str, None]:
        group = self._any_group()
        picked = group.turns.take(14)
        lines = [group.forms["list"].format(**fact._asdict()) for fact in picked]
        return picked[0].kind, "\n".join([group.forms["header"], *lines]), None

    def _compare(self) -> tuple[str, str, None]:
        group = self._any_group()
        picked = group.turns.take(10)
        halves = zip(picked[::2], picked[1::2], strict=True)
        return picked[0].kind, " ".join(_comparison(group, a, b) for a, b in halves), None

    def _any_group(self) -> _Group:
        return self._groups[self._rng.choice(list(self._groups))]

    def _sentences(self, fact: Fact, n: int) -> list[str]:
        templates = self._rng.sample(self._groups[fact.attribute].forms["train"], n)
        return [template.format(**fact._asdict()) for template in templates]


def _comparison(group: _Group, a: Fact, b: Fact) -> str:
    form = group.forms["both" if a.value == b.value else "unlike"]
    return form.format(entity=a.entity, other=b.entity, value=a.value, other_value=b.value)
