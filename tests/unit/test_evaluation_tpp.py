"""Targeted probe perturbation against planted words and against ablation token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from concept_recall_world import BLOCK, D_IN, axes_sae, random_sae
from labelled_world import PROFESSION, make_world, point_of, site_of
from torch import nn

from saeflow.evaluation.labelled_text import ClassDocuments, read_class_sets
from saeflow.evaluation.labelled_text_problems import balanced_problems
from saeflow.evaluation.linear_probes import LinearProbes, train_probes
from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.pooled import Site, pool
from saeflow.evaluation.pooled_ablation import ablate, by_effect, logit_weights
from saeflow.evaluation.rows import read_rows
from saeflow.evaluation.site_rows import arithmetic, read_site
from saeflow.evaluation.tpp import class_effects, evaluate_tpp, measure_tpp, problem_accuracies
from saeflow.evaluation.tpp_settings import TppSettings
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE

JOBS = {"jobs": {"corpus": "people", "attribute": PROFESSION}}
SIZES = {"train_documents": 32, "test_documents": 16}
OWN_WORD: dict[str, list[int]] = {"a": [1], "b": [2], "c": []}
# The planted words are few: this learns them in a blink.
FAST = {"probe": {"learning_rate": 0.1, "batch_size": 8, "epochs": 60}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    make_world(root)
    return root


def settings_of(**changed: Any) -> TppSettings:
    return TppSettings.model_validate({"datasets": JOBS, **SIZES, **FAST, **changed})


def evaluate(world: Path, out: Path, **changed: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return values and n by metric, and the details."""
    evaluate_tpp(
        settings_of(**changed),
        [Member(4, 0, world / "axes")],
        subject=world / "subject",
        corpora={"people": world / "people"},
        activations=world / "cache",
        point=point_of(),
        out=out,
    )
    rows = read_rows([out / "tpp.parquet"])
    details = pd.read_parquet(out / "tpp_details.parquet")
    return rows.set_index("metric")[["value", "n"]], details


def test_a_class_without_its_word_is_what_says_nothing(world: Path) -> None:
    """a says w1, b says w2, c neither: without its word a document of a or b is one of c."""
    documents = {name: [[0, *own, *range(6, 16)]] * 6 for name, own in OWN_WORD.items()}
    sets = {"words": ClassDocuments(documents, documents, {})}
    found = measure_tpp(
        settings_of(n=[1]), sets, {Key(4, 0): axes_sae()}, site=site_of(world), point=point_of()
    )
    details = found.details.to_pandas().set_index("class")
    assert set(details["accuracy"]) == {1.0}
    for name in ("a", "b"):
        # All positives of its own probe are lost; of c's probe half of the negatives are of the
        # class and taken for c; the third probe goes by another word.
        assert details.loc[name, "ablated"] == 1
        assert details.loc[name, "fall"] == 0.5
        assert details.loc[name, "fall_of_others"] == (0.25 + 0) / 2
        assert details.loc[name, "score"] == 0.375
    values = {row.metric: (row.value, row.n) for row in found.rows}
    assert values["tpp@1"] == (pytest.approx(details["score"].mean()), 3)
    assert values["tpp_intended@1"] == (pytest.approx(details["fall"].mean()), 3)
    assert values["tpp_unintended@1"] == (pytest.approx(details["fall_of_others"].mean()), 3)
    assert values["tpp_classes_skipped"] == (0, 3)


def test_no_more_is_ablated_than_has_an_effect(world: Path, tmp_path: Path) -> None:
    rows, details = evaluate(world, tmp_path, n=[1, 500])
    at_all = details[details["n"] == 500]
    # At most the 15 words, less those that are no more frequent in the class.
    assert at_all["ablated"].between(2, D_IN - 2).all()
    assert (details[details["n"] == 1]["ablated"] == 1).all()
    np.testing.assert_allclose(at_all["score"], at_all["fall"] - at_all["fall_of_others"])
    assert rows.loc["tpp@500", "value"] == pytest.approx(at_all["score"].mean())


