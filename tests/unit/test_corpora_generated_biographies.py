from __future__ import annotations

import math
import re
from collections import Counter
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from saeflow.corpora.biographies import generate, stereotyped_gender
from saeflow.corpora.documents import Document
from saeflow.corpora.generated_settings import BIAS_PAIRS, PROFESSIONS, BiographiesSource
from saeflow.corpora.tables import json_table, strings

N = 2000


@cache
def biographies(**settings: Any) -> tuple[Document, ...]:
    return tuple(generate(BiographiesSource(**{"n": N, **settings})))


def label(document: Document, name: str) -> str:
    assert document.labels is not None
    return document.labels[name]


def bag_of_words(documents: tuple[Document, ...]) -> tuple[Any, np.ndarray]:
    words = CountVectorizer(binary=True, token_pattern=r"\b\w+\b", min_df=3)
    return words.fit_transform(d.text for d in documents), words.get_feature_names_out()


def accuracy_without(x: Any, y: np.ndarray, removed: np.ndarray) -> tuple[float, np.ndarray]:
    """Held-out accuracy of a fit without some columns, and each column's largest weight."""
    kept = np.setdiff1d(np.arange(x.shape[1]), removed)
    half = x.shape[0] // 2
    fit = LogisticRegression(C=0.1, max_iter=300).fit(x[:half][:, kept], y[:half])
    weights = np.zeros(x.shape[1])
    weights[kept] = np.abs(fit.coef_).max(axis=0)
    return fit.score(x[half:][:, kept], y[half:]), weights


def test_the_same_settings_give_the_same_documents_and_another_seed_gives_others():
    assert biographies() == tuple(generate(BiographiesSource(n=N)))
    assert not {d.text for d in biographies()} & {d.text for d in biographies(seed=1)}


def test_the_first_documents_do_not_depend_on_n():
    assert tuple(generate(BiographiesSource(n=50))) == biographies()[:50]


def test_it_streams():
    first = list(islice(generate(BiographiesSource(n=10**9)), 3))
    assert [d.name for d in first] == [
        "biography-0000000",
        "biography-0000001",
        "biography-0000002",
    ]


def test_no_text_comes_twice_and_every_template_is_filled():
    texts = [d.text for d in biographies()]
    assert len(set(texts)) == N
    assert not [t for t in texts if re.search(r"[{}]|\.\.|  |\bNone\b", t)]


def test_every_template_and_value_can_be_filled_for_every_person():
    used = {t for d in biographies(n=6000) for t in re.split(r"(?<=\.) ", d.text)}
    text = " ".join(used)
    for table in ("biography_templates", "professions", "any_work", "people"):
        for template in strings(json_table(table)):
            if " " not in template or template.istitle():
                continue  # a label, or a list of names
            fixed = max(re.split(r"\{\w+\}", template), key=len).strip(" .,")
            assert fixed in text, f"never written: {template!r}"


def test_length():
    words = [len(d.text.split()) for d in biographies()]
    sentences = [
        len(re.findall(r"\.(?= [A-Z]|$)", re.sub(r"(Dr|Ms|Mrs|Mr|St)\.", r"\1", d.text)))
        for d in biographies()
    ]
    assert min(words) >= 40 and max(words) <= 160
    assert 60 <= np.median(words) <= 110
    assert min(sentences) >= 5 and max(sentences) <= 8


def test_domains_and_labels():
    for document in biographies():
        assert label(document, "gender") in ("female", "male")
        assert document.domain == f"biographies.{label(document, 'profession')}"
    professions = Counter(label(d, "profession") for d in biographies())
    assert set(professions) == set(PROFESSIONS)
    assert min(professions.values()) > N / len(PROFESSIONS) / 2


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_gender_follows_profession_as_often_as_the_knob_says(correlation: float):
    documents = biographies(correlation=correlation)
    hits = sum(label(d, "gender") == stereotyped_gender(label(d, "profession")) for d in documents)
    bound = 4 * math.sqrt(N * correlation * (1 - correlation))
    assert abs(hits - N * correlation) <= bound


