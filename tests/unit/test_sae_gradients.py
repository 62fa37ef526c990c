"""Gradients of every term against a dense autograd reference and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from sae_planted import VARIANTS, planted, settings
from torch import Tensor, nn
from torch.nn.functional import normalize

from saeflow.sae.model import SAE
from saeflow.sae.objectives import (
    OrthogonalityPenalty,
    Step,
    loss_terms,
    matryoshka_groups,
    run_step,
)
from saeflow.sae.seeding import generator
from saeflow.sae.selection import Preactivations
from saeflow.sae.sparse import Pairs, decode_pairs, encode_pairs
from saeflow.sae.training_activation import training_selection

D, F, B, K = 12, 30, 16, 3


def random_sae(seed: int = 0) -> SAE:
    stream = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=stream, dtype=torch.float64)  # noqa: E731
    W_dec = normalize(draw(F, D), dim=1)
    return SAE(W_dec.clone().t(), W_dec, 0.1 * draw(F), 0.1 * draw(D), nn.Identity())


def sparse_step(sae: SAE, x_bd: Tensor, name: str, index: int = 0, fixed=None) -> Step:
    """The trainer's step in float64; `fixed` reuses pairs, for differences at a fixed selection."""
    config = settings(name, d_sae=F, l0=K)
    input_bd = sae.encoder_input(x_bd).detach()
    with torch.no_grad():
        if fixed is None:
            chunks = Preactivations()(input_bd, sae.W_enc, sae.b_enc)
            selected = training_selection(config)(chunks, (B, F))
        else:
            pre_bf = input_bd @ sae.W_enc + sae.b_enc
            selected = fixed, pre_bf[fixed.rows_p, fixed.latents_p]
    nested = config.variant.matryoshka
    groups = None if nested is None else matryoshka_groups(nested, F)
    dead_f = torch.arange(F) % 4 == 0
    return run_step(sae, x_bd, input_bd, selected, groups, dead_f, index)


