"""The tilted risk in closed form, at extreme tilts, and its gradient."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as running
from hypothesis import strategies as st
from sae_planted import planted, settings
from torch import Tensor

from saeflow.sae.optimisation import Trainer
from saeflow.sae.ranks import ALONE
from saeflow.sae.reduction import Mean, Tilted, blended_risk, sequence_means, tilted_risk
from saeflow.sae.settings import L1, Tilt, Variant

LOSSES = torch.tensor([0.5, 1.0, 3.0, 0.1], dtype=torch.float64)


def softmax_gradient(loss_b: Tensor, t: float) -> Tensor:
    return torch.softmax(t * loss_b, 0)


def gradient(loss_b: Tensor, reduce) -> Tensor:
    leaf = loss_b.clone().requires_grad_()
    reduce(leaf).backward()
    return leaf.grad


@pytest.mark.parametrize("t", [0.3, 5.0, 50.0, -2.0])
def test_the_risk_and_its_gradient_are_the_definition(t):
    expected = (t * LOSSES).exp().mean().log() / t
    assert tilted_risk(LOSSES, t).item() == pytest.approx(expected.item())
    found = gradient(LOSSES, lambda loss_b: tilted_risk(loss_b, t))
    torch.testing.assert_close(found, softmax_gradient(LOSSES, t))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("t", [500.0, 1e9])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_a_great_tilt_is_the_largest_loss(t, size, dtype):
    loss_b = (size * LOSSES).to(dtype)
    if t * size < 1e3:
        return  # not great in units of these losses
    assert tilted_risk(loss_b, t).item() == pytest.approx(3 * size - math.log(4) / t, rel=1e-6)
    found = gradient(loss_b, lambda loss_b: tilted_risk(loss_b, t))
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 1, 0], dtype=dtype))
    assert tilted_risk(loss_b, -t).item() == pytest.approx(0.1 * size + math.log(4) / t, rel=1e-6)


def test_equal_losses_share_a_great_tilt():
    loss_b = torch.tensor([2.0, 2.0, 1.0])
    found = gradient(loss_b, lambda loss_b: tilted_risk(loss_b, 1e9))
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5, 0.0]))


@pytest.mark.parametrize("t", [1e-3, 1e-6, 1e-12, -1e-9])
def test_a_small_tilt_is_the_mean(t):
    expected = LOSSES.mean() + t * LOSSES.var(unbiased=False) / 2
    assert tilted_risk(LOSSES, t).item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-12)
    found = gradient(LOSSES, lambda loss_b: tilted_risk(loss_b, t))
    torch.testing.assert_close(
        found, torch.full((4,), 0.25, dtype=torch.float64), atol=1e-3, rtol=0
    )


@running(deadline=None)
@given(
    st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=8),
    st.floats(-1e9, 1e9).filter(lambda t: abs(t) > 1e-12),
)
def test_the_risk_lies_between_least_and_largest_loss(losses, t):
    loss_b = torch.tensor(losses, dtype=torch.float64)
    risk = tilted_risk(loss_b, t).item()
    room = 1e-9 * (1 + loss_b.max().item())
    assert loss_b.min().item() - room <= risk <= loss_b.max().item() + room
    found = gradient(loss_b, lambda loss_b: tilted_risk(loss_b, t))
    assert found.sum().item() == pytest.approx(1) and found.min() >= 0


def test_a_blend_of_risks_is_the_blend_of_their_exponentials():
    expected = math.log(0.2 * math.exp(3 * 1.5) + 0.8 * math.exp(3 * 0.5)) / 3
    assert blended_risk(1.5, 0.5, 0.2, 3) == pytest.approx(expected)
    assert blended_risk(1.5, None, 0.2, 3) == 1.5
    assert blended_risk(2.0, 1.0, 0.5, 1e9) == pytest.approx(2)
    assert blended_risk(2.0, 1.0, 0.5, -1e9) == pytest.approx(1)


def step_at(index: int = 0, sequence_b: Tensor | None = None) -> SimpleNamespace:
    return SimpleNamespace(index=index, sequence_b=sequence_b, ranks=ALONE)


def test_a_running_normaliser_weighs_by_the_past_as_well():
    reduce = Tilted(Tilt(t=2.0, running=0.25), steps=10)
    first = {"reconstruction": LOSSES}
    assert reduce(first, step_at()).item() == pytest.approx(tilted_risk(LOSSES, 2.0).item())
    second = LOSSES + 1
    normaliser = 0.25 * (2 * second).exp().mean() + 0.75 * (2 * LOSSES).exp().mean()
    leaf = second.clone().requires_grad_()
    risk = reduce({"reconstruction": leaf}, step_at(1))
    assert risk.item() == pytest.approx((normaliser.log() / 2).item())
    risk.backward()
    torch.testing.assert_close(leaf.grad, (2 * second).exp() / normaliser / 4)


def test_a_running_normaliser_at_a_great_tilt_stays_finite():
    reduce = Tilted(Tilt(t=1e9, running=0.5), steps=10)
    for index, scale in enumerate((1.0, 100.0, 0.01, 1.0)):
        leaf = (scale * LOSSES).requires_grad_()
        risk = reduce({"reconstruction": leaf}, step_at(index))
        (slope,) = torch.autograd.grad(risk, leaf)
        assert math.isfinite(risk.item()) and slope.isfinite().all()
        assert slope.sum() <= 2 + 1e-4


@pytest.mark.parametrize("size", [0.02, 1.0])
@pytest.mark.parametrize("t", [500.0, 1e7, 1e9])
def test_a_first_batchs_weights_sum_to_one_in_float32(t, size):
    loss_b = size * torch.rand(2048, generator=torch.Generator().manual_seed(0))
    leaf = loss_b.requires_grad_()
    Tilted(Tilt(t=t, running=0.5), steps=10)({"reconstruction": leaf}, step_at()).backward()
    assert leaf.grad.sum().item() == pytest.approx(1, rel=1e-3)


def test_the_tilt_rises_over_its_warmup():
    reduce = Tilted(Tilt(t=8.0, warmup=0.5), steps=8)
    for index, t in enumerate((2.0, 4.0, 6.0, 8.0, 8.0)):
        found = reduce({"reconstruction": LOSSES}, step_at(index)).item()
        assert found == pytest.approx(tilted_risk(LOSSES, t).item())


def test_what_is_tilted_is_the_reconstruction_or_all_that_tokens_have():
    losses = {"reconstruction": LOSSES, "l1": LOSSES.flip(0), "orthogonality": torch.tensor(7.0)}
    rest = LOSSES.mean().item() + 7
    alone = Tilted(Tilt(t=3.0), steps=1)(losses, step_at())
    assert alone.item() == pytest.approx(tilted_risk(LOSSES, 3).item() + rest)
    whole = Tilted(Tilt(t=3.0, of="loss"), steps=1)(losses, step_at())
    assert whole.item() == pytest.approx(tilted_risk(LOSSES + LOSSES.flip(0), 3).item() + 7)
    gates = {"reconstruction": LOSSES, "gate_reconstruction": LOSSES, "l1": LOSSES}
    both = Tilted(Tilt(t=3.0), steps=1)(gates, step_at())
    assert both.item() == pytest.approx(tilted_risk(2 * LOSSES, 3).item() + LOSSES.mean().item())
    assert Mean()(losses, step_at()).item() == pytest.approx(2 * LOSSES.mean().item() + 7)


def test_sequences_are_averaged_before_they_are_tilted():
    sequence_b = torch.tensor([9, 4, 9, 4])
    torch.testing.assert_close(
        sequence_means(LOSSES, sequence_b), torch.tensor([0.55, 1.75], dtype=torch.float64)
    )
    reduce = Tilted(Tilt(t=3.0, over="sequence"), steps=1)
    found = reduce({"reconstruction": LOSSES}, step_at(sequence_b=sequence_b))
    assert found.item() == pytest.approx(math.log((math.exp(1.65) + math.exp(5.25)) / 2) / 3)


@pytest.mark.parametrize("l1", [None, L1()])
def test_training_by_a_tilt_evens_out_the_errors(l1):
    rows, _ = planted(4000)
    excess = {}
    for name, tilt in (("mean", None), ("tilted", Tilt(t=20))):
        variant = Variant(activation="relu" if l1 else "topk", l1=l1, tilt=tilt)
        config = settings(variant, tokens=150 * 64, learning_rate=1e-3, l0=8)
        trainer = Trainer(config, rows[:2000], rows.square().mean().item())
        for _ in range(150):
            outcome = trainer.step(rows[:64])
        square_b = outcome.step.error_bd.square().mean(1)
        excess[name] = (square_b.max() / square_b.mean()).item()
    assert excess["tilted"] < 0.85 * excess["mean"]
