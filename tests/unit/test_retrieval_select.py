"""Selections: budget, leakage, duplicates, reranking, what is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from retrieval_planted import documents, row, write_corpus, write_tokens

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.corpora.spool import SCHEMA, Row
from saeflow.fingerprint import fingerprint
from saeflow.retrieval.bm25 import index_bm25
from saeflow.retrieval.dense import index_dense
from saeflow.retrieval.ranking import combine, ranked
from saeflow.retrieval.reading import RetrievalError, count_tokens, read_ids, read_rows
from saeflow.retrieval.seeds import count_values, draw_seeds, keys_of_split
from saeflow.retrieval.select import select_documents
from saeflow.retrieval.settings import BM25, Dense, Retrieval, Seeds, Selection
from saeflow.retrieval.tracin_settings import TracIn

ROWS = documents()
SEEDS = {"documents": 6}
TRACIN = {
    "site": "s",
    "sae": {"variant": "gsae", "corpus": "general", "d_sae": 8, "l0": 2},
    "candidates": 2.0,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora, the general one and its part on physics, with tokens and both indexes."""
    root = tmp_path_factory.mktemp("world")
    general = write_corpus(root / "general", ROWS)
    physics = [r for r in ROWS if r.domain == "physics"]
    write_corpus(root / "physics", physics)
    write_tokens(root / "tokens-general", ROWS)
    write_tokens(root / "tokens-physics", physics)
    index_bm25(BM25(words={"stop_words": "none"}), general, root / "bm25")
    index_dense(Dense(encoder={"kind": "lsa", "dimensions": 8}), general, root / "dense")
    return root


def settings(**changed: Any) -> Selection:
    wanted = {"corpus": "general", "domain": "physics", "subject": "tiny", "method": "bm25",
              "tokens": 500, "seeds": SEEDS, **changed}  # fmt: skip
    if wanted["method"] == "dense":
        wanted["dense"] = "lsa"
    return Selection(source="selection", **wanted)


def select(world: Path, out: Path, chosen: Selection, **changed: Any) -> pd.DataFrame:
    places = {
        "general": world / "general",
        "domain": world / "physics",
        "tokens": world / f"tokens-{chosen.drawn_from}",
        "index": world / chosen.method if chosen.retrieves else None,
    }
    select_documents(chosen, out=out, **{**places, **changed})
    return pq.read_table(out / "selection.parquet").to_pandas()


def seeds_of(world: Path, chosen: Seeds) -> list[Row]:
    physics = world / "physics"
    return draw_seeds(chosen, physics, keys_of_split(physics, "test"))


def stats(out: Path) -> dict[str, Any]:
    return read_manifest(out, kind="corpus", deep=True)["stats"]


@pytest.mark.parametrize("method", ["random", "bm25", "dense", "domain"])
def test_the_budget_is_met_to_one_document(world: Path, tmp_path: Path, method: str) -> None:
    found = select(world, tmp_path / "out", settings(method=method))
    assert 0 <= found.tokens.sum() - 500 < found.tokens.iloc[-1]
    assert found.cumulative_tokens.tolist() == found.tokens.cumsum().tolist()
    assert found["rank"].tolist() == list(range(1, len(found) + 1))
    assert found.score.is_monotonic_decreasing
    assert set(found.method) == {method}
    words = {r.document: len(r.text.split()) for r in ROWS}
    assert found.tokens.tolist() == [words[d] for d in found.document]


def test_the_documents_are_a_corpus_to_train_on(world: Path, tmp_path: Path) -> None:
    found = select(world, tmp_path / "out", settings())
    table = pq.read_table(tmp_path / "out" / "documents.parquet")
    assert table.schema.equals(SCHEMA)
    expected = {r.document: r._replace(split="train") for r in ROWS}
    rows = [Row(**r) for r in table.to_pylist()]
    assert rows == [expected[document] for document in sorted(found.document)]
    counted = stats(tmp_path / "out")
    assert counted["splits"]["train"]["documents"] == counted["documents"] == len(found)
    assert counted["tokens"] == found.tokens.sum()
    assert sum(c["documents"] for c in counted["domains"].values()) == len(found)


