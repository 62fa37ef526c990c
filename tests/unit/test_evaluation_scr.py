"""Spurious correlation removal against planted words and against ablation token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from concept_recall_world import D_IN, axes_sae
from labelled_world import GENDER, PROFESSION, make_world, point_of, site_of
from torch import nn

from saeflow.evaluation.labelled_text import QUADRANTS, PairDocuments, read_pairs
from saeflow.evaluation.linear_probes import train_probes
from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.pooled import pool
from saeflow.evaluation.rows import read_rows
from saeflow.evaluation.scr import evaluate_scr, measure_scr, scr_score
from saeflow.evaluation.scr_settings import ScrSettings
from saeflow.sae.model import SAE

TWO_JOBS = {**PROFESSION, "classes": ["cook", "poet"]}
PAIRS = {"people": {"corpus": "people", "first": TWO_JOBS, "second": GENDER}}
SIZES = {"train_documents": 32, "test_documents": 32}
# The planted words are few: this learns them in a blink.
FAST = {"probe": {"learning_rate": 0.1, "batch_size": 8, "epochs": 60}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    make_world(root)
    return root


def settings_of(**changed: Any) -> ScrSettings:
    return ScrSettings.model_validate({"pairs": PAIRS, **SIZES, **FAST, **changed})


def evaluate(world: Path, out: Path, **changed: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return values and n by metric, and the details."""
    evaluate_scr(
        settings_of(**changed),
        [Member(4, 0, world / "axes")],
        subject=world / "subject",
        corpora={"people": world / "people"},
        activations=world / "cache",
        point=point_of(),
        out=out,
    )
    rows = read_rows([out / "scr.parquet"])
    return (
        rows.set_index("metric")[["value", "n"]],
        pd.read_parquet(out / "scr_details.parquet"),
    )


def biased(cook: int, male: int) -> dict[tuple[int, int], list[list[int]]]:
    """Documents that say w1 (a cook) `cook` times and w4 (a man) `male` times, or w2 and w5."""
    return {
        (a, b): [[0, *[1 + a] * cook, *[4 + b] * male, 9 + i] for i in range(4)]
        for a, b in QUADRANTS
    }


def twice(documents: dict[tuple[int, int], list[list[int]]]) -> dict:
    """The same, with twice as many of the quadrants that agree."""
    return {at: of * (2 if at[0] == at[1] else 1) for at, of in documents.items()}


def planted(cook: int, male: int, **changed: Any) -> tuple[dict[str, float], pd.DataFrame]:
    """Return the values and details of a pair whose words are said so often."""
    documents = biased(cook, male)
    pairs = {"people": PairDocuments(twice(documents), documents, "job", "gender")}
    root = changed.pop("root")
    found = measure_scr(
        settings_of(**changed), pairs, {Key(4, 0): axes_sae()}, {}, site=site_of(root),
        point=point_of(),
    )  # fmt: skip
    return {row.metric: row.value for row in found.rows}, found.details.to_pandas()


@pytest.mark.parametrize(("cook", "male", "kept"), [(1, 3, "job"), (3, 1, "gender")])
def test_ablating_the_louder_word_gives_the_other_back(
    world: Path, cook: int, male: int, kept: str
) -> None:
    """The biased probe goes by what is said three times, and cannot tell what is said once."""
    values, details = planted(cook, male, n=[2], root=world)
    counts = details[details["reported"]].iloc[0]
    assert counts["kept"] == kept
    assert counts["accuracy_before"] == 0.5
    assert counts["accuracy_kept"] == 1
    assert counts["ablated"] == 2
    assert values["scr@2"] == counts["score"] == 1
    # The other direction: the probe is right before, so that there is no gap and no score.
    other = details[~details["reported"]].iloc[0]
    assert other["accuracy_before"] == other["accuracy_kept"] == 1
    assert other["score"] == 0
    assert values["scr_pairs_without_gap"] == 0
    assert values["scr_pairs_skipped"] == 0


def test_an_sae_without_the_latents_mends_nothing(world: Path) -> None:
    documents = biased(1, 3)
    pairs = {"people": PairDocuments(twice(documents), documents, "job", "gender")}
    eye = torch.eye(D_IN)[:, 9:]
    zero = torch.zeros
    fillers = SAE(eye, eye.T.clone(), zero(D_IN - 9), zero(D_IN), nn.ReLU())
    blind = SAE(zero(D_IN, 3), zero(3, D_IN), zero(3), zero(D_IN), nn.ReLU())
    saes = {Key(4, 0): fillers, Key(4, 1): blind, Key(8, 0): axes_sae()}
    found = measure_scr(
        settings_of(n=[2, 500]), pairs, saes, {"lost": "few"}, site=site_of(world), point=point_of()
    )
    values = {(row.l0_target, row.seed, row.metric): row for row in found.rows}
    assert values[4, 0, "scr@2"].value == values[4, 1, "scr@2"].value == 0
    assert values[8, 0, "scr@2"].value == 1
    assert values[4, 1, "scr@2"].n == 1
    lost = values[4, 1, "scr_pairs_skipped"]
    assert (lost.value, lost.n) == (1, 2)
    details = found.details.to_pandas()
    assert details["skipped"].dropna().tolist() == ["few"]
    own = details[(details["l0_target"] == 4) & (details["seed"] == 1)]
    assert set(own["ablated"]) == {0}