@pytest.mark.parametrize("pair", BIAS_PAIRS)
def test_a_pair_has_opposite_stereotypes_and_all_four_groups(pair: tuple[str, str]):
    assert [stereotyped_gender(p) for p in pair] == ["male", "female"]
    documents = biographies(correlation=0.9, professions=pair)
    groups = Counter((label(d, "profession"), label(d, "gender")) for d in documents)
    for profession in pair:
        for gender in ("female", "male"):
            share = 0.45 if stereotyped_gender(profession) == gender else 0.05
            bound = 4 * math.sqrt(N * share * (1 - share))
            assert abs(groups[profession, gender] - N * share) <= bound


@pytest.mark.parametrize("mention", [0.0, 0.5, 1.0])
def test_the_profession_is_named_as_often_as_the_knob_says(mention: float):
    named = 0
    for d in biographies(mention_profession=mention):
        noun = json_table("professions")[label(d, "profession")]["noun"]
        named += bool(re.search(rf"\b{noun}s?\b", d.text, re.IGNORECASE))
    assert abs(named - N * mention) <= 4 * math.sqrt(N * mention * (1 - mention))


@pytest.mark.parametrize(("name", "bar"), [("profession", 0.85), ("gender", 0.98)])
def test_a_label_shows_in_the_text_but_in_no_single_word(name: str, bar: float):
    documents = biographies(mention_profession=0.0, n=3000)
    x, _ = bag_of_words(documents)
    y = np.array([label(d, name) for d in documents])
    full, weights = accuracy_without(x, y, np.array([], dtype=int))
    assert full > bar
    for word in np.argsort(weights)[-4:]:
        assert accuracy_without(x, y, np.array([word]))[0] > full - 0.03


@pytest.mark.parametrize(("detail", "low", "high"), [(0.0, 0.0, 0.45), (1.0, 0.99, 1.0)])
def test_detail_decides_how_plain_the_profession_is(detail: float, low: float, high: float):
    documents = biographies(mention_profession=0.0, detail=detail)
    x, _ = bag_of_words(documents)
    y = np.array([label(d, "profession") for d in documents])
    assert low <= accuracy_without(x, y, np.array([], dtype=int))[0] <= high


def test_gender_shows_beyond_names_and_pronouns():
    documents = biographies(mention_profession=0.0, n=3000)
    x, words = bag_of_words(documents)
    people = json_table("people")
    names = {n for g in ("female", "male") for n in people[g]["first_names"].lower().split()}
    pronouns = {"he", "she", "his", "her", "him", "mr", "ms", "mrs"}
    removed = np.flatnonzero(np.isin(words, sorted(names | pronouns)))
    y = np.array([label(d, "gender") for d in documents])
    assert accuracy_without(x, y, removed)[0] > 0.9


def test_uncorrelated_gender_says_nothing_about_the_profession():
    documents = biographies(n=6000)
    pairs = Counter((label(d, "profession"), label(d, "gender")) for d in documents)
    for profession in PROFESSIONS:
        total = pairs[profession, "female"] + pairs[profession, "male"]
        assert abs(pairs[profession, "female"] - total / 2) <= 4 * math.sqrt(total / 4)


def test_tables_have_no_blank_and_no_double():
    assert set(json_table("professions")) == set(PROFESSIONS)
    people = json_table("people")
    lists = [people[g][k].split() for g in ("female", "male") for k in ("first_names",)]
    lists += [people[k].split() for k in ("unisex_names", "surnames", "cities")]
    lists += [
        v for job in json_table("professions").values() for v in job.values() if isinstance(v, list)
    ]
    lists += list(json_table("biography_templates").values())
    for values in lists:
        assert all(v.strip() == v != "" for v in values)
        assert len(set(values)) == len(values)
    female, male, unisex = (set(values) for values in lists[:3])
    assert not (female & male or female & unisex or male & unisex)


@pytest.mark.parametrize(
    "bad",
    [
        {"n": 0},
        {"correlation": 1.1},
        {"correlation": -0.1},
        {"mention_profession": 2.0},
        {"detail": 1.01},
        {"professions": ()},
        {"professions": ("nurse", "nurse")},
        {"professions": ("nurse", "wizard")},
        {"colour": "blue"},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        BiographiesSource(**bad)