def dense_losses(sae: SAE, x_bd: Tensor, name: str, terms) -> dict[str, Tensor]:
    """The same losses by plain autograd, with masks, loops and no shortcut."""
    pre_bf = (x_bd - sae.b_dec) @ sae.W_enc + sae.b_enc
    variant = VARIANTS[name]
    if variant.activation == "topk":
        cut = pre_bf.detach().topk(K, dim=1).values[:, -1:]
    elif variant.activation == "batchtopk":
        cut = pre_bf.detach().flatten().topk(K * B).values[-1]
    else:
        cut = torch.tensor(-math.inf)
    acts_bf = pre_bf.relu() * (pre_bf >= cut)
    ends = [F]
    if variant.matryoshka is not None:
        ends = torch.tensor(variant.matryoshka.fractions).cumsum(0).mul(F).round().int().tolist()
    parts = [acts_bf[:, :e] @ sae.W_dec[:e] + sae.b_dec for e in ends]
    losses = {"reconstruction": torch.stack([(x_bd - p).square().mean() for p in parts]).mean()}
    if variant.l1 is not None:
        losses["l1"] = acts_bf.sum(1).mean()
    if variant.auxk is not None:
        error_bd = (x_bd - parts[-1]).detach()
        dead_bf = pre_bf.relu() * (torch.arange(F) % 4 == 0)
        kept_bf = dead_bf * (dead_bf >= dead_bf.topk(D // 2, dim=1).values[:, -1:])
        rest = error_bd - kept_bf @ sae.W_dec
        variance = (error_bd - error_bd.mean(0)).square().sum(1).mean()
        losses["auxk"] = rest.square().sum(1).mean() / variance
    for term in terms:
        if isinstance(term, OrthogonalityPenalty):
            shuffled = torch.randperm(F, generator=generator(term.seed, "orthogonality"))
            penalties = []
            for chunk in shuffled.tensor_split(term.chunks):
                unit = normalize(sae.W_dec[chunk], dim=1)
                cosines = unit @ unit.t() - 9 * torch.eye(len(chunk), dtype=unit.dtype)
                penalties.append(cosines.max(1).values.square().mean())
            losses["orthogonality"] = torch.stack(penalties).mean()
    return losses


def gradients(sae: SAE, loss: Tensor) -> dict[str, Tensor]:
    sae.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in sae.named_parameters()
    }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", VARIANTS)
def test_every_term_equals_the_dense_reference(name, seed):
    sae, x_bd = random_sae(seed), planted(B, d=D, seed=seed)[0].double()
    terms = loss_terms(settings(name, d_sae=F, l0=K), D)
    step = sparse_step(sae, x_bd, name)
    expected = dense_losses(sae, x_bd, name, terms)
    assert {term.name for term in terms} == set(expected)
    for term in terms:
        loss = term(sae, step)
        torch.testing.assert_close(loss, expected[term.name])
        for parameter, gradient in gradients(sae, expected[term.name]).items():
            got = gradients(sae, loss)[parameter]
            torch.testing.assert_close(
                got, gradient, msg=lambda m, t=term, p=parameter: f"{t.name} {p}: {m}"
            )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", VARIANTS)
def test_every_term_equals_finite_differences(name, seed):
    sae, x_bd = random_sae(seed), planted(B, d=D, seed=seed)[0].double()
    stream = torch.Generator().manual_seed(seed)
    pairs = sparse_step(sae, x_bd, name).pairs
    still = [p.detach() for p in sparse_step(sae, x_bd, name, fixed=pairs).prefixes_bd]
    for position in range(len(loss_terms(settings(name, d_sae=F, l0=K), D))):

        def loss(position: int = position) -> Tensor:
            term = loss_terms(settings(name, d_sae=F, l0=K), D)[position]
            step = sparse_step(sae, x_bd, name, fixed=pairs)
            if term.name == "auxk":  # its target is detached: hold it still
                object.__setattr__(step, "prefixes_bd", still)
            value = term(sae, step)
            assert value is not None
            return value

        analytic = gradients(sae, loss())
        for parameter, tensor in sae.named_parameters():
            direction = torch.randn(tensor.shape, generator=stream, dtype=torch.float64)
            with torch.no_grad():
                tensor.add_(1e-6 * direction)
                above = loss()
                tensor.sub_(2e-6 * direction)
                below = loss()
                tensor.add_(1e-6 * direction)
            slope = ((above - below) / 2e-6).item()
            expected = (analytic[parameter] * direction).sum().item()
            assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7), (name, position, parameter)


def test_encoder_gets_no_gradient_of_inactive_latents():
    sae, x_bd = random_sae(), planted(B, d=D)[0].double()
    step = sparse_step(sae, x_bd, "batchtopk")
    loss = loss_terms(settings("batchtopk", d_sae=F, l0=K), D)[0](sae, step)
    idle = torch.ones(F, dtype=torch.bool)
    idle[step.pairs.latents_p] = False
    assert idle.any() and not idle.all()
    assert gradients(sae, loss)["W_enc"][:, idle].abs().max() == 0
    assert (gradients(sae, loss)["W_enc"][:, ~idle].abs().sum(0) > 0).all()


def test_a_batch_without_active_latents_has_zero_gradients():
    sae = SAE(torch.randn(3, 5), torch.randn(5, 3), torch.zeros(5), torch.zeros(3), nn.Identity())
    for parameter in sae.parameters():
        parameter.requires_grad_()
    none = torch.zeros(0, dtype=torch.int64)
    pairs = Pairs(none, none, (2, 5))
    values = encode_pairs(torch.zeros(0), torch.randn(2, 3), sae.W_enc, sae.b_enc, sae.b_dec, pairs)
    (decode_pairs(values, sae.W_dec, pairs) + sae.b_dec).sum().backward()
    assert sae.W_enc.grad.abs().max() == 0
    assert sae.b_enc.grad.dtype == torch.float32
