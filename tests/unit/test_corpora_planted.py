"""Concepts are planted where the labels say, as often as asked, and told by no word alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from corpora_small import rows_of, write_corpus
from pydantic import ValidationError

from saeflow.artifacts import read_manifest
from saeflow.corpora.concepts import NO_CONCEPT, Concept, Writer, concepts, phrases
from saeflow.corpora.documents import CorpusError, make_corpus
from saeflow.corpora.planted import deal_concepts, spans_of
from saeflow.corpora.settings import Planted
from saeflow.corpora.tables import json_table

SETTINGS = {
    "source": "planted",
    "corpus": "small",
    "frequencies": [0.05, 0.02],
    "concepts_per_frequency": 3,
    "background": 0.03,
    "validation_instances": 4,
    "test_instances": 6,
}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("parent"), documents=600)


@pytest.fixture(scope="module")
def planted(parent: Path) -> Path:
    out = parent.parent / "planted"
    make_corpus(Planted.model_validate(SETTINGS), out, out, {"small": parent})
    return out


def stats(folder: Path) -> dict[str, Any]:
    return read_manifest(folder, kind="corpus", deep=True)["stats"]


def test_spans_hold_whole_sentences_and_taking_them_out_gives_the_parent(
    parent: Path, planted: Path
) -> None:
    before = {row["name"]: row for row in rows_of(parent)}
    rows = rows_of(planted)
    assert [row["document"] for row in rows] == sorted(row["document"] for row in rows)
    assert {row["name"] for row in rows} == before.keys()
    changed = 0
    for row in rows:
        old = before[row["name"]]
        assert (row["split"], row["domain"]) == (old["split"], old["domain"])
        spans = spans_of(row["labels"])
        if not spans:
            assert row == old
            continue
        changed += 1
        assert row["document"] != old["document"]
        assert json.loads(row["labels"])["kind"] == json.loads(old["labels"])["kind"]
        text = row["text"]
        for span in spans:
            sentence = text[span.start : span.end]
            assert sentence[0].isupper() and sentence.endswith(".")
            assert text[: span.start].rstrip(" \n")[-1:] in {"", "."}
        for span in reversed(spans):
            text = text[: span.start] + text[span.end :]
        assert text.split() == old["text"].split()
    assert changed > 40


def test_frequencies_are_achieved_and_recorded(planted: Path) -> None:
    rows = rows_of(planted)
    train = [row for row in rows if row["split"] == "train"]
    total = sum(len(row["text"]) for row in train)
    chars: Counter[str] = Counter()
    for row in train:
        for span in spans_of(row["labels"]):
            chars[span.concept] += span.end - span.start
    described = stats(planted)["concepts"]
    assert len(described) == 6 and [c["frequency"] for c in described].count(0.05) == 3
    longest = 140  # characters of a sentence; the target is met to within half of one
    for concept in described:
        assert chars[concept["concept"]] / total == concept["achieved"]
        assert abs(concept["achieved"] - concept["frequency"]) * total < longest
    background = stats(planted)["background"]
    assert chars["background"] / total == background["achieved"]
    assert abs(background["achieved"] - 0.03) * total < longest


def test_held_out_splits_have_so_many_of_each(planted: Path) -> None:
    for split, expected in (("validation", 4), ("test", 6)):
        found = Counter(
            span.concept
            for row in rows_of(planted)
            if row["split"] == split
            for span in spans_of(row["labels"])
        )
        assert set(found.values()) == {expected} and len(found) == 7
        assert all(c["instances"][split] == expected for c in stats(planted)["concepts"])


def test_a_document_receives_several_sentences_of_a_concept(parent: Path, tmp_path: Path) -> None:
    """A level so rare that concepts hardly meet in a document."""
    settings = {**SETTINGS, "frequencies": [0.01], "concepts_per_frequency": 2, "background": 1e-9}
    counts = {}
    for each in (1, 4):
        chosen = Planted.model_validate({**settings, "sentences_per_document": each})
        make_corpus(chosen, tmp_path / str(each), tmp_path, {"small": parent})
        of_concepts = [
            Counter(span.concept for span in spans_of(row["labels"]))
            for row in rows_of(tmp_path / str(each))
            if row["split"] == "test"
        ]
        counts[each] = Counter(n for found in of_concepts for n in found.values())
    assert counts[1][1] >= 14 and counts[1].total() >= 16
    assert counts[4] == {4: 3, 2: 3}  # 6 sentences of two concepts and of none


def test_the_rarest_concept_is_there_once(parent: Path, tmp_path: Path) -> None:
    rare = Planted.model_validate({**SETTINGS, "frequencies": [1e-9]})
    make_corpus(rare, tmp_path, tmp_path, {"small": parent})
    assert [c["instances"]["train"] for c in stats(tmp_path)["concepts"]] == [1, 1, 1]


def test_seeds_decide_everything(parent: Path, planted: Path, tmp_path: Path) -> None:
    settings = Planted.model_validate(SETTINGS)
    make_corpus(settings, tmp_path / "again", tmp_path, {"small": parent})
    assert rows_of(tmp_path / "again") == rows_of(planted)
    other = settings.model_copy(update={"seed": 1})
    assert deal_concepts(other) != deal_concepts(settings)


def test_every_level_has_every_kind_alike() -> None:
    dealt = deal_concepts(Planted(source="planted", corpus="small"))
    levels = {frequency: Counter() for frequency in dealt.values()}
    for concept, frequency in dealt.items():
        levels[frequency][concept.kind] += 1
    for kind in ("profession", "field", "continent", "life"):
        counts = [level[kind] for level in levels.values()]
        assert max(counts) - min(counts) <= 1


def test_styles_share_neither_frames_nor_phrases() -> None:
    frames = json_table("concept_frames")
    for kind in {concept.kind for concept in concepts()}:
        assert not set(frames[kind]["train"]) & set(frames[kind]["held_out"])
    writer, sharing = Writer(0.5, seed=3), Writer(0.0, seed=3)
    for concept in (*concepts(), *NO_CONCEPT):
        train, held_out = (writer.part(concept, held_out=style) for style in (False, True))
        for slot, values in phrases(concept).items():
            assert train[slot] and held_out[slot]
            assert sorted(train[slot] + held_out[slot]) == sorted(values)
            assert sharing.part(concept, held_out=True)[slot] == list(values)


def test_sentences_use_the_phrases_of_their_style() -> None:
    writer, rng = Writer(0.5, seed=0), Random(0)
    nurse = Concept("profession", "nurse")
    train = " ".join(writer.write(rng, nurse, held_out=False) for _ in range(200))
    held_out = " ".join(writer.write(rng, nurse, held_out=True) for _ in range(200))
    for text, own, other in ((train, False, True), (held_out, True, False)):
        assert all(duty in text for duty in writer.part(nurse, held_out=own)["duty"])
        assert not any(duty in text for duty in writer.part(nurse, held_out=other)["duty"])


def test_no_word_of_a_frame_or_of_nobody_tells_a_concept() -> None:
    """Every word that most sentences of a concept have is also in others of its kind."""
    writer = Writer(0.5, seed=0)
    words = {
        concept: Counter(
            word
            for i in range(60)
            for word in set(writer.write(Random(i), concept, held_out=False).split())
        )
        for concept in (*concepts(), *NO_CONCEPT)
    }
    for concept in concepts():
        elsewhere = {w for c in words if c != concept and c.kind == concept.kind for w in words[c]}
        own = {word: n for word, n in words[concept].items() if word not in elsewhere}
        assert max(own.values(), default=0) < 40, concept


def test_more_concepts_than_there_are_and_missing_splits_are_refused(
    parent: Path, tmp_path: Path
) -> None:
    many = Planted(source="planted", corpus="small", concepts_per_frequency=6)
    with pytest.raises(CorpusError, match="5 frequencies x 6 concepts are 30, and there are 28"):
        make_corpus(many, tmp_path / "out", tmp_path, {"small": parent})
    (tmp_path / "tiny").mkdir()
    tiny = write_corpus(tmp_path / "tiny", documents=1)
    with pytest.raises(CorpusError, match=r"has no .* documents to plant concepts in"):
        make_corpus(many, tmp_path / "out", tmp_path, {"small": tiny})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"frequencies": [0.01, 0.01]}, "listed twice"),
        ({"frequencies": [0.2], "concepts_per_frequency": 5}, "plants would make 100%"),
        ({"frequencies": []}, "at least 1 item"),
        ({"frequencies": [0.0]}, "greater than 0"),
        ({"held_out_phrases": 1.0}, "less than 1"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Planted(source="planted", corpus="small", **changed)