@pytest.mark.parametrize("method", ["bm25", "dense"])
@pytest.mark.parametrize("how", ["mean", "max", "best_rank", "reciprocal_rank"])
def test_retrieval_finds_the_domain(world: Path, tmp_path: Path, method: str, how: str) -> None:
    found = select(world, tmp_path / "out", settings(method=method, combine=how))
    domains = {r.document: r.domain for r in ROWS}
    truth = [domains[d] == "physics" for d in found.document]
    assert found.in_domain.tolist() == truth
    measured = stats(tmp_path / "out")["domain"]
    physics = [r for r in ROWS if r.domain == "physics" and r.split == "train"]
    train = [r for r in ROWS if r.split == "train"]
    assert measured["precision"] == np.mean(truth) > 0.9
    assert measured["recall"] == pytest.approx(sum(truth) / len(physics))
    assert measured["base_rate"] == pytest.approx(len(physics) / len(train))
    assert measured["n"] == len(found)
    tokens = found.tokens[truth].sum() / found.tokens.sum()
    assert measured["token_precision"] == pytest.approx(tokens)


def test_combinations_in_closed_form() -> None:
    values_qn = np.array([[3.0, 2.0, 1.0], [0.0, 5.0, 1.0]], np.float32)
    assert combine(values_qn, "mean").tolist() == [1.5, 3.5, 1.0]
    assert combine(values_qn, "max").tolist() == [3.0, 5.0, 1.0]
    assert combine(values_qn, "best_rank").tolist() == [1.0, 1.0, 1 / 2]
    fused = [1 / 61 + 1 / 63, 1 / 62 + 1 / 61, 1 / 63 + 1 / 62]
    assert combine(values_qn, "reciprocal_rank") == pytest.approx(fused)
    assert ranked(np.array([7, 3, 5]), np.array([1.0, 1.0, 2.0])).document.tolist() == [5, 3, 7]


def test_ties_share_their_rank_and_no_answer_has_none() -> None:
    values_qn = np.array([[2.0, 2.0, 0.0, 0.0], [0.0, 1.0, 0.0, 3.0]], np.float32)
    fused = [1 / 61.5, 1 / 61.5 + 1 / 62, 0, 1 / 61]
    found = combine(values_qn, "reciprocal_rank", zero_is_no_answer=True)
    assert found == pytest.approx(fused)
    best = combine(values_qn, "best_rank", zero_is_no_answer=True)
    assert best == pytest.approx([1 / 1.5, 1 / 1.5, 0, 1])
    fused = [1 / 61.5 + 1 / 63.5, 1 / 61.5 + 1 / 62, 1 / 63.5 + 1 / 63.5, 1 / 63.5 + 1 / 61]
    assert combine(values_qn, "reciprocal_rank") == pytest.approx(fused)
    assert combine(-values_qn, "mean", zero_is_no_answer=True).tolist() == [-1, -1.5, 0, -1.5]


def test_pooled_is_the_mean(world: Path) -> None:
    """One query of all seeds' text ranks as the mean of the seeds' scores does (BM25)."""
    from saeflow.retrieval.bm25 import BM25Index

    index = BM25Index(world / "bm25", read_manifest(world / "bm25", kind="index"))
    texts = [r.text for r in ROWS if r.split == "validation"][:5]
    mean = combine(index.score(texts).values_qn, "mean")
    assert index.score([" ".join(texts)]).values_qn[0] == pytest.approx(5 * mean, rel=1e-4)


def test_random_is_drawn_by_its_seed(world: Path, tmp_path: Path) -> None:
    one, again = (select(world, tmp_path / n, settings(method="random")) for n in "ab")
    other = select(world, tmp_path / "c", settings(method="random", seed=1))
    assert one.equals(again)
    assert set(one.document) != set(other.document)
    assert set(one.document) <= {r.document for r in ROWS if r.split == "train"}


def test_seeds_are_taken_as_they_are(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = settings(method="seeds")
    found = select(world, tmp_path / "out", chosen)
    seeds = seeds_of(world, chosen.seeds)
    assert found.document.tolist() == [seed.document for seed in seeds]
    assert found.in_domain.all()
    assert "fewer than 500: all are taken, and training repeats them" in capsys.readouterr().err
    assert stats(tmp_path / "out")["splits"] == {
        "train": {"documents": 6, "characters": sum(len(seed.text) for seed in seeds)}
    }


def test_a_domain_with_less_than_asked_is_taken_whole(world: Path, tmp_path: Path) -> None:
    found = select(world, tmp_path / "out", settings(method="domain", tokens=10**6))
    train = {r.document for r in ROWS if r.domain == "physics" and r.split == "train"}
    assert set(found.document) == train


def test_fewer_than_asked_are_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RetrievalError, match=r"'random' has [\d,]+ tokens in \d+ documents .*lower"
    ):
        select(world, tmp_path / "out", settings(method="random", tokens=10**6))


