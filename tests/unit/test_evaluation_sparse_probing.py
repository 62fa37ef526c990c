"""Sparse probing against planted words and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from concept_recall_world import D_IN, axes_sae
from labelled_world import GENDER, GENDERS, PROFESSION, PROFESSIONS, make_world, point_of, site_of
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.evaluation.labelled_text import ClassDocuments
from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.rows import read_rows
from saeflow.evaluation.sparse_probing import (
    evaluate_sparse_probing,
    latents_by_difference,
    measure_sparse_probing,
    probe_accuracy,
)
from saeflow.evaluation.sparse_probing_settings import SparseProbingSettings

SETS = {
    "jobs": {"corpus": "people", "attribute": PROFESSION},
    "genders": {"corpus": "people", "attribute": GENDER},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    make_world(root)
    return root


def evaluate(world: Path, out: Path, **changed: Any) -> tuple[pd.Series, pd.DataFrame]:
    """Return the values by metric, and the details."""
    sizes = {"train_documents": 32, "test_documents": 16}
    settings = SparseProbingSettings.model_validate({"datasets": SETS, **sizes, **changed})
    evaluate_sparse_probing(
        settings,
        [Member(4, 0, world / "axes")],
        subject=world / "subject",
        corpora={"people": world / "people"},
        activations=world / "cache",
        point=point_of(),
        out=out,
    )
    rows = read_rows([out / "sparse_probing.parquet"])
    assert set(rows["split"]) == {"test"}
    assert set(rows["l0_target"]) == {4}
    return (
        rows.set_index("metric")[["value", "n"]],
        pd.read_parquet(out / "sparse_probing_details.parquet"),
    )


def test_a_word_that_makes_the_class_is_found_in_its_latent(world: Path, tmp_path: Path) -> None:
    rows, details = evaluate(world, tmp_path, k=[1, 2])
    assert rows.loc["sparse_probing_accuracy@1", "value"] == 1
    assert set(rows.loc[rows.index.str.startswith("sparse_probing_accuracy"), "n"]) == {5}
    assert rows.loc["sparse_probing_classes_skipped"].tolist() == [0, 5]
    chosen = details[details["probe"] == "1"].set_index("class")["latents"]
    assert {name: f"w{chosen[name][0]}" for name in PROFESSIONS} == PROFESSIONS
    # A man says w4 and never w5, a woman the other way round: either latent tells them apart.
    assert {f"w{chosen[name][0]}" for name in GENDERS} <= set(GENDERS.values())
    assert set(details["train_documents"]) == {32}
    assert set(details["test_documents"]) == {16}


def test_values_are_means_over_sets_of_means_over_classes(tmp_path: Path) -> None:
    make_world(tmp_path, certain=0.6)
    rows, details = evaluate(tmp_path, tmp_path / "out")
    by_set = details.groupby(["probe", "dataset"])["accuracy"].mean().groupby("probe").mean()
    for probe in ("1", "2", "5", "all", "residual"):
        value = rows.loc[f"sparse_probing_accuracy@{probe}", "value"]
        assert value == pytest.approx(by_set[probe])
        assert 0.5 < value < 1
    lengths = details[details["latents"].notna()]
    assert (lengths["latents"].map(len) == lengths["probe"].astype(int)).all()


def test_a_class_without_a_word_is_told_by_chance(tmp_path: Path) -> None:
    make_world(tmp_path, certain=0.0, train=64, test=64)
    rows, _ = evaluate(tmp_path, tmp_path / "out", train_documents=128, test_documents=128)
    accuracy = rows.loc["sparse_probing_accuracy@1", "value"]
    assert accuracy == pytest.approx(0.5, abs=0.06)


def test_probes_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    x_nf, label_n = draw.normal(size=(80, 5)), draw.integers(0, 2, 80).astype(float)
    x_nf[:, 3] += 0.8 * label_n
    expected = LogisticRegression(C=1.0).fit(x_nf[:40], label_n[:40])
    score = expected.score(x_nf[40:], label_n[40:])
    assert probe_accuracy(x_nf[:40], label_n[:40], x_nf[40:], label_n[40:]) == score
    sparse = csr_array(x_nf)
    assert probe_accuracy(sparse[:40], label_n[:40], sparse[40:], label_n[40:]) == score
    assert latents_by_difference(sparse, label_n)[0] == 3
    assert latents_by_difference(csr_array(-x_nf), label_n)[0] == 3


def test_any_loaded_sae_is_measured_on_documents_given_as_tokens(world: Path) -> None:
    documents = {"one": [[0, 1, 9], [0, 8, 1]], "two": [[0, 2, 9], [0, 8, 2]]}
    sets = {"s": ClassDocuments(documents, documents, {"three": "few"})}
    settings = SparseProbingSettings.model_validate({"datasets": SETS, "k": [1]})
    found = measure_sparse_probing(
        settings, sets, {Key(8, 3): axes_sae()}, site=site_of(world), point=point_of()
    )
    values = {row.metric: (row.seed, row.l0_target, row.value, row.n) for row in found.rows}
    assert values["sparse_probing_accuracy@1"] == (3, 8, 1.0, 2)
    assert values["sparse_probing_classes_skipped"] == (3, 8, 1, 3)
    last = found.details.to_pylist()[-1]
    assert (last["class"], last["skipped"], last["accuracy"]) == ("three", "few", None)
    with pytest.raises(ValueError, match="lower train_documents"):
        measure_sparse_probing(
            settings, {"s": ClassDocuments({}, {}, {"one": "few"})}, {}, site=site_of(world),
            point=point_of(),
        )  # fmt: skip


def test_a_skipped_class_is_said(world: Path, tmp_path: Path) -> None:
    by_both = {"domain_depth": 2, "classes": ["cook.male", "poet.male"]}
    sets = {**SETS, "few": {"corpus": "people", "attribute": by_both}}
    rows, details = evaluate(world, tmp_path, datasets=sets, train_documents=48)
    assert rows.loc["sparse_probing_classes_skipped"].tolist() == [2, 7]
    assert rows.loc["sparse_probing_accuracy@1", "n"] == 5
    skipped = details[details["skipped"].notna()].set_index("class")["skipped"]
    assert skipped.to_dict() == dict.fromkeys(
        ("cook.male", "poet.male"), "16 train documents, 24 are needed"
    )


def test_the_job_checks_its_saes_and_says_what_it_read(world: Path, tmp_path: Path) -> None:
    evaluate(world, tmp_path)
    manifest = read_manifest(tmp_path, kind="metrics", deep=True)
    assert set(manifest["inputs"]) == {
        "subject", "activations", "exclusion", "corpus.people", "l0_4/seed0",
    }  # fmt: skip
    settings = SparseProbingSettings.model_validate({"datasets": SETS})
    with pytest.raises(ArtifactError, match="l0 4 for 8"):
        evaluate_sparse_probing(
            settings,
            [Member(8, 0, world / "axes")],
            subject=world / "subject",
            corpora={"people": world / "people"},
            activations=world / "cache",
            point=point_of(),
            out=tmp_path / "wrong",
        )


def test_the_site_is_read_as_the_embedding(world: Path) -> None:
    """The planted truths above rest on this: a word is an axis."""
    site = site_of(world)
    embedding = site.subject.model.get_input_embeddings().weight
    torch.testing.assert_close(embedding, torch.eye(D_IN))
