"""Concept recall against truths that were planted and against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from concept_recall_world import BLOCK, CONTEXT, D_IN, EMBEDDING, make_world, random_sae, write_sae
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score
from subjects_tiny import make as make_tiny_subject
from transformers import GPTNeoXForCausalLM

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.corpora.planted import spans_of
from saeflow.corpora.spool import SCHEMA
from saeflow.evaluation.concept_recall import measure_concept_recall
from saeflow.evaluation.concept_recall_auroc import aurocs
from saeflow.evaluation.concept_recall_instances import (
    UNPLANTED,
    find_instances,
    planted_documents,
    token_shares,
)
from saeflow.evaluation.concept_recall_settings import ConceptRecallSettings
from saeflow.evaluation.rows import Point, read_rows
from saeflow.subjects.folder import load_tokenizer
from saeflow.subjects.settings import WindowSettings
from saeflow.subjects.tokenise import tokenise

# Concept `one` always says w1; `two` says w2 and, on validation text alone, w3 even more surely;
# `none` says what everything else says too.
VALIDATION = [
    ("one", "w5 w1"), ("one", "w1"), ("one", "w4 w1 w5"),
    ("two", "w3 w2"), ("two", "w3"), ("two", "w3 w5"),
    ("none", "w4"), ("none", "w5"), ("none", "w4 w5"),
    ("background", "w4 w5"), ("background", "w5"),
]  # fmt: skip
TEST = [
    ("one", "w1 w5"), ("one", "w4 w1"),
    ("two", "w2 w5"), ("two", "w2"), ("two", "w3 w4"), ("two", "w2 w4"),
    ("none", "w5 w4"), ("none", "w4"),
    ("background", "w5 w4"),
]  # fmt: skip
TRAIN = [("one", "w1 w4 w5"), ("one", "w1"), ("none", "w4")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root, {"train": TRAIN, "validation": VALIDATION, "test": TEST})
    return root


def measure(
    world: Path,
    out: Path,
    *,
    saes: dict[int, Path] | None = None,
    site: str = EMBEDDING,
    d_sae: int = D_IN,
    settings: dict[str, Any] | None = None,
    **changed: Path,
) -> tuple[dict[tuple[int, str], float], pd.DataFrame]:
    """Return the tidy values by seed and metric, and the table of concepts."""
    folders = {name: world / name for name in ("subject", "tokens", "corpus")}
    measure_concept_recall(
        ConceptRecallSettings(**(settings or {})),
        saes or {0: world / "sae"},
        activations=world / "cache",
        point=Point("ssae", "subject", site, "planted", "all", "gsae", d_sae, 4),
        out=out,
        **{**folders, **changed},
    )
    rows = read_rows([out / "concept_recall.parquet"])
    values = dict(zip(zip(rows["seed"], rows["metric"], strict=True), rows["value"], strict=True))
    return values, pd.read_parquet(out / "concepts.parquet")


def test_the_latent_is_chosen_on_validation_and_judged_on_test(world: Path, tmp_path: Path) -> None:
    values, table = measure(world, tmp_path, settings={"unplanted": 0})
    found = table[table["detector"] == "latent"].set_index("concept")
    assert found["index"].to_dict()["one"] == 1 and found["index"].to_dict()["two"] == 3
    assert found.loc["one", ["auroc_validation", "auroc_test"]].tolist() == [1.0, 1.0]
    # On test text w3 is in 1 of 4 sentences of `two` and nowhere else: 1/4 + (3/4) / 2.
    assert found.loc["two", ["auroc_validation", "auroc_test"]].tolist() == [1.0, 0.625]
    assert found["detected"].to_dict() == {"one": True, "two": False, "none": False}
    assert found["n_test"].to_dict() == {"one": 2, "two": 4, "none": 2}
    assert values[0, "concept_recall"] == pytest.approx(1 / 3)
    assert values[0, "concept_recall@0.1"] == 0.5 and values[0, "concept_recall@0.01"] == 0
    assert values[0, "concept_auroc@0.1"] == (1 + 0.625) / 2
    expected = (1 + 0.625 + found.loc["none", "auroc_test"]) / 3
    assert values[0, "concept_auroc"] == pytest.approx(expected)


def test_axes_are_measured_alike_with_either_sign(world: Path, tmp_path: Path) -> None:
    """At the embedding the latents are the axes; a sentence's words are no negative axis."""
    values, table = measure(world, tmp_path)
    latents, axes = (table[table["detector"] == kind] for kind in ("latent", "axis"))
    strong = latents.reset_index()["auroc_validation"] == 1
    for column in ("index", "auroc_test"):
        pairs = zip(axes[column][strong.values], latents[column][strong.values], strict=True)
        assert all(a == b for a, b in pairs)
    assert strong.sum() == 2
    assert values[0, "axis_auroc@0.1"] == values[0, "concept_auroc@0.1"]


