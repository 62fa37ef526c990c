"""The judge: AUROCs in closed form, planted latents, and what it must not decide on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import subjects_tiny
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from saeflow.debias.biographies import Examples
from saeflow.debias.gender import auroc_within, is_gendered, judge_gender
from saeflow.debias.settings import Judge
from saeflow.sae.activation_functions import TopK
from saeflow.sae.model import SAE
from saeflow.subjects.load import Subject
from saeflow.subjects.sites import run_to_sites

EMBED = "gpt_neox.embed_in"
# Tokens of a tiny vocabulary: pronouns tell gender, duties the profession, fillers neither.
HE, SHE, TEACHES, HEALS, FILLER = 11, 12, 13, 14, (15, 16, 17, 18)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    made = subjects_tiny.make("gpt_neox", tmp_path_factory.mktemp("subject"))
    return replace(made, prepend_bos=False)


def biographies(n: int = 20, seed: int = 0, agree: bool = False) -> Examples:
    """`n` of each subgroup, or of the two in which gender and profession agree."""
    rng = np.random.default_rng(seed)
    tokens, genders, professions = [], [], []
    for gender, profession in ((0, 0), (1, 1)) if agree else ((0, 0), (0, 1), (1, 0), (1, 1)):
        for _ in range(n):
            text = rng.choice(FILLER, rng.integers(3, 9)).tolist()
            text += [(HE, SHE)[gender], (TEACHES, HEALS)[profession]]
            rng.shuffle(text)
            tokens.append(text)
            genders.append(gender)
            professions.append(profession)
    return Examples(tokens, torch.tensor(genders), torch.tensor(professions))


def token_sae(subject: Subject, tokens: list[int], activation: nn.Module | None = None) -> SAE:
    """One latent a token, active on that token alone (embeddings of a tiny model are distinct)."""
    rows = subject.model.get_input_embeddings().weight.detach()
    vectors = rows[tokens]
    norms = (vectors**2).sum(1)
    others = rows[[HE, SHE, TEACHES, HEALS, *FILLER]] @ vectors.T
    second = others.sort(0).values[-2]
    return SAE(
        vectors.T.clone(), vectors.clone(), -(norms + second) / 2, torch.zeros(16),
        activation or nn.ReLU(),
    ).requires_grad_(False)  # fmt: skip


@pytest.mark.parametrize("statistic", ["max", "mean"])
def test_planted_latents_are_told_apart(subject: Subject, statistic: str) -> None:
    sae = token_sae(subject, [HE, SHE, TEACHES, HEALS, FILLER[0], HE])
    settings = Judge(statistic=statistic, margin=0.1, min_activations=5)
    table = judge_gender(
        subject, {EMBED: sae}, {EMBED: torch.tensor([3, 0, 4, 1, 2])}, biographies(), settings,
        batch_tokens=64,
    )  # fmt: skip
    assert table["latent"].tolist() == [3, 0, 4, 1, 2]
    assert set(table["module"]) == {EMBED}
    assert table["ablated"].tolist() == [False, True, False, True, False]
    exact = table.set_index("latent")
    assert exact["gender"][0] == 0 and exact["gender"][1] == 1
    assert exact["profession"][2] == 0 and exact["profession"][3] == 1
    assert abs(exact["gender"][3] - 0.5) < 0.2
    assert exact["active"][0] == 40


def test_competing_latents_are_judged_by_what_is_active(subject: Subject) -> None:
    sae = token_sae(subject, [HE, SHE, TEACHES, HEALS, *FILLER], TopK(1))
    table = judge_gender(
        subject, {EMBED: sae}, {EMBED: [1]}, biographies(4), Judge(min_activations=1),
        batch_tokens=10**6,
    )  # fmt: skip
    assert table["gender"].tolist() == [1.0]


def test_activations_are_those_of_each_biography(subject: Subject) -> None:
    site, examples = "gpt_neox.layers.1", biographies(3)
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(16, 5, generator=generator)
    sae = SAE(W, W.T.clone(), torch.zeros(5), torch.zeros(16), nn.ReLU()).requires_grad_(False)
    begun = replace(subject, prepend_bos=True)
    table = judge_gender(
        begun, {site: sae}, {site: range(5)}, examples, Judge(statistic="mean"), batch_tokens=30
    )
    expected = []
    for tokens in examples.tokens:
        x_td = run_to_sites(subject, torch.tensor([tokens]), [site])[site][0]
        expected.append(sae.encode(x_td[1:]).mean(0).numpy())
    found = auroc_within(
        np.stack(expected), examples.gender_n.numpy(), examples.profession_n.numpy()
    )
    np.testing.assert_allclose(table["gender"], found)


def test_auroc_is_averaged_within_the_other_label_and_halves_ties() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (60, 3)).astype(float)
    classes, groups = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    expected = [
        np.mean([roc_auc_score(classes[groups == g], values[groups == g, f]) for g in (0, 1)])
        for f in range(3)
    ]
    np.testing.assert_allclose(auroc_within(values, classes, groups), expected)
    # The value follows the group alone: over all it would predict the class.
    group = np.array([0] * 10 + [1] * 10)
    skewed = np.array([0] * 8 + [1] * 2 + [0] * 2 + [1] * 8)
    assert roc_auc_score(skewed, group) == 0.8
    assert auroc_within(group[:, None].astype(float), skewed, group)[0] == 0.5


def test_the_margin_and_the_count_decide() -> None:
    table = pd.DataFrame(
        {"gender": [0.8, 0.2, 0.6, 0.9], "profession": [0.6, 0.5, 0.5, 0.5], "active": [9, 9, 9, 4]}
    )
    assert is_gendered(table, Judge(margin=0.15, min_activations=5)).tolist() == [
        True, True, False, False,
    ]  # fmt: skip
    assert is_gendered(table, Judge(margin=0.25, min_activations=1)).tolist() == [
        False, True, False, True,
    ]  # fmt: skip


def test_nothing_to_judge_is_an_empty_table(subject: Subject) -> None:
    sae = token_sae(subject, [HE])
    for candidates in ({}, {EMBED: torch.tensor([], dtype=torch.long)}):
        table = judge_gender(
            subject, {EMBED: sae}, candidates, biographies(2), Judge(), batch_tokens=64
        )
        assert table.empty
        assert {"module", "latent", "ablated", "decided_by"} <= set(table)


def test_refusals(subject: Subject, tmp_path: Path) -> None:
    sae = token_sae(subject, [HE, SHE])
    with pytest.raises(ValueError, match=r"embed_in: latents \[2\] are not among the SAE's 2"):
        judge_gender(
            subject, {EMBED: sae}, {EMBED: [0, 2]}, biographies(2), Judge(), batch_tokens=9
        )
    with pytest.raises(ValueError, match="needs both"):
        judge_gender(
            subject,
            {EMBED: sae},
            {EMBED: [0]},
            biographies(2, agree=True),
            Judge(),
            batch_tokens=64,
        )
    with pytest.raises(ValueError, match="no examples"):
        auroc_within(np.zeros((0, 1)), np.zeros(0, int), np.zeros(0, int))