def test_the_seeds_are_of_their_split_and_draw(world: Path) -> None:
    drawn = [seeds_of(world, Seeds(documents=6, seed=s)) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {seed.split for seed in drawn[0]} == {"validation"}
    assert {seed.domain for seed in drawn[0]} == {"physics"}


LABELS = ("a:1:2;a:5:9", "b:1:2", "b:3:4;c:5:6", "b:0:3", "b:7:8", None, "a:0:4; ;:1:2")


def labelled(folder: Path, labels: Sequence[str | None] = LABELS) -> Path:
    """A domain whose validation documents are labelled, and a rare value of its train split."""
    rows = [
        row(f"seed {chr(97 + i)}", split="validation", name=said or "")._replace(
            labels=said and json.dumps({"concept": said})
        )
        for i, said in enumerate(labels)
    ]
    rows += [row("to test on", split="test"), row("to train on", split="train")]
    rows[-1] = rows[-1]._replace(labels='{"concept": "d:1:2"}')
    return write_corpus(folder, sorted(rows))


@pytest.mark.parametrize("seed", range(5))
def test_seeds_are_spread_over_the_values_of_a_label(tmp_path: Path, seed: int) -> None:
    """Each value once before any twice: of b there are four documents, of c only one."""
    domain = labelled(tmp_path / "domain")

    def held(documents: int) -> dict[str, int]:
        chosen = Seeds(documents=documents, by="concept", seed=seed)
        drawn = draw_seeds(chosen, domain, set())
        assert len({one.document for one in drawn}) == documents
        return count_values(chosen, domain, drawn)["seed_values"]

    assert all(held(3).values())
    assert sum(map(bool, held(2).values())) >= 2
    assert held(6) == {"a": 2, "b": 4, "c": 1}
    one, other = (
        draw_seeds(Seeds(documents=n, by="concept", seed=seed), domain, set()) for n in (3, 6)
    )
    assert other[:3] == one


def test_what_is_spread_has_the_label(world: Path, tmp_path: Path) -> None:
    domain = labelled(tmp_path / "domain")
    with pytest.raises(RetrievalError, match="7 exceeds the 6 documents with the label 'concept'"):
        draw_seeds(Seeds(documents=7, by="concept"), domain, set())
    with pytest.raises(RetrievalError, match="2 exceeds the 0 documents with the label 'kind' of"):
        draw_seeds(Seeds(documents=2, by="kind"), domain, set())
    found = select(
        world,
        tmp_path / "out",
        settings(method="random", seeds={"documents": 3, "by": "concept"}),
        domain=domain,
    )
    assert len(found) and set(stats(tmp_path / "out")["seed_values"]) == {"a", "b", "c"}
    plain = settings(method="random", seeds={"documents": 3})
    select(world, tmp_path / "plain", plain, domain=domain)
    assert "seed_values" not in stats(tmp_path / "plain")


@pytest.mark.parametrize("split", ["validation", "train"])
def test_too_few_seeds(world: Path, split: str) -> None:
    with pytest.raises(RetrievalError, match=rf"documents 99 exceeds the \d+ .* its {split} split"):
        seeds_of(world, Seeds(documents=99, split=split))


def test_seeds_that_are_evaluated_on_are_refused(world: Path, tmp_path: Path) -> None:
    """The same letters in another case and with other numbers are the same text."""
    rows = [row("One seed, x1", split="validation", name="leak")]
    rows += [row("one SEED x2.", split="test"), row("something else", split="train")]
    domain = write_corpus(tmp_path / "domain", sorted(rows))
    with pytest.raises(RetrievalError, match=r"1 of 1 seeds equal .* test split \(leak\)"):
        select(world, tmp_path / "out", settings(seeds={"documents": 1}), domain=domain)


@pytest.mark.parametrize("split", ["test", "all"])
def test_no_seeds_from_what_is_evaluated(split: str) -> None:
    with pytest.raises(ValidationError, match="'validation' or 'train'"):
        Seeds(split=split)
    with pytest.raises(ValidationError, match="greater than 0"):
        Seeds(documents=0)


def test_copies_of_seeds_and_of_evaluated_documents_are_dropped(
    world: Path, tmp_path: Path
) -> None:
    seeds = seeds_of(world, Seeds(**SEEDS))
    held_out = next(r for r in ROWS if r.domain == "physics" and r.split == "test")
    copies = [row(r.text.upper() + " 1", split="train") for r in (*seeds[:2], held_out)]
    rows = sorted([*ROWS, *copies])
    general = write_corpus(tmp_path / "general", rows)
    write_tokens(tmp_path / "tokens", rows)
    index_bm25(BM25(), general, tmp_path / "bm25")
    places = {"general": general, "tokens": tmp_path / "tokens", "index": tmp_path / "bm25"}
    found = select(world, tmp_path / "out", settings(combine="best_rank", tokens=1000), **places)
    assert not {r.document for r in copies} & set(found.document)
    dropped = stats(tmp_path / "out")["dropped"]
    assert dropped["equals a seed"] == 2
    assert dropped["equals an evaluation document"] == 1
    assert 0 <= found.tokens.sum() - 1000 < found.tokens.iloc[-1]


def test_training_seeds_are_not_selected(world: Path, tmp_path: Path) -> None:
    chosen = settings(seeds={**SEEDS, "split": "train"}, combine="best_rank")
    found = select(world, tmp_path / "out", chosen)
    seeds = seeds_of(world, chosen.seeds)
    assert not {seed.document for seed in seeds} & set(found.document)
    assert stats(tmp_path / "out")["dropped"]["equals a seed"] == len(seeds)


def test_a_domain_from_elsewhere_has_no_known_precision(world: Path, tmp_path: Path) -> None:
    """Also where it shares some texts, and so ids, with the general corpus."""
    shared = [r for r in ROWS if r.domain == "physics" and r.split == "train"][:3]
    domain = write_corpus(tmp_path / "domain", sorted([*shared, *documents(80, seed=9)]))
    found = select(world, tmp_path / "out", settings(), domain=domain)
    assert found.in_domain.isna().all()
    measured = stats(tmp_path / "out")["domain"]
    assert measured.pop("n") == len(found)
    assert set(measured.values()) == {None}


def test_documents_without_tokens_are_no_candidates(world: Path, tmp_path: Path) -> None:
    without = {r.document for r in ROWS if r.split == "train" and r.domain == "physics"}
    tokens = write_tokens(tmp_path / "tokens", [r for r in ROWS if r.document not in without])
    found = select(world, tmp_path / "out", settings(), tokens=tokens)
    assert not found.in_domain.any()
    assert stats(tmp_path / "out")["dropped"]["no tokens"] == len(without)


def test_nothing_in_common_is_no_candidate(world: Path, tmp_path: Path) -> None:
    rows = [row("zzz yyy", split="validation"), row("xxx", split="test")]
    domain = write_corpus(tmp_path / "domain", sorted(rows))
    with pytest.raises(RetrievalError, match=r"has 0 tokens in 0 documents"):
        select(world, tmp_path / "out", settings(seeds={"documents": 1}), domain=domain)


def reversed_order(candidates: Sequence[Row], seeds: Sequence[Row]) -> np.ndarray:
    return np.arange(len(candidates), dtype=float)


def test_reranking_chooses_among_the_first(world: Path, tmp_path: Path) -> None:
    first = select(world, tmp_path / "first", settings(tokens=1000))
    seen: list[tuple[Sequence[Row], Sequence[Row]]] = []

    def rerank(candidates: Sequence[Row], seeds: Sequence[Row]) -> np.ndarray:
        seen.append((candidates, seeds))
        return reversed_order(candidates, seeds)

    chosen = settings(tracin=TRACIN)
    inputs = {"sae": world / "general"}
    found = select(world, tmp_path / "out", chosen, rerank=rerank, rerank_inputs=inputs)
    candidates, seeds = seen[0]
    assert [r.document for r in candidates] == first.document.tolist()
    assert seeds == seeds_of(world, chosen.seeds)
    assert found.document.tolist() == first.document.tolist()[::-1][: len(found)]
    assert set(found.method) == {"bm25+tracin"}
    assert stats(tmp_path / "out")["first_stage"]["precision"] > 0.9
    assert "sae" in read_manifest(tmp_path / "out", kind="corpus")["inputs"]


@pytest.mark.parametrize(
    "scores", [lambda c, s: np.full(len(c), np.nan), lambda c, s: np.zeros(len(c) - 1)]
)
def test_reranking_that_gives_nonsense(
    world: Path, tmp_path: Path, scores: Callable[..., np.ndarray]
) -> None:
    with pytest.raises(RetrievalError, match="one finite score each"):
        select(world, tmp_path / "out", settings(tracin=TRACIN), rerank=scores)


def test_the_code_of_a_selection_is_what_made_it(world: Path, tmp_path: Path) -> None:
    select(world, tmp_path / "plain", settings())
    select(world, tmp_path / "reranked", settings(tracin=TRACIN), rerank=reversed_order)
    parts = ["saeflow.retrieval.select", "saeflow.retrieval.bm25"]
    code = [read_manifest(tmp_path / n, kind="corpus")["code"] for n in ("plain", "reranked")]
    assert code == [fingerprint(*parts), fingerprint(*parts, "saeflow.retrieval.tracin")]


def test_reranking_and_its_settings_come_together(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="but rerank is None"):
        select(world, tmp_path / "out", settings(tracin=TRACIN))
    with pytest.raises(ValueError, match="tracin is None"):
        select(world, tmp_path / "out", settings(), rerank=reversed_order)


def test_the_index_must_be_of_the_method_and_the_corpus(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a dense index; method 'bm25'"):
        select(world, tmp_path / "out", settings(), index=world / "dense")
    with pytest.raises(ValueError, match="searches bm25; given: None"):
        select(world, tmp_path / "out", settings(), index=None)
    other = write_corpus(tmp_path / "other", documents(40, seed=3))
    with pytest.raises(ArtifactError, match=r"not an index of .*other as it is now"):
        select(world, tmp_path / "out", settings(), general=other)


def test_a_truncated_corpus(world: Path, tmp_path: Path) -> None:
    general = write_corpus(tmp_path / "general", ROWS)
    path = general / "documents.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match=r"documents.parquet has \d+ bytes"):
        select(world, tmp_path / "out", settings(), general=general)


def test_reading(world: Path) -> None:
    validation = [r for r in ROWS if r.split == "validation"]
    assert read_ids(world / "general", "validation").tolist() == [r.document for r in validation]
    ids = [ROWS[3].document, ROWS[-1].document, 5]
    assert read_rows(world / "general", ids) == {r.document: r for r in (ROWS[3], ROWS[-1])}
    assert read_rows(world / "general", []) == {}
    counts = count_tokens(world / "tokens-general", "validation")
    assert counts.to_dict() == {r.document: len(r.text.split()) for r in validation}


def test_text_is_read_where_a_wanted_document_is(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups of the world's corpora have 50 rows."""
    read: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches

    def watched(self: pq.ParquetFile, *args: Any, **how: Any) -> Any:
        for batch in iter_batches(self, *args, **how):
            read.append(len(batch) if "text" in batch.schema.names else 0)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    wanted = [ROWS[60].document, ROWS[-1].document]
    assert [*read_rows(world / "general", wanted)] == wanted
    assert sum(read) == 50 + len(ROWS) % 50


def test_evaluated_documents_are_hashed_once(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits: list[str] = []

    def watched(corpus: Path, split: str) -> set[int]:
        splits.append(split)
        return keys_of_split(corpus, split)

    monkeypatch.setattr("saeflow.retrieval.select.keys_of_split", watched)
    monkeypatch.setattr("saeflow.retrieval.seeds.keys_of_split", watched)
    select(world, tmp_path / "out", settings())
    assert splits == ["test"]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"method": "dense", "dense": None}, "needs dense"),
        ({"dense": "lsa"}, "dense belongs to the method 'dense'"),
        ({"method": "random", "combine": "max"}, "combine needs a method that retrieves"),
        ({"method": "seeds", "tracin": TRACIN}, "tracin needs a method that retrieves"),
        ({"seed": 1}, "seed belongs to 'random' and 'domain'"),
        ({"tokens": 0}, "greater than 0"),
        ({"seeds": {"split": "test"}}, "'validation' or 'train'"),
        ({"query": "each"}, "Extra inputs"),
    ],
)
def test_wrong_selections(changed: dict[str, Any], what: str) -> None:
    base = {"source": "selection", "corpus": "c", "domain": "d", "subject": "s",
            "method": "bm25", "tokens": 9}  # fmt: skip
    with pytest.raises(ValidationError, match=what):
        Selection(**{**base, **changed})


def test_names_of_indexes() -> None:
    assert settings().index == "bm25"
    assert settings(method="dense").index == "lsa"
    assert settings(method="seeds").index is None
    assert settings(method="domain").drawn_from == "physics"
    assert TracIn.model_validate(TRACIN).candidates == 2
    with pytest.raises(ValidationError, match="name of the BM25 index"):
        Retrieval(dense={"bm25": {"encoder": {"kind": "lsa"}}})
