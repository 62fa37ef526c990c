from __future__ import annotations

import re
from collections import Counter, defaultdict
from functools import cache
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from saeflow.corpora.documents import Document
from saeflow.corpora.facts import HELD_OUT_TEMPLATES, facts, generate, queries
from saeflow.corpora.generated_settings import FactsSource
from saeflow.corpora.rounds import Rounds
from saeflow.corpora.spelling import PROMPT, spelling_words
from saeflow.corpora.tables import json_table, tsv_table

TEMPLATES = json_table("fact_templates")


@cache
def documents(**settings: Any) -> tuple[Document, ...]:
    return tuple(generate(FactsSource(**{"n": 8000, **settings})))


def test_the_same_settings_give_the_same_documents_and_another_seed_gives_others():
    assert documents() == tuple(generate(FactsSource(n=8000)))
    assert documents(seed=1)[:20] != documents()[:20]


def test_the_first_documents_do_not_depend_on_n():
    assert tuple(generate(FactsSource(n=50))) == documents()[:50]


def test_no_text_comes_twice_and_every_template_is_filled():
    texts = [d.text for d in documents()]
    assert len(set(texts)) == 8000
    assert not [t for t in texts if re.search(r"[{}]", t)]
    assert min(len(t.split()) for t in texts) >= 30 and max(len(t.split()) for t in texts) <= 120


@pytest.mark.parametrize(
    ("table", "entities", "values"),
    [
        ("cities", 120, {"country": 30, "continent": 6, "language": 20}),
        ("laureates", 80, {"birthplace": 20, "field": 6, "gender": 2}),
    ],
)
def test_tables(table: str, entities: int, values: dict[str, int]):
    rows = tsv_table(table)
    key = next(iter(rows[0]))
    assert len(rows) >= entities
    assert len({row[key] for row in rows}) == len(rows)
    assert all(v and v == v.strip() for row in rows for v in row.values())
    for attribute, distinct in values.items():
        assert len({row[attribute] for row in rows}) >= distinct
    continents = defaultdict(set)
    if table == "cities":
        for row in rows:
            continents[row["country"]].add(row["continent"])
        assert {c for c, found in continents.items() if len(found) > 1} == {"Russia"}


def test_no_entity_is_a_value_or_an_entity_of_another_kind():
    kinds = defaultdict(set)
    for fact in facts():
        kinds[fact.entity].add(fact.kind)
    assert all(len(found) == 1 for found in kinds.values())
    assert not kinds.keys() & {fact.value for fact in facts()}


@pytest.mark.parametrize("attribute", sorted(TEMPLATES))
def test_templates(attribute: str):
    forms = TEMPLATES[attribute]
    assert len(set(forms["train"])) == len(forms["train"]) >= 12
    assert len(HELD_OUT_TEMPLATES[attribute]) >= 2
    for template in (*forms["train"], forms["list"]):
        assert sorted(re.findall(r"\{(\w+)\}", template)) == ["entity", "value"]
    for template in HELD_OUT_TEMPLATES[attribute]:
        assert re.fullmatch(r"[^{}]*\{entity\}[^{}]* \{value\}\.", template)


def test_held_out_sentences_never_occur():
    said = {
        sentence.rstrip(".") for d in documents() for sentence in re.split(r"(?<=[.?])\s", d.text)
    }
    assert len(said) > 10_000
    assert not said & {query.prompt + query.answer for query in queries()}


def test_queries_ask_every_pair_right_before_its_value():
    asked = queries()
    assert {(q.entity, q.attribute) for q in asked} == {(f.entity, f.attribute) for f in facts()}
    assert len(asked) == sum(len(HELD_OUT_TEMPLATES[f.attribute]) for f in facts())
    answers = {(f.entity, f.attribute): f.value for f in facts()}
    for query in asked:
        assert query.answer == f" {answers[query.entity, query.attribute]}"
        assert query.entity in query.prompt and query.prompt == query.prompt.rstrip()
    assert asked[0].prompt + asked[0].answer == "The city of Paris is in the country of France"


