"""Linear probes against autograd, scikit-learn and planted directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from saeflow.evaluation.linear_probes import (
    LinearProbes,
    accuracy_c,
    f1_c,
    probe_gradients,
    train_probes,
)
from saeflow.evaluation.linear_probes_settings import ProbeTraining

PLAIN = ProbeTraining(
    optimiser="adam",
    learning_rate=0.05,
    final_learning_rate=1e-4,
    epochs=40,
    batch_size=32,
    l1=0.0,
    weight_decay=0.0,
    positive_weight=False,
)


def planted(rows: int = 400, classes: int = 3, width: int = 6) -> tuple[Tensor, Tensor]:
    """Noisy rows in which class c is on where coordinate c is large; the rest says nothing."""
    generator = torch.Generator().manual_seed(1)
    x_nd = torch.randn(rows, width, generator=generator)
    noise_nc = 0.7 * torch.randn(rows, classes, generator=generator)
    return x_nd, (x_nd[:, :classes] + noise_nc > 0.8).float()


def test_gradients_are_those_of_the_stated_loss() -> None:
    x_nd, label_nc = (of.double() for of in planted(rows=20))
    weight_cd = torch.randn(3, 6, dtype=torch.float64).requires_grad_()
    bias_c = torch.randn(3, dtype=torch.float64).requires_grad_()
    positive_weight_c = torch.tensor([1.0, 2.5, 0.3], dtype=torch.float64)
    loss = (
        binary_cross_entropy_with_logits(
            x_nd @ weight_cd.T + bias_c, label_nc, pos_weight=positive_weight_c, reduction="none"
        )
        .mean(0)
        .sum()
        + 0.1 * weight_cd.abs().sum()
    )
    loss.backward()
    probes = LinearProbes(weight_cd.detach(), bias_c.detach())
    weight_grad_cd, bias_grad_c = probe_gradients(probes, x_nd, label_nc, positive_weight_c, 0.1)
    torch.testing.assert_close(weight_grad_cd, weight_cd.grad)
    torch.testing.assert_close(bias_grad_c, bias_c.grad)


@pytest.mark.parametrize("positive_weight", [False, True])
def test_each_class_is_the_logistic_regression_of_scikit_learn(positive_weight: bool) -> None:
    x_nd, label_nc = planted()
    converged = {"batch_size": len(x_nd), "epochs": 300, "learning_rate": 0.1}
    update = converged | {"final_learning_rate": None, "positive_weight": positive_weight}
    settings = PLAIN.model_copy(update=update)
    probes = train_probes(settings, x_nd, label_nc, seed=0)
    for c, label_n in enumerate(label_nc.T.numpy()):
        # A weight of negatives / positives for positives is what `balanced` says, up to a factor.
        weight = "balanced" if positive_weight else None
        exact = LogisticRegression(C=np.inf, class_weight=weight, tol=1e-8).fit(x_nd, label_n)
        np.testing.assert_allclose(probes.weight_cd[c], exact.coef_[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(probes.bias_c[c], exact.intercept_[0], rtol=1e-3, atol=1e-3)


def test_l1_zeroes_what_says_nothing() -> None:
    x_nd, label_nc = planted()
    probes = train_probes(PLAIN.model_copy(update={"l1": 0.05}), x_nd, label_nc, seed=0)
    own_c = probes.weight_cd.diagonal()
    others_cd = probes.weight_cd * (1 - torch.eye(3, 6))
    assert (own_c > 0.5).all()
    assert others_cd.abs().max() < 0.05


def test_classes_are_trained_independently_of_each_other() -> None:
    x_nd, label_nc = planted()
    together = train_probes(PLAIN, x_nd, label_nc, seed=0)
    alone = train_probes(PLAIN, x_nd, label_nc[:, 1:2], seed=0)
    torch.testing.assert_close(together.weight_cd[1:2], alone.weight_cd, rtol=1e-4, atol=1e-5)


def test_each_class_may_have_rows_of_its_own() -> None:
    x_nd, label_nc = planted()
    order_cn = torch.stack([torch.randperm(400, generator=torch.Generator()) for _ in range(3)])
    own_cnd = torch.stack([x_nd[order_n] for order_n in order_cn])
    own_nc = torch.stack([label_nc[order_n, c] for c, order_n in enumerate(order_cn)], dim=1)
    probes = train_probes(PLAIN, own_cnd, own_nc, seed=0)
    for c in range(3):
        alone = train_probes(PLAIN, own_cnd[c], own_nc[:, c : c + 1], seed=0)
        torch.testing.assert_close(probes.weight_cd[c], alone.weight_cd[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(probes.logits(own_cnd)[:, c], probes.logits(own_cnd[c])[:, c])


def test_the_seed_decides_the_order_and_nothing_else() -> None:
    x_nd, label_nc = planted()
    torch.manual_seed(5)
    first = train_probes(PLAIN, x_nd, label_nc, seed=3)
    torch.manual_seed(6)
    again = train_probes(PLAIN, x_nd, label_nc, seed=3)
    other = train_probes(PLAIN, x_nd, label_nc, seed=4)
    assert torch.equal(first.weight_cd, again.weight_cd)
    assert not torch.equal(first.weight_cd, other.weight_cd)


@pytest.mark.parametrize(
    "change",
    [
        {"optimiser": "adamw", "weight_decay": 0.3},
        {"learning_rate": 0.02},
        {"final_learning_rate": None},
        {"epochs": 20},
        {"batch_size": 16},
        {"l1": 0.01},
        {"weight_decay": 0.01},
        {"positive_weight": True},
    ],
)
def test_every_key_changes_the_probes(change: dict[str, object]) -> None:
    x_nd, label_nc = planted()
    before = train_probes(PLAIN, x_nd, label_nc, seed=0)
    after = train_probes(PLAIN.model_copy(update=change), x_nd, label_nc, seed=0)
    assert not torch.allclose(before.weight_cd, after.weight_cd, rtol=1e-3)


def test_adam_and_adamw_differ_in_their_weight_decay() -> None:
    x_nd, label_nc = planted()
    coupled = PLAIN.model_copy(update={"weight_decay": 0.1})
    decoupled = coupled.model_copy(update={"optimiser": "adamw"})
    one = train_probes(coupled, x_nd, label_nc, seed=0).weight_cd
    other = train_probes(decoupled, x_nd, label_nc, seed=0).weight_cd
    assert not torch.allclose(one, other, rtol=1e-2)


def test_scores_are_counted_by_class() -> None:
    predicted_nc = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    label_nc = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert accuracy_c(predicted_nc, label_nc).tolist() == [0.5, 0.75, 0.75]
    assert f1_c(predicted_nc, label_nc).tolist() == [0.5, 0.0, 0.0]
    x_nd, label_nc = planted()
    predicted_nc = train_probes(PLAIN, x_nd, label_nc, seed=0).predict(x_nd)
    expected = f1_score(label_nc.numpy(), predicted_nc.numpy(), average=None)
    np.testing.assert_allclose(f1_c(predicted_nc, label_nc), expected, rtol=1e-6)


def test_what_cannot_be_trained_on_is_refused() -> None:
    x_nd, label_nc = planted()
    with pytest.raises(ValueError, match=r"classes \[1\] of 400 rows"):
        train_probes(PLAIN, x_nd, label_nc * torch.tensor([1.0, 0.0, 1.0]), seed=0)
    with pytest.raises(ValueError, match="labels of probes are 0 or 1"):
        train_probes(PLAIN, x_nd, label_nc * 2, seed=0)
    with pytest.raises(ValueError, match=r"rows \(n, d\) or \(c, n, d\)"):
        train_probes(PLAIN, x_nd, label_nc[:, 0], seed=0)
    with pytest.raises(ValueError, match=r"not \(2, 400, 6\) and \(400, 3\)"):
        train_probes(PLAIN, x_nd.expand(2, 400, 6), label_nc, seed=0)