def test_equal_to_a_plain_computation(world: Path, tmp_path: Path) -> None:
    """At a block, with a random SAE, sentence by sentence in unpadded passes."""
    sae = random_sae()
    write_sae(tmp_path / "sae", sae, BLOCK, world / "cache")
    _, table = measure(
        world, tmp_path / "out", saes={0: tmp_path / "sae"}, site=BLOCK, d_sae=40,
        settings={"unplanted": 0},
    )  # fmt: skip
    maxima = {split: plain_maxima(world, sae, split) for split in ("validation", "test")}
    for row in table[table["detector"] == "latent"].to_dict("records"):
        scores = {
            split: [roc_auc_score(np.array(of) == row["concept"], f) for f in maxima_nf.T]
            for split, (of, maxima_nf) in maxima.items()
        }
        best = int(np.argmax(scores["validation"]))
        assert row["auroc_validation"] == pytest.approx(scores["validation"][best])
        assert row["auroc_test"] == pytest.approx(scores["test"][row["index"]])


@torch.no_grad()
def plain_maxima(world: Path, sae: Any, split: str) -> tuple[list[str], np.ndarray]:
    model = GPTNeoXForCausalLM.from_pretrained(world / "subject")
    concepts, maxima = [], []
    for row in pq.read_table(world / "corpus" / "documents.parquet").to_pylist():
        for span in spans_of(row["labels"]) if row["split"] == split else ():
            words = [int(word[1:]) for word in row["text"].split()]
            start = len(row["text"][: span.start].split())
            inside = slice(1 + start, 1 + start + len(row["text"][span.start : span.end].split()))
            concepts.append(span.concept)
            maxima.append(sae.encode(last_block(model, words))[inside].amax(0).numpy())
    return concepts, np.stack(maxima)


def last_block(model: Any, words: list[int]) -> torch.Tensor:
    """The last block's output; `hidden_states` has it only behind the final layer norm."""
    found: list[torch.Tensor] = []
    hook = model.gpt_neox.layers[1].register_forward_hook(
        lambda module, args, output: found.append(
            output[0] if isinstance(output, tuple) else output
        )
    )
    model(torch.tensor([[0, *words]]))
    hook.remove()
    return found[0][0]


def test_batches_change_nothing_and_seeds_draw_the_unplanted(world: Path, tmp_path: Path) -> None:
    one, _ = measure(world, tmp_path / "one", settings={"unplanted": 2.0})
    small, _ = measure(world, tmp_path / "small", settings={"unplanted": 2.0, "batch_tokens": 8})
    assert one == small
    instances = read_manifest(tmp_path / "one", kind="metrics")["stats"]["instances"]
    assert instances["test"] == {"background": 1, "none": 2, "one": 2, "two": 4, "unplanted": 18}


def test_excluded_tokens_do_not_count(world: Path, tmp_path: Path) -> None:
    """Documents start with fillers, one to four; a rule that skips 3 positions hides sentences."""
    (tmp_path / "cache").mkdir()
    write_manifest(
        tmp_path / "cache",
        kind="activations",
        settings={"activations": {"skip_positions": 4}},
        files=[],
        stats={"sink_thresholds": None},
    )
    measure(world, tmp_path / "all", settings={"unplanted": 0})
    measure(world, tmp_path / "few", settings={"unplanted": 0}, exclusion=tmp_path / "cache")
    counts = [
        read_manifest(tmp_path / out, kind="metrics")["stats"]["instances"]["validation"]
        for out in ("all", "few")
    ]
    # Sentence i starts behind the begin token and 1 + i % 4 fillers.
    kept = sum(len(words.split()) + 2 + i % 4 > 4 for i, (_, words) in enumerate(VALIDATION))
    assert sum(counts[0].values()) == len(VALIDATION) > sum(counts[1].values()) == kept