def test_an_effect_is_the_positive_difference_times_the_weight() -> None:
    label_n = np.array([1.0, 1, 0, 0])
    latents_nf = np.array([[3.0, 0, 1], [1, 0, 1], [0, 2, 1], [0, 0, 1]])
    effect_f = class_effects(latents_nf, label_n, np.array([-2.0, 5, 7]))
    assert effect_f.tolist() == [-4, 0, 0]
    assert by_effect(np.array([0.0, -4, 2, 0, 3])).tolist() == [4, 2, 1]
    assert len(by_effect(np.zeros(3))) == 0


def standardising(sae: SAE) -> SAE:
    return SAE(
        sae.W_enc.data, sae.W_dec.data, sae.b_enc.data, sae.b_dec.data, nn.ReLU(), standardise=True
    )


SAES = {
    "plain": random_sae(),
    "standardising": standardising(random_sae()),
    "residual": Boosted(random_sae(), axes_sae()),
}


@pytest.mark.parametrize("sae", SAES.values(), ids=SAES.keys())
def test_means_without_latents_are_those_of_tokens_without_latents(
    world: Path, sae: SAE | Boosted
) -> None:
    """Token by token, with the error kept: decode without the latents plus what decode lacked."""
    site, key = site_of(world, BLOCK), Key(4, 0)
    documents = [[0, 1, 2, 3], [0, 4, 11], [0, 5, 6, 5, 7]]
    latents = np.array([3, 17, 30, 8])
    probes = LinearProbes(torch.randn(2, D_IN), torch.randn(2))
    pooled = pool(site, documents, {key: sae}, written=True)
    logits_nc = probes.logits(pooled.x_nd).numpy()
    weights_fc = logit_weights(sae, probes)
    found = list(ablate(logits_nc, pooled.latents[key], weights_fc, latents, [2, 9]))
    assert [(of.asked, of.latents) for of in found] == [(2, 2), (9, 4)]
    for of in found:
        expected = ablated_by_token(site, sae, documents, latents[: of.latents])
        expected_nc = probes.logits(expected).numpy()
        np.testing.assert_allclose(of.logits_nc, expected_nc, rtol=1e-4, atol=1e-4)
        assert np.abs(expected_nc - logits_nc).max() > 0.01


@torch.no_grad()
def ablated_by_token(
    site: Site, sae: SAE | Boosted, documents: list[list[int]], latents: np.ndarray
) -> torch.Tensor:
    means = []
    for tokens in documents:
        batch = torch.tensor([tokens]), torch.tensor([len(tokens)])
        context = arithmetic(site.subject, "float32")
        x_td = read_site(site.subject, site.name, site.rule, batch, context).x_nd
        acts_tf = sae.encode(x_td)
        error_td = x_td - sae.decode(acts_tf, x_td)
        acts_tf[:, latents] = 0
        means.append((sae.decode(acts_tf, x_td) + error_td).mean(0))
    return torch.stack(means)


