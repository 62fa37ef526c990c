"""BM25: terms, scores against the formula, shards, what is written."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import bm25s
import numpy as np
import pytest
from pydantic import ValidationError
from retrieval_planted import documents, row, texts_of, write_corpus

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.retrieval.bm25 import BM25Index, index_bm25
from saeflow.retrieval.reading import RetrievalError
from saeflow.retrieval.settings import BM25, Words
from saeflow.retrieval.words import singular, splitter

TEXTS = ["the Cat sat on the mat", "a dog and a dog", "cat dog bird bird bird", "fish"]


def build(folder: Path, rows: list, **settings: object) -> BM25Index:
    corpus = write_corpus(folder / "corpus", sorted(rows))
    index_bm25(BM25(**settings), corpus, folder / "index")
    return BM25Index(folder / "index", read_manifest(folder / "index", kind="index", deep=True))


def trained_on(texts: list[str]) -> list:
    return [row(text, split="train") for text in texts]


def test_terms() -> None:
    assert splitter(Words())("The Cats_1 sat, x: cats!") == ["cats_1", "sat", "cats"]
    assert splitter(Words(stop_words="none"))("The cat") == ["the", "cat"]
    assert splitter(Words(stemming="plural", pattern="[a-z]+"))("Cats_1 x") == ["cat", "x"]


@pytest.mark.parametrize(
    ("plural", "one"),
    [("queries", "query"), ("classes", "classe"), ("trees", "tree"), ("class", "class"),
     ("radius", "radius"), ("arrays", "array"), ("array", "array")],
)  # fmt: skip
def test_singular(plural: str, one: str) -> None:
    assert singular(plural) == one


def test_scores_are_lucenes(tmp_path: Path) -> None:
    index = build(tmp_path, trained_on(TEXTS))
    found = index.score(["cat bird cat unknown", "unknown"])
    split = splitter(Words())
    bags = [Counter(split(text)) for text in (r.text for r in sorted(trained_on(TEXTS)))]
    mean = np.mean([bag.total() for bag in bags])

    def score(bag: Counter, query: list[str]) -> float:
        total = 0.0
        for term in query:
            frequency = sum(term in b for b in bags)
            idf = math.log(1 + (len(bags) - frequency + 0.5) / (frequency + 0.5))
            length = 1.5 * (1 - 0.75 + 0.75 * bag.total() / mean)
            total += idf * bag[term] / (bag[term] + length)
        return total

    expected = [score(bag, ["cat", "bird", "cat"]) for bag in bags]
    assert found.values_qn[0] == pytest.approx(expected, rel=1e-5)
    assert not found.values_qn[1].any()
    assert found.documents_n.tolist() == [r.document for r in sorted(trained_on(TEXTS))]


@pytest.mark.parametrize("method", ["robertson", "atire"])
def test_a_read_index_scores_as_bm25s_does(tmp_path: Path, method: str) -> None:
    rows = documents(60)
    index = build(tmp_path, rows, method=method)
    split = splitter(Words())
    made = bm25s.BM25(method=method)
    texts = texts_of(rows, "train")
    made.index([split(text) for text in texts], show_progress=False)
    query = texts_of(rows, "validation")[0]
    expected = made.get_scores([t for t in split(query) if t in made.vocab_dict])
    assert index.score([query]).values_qn[0] == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"method": "bm25l"}, "'robertson', 'lucene' or 'atire'"),
        ({"method": "bm25+"}, "'robertson', 'lucene' or 'atire'"),
        ({"delta": 1.0}, "Extra inputs"),
        ({"words": {"pattern": "[a-z"}}, r"pattern '\[a-z' is no regular expression"),
        ({"words": {"pattern": r"(a|b)\w+(c)"}}, r"has 2 capturing groups; write \(\?:\.\.\.\)"),
    ],
)
def test_wrong_settings(settings: dict, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        BM25(**settings)
    assert Words(pattern=r"(?:a|b)\w+")


def test_only_training_documents_in_shards(tmp_path: Path) -> None:
    rows = documents(100)
    index = build(tmp_path, rows, shard_documents=17)
    train = [r for r in rows if r.split == "train"]
    stats = read_manifest(tmp_path / "index", kind="index")["stats"]
    assert stats["shards"] == math.ceil(len(train) / 17) == index.shards
    found = index.score([train[20].text])
    assert found.documents_n.tolist() == [r.document for r in train]
    assert found.documents_n[found.values_qn[0].argmax()] == train[20].document


def test_nothing_is_pickled(tmp_path: Path) -> None:
    build(tmp_path, trained_on(TEXTS))
    suffixes = {path.suffix for path in (tmp_path / "index").iterdir()}
    assert suffixes == {".safetensors", ".json"}


def test_a_shard_without_terms(tmp_path: Path) -> None:
    index = build(tmp_path, trained_on(["? !", "!!", "cat", "dog"]), shard_documents=1)
    assert np.count_nonzero(index.score(["cat"]).values_qn) == 1


@pytest.mark.parametrize("rows", [trained_on(["? !"]), [row("cat", split="test")]])
def test_nothing_to_search(tmp_path: Path, rows: list) -> None:
    with pytest.raises(RetrievalError, match="no training document has a term"):
        build(tmp_path, rows)


def test_a_truncated_index(tmp_path: Path) -> None:
    build(tmp_path, trained_on(TEXTS))
    path = tmp_path / "index" / "postings-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"postings-00000.*rebuild it with"):
        read_manifest(tmp_path / "index", kind="index")