def test_several_seeds_in_one_run(world: Path, tmp_path: Path) -> None:
    write_sae(tmp_path / "sae1", random_sae(), EMBEDDING, world / "cache", seed=1)
    with pytest.raises(ArtifactError, match="d_sae 40 for 16"):
        measure(world, tmp_path / "out", saes={0: world / "sae", 1: tmp_path / "sae1"})
    manifest = json.loads((world / "sae" / "manifest.json").read_text())
    (tmp_path / "sae2").mkdir()
    for name in manifest["files"]:
        (tmp_path / "sae2" / name).write_bytes((world / "sae" / name).read_bytes())
    manifest["settings"]["seed"] = 2
    (tmp_path / "sae2" / "manifest.json").write_text(json.dumps(manifest))
    saes = {2: tmp_path / "sae2", 0: world / "sae"}
    values, table = measure(world, tmp_path / "out", saes=saes)
    assert values[0, "concept_auroc"] == values[2, "concept_auroc"]
    assert table.groupby(["seed", "detector"]).size().to_dict() == dict.fromkeys(
        [(0, "axis"), (0, "latent"), (2, "axis"), (2, "latent")], 3
    )


def test_token_shares_of_the_train_split(world: Path, tmp_path: Path) -> None:
    _, table = measure(world, tmp_path)
    shares = table.set_index("concept")["token_share"].to_dict()
    documents = pq.read_table(world / "corpus" / "documents.parquet").to_pylist()
    total = sum(len(row["text"].split()) for row in documents if row["split"] == "train")
    assert shares == {"one": 4 / total, "two": 0.0, "none": 1 / total}


# --- where the sentences stand -------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level subject, and documents that make several windows of 32 tokens."""
    root = tmp_path_factory.mktemp("long")
    make_tiny_subject("gpt_neox", root)
    (root / "corpus").mkdir()
    rows = []
    for i in range(12):
        before, sentence = "the cat sat on the rug\n\n" * i, "Dogs näher to the mat."
        start = len(before)
        label = json.dumps({"planted": f"dogs:{start}:{start + len(sentence)}"})
        rows.append((f"{before}{sentence} and the dog lay " + "on the mat " * 4, label))
    rows += [("the dog lay on the mat and the cat " * 6 + str(i), None) for i in range(5)]
    columns = {
        "document": range(len(rows)),
        "domain": ["d"] * len(rows),
        "split": ["test"] * len(rows),
        "name": [f"n{i}" for i in range(len(rows))],
        "text": [row[0] for row in rows],
        "labels": [row[1] for row in rows],
    }
    pq.write_table(pa.table(columns, schema=SCHEMA), root / "corpus" / "documents.parquet")
    write_manifest(root / "corpus", kind="corpus", settings={}, files=["documents.parquet"])
    windows = WindowSettings(context=32, min_window=4, prepend_bos=True)
    tokenise(windows, root / "subjects" / "gpt_neox", root / "corpus", root / "tokens")
    return root


def test_spans_of_characters_become_spans_of_tokens(long_documents: Path) -> None:
    subject = long_documents / "subjects" / "gpt_neox"
    documents = planted_documents(long_documents / "corpus", subject)
    tokenizer = load_tokenizer(subject)
    assert len(documents) == 12
    for document in documents.values():
        ((concept, start, end),) = document.spans
        assert concept == "dogs"
        assert tokenizer.decode(document.ids[start:end]).strip() == "Dogs näher to the mat."


def test_instances_are_the_larger_part_in_a_window(long_documents: Path) -> None:
    subject = long_documents / "subjects" / "gpt_neox"
    documents = planted_documents(long_documents / "corpus", subject)
    found = find_instances(documents, long_documents / "tokens", "test", 0.5, 0)
    planted = [i for i in found if i.concept == "dogs"]
    plain = [i for i in found if i.concept == UNPLANTED]
    assert len(planted) == 12 and len(plain) == 6
    cut = 0
    for instance in planted:
        document = documents[instance.window.document]
        ((_, start, end),) = document.spans
        tokens = instance.window.tokens[instance.start : instance.end].tolist()
        offset = instance.window.start + instance.start - 1
        assert tokens == document.ids[offset : offset + len(tokens)]
        assert start <= offset and offset + len(tokens) <= end
        assert 2 * len(tokens) >= end - start
        cut += len(tokens) < end - start
    assert cut > 0  # some stand across the end of a window
    lengths = sorted(i.end - i.start for i in planted)
    for instance in plain:
        assert instance.window.document not in documents
        assert 1 <= instance.start < instance.end <= len(instance.window.tokens)
        assert instance.end - instance.start in lengths
    again = find_instances(documents, long_documents / "tokens", "test", 0.5, 0)
    other = find_instances(documents, long_documents / "tokens", "test", 0.5, 1)
    places = [[(i.window.document, i.window.start, i.start) for i in of] for of in (found, again)]
    assert places[0] == places[1]
    assert places[0] != [(i.window.document, i.window.start, i.start) for i in other]