def test_scores_are_those_of_ablation_token_by_token(tmp_path: Path) -> None:
    """Everything but pooling and training anew: effects, choice, ablation, accuracy, score."""
    make_world(tmp_path, certain=0.7)
    site, key, sae = site_of(tmp_path), Key(4, 0), axes_sae()
    settings = settings_of(n=[1])
    people = {"people": tmp_path / "people"}
    sets = read_class_sets(settings, settings.datasets, people, site.subject)
    found = measure_tpp(settings, sets, {key: sae}, site=site, point=point_of())
    train, test = (balanced_problems(of) for of in (sets["jobs"].train, sets["jobs"].test))
    learn = pool(site, train.documents, {key: sae})
    label_nc = train.label_n[:, None].repeat(1, 3)
    probes = train_probes(settings.probe, learn.x_nd[train.rows_cn], label_nc, seed=0)
    clean_c = accuracies(probes, pool(site, test.documents, {}).x_nd, test)
    scores = []
    for c in range(3):
        acts_nf = learn.x_nd[train.rows_cn[c]].clamp_min(0)
        difference_f = acts_nf[train.label_n > 0].mean(0) - acts_nf[train.label_n == 0].mean(0)
        best = int((difference_f.clamp_min(0) * probes.weight_cd[c]).argmax())
        x_nd = ablated_by_token(site, sae, test.documents, np.array([best]))
        fall_c = clean_c - accuracies(probes, x_nd, test)
        scores.append(fall_c[c] - (fall_c.sum() - fall_c[c]) / 2)
    value = next(row.value for row in found.rows if row.metric == "tpp@1")
    assert value == pytest.approx(float(np.mean(scores)))
    assert value != 0


def accuracies(probes: LinearProbes, x_nd: torch.Tensor, problems: Any) -> np.ndarray:
    right = []
    for c, rows in enumerate(problems.rows_cn):
        predicted_n = x_nd[rows] @ probes.weight_cd[c] + probes.bias_c[c] > 0
        right.append((predicted_n == (problems.label_n > 0)).double().mean())
    return np.array(right)


def test_each_probe_is_judged_on_its_own_problem() -> None:
    problems = balanced_problems({"a": [[1], [2]], "b": [[3], [4]]})
    logits_nc = np.array([[1.0, 1], [-1, 1], [-1, 1], [1, -1]])
    # a: documents 0, 1 against 2, 3; b: documents 2, 3 against 0, 1.
    assert problem_accuracies(logits_nc, problems).tolist() == [0.5, 0.25]


def test_several_saes_and_sets_are_measured_each_for_itself(world: Path) -> None:
    site = site_of(world)
    settings = settings_of(n=[1])
    documents = {"one": [[0, 1, 9], [0, 8, 1]], "two": [[0, 2, 9], [0, 8, 2]]}
    sets = {
        "same": ClassDocuments({"a": [[0, 7]] * 2, "b": [[0, 7]] * 2}, {"a": [[0, 7]] * 2,
                "b": [[0, 7]] * 2}, {}),
        "words": ClassDocuments(documents, documents, {"three": "few"}),
    }  # fmt: skip
    blind = SAE(*(torch.zeros(shape) for shape in ((D_IN, 3), (3, D_IN), 3, D_IN)), nn.ReLU())
    saes = {Key(4, 0): axes_sae(), Key(4, 1): axes_sae(), Key(8, 0): blind}
    found = measure_tpp(settings, sets, saes, site=site, point=point_of())
    values = {(row.l0_target, row.seed): row for row in found.rows if row.metric == "tpp@1"}
    assert values[4, 0].value == values[4, 1].value > 0
    assert values[8, 0].value == 0
    assert {row.n for row in values.values()} == {4}
    details = found.details.to_pandas()
    assert set(details[details["dataset"] == "same"]["score"]) == {0}
    words = details[(details["dataset"] == "words") & (details["l0_target"] == 4)]
    assert values[4, 0].value == pytest.approx(words["score"].mean() / 2)
    assert set(details[details["l0_target"] == 8]["ablated"]) == {0}
    lost = next(row for row in found.rows if row.metric == "tpp_classes_skipped")
    assert (lost.value, lost.n) == (1, 5)
    assert details["skipped"].dropna().tolist() == ["few"]
    # One SAE after the other, as where memory is short: the same.
    with patch("saeflow.evaluation.pooled._GROUP_BYTES", 1):
        alone = measure_tpp(settings, sets, saes, site=site, point=point_of())
    order = ["dataset", "class", "l0_target", "seed"]
    pd.testing.assert_frame_equal(
        alone.details.to_pandas().sort_values(order, ignore_index=True),
        details.sort_values(order, ignore_index=True),
    )