def test_every_pair_has_a_document_of_its_own_with_several_templates():
    answers = {(f.entity, f.attribute): f.value for f in facts()}
    met: Counter[tuple[str, str]] = Counter()
    for document in documents():
        if document.labels:
            pair = document.labels["entity"], document.labels["attribute"]
            met[pair] += 1
            expected = {
                t.format(entity=pair[0], value=answers[pair]) for t in TEMPLATES[pair[1]]["train"]
            }
            assert sum(sentence in document.text for sentence in expected) >= 6
    assert met.keys() == answers.keys()
    assert max(met.values()) <= min(met.values()) + 1


def test_whatever_is_said_of_a_pair_is_true():
    for attribute, forms in TEMPLATES.items():
        truth = {f.entity: f.value for f in facts() if f.attribute == attribute}
        pattern = re.compile(
            "^"
            + re.escape(forms["list"]).replace(r"\{entity\}", "(.+)").replace(r"\{value\}", "(.+)")
            + "$",
            re.MULTILINE,
        )
        said = [
            m
            for d in documents()
            if d.text.startswith(forms["header"])
            for m in pattern.findall(d.text)
        ]
        assert len(said) > 1000
        assert all(truth[entity] == value for entity, value in said)


def test_comparisons_compare_two_entities():
    pattern = re.compile(r"(?:^|\. )([\w' -]+) and ([\w' -]+) (?:are|were|both) ")
    both = [m for d in documents() for m in pattern.findall(d.text)]
    assert len(both) > 500
    assert all(a != b for a, b in both)


def test_domains_and_the_share_of_spelling():
    domains = Counter(d.domain for d in documents())
    assert set(domains) == {"facts.city", "facts.laureate", "facts.spelling"}
    assert abs(domains["facts.spelling"] - 2000) < 4 * (8000 * 0.25 * 0.75) ** 0.5
    assert min(domains["facts.city"], domains["facts.laureate"]) > 2500


@pytest.mark.parametrize("spelling", [0.0, 1.0])
def test_spelling_alone_and_none(spelling: float):
    found = {d.domain == "facts.spelling" for d in documents(n=300, spelling=spelling)}
    assert found == {spelling == 1.0}


def test_words_are_many_for_every_letter_but_x():
    words = spelling_words(FactsSource())
    assert len(words) > 2500 and words == sorted(set(words))
    assert all(w.isascii() and w.isalpha() and w.islower() and len(w) > 1 for w in words)
    first = Counter(w[0] for w in words)
    assert len(first) == 26 and all(first[c] >= 15 for c in first if c != "x")


def test_first_letters_are_right_and_every_word_comes_round():
    settings = FactsSource(n=1200, spelling=1.0, words=("zyzzyva",))
    pattern = re.compile(
        re.escape(PROMPT).replace(r"\{word\}", r"^(\w+)") + r" (\w)$", re.MULTILINE
    )
    text = "\n".join(d.text for d in generate(settings))
    lines = pattern.findall(text)
    assert len(lines) > 1200 * 0.4 * 10
    assert all(word[0].upper() == letter for word, letter in lines)
    assert "zyzzyva" in text
    assert set(spelling_words(settings)) <= set(re.findall(r"\w+", text))


def test_rounds_deal_everything_before_anything_again_and_take_differs():
    rounds = Rounds(Random(0), "abcde")
    assert [sorted(rounds.next() for _ in range(5)) for _ in range(3)] == [list("abcde")] * 3
    assert all(len(set(rounds.take(4))) == 4 for _ in range(50))


@pytest.mark.parametrize(
    "bad",
    [{"n": 0}, {"spelling": 1.5}, {"words": ("Upper",)}, {"words": ("a",)}, {"words": ("naïve",)}],
)
def test_bad_settings_are_refused(bad: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        FactsSource(**bad)
