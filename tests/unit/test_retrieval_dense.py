"""Dense retrieval: classical embeddings, exact and approximate search, resuming."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError
from retrieval_planted import documents, row, texts_of, write_corpus
from safetensors.numpy import load_file, save_file

from saeflow.artifacts import MANIFEST, ArtifactError, read_manifest
from saeflow.retrieval import dense as dense_module
from saeflow.retrieval.dense import PARTIAL, DenseIndex, index_dense, score_shards
from saeflow.retrieval.index import Shard, _nearest, build, count_vectors, propose
from saeflow.retrieval.lsa import LSAEncoder
from saeflow.retrieval.ranking import Scores, joined
from saeflow.retrieval.reading import RetrievalError
from saeflow.retrieval.settings import HNSW, IVF, Dense, Index

LSA = {"kind": "lsa", "dimensions": 8, "words": {"stop_words": "none"}}
ROWS = documents(200)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    faiss.omp_set_num_threads(1)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", ROWS)


def index(corpus: Path, name: str = "index", **settings: Any) -> DenseIndex:
    out = corpus.parent / name
    index_dense(Dense(**{"encoder": LSA, "shard_documents": 40, **settings}), corpus, out)
    return DenseIndex(out, read_manifest(out, kind="index", deep=True))


def test_lsa_finds_the_topic(corpus: Path) -> None:
    made = index(corpus)
    seeds = [r for r in ROWS if r.split == "validation"]
    found = made.score([r.text for r in seeds])
    domains = {r.document: r.domain for r in ROWS}
    nearest = [domains[found.documents_n[values.argmax()]] for values in found.values_qn]
    assert np.mean([a == r.domain for a, r in zip(nearest, seeds, strict=True)]) > 0.9
    assert found.documents_n.tolist() == [r.document for r in ROWS if r.split == "train"]


def test_lsa_vectors_are_the_projected_weights(corpus: Path) -> None:
    """By hand for one text: (1 + log tf) idf, scaled to 1, on the directions, scaled to 1."""
    encoder = index(corpus).encoder
    assert isinstance(encoder, LSAEncoder)
    text = "physicsaa physicsaa commona unheard"
    weights = np.zeros(len(encoder.terms))
    for term, count in (("physicsaa", 2), ("commona", 1)):
        place = encoder.terms.index(term)
        weights[place] = (1 + np.log(count)) * encoder.idf_t[place]
    vector = weights @ encoder.directions_td
    expected = vector / np.linalg.norm(vector)
    assert encoder.encode([text])[0] == pytest.approx(expected, abs=1e-5)
    assert not encoder.encode(["unheard"]).any()


def test_lsa_idf_is_of_documents(corpus: Path) -> None:
    encoder = index(corpus).encoder
    assert isinstance(encoder, LSAEncoder)
    texts = texts_of(ROWS, "train")
    with_term = sum("commona" in text.split() for text in texts)
    idf = np.log((1 + len(texts)) / (1 + with_term)) + 1
    assert encoder.idf_t[encoder.terms.index("commona")] == pytest.approx(idf, rel=1e-6)


@pytest.mark.parametrize(
    ("encoder", "what"),
    [
        ({**LSA, "dimensions": 120}, "120 dimensions need more"),
        ({**LSA, "words": {"pattern": "zzz"}}, "no term is in 2 of"),
    ],
)
def test_lsa_that_cannot_be_fitted(corpus: Path, encoder: dict, what: str) -> None:
    with pytest.raises(RetrievalError, match=what):
        index(corpus, encoder=encoder)


def test_no_training_documents(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", [row("x", split="test")])
    with pytest.raises(RetrievalError, match="no training documents"):
        index(corpus)


def test_exact_scores_are_dot_products(corpus: Path) -> None:
    made = index(corpus)
    query = made.encoder.encode(["physicsaa commonb"])
    vectors = made.encoder.encode(texts_of(ROWS, "train")).astype(np.float16).astype(np.float32)
    assert made.score(["physicsaa commonb"]).values_qn == pytest.approx(query @ vectors.T, abs=1e-6)


@pytest.mark.parametrize(
    "approximate",
    [
        {"kind": "ivf", "nlist": 8, "nprobe": 8, "neighbours": 15},
        {"kind": "hnsw", "m": 16, "neighbours": 15},
    ],
)
def test_a_wide_approximate_search_is_nearly_exact(corpus: Path, approximate: dict) -> None:
    """Only the 8-bit codes are between it and the exact one; its scores are exact."""
    exact = index(corpus, "exact").score(["physicsaa physicsbb", "graphsaa graphsbb"])
    made = index(corpus, "approximate", index=approximate)
    recall = read_manifest(corpus.parent / "approximate", kind="index")["stats"]["recall"]
    assert recall["at"] == 15
    assert 0.9 < recall["value"] <= 1
    found = made.score(["physicsaa physicsbb", "graphsaa graphsbb"])
    assert 15 <= len(found.documents_n) <= 30
    all_scores = dict(zip(exact.documents_n.tolist(), exact.values_qn.T, strict=True))
    for document, values_q in zip(found.documents_n.tolist(), found.values_qn.T, strict=True):
        assert values_q == pytest.approx(all_scores[document], abs=1e-6)
    top = set(exact.documents_n[np.argsort(-exact.values_qn[0])[:10]].tolist())
    assert len(top & set(found.documents_n.tolist())) >= 9


def test_a_narrow_search_says_what_it_misses(corpus: Path) -> None:
    narrow = {"kind": "ivf", "nlist": 16, "nprobe": 1, "neighbours": 60}
    index(corpus, index=narrow)
    recall = read_manifest(corpus.parent / "index", kind="index")["stats"]["recall"]
    assert 0 < recall["value"] < 0.7


def test_recall_by_hand(tmp_path: Path) -> None:
    """Two far clusters, one list searched: just the half of all vectors that is near is found."""
    from saeflow.retrieval.index import recall

    rng = np.random.default_rng(0)
    centres_nd = np.repeat(np.eye(4, dtype=np.float32)[:2] * 10, 30, axis=0)
    vectors_nd = centres_nd + rng.normal(size=(60, 4)).astype(np.float32) / 10
    path = tmp_path / "embeddings-00000.safetensors"
    save_file({"documents": np.arange(60), "vectors": vectors_nd.astype(np.float16)}, path)
    settings = IVF(kind="ivf", nlist=2, nprobe=1, neighbours=60)
    made = build(settings, [path], 60)
    assert recall(made, settings, [path]) == 0.5
    assert (propose(made, settings, vectors_nd[:1]) == -1).sum() == 30


@pytest.mark.parametrize("k", [1, 7, 25])
def test_nearest_over_shards_are_those_of_one_sort(tmp_path: Path, k: int) -> None:
    """Small integers, so that products tie; the first k are kept from shard to shard."""
    draw = np.random.default_rng(0)
    vectors_nd = draw.integers(-2, 3, (25, 4)).astype(np.float16)
    queries_qd = draw.integers(-2, 3, (3, 4)).astype(np.float32)
    paths = []
    for start in range(0, 25, 6):
        paths.append(tmp_path / f"embeddings-{start:05d}.safetensors")
        part_nd = vectors_nd[start : start + 6]
        save_file({"documents": np.arange(len(part_nd)), "vectors": part_nd}, paths[-1])
    exact_qn = queries_qd @ vectors_nd.astype(np.float32).T
    expected_qk = np.argsort(-exact_qn, axis=1, kind="stable")[:, :k]
    assert _nearest(paths, queries_qd, k).tolist() == expected_qk.tolist()
    assert count_vectors(paths) == 25


def test_a_search_holds_its_scores_once(corpus: Path) -> None:
    """Many queries make the scores the largest thing by far; each shard's are a part of them."""
    made = index(corpus)
    queries_qd = np.ones((20_000, 8), np.float32)
    tracemalloc.start()
    found = score_shards(made.paths, queries_qd)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made.paths) >= 3
    assert peak < 1.7 * found.values_qn.nbytes


