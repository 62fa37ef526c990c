"""The dead-latent term against dense autograd, in closed form, and where nothing is dead."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from saeflow.sae.auxk import AuxKLoss
from saeflow.sae.model import SAE
from saeflow.sae.settings import AuxK
from saeflow.sae.sparse import Pairs
from saeflow.sae.step import Step

B, D, F = 20, 6, 40


def random_sae(centred: bool = True) -> SAE:
    draw = torch.Generator().manual_seed(0)
    W_enc, W_dec, b_enc, b_dec = (
        torch.randn(*s, generator=draw).double() for s in ((D, F), (F, D), (F,), (D,))
    )
    W_enc = W_enc.t().contiguous().t()
    return SAE(W_enc, W_dec, b_enc, b_dec, nn.Identity(), apply_b_dec_to_input=centred)


def step_of(sae: SAE, dead_f: Tensor, seed: int = 1) -> tuple[Step, Tensor]:
    """Return a step whose dictionary is silent, and its activations."""
    draw = torch.Generator().manual_seed(seed)
    x_bd = torch.randn(B, D, generator=draw).double()
    none = torch.zeros(0, dtype=torch.int64)
    empty = torch.zeros(0)
    x_hat_bd = 0.3 * torch.randn(B, D, generator=draw).double()
    input_bd = sae.encoder_input(x_bd).detach()
    pairs = Pairs(none, none, (B, F))
    return Step(x_bd, input_bd, pairs, empty, empty, (x_hat_bd,), dead_f, 0), x_bd


def dense(sae: SAE, step: Step, x_bd: Tensor, k: int, normalise: bool) -> Tensor:
    pre_bn = (sae.encoder_input(x_bd) @ sae.W_enc + sae.b_enc)[:, step.dead_f].relu()
    kept_bn = pre_bn >= pre_bn.topk(min(k, pre_bn.shape[1]), dim=1).values[:, -1:]
    error_bd = step.error_bd
    squares_b = (error_bd - (pre_bn * kept_bn) @ sae.W_dec[step.dead_f]).square().sum(1)
    if not normalise:
        return squares_b / D
    return squares_b / (error_bd - error_bd.mean(0)).square().sum(1).mean()


def gradients(sae: SAE, loss_b: Tensor) -> dict[str, Tensor]:
    weigh_b = torch.linspace(1, 2, B)  # tokens differ, as under a tilt
    sae.zero_grad()
    (loss_b * weigh_b).sum().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in sae.named_parameters()}


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("k", "dead"), [(3, 20), (1, 40), (5, 2), (20, 20)])
def test_loss_and_gradients_equal_the_dense_reference(k, dead, normalise, centred):
    sae = random_sae(centred)
    dead_f = torch.zeros(F, dtype=torch.bool)
    dead_f[torch.randperm(F, generator=torch.Generator().manual_seed(2))[:dead]] = True
    step, x_bd = step_of(sae, dead_f)
    term = AuxKLoss(AuxK(k=k, normalise=normalise), D)
    loss_b, expected_b = term(sae, step), dense(sae, step, x_bd, k, normalise)
    assert loss_b.shape == (B,)
    torch.testing.assert_close(loss_b, expected_b)
    expected = gradients(sae, expected_b)
    expected = {name: gradient.clone() for name, gradient in expected.items()}
    got = gradients(sae, loss_b)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, msg=lambda m, n=name: f"{n}: {m}")
    assert got["W_enc"][:, ~dead_f].abs().sum() == got["W_dec"][~dead_f].abs().sum() == 0
    assert got["W_enc"][:, dead_f].abs().sum() > 0


def test_the_default_k_is_half_the_width():
    assert AuxKLoss(AuxK(), 512).k == 256
    assert AuxKLoss(AuxK(), 1).k == 1


def test_no_dead_latent_costs_nothing():
    sae = random_sae()
    step, _ = step_of(sae, torch.zeros(F, dtype=torch.bool))
    assert AuxKLoss(AuxK(), D)(sae, step).tolist() == [0.0] * B


@pytest.mark.parametrize("normalise", [True, False])
def test_silent_dead_latents_leave_the_whole_error(normalise):
    sae = random_sae()
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    step, _ = step_of(sae, torch.ones(F, dtype=torch.bool))
    loss_b = AuxKLoss(AuxK(normalise=normalise), D)(sae, step)
    error_bd = step.error_bd
    scale = D if not normalise else (error_bd - error_bd.mean(0)).square().sum(1).mean()
    torch.testing.assert_close(loss_b, error_bd.square().sum(1) / scale)


@pytest.mark.parametrize("tokens", [1, 20])
def test_tokens_that_err_alike_do_not_blow_the_loss_up(tokens):
    """Silent latents leave the whole error, here a thousand times the least divisor."""
    sae = random_sae()
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    step, _ = step_of(sae, torch.ones(F, dtype=torch.bool))
    for name in ("target_bd", "input_bd"):
        object.__setattr__(step, name, getattr(step, name)[:1].repeat(tokens, 1))
    object.__setattr__(step, "prefixes_bd", (step.prefixes_bd[0][:1].repeat(tokens, 1),))
    loss_b = AuxKLoss(AuxK(), D)(sae, step)
    torch.testing.assert_close(loss_b, torch.full((tokens,), 1000.0).double())


def test_a_perfect_reconstruction_leaves_a_finite_loss():
    sae = random_sae()
    step, x_bd = step_of(sae, torch.ones(F, dtype=torch.bool))
    object.__setattr__(step, "prefixes_bd", (x_bd,))
    assert AuxKLoss(AuxK(), D)(sae, step).isfinite().all()
