"""Ambiguous, balanced and tested sets from a corpus with labels, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from debias_planted import (
    GENDER,
    PROFESSION,
    WORDS,
    planted_corpus,
    planted_settings,
    planted_subject,
    rows,
    write_corpus,
)

from saeflow.artifacts import ArtifactError
from saeflow.debias.biographies import BiographyError, BiographySets, Examples, read_sets
from saeflow.subjects.load import Subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return planted_subject(tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_corpus(tmp_path_factory.mktemp("corpus"))


def counts(examples: Examples) -> Counter[tuple[int, int]]:
    pairs = zip(examples.gender_n.tolist(), examples.profession_n.tolist(), strict=True)
    return Counter(pairs)


def read(subject: Subject, corpus: Path, seed: int = 0, **changes: object) -> BiographySets:
    return read_sets(planted_settings(**changes), corpus, subject, seed)


def test_sets_have_their_subgroups(subject: Subject, corpus: Path) -> None:
    sets = read(subject, corpus)
    assert counts(sets.ambiguous) == {(0, 0): 24, (1, 1): 24}
    assert counts(sets.balanced) == {(g, p): 24 for g in (0, 1) for p in (0, 1)}
    assert counts(sets.test) == {(0, 0): 10, (1, 0): 9, (0, 1): 6, (1, 1): 8}
    assert counts(sets.judge) == {(g, p): 6 for g in (0, 1) for p in (0, 1)}


def test_labels_are_those_of_the_text(subject: Subject, corpus: Path) -> None:
    test = read(subject, corpus).test
    for tokens, gender, profession in zip(*test, strict=True):
        words = [WORDS[token - 1] for token in tokens[1:]]
        assert words.count(("he", "she")[gender]) == 3
        assert words.count(("lecture", "ward")[profession]) == 1
        assert tokens[0] == 0


def test_sizes_are_upper_bounds_of_tests_and_exact_for_training(
    subject: Subject, corpus: Path
) -> None:
    sizes = {"ambiguous_train": 5, "balanced_train": 3, "test": 7, "judge": 2}
    sets = read(subject, corpus, sizes=sizes)
    assert set(counts(sets.ambiguous).values()) == {5}
    assert set(counts(sets.balanced).values()) == {3}
    assert counts(sets.test) == {(0, 0): 7, (1, 0): 7, (0, 1): 6, (1, 1): 7}
    assert set(counts(sets.judge).values()) == {2}


def test_the_balanced_test_set_is_of_the_smallest_subgroup(subject: Subject, corpus: Path) -> None:
    test = read(subject, corpus).test
    balanced = test.equal_parts([(g, p) for g in (0, 1) for p in (0, 1)])
    assert len(balanced) == 4 * 6
    assert len(set(balanced.tolist())) == 4 * 6


def test_a_seed_orders_the_training_sets(subject: Subject, corpus: Path) -> None:
    one, again, other = (read(subject, corpus, seed) for seed in (0, 0, 1))
    assert one.ambiguous.tokens == again.ambiguous.tokens
    assert one.ambiguous.tokens != other.ambiguous.tokens
    assert sorted(one.balanced.tokens) == sorted(other.balanced.tokens)
    assert one.test.tokens == other.test.tokens


def test_long_texts_are_cut(subject: Subject, corpus: Path) -> None:
    whole, cut = read(subject, corpus).test, read(subject, corpus, max_tokens=4).test
    assert [tokens[:4] for tokens in whole.tokens] == cut.tokens
    with pytest.raises(ValueError, match="max_tokens 1 leaves no room"):
        read(subject, corpus, max_tokens=1)


def test_class_ids_are_mapped(subject: Subject, tmp_path: Path) -> None:
    documents = rows({(s, g, p): 2 for s in ("train", "test", "validation")
                      for g in (0, 1) for p in (0, 1)})  # fmt: skip
    for document in documents:
        labels = document["labels"]
        gender, profession = labels["gender"], labels["profession"]
        document["labels"] = {
            "gender": str(GENDER.index(gender)),
            "profession": ("21", "13")[PROFESSION.index(profession)],
        }
    others = [{**document, "labels": {"gender": "0", "profession": "5"}} for document in documents]
    corpus = write_corpus(tmp_path / "corpus", documents + others)
    classes = {
        "professions": {"label": "profession", "values": {"professor": "21", "nurse": "13"}},
        "genders": {"label": "gender", "values": {"male": "0", "female": "1"}},
    }
    assert counts(read(subject, corpus, **classes).test) == {
        (g, p): 2 for g in (0, 1) for p in (0, 1)
    }


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {"profession": "nurse"},
        {"profession": "nurse", "gender": ""},
        {"profession": "nurse", "gender": " "},
        {"profession": "nurse", "gender": None},
    ],
)
def test_a_biography_without_a_label_is_refused_or_dropped(
    subject: Subject, tmp_path: Path, labels: dict[str, str | None] | None
) -> None:
    documents = rows({(s, g, p): 2 for s in ("train", "test", "validation")
                      for g in (0, 1) for p in (0, 1)})  # fmt: skip
    documents.insert(3, {"split": "train", "text": "he and ward", "labels": labels})
    corpus = write_corpus(tmp_path / "corpus", documents)
    with pytest.raises(BiographyError, match=r"parquet: document 3 \(biography-3\) .*'gender'"):
        read(subject, corpus)
    sets = read(subject, corpus, on_unlabelled="drop")
    assert sets.dropped == 1
    assert sets.other == {"gender": {}, "profession": {}}
    assert len(sets.balanced.tokens) == 8


def test_values_of_neither_class_are_left_out_and_counted(subject: Subject, tmp_path: Path) -> None:
    documents = rows({(s, g, p): 2 for s in ("train", "test", "validation")
                      for g in (0, 1) for p in (0, 1)})  # fmt: skip
    strange = [("surgeon", "male"), ("surgeon", "Female"), ("nurse", "Female"), ("pastor", "male")]
    documents += [
        {"split": "train", "text": "he", "labels": {"profession": profession, "gender": gender}}
        for profession, gender in strange
    ]
    sets = read(subject, write_corpus(tmp_path / "corpus", documents))
    assert sets.other == {"gender": {"Female": 2}, "profession": {"pastor": 1, "surgeon": 2}}
    assert sets.dropped == 0
    assert len(sets.balanced.tokens) == 8
    wrong = {"label": "profession", "values": {"professor": "professor", "nurse": "nursing"}}
    message = r"has 0 of female_nurse.*the profession nurse, pastor, surgeon.*mend the values"
    with pytest.raises(BiographyError, match=message):
        read(subject, tmp_path / "corpus", professions=wrong)


@pytest.mark.parametrize("split", ["train", "test", "validation"])
def test_an_empty_subgroup_is_refused_with_all_counts(
    subject: Subject, tmp_path: Path, split: str
) -> None:
    documents = rows({(s, g, p): 2 for s in ("train", "test", "validation")
                      for g in (0, 1) for p in (0, 1) if (s, g, p) != (split, 0, 1)})  # fmt: skip
    corpus = write_corpus(tmp_path / "corpus", documents)
    message = f"split {split} has 0 of male_nurse.*male_professor 2, .*female_nurse 2"
    with pytest.raises(BiographyError, match=message):
        read(subject, corpus)


def test_a_small_subgroup_is_refused(subject: Subject, corpus: Path) -> None:
    with pytest.raises(BiographyError, match="24 of male_professor, 25 are needed"):
        read(subject, corpus, sizes={"ambiguous_train": 25})


def test_a_truncated_corpus_is_refused(subject: Subject, tmp_path: Path) -> None:
    corpus = planted_corpus(tmp_path / "corpus")
    path = corpus / "documents.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="truncated"):
        read(subject, corpus)


def test_two_classes_are_needed() -> None:
    with pytest.raises(ValueError, match="two classes"):
        planted_settings(genders={"label": "gender", "values": {"male": "0"}})