def test_shards_that_are_not_all_there(tmp_path: Path) -> None:
    part = Scores(np.arange(3), np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="the shards have 3 documents, not 4"):
        joined([part], 2, 4)


def test_more_lists_than_documents(corpus: Path) -> None:
    with pytest.raises(RetrievalError, match=r"nlist 500 exceeds the \d+ documents"):
        index(corpus, index={"kind": "ivf", "nlist": 500})


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"kind": "ivf", "nlist": 4, "nprobe": 5}, "nprobe 5 exceeds nlist 4"),
        ({"kind": "hnsw", "m": 1}, "greater than or equal to 2"),
        ({"kind": "flat", "nlist": 4}, "Extra inputs"),
    ],
)
def test_wrong_settings(settings: dict, what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        TypeAdapter(Index).validate_python(settings)


def test_a_killed_run_goes_on(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = index(corpus, "whole")
    write = dense_module._write_shard
    written: list[str] = []

    def stops_at_the_third(encoder: Any, part: Any, path: Path, progress: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(encoder, part, path, progress)

    monkeypatch.setattr(dense_module, "_write_shard", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        index(corpus)
    out = corpus.parent / "index"
    assert not (out / MANIFEST).exists()
    before = {name: (out / name).stat().st_mtime_ns for name in [*written, "lsa.safetensors"]}
    monkeypatch.setattr(dense_module, "_write_shard", write)
    index(corpus)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert not (out / PARTIAL).exists()
    for path in whole.paths:
        assert path.read_bytes() == (out / path.name).read_bytes()


def test_what_other_settings_left_is_not_used(corpus: Path) -> None:
    index(corpus)
    out = corpus.parent / "index"
    (out / MANIFEST).unlink()
    made = index(corpus, shard_documents=1000)
    assert [path.name for path in made.paths] == ["embeddings-00000.safetensors"]
    assert not (out / "embeddings-00001.safetensors").exists()


def test_an_index_of_another_width_than_its_encoder(corpus: Path) -> None:
    index(corpus)
    out = corpus.parent / "index"
    manifest = read_manifest(out, kind="index")
    manifest["stats"]["width"] = 768
    with pytest.raises(ArtifactError, match=r"width 768, its encoder makes 8: .* rebuild"):
        DenseIndex(out, manifest)


def test_a_replaced_faiss_file(corpus: Path) -> None:
    made = index(corpus, index={"kind": "ivf", "nlist": 4, "nprobe": 4})
    path = made.folder / "neighbours.faiss"
    path.write_bytes(path.read_bytes()[:-8] + b"somebyte")
    with pytest.raises(ArtifactError, match=r"neighbours.faiss does not have the hash"):
        made.score(["physicsaa"])


def test_vectors_too_large_for_their_type(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LSAEncoder, "encode", lambda self, texts: np.full((len(texts), 8), 1e6))
    with pytest.raises(RetrievalError, match="not finite in float16"):
        index(corpus)


def test_shards_hold_ids_and_float16(corpus: Path) -> None:
    made = index(corpus)
    tensors = load_file(made.paths[1])
    assert tensors["vectors"].dtype == np.float16
    assert tensors["vectors"].shape == (40, 8)
    assert Shard(tensors["documents"], tensors["vectors"]).documents_n.dtype == np.int64
    assert HNSW(kind="hnsw").m == 16