def test_token_shares_count_the_train_split_alone(long_documents: Path) -> None:
    subject = long_documents / "subjects" / "gpt_neox"
    documents = planted_documents(long_documents / "corpus", subject)
    train = [document._replace(split="train") for document in documents.values()]
    length = train[0].spans[0][2] - train[0].spans[0][1]
    assert token_shares(documents.values(), {"train": {"text_tokens": 10}}) == {}
    shares = token_shares(train[:2], {"train": {"text_tokens": 1000}})
    assert shares == {"dogs": 2 * length / 1000}


# --- ranks ---------------------------------------------------------------------------------------


def test_aurocs_equal_scikit_learn_with_ties() -> None:
    generator = np.random.default_rng(0)
    values_nf = generator.integers(0, 4, (60, 1100)).astype(np.float32)
    positive_cn = generator.random((3, 60)) < np.array([[0.1], [0.5], [0.9]])
    found_cf = aurocs(values_nf, positive_cn)
    for c, f in ((0, 0), (1, 7), (2, 1023), (0, 1024), (2, 1099)):
        assert found_cf[c, f] == pytest.approx(roc_auc_score(positive_cn[c], values_nf[:, f]))


def test_aurocs_in_closed_form() -> None:
    values_nf = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    positive_cn = np.array([[1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0]], dtype=bool)
    assert aurocs(values_nf, positive_cn).tolist() == [[1.0, 0.5], [0.0, 0.5], [0.75, 0.5]]
    with pytest.raises(ValueError, match="positives and negatives"):
        aurocs(values_nf, np.ones((1, 4), dtype=bool))


# --- what does not fit ---------------------------------------------------------------------------


def test_a_corpus_without_plants_is_refused(world: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "documents.parquet").write_bytes(
        (world / "corpus" / "documents.parquet").read_bytes()
    )
    write_manifest(corpus, kind="corpus", settings={}, files=["documents.parquet"])
    with pytest.raises(ArtifactError, match="tells of no planted concepts"):
        measure(world, tmp_path / "out", corpus=corpus)


def test_tokens_of_another_corpus_are_refused(world: Path, tmp_path: Path) -> None:
    longer = [(concept, f"{words} w6") for concept, words in TEST]
    (tmp_path / "other").mkdir()
    make_world(tmp_path / "other", {"train": TRAIN, "validation": VALIDATION, "test": longer})
    with pytest.raises(ArtifactError, match="has other tokens than the planted corpus"):
        measure(world, tmp_path / "out", tokens=tmp_path / "other" / "tokens")


def test_a_concept_without_sentences_is_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    without = [(concept, words) for concept, words in TEST if concept != "none"]
    make_world(tmp_path / "other", {"train": TRAIN, "validation": VALIDATION, "test": without})
    with pytest.raises(ArtifactError, match="split test has no sentence left of none"):
        measure(tmp_path / "other", tmp_path / "out")
    with pytest.raises(ArtifactError, match="never finished"):
        read_manifest(tmp_path / "out", kind="metrics")


def test_unplanted_windows_must_be_long_enough(world: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    wide = [("one", " ".join(["w1"] * 12)), *TEST]
    make_world(tmp_path / "other", {"train": TRAIN, "validation": VALIDATION, "test": wide})
    with pytest.raises(ArtifactError, match="no window of 12 tokens without plants"):
        measure(tmp_path / "other", tmp_path / "out", settings={"unplanted": 1.0})


def test_a_truncated_tokens_file_is_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    make_world(tmp_path / "other", {"train": TRAIN, "validation": VALIDATION, "test": TEST})
    path = tmp_path / "other" / "tokens" / "test.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match=r"test\.parquet has .* bytes, its manifest says"):
        measure(tmp_path / "other", tmp_path / "out")


@pytest.mark.parametrize(
    "settings", [{"bar": 0.5}, {"bar": 1.0}, {"unplanted": -1}, {"batch_tokens": 0}, {"latents": 3}]
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ConceptRecallSettings(**settings)


def test_the_context_holds_the_longest_document() -> None:
    """The plain computation above runs each document as one window."""
    assert max(len(words.split()) for _, words in VALIDATION + TEST) + 6 <= CONTEXT
