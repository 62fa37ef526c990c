"""The probe, the concept bottleneck and the scores, in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from debias_planted import D_IN, HE, PROBE_SITE, SHE, WARD, planted_settings, planted_subject

from saeflow.debias.biographies import Examples
from saeflow.debias.cbp import concept_vectors, similarities
from saeflow.debias.probe import ProbeError, check_learnt, fit_probe
from saeflow.debias.scoring import Share, score
from saeflow.debias.settings import Probe as ProbeSettings


def separable(n: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    x_nd = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return x_nd, (x_nd[:, 2] > 0).long()


def test_a_probe_learns_what_separates() -> None:
    x_nd, label_n = separable()
    probe = fit_probe(ProbeSettings(learning_rate=0.1, epochs=10, batch_size=20), x_nd, label_n, 0)
    assert (probe.predict(x_nd) == label_n).float().mean() > 0.97
    assert probe.weight_d.abs().argmax() == 2


def test_the_first_step_is_adams() -> None:
    """Whatever the gradient, AdamW's first step is the learning rate, after the weight decay."""
    x_nd, label_n = separable()
    settings = {"batch_size": 200, "learning_rate": 0.01, "weight_decay": 0.0}
    start = fit_probe(ProbeSettings(**{**settings, "learning_rate": 1e-12}), x_nd, label_n, 3)
    after = fit_probe(ProbeSettings(**settings), x_nd, label_n, 3)
    logit_n = x_nd @ start.weight_d + start.bias
    gradient_d = ((logit_n.sigmoid() - label_n)[:, None] * x_nd).mean(0)
    expected_d = start.weight_d - 0.01 * gradient_d.sign()
    torch.testing.assert_close(after.weight_d, expected_d, rtol=1e-3, atol=1e-5)
    decayed = fit_probe(ProbeSettings(**{**settings, "weight_decay": 0.5}), x_nd, label_n, 3)
    torch.testing.assert_close(
        after.weight_d - decayed.weight_d, 0.01 * 0.5 * start.weight_d, rtol=1e-3, atol=1e-6
    )


def test_a_seed_decides_the_probe() -> None:
    x_nd, label_n = separable()
    one, again, other = (fit_probe(ProbeSettings(), x_nd, label_n, seed) for seed in (0, 0, 1))
    assert torch.equal(one.weight_d, again.weight_d)
    assert not torch.equal(one.weight_d, other.weight_d)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit_probe(ProbeSettings(), torch.zeros(3, 2), torch.ones(3, dtype=torch.long), 0)


def test_a_probe_that_learns_nothing_is_refused_with_what_to_do() -> None:
    x_nd, label_n = separable()
    lame = ProbeSettings(learning_rate=1e-9, epochs=3, batch_size=50)
    noise_n = torch.arange(200) % 2
    for settings, labels in ((lame, label_n), (ProbeSettings(), noise_n)):
        probe = fit_probe(settings, 1e-3 * x_nd, labels, 0)
        with pytest.raises(ProbeError, match=r"the oracle is right on .* of the 200 .*steps"):
            check_learnt(settings, probe, 1e-3 * x_nd, labels, "the oracle")
    settings = ProbeSettings(learning_rate=0.1, epochs=3, batch_size=50)
    check_learnt(settings, fit_probe(settings, x_nd, label_n, 0), x_nd, label_n, "the oracle")


def test_activations_that_are_not_finite_are_refused() -> None:
    x_nd, label_n = separable()
    x_nd[3, 1], x_nd[3, 2], x_nd[5, 0] = torch.inf, torch.nan, torch.nan
    with pytest.raises(ProbeError, match="2 of 200 pooled activations are not finite"):
        fit_probe(ProbeSettings(), x_nd, label_n, 0)


def test_concepts_are_states_less_their_mean(tmp_path: Path) -> None:
    subject = planted_subject(tmp_path / "subject")
    concepts_kd = concept_vectors(subject, ["ward", "he", "then she"], PROBE_SITE)
    expected_kd = torch.eye(D_IN)[[WARD, HE, SHE]]
    torch.testing.assert_close(concepts_kd, expected_kd - expected_kd.mean(0))


def test_the_bottleneck_holds_cosines() -> None:
    concepts_kd = torch.tensor([[3.0, 0.0], [0.0, -0.5]])
    x_nd = torch.tensor([[3.0, 4.0]])
    assert similarities(x_nd, concepts_kd, "concepts").tolist() == [[3.0, -4.0]]
    torch.testing.assert_close(similarities(x_nd, concepts_kd, "both"), torch.tensor([[0.6, -0.8]]))


def test_scores_of_a_classifier_that_goes_by_gender() -> None:
    """The profession is called right where the gender is the stereotyped one, and nowhere else."""
    groups = [(0, 0)] * 8 + [(1, 0)] * 4 + [(0, 1)] * 2 + [(1, 1)] * 6
    gender_n, profession_n = (torch.tensor(column) for column in zip(*groups, strict=True))
    test = Examples([[0]] * len(groups), gender_n, profession_n)
    found = score(planted_settings(), gender_n, test)
    assert found == {
        "profession_accuracy": Share(0.5, 8),
        "gender_accuracy": Share(1.0, 8),
        "worst_group_accuracy": Share(0.0, 2),
        "accuracy_male_professor": Share(1.0, 8),
        "accuracy_female_professor": Share(0.0, 4),
        "accuracy_male_nurse": Share(0.0, 2),
        "accuracy_female_nurse": Share(1.0, 6),
        "ambiguous_accuracy": Share(1.0, 12),
    }


def test_subgroups_count_in_full_and_the_balanced_set_does_not() -> None:
    groups = [(0, 0)] * 8 + [(1, 0)] * 4 + [(0, 1)] * 2 + [(1, 1)] * 6
    gender_n, profession_n = (torch.tensor(column) for column in zip(*groups, strict=True))
    test = Examples([[0]] * len(groups), gender_n, profession_n)
    wrong_n = profession_n.clone()
    wrong_n[3] = 1  # of the first subgroup, and not among its first two
    found = score(planted_settings(), wrong_n, test)
    assert found["profession_accuracy"] == Share(1.0, 8)
    assert found["accuracy_male_professor"] == Share(7 / 8, 8)
    assert found["worst_group_accuracy"] == Share(7 / 8, 8)
    assert math.isclose(found["ambiguous_accuracy"].value, 11 / 12)