def test_a_score_is_the_share_of_the_gap_that_is_closed() -> None:
    assert scr_score(0.6, 0.7, 0.8) == pytest.approx(0.5)
    assert scr_score(0.6, 0.5, 0.8) == pytest.approx(-0.5)
    assert scr_score(0.6, 0.9, 0.8) == pytest.approx(1.5)
    assert scr_score(0.8, 0.9, 0.8) == 0
    assert scr_score(0.8, 0.9, 0.8009) == 0
    assert scr_score(0.8, 0.9, 0.7) == 0


def test_pairs_without_a_gap_count_as_zero_and_are_counted(world: Path) -> None:
    """Where no word tells the job, its own probe is no better than the biased one."""
    documents = {(a, b): [[0, 4 + b, 9]] * 4 for a, b in QUADRANTS}
    pairs = {"same": PairDocuments(twice(documents), documents, "job", "gender")}
    found = measure_scr(
        settings_of(n=[2]), pairs, {Key(4, 0): axes_sae()}, {}, site=site_of(world),
        point=point_of(),
    )  # fmt: skip
    values = {row.metric: row.value for row in found.rows}
    details = found.details.to_pandas()
    # What is said goes with the gender in every document, and with the job in half of them.
    job = details[details["kept"] == "job"].iloc[0]
    assert job["accuracy_before"] == job["accuracy_kept"] == 0.5
    assert job["reported"]
    assert values["scr@2"] == job["score"] == 0
    assert values["scr_pairs_without_gap"] == 1


def test_scores_are_those_of_ablation_token_by_token(tmp_path: Path) -> None:
    make_world(tmp_path, certain=0.7)
    site, key, sae = site_of(tmp_path), Key(4, 0), axes_sae()
    settings = settings_of(n=[1])
    people = {"people": tmp_path / "people"}
    pairs, _ = read_pairs(settings, settings.pairs, people, site.subject)
    found = measure_scr(settings, pairs, {key: sae}, {}, site=site, point=point_of())
    details = found.details.to_pandas().set_index("kept")
    documents = pairs["people"]
    train = [
        (tokens, 1.0 - a, 1.0 - b) for a, b in QUADRANTS for tokens in documents.train[a, b][:8]
    ]
    agreeing = [(tokens, 1.0 - a) for a in (0, 1) for tokens in documents.train[a, a]]
    # Biased rows in the library's order: the balanced ones first.
    agreeing = [*agreeing[:8], *agreeing[16:24], *agreeing[8:16], *agreeing[24:]]
    x_nd = pool(site, [tokens for tokens, *_ in train], {}).x_nd
    biased_nd = pool(site, [tokens for tokens, _ in agreeing], {}).x_nd
    label_nc = torch.tensor([[a, b, c] for (_, a, b), (_, c) in zip(train, agreeing, strict=True)])
    x_cnd = torch.stack([x_nd, x_nd, biased_nd])
    probes = train_probes(settings.probe, x_cnd, label_nc, seed=0)
    test = [(tokens, a, b) for a, b in QUADRANTS for tokens in documents.test[a, b]]
    for kept, name in ((0, "cook / poet"), (1, "male / female")):
        removed = 1 - kept
        label_n = label_nc[:, removed] > 0
        acts_nf = x_nd.clamp_min(0)
        effect_f = (acts_nf[label_n].mean(0) - acts_nf[~label_n].mean(0)) * probes.weight_cd[
            removed
        ]
        best = int(effect_f.abs().argmax())
        right = {"before": 0, "after": 0, "kept": 0}
        for tokens, *of in test:
            words = [token for token in tokens if token]
            x_d = torch.eye(D_IN)[words].mean(0)
            # Without its latent a word's axis is zero in every token that says it.
            after_d = x_d.index_fill(0, torch.tensor([best]), 0)
            logits = {"before": probes.logits(x_d[None])[0, 2],
                      "after": probes.logits(after_d[None])[0, 2],
                      "kept": probes.logits(x_d[None])[0, kept]}  # fmt: skip
            for what, logit in logits.items():
                right[what] += int((logit > 0) == (of[kept] == 0))
        row = details.loc[name]
        for what, count in right.items():
            assert row[f"accuracy_{what}"] == pytest.approx(count / len(test))
        assert row["score"] == scr_score(
            *(right[w] / len(test) for w in ("before", "after", "kept"))
        )
    assert details["reported"].sum() == 1
    assert details.loc[details["reported"], "accuracy_before"].item() == pytest.approx(
        details["accuracy_before"].min()
    )


def test_the_job_writes_rows_of_the_pairs_that_there_are(world: Path, tmp_path: Path) -> None:
    few = {"first": {"label": "profession", "classes": ["poet", "smith"]}, "second": GENDER}
    elsewhere = {"few": {"corpus": "other", **few}, **PAIRS}
    with pytest.raises(ValueError, match="corpus 'other' is not given"):
        evaluate(world, tmp_path / "wrong", pairs=elsewhere)
    rows, details = evaluate(world, tmp_path / "out", n=[1, 2])
    assert rows.loc["scr_pairs_skipped"].tolist() == [0, 1]
    assert set(details["train_documents"]) == set(details["test_documents"]) == {32}
    assert len(details) == 4
    reported = details[details["reported"]].set_index("n")["score"]
    for n in (1, 2):
        assert rows.loc[f"scr@{n}"].tolist() == pytest.approx([reported[n], 1])
    with pytest.raises(ValueError, match=r"no pair .*16 train documents of cook and male, 32 are"):
        evaluate(world, tmp_path / "none", train_documents=64)
    assert np.isfinite(rows["value"]).all()
