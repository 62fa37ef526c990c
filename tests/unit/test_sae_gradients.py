"""Gradients of every term against a dense autograd reference and against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from sae_planted import VARIANTS, planted, settings
from torch import Tensor, nn
from torch.nn.functional import normalize

from saeflow.sae.model import SAE
from saeflow.sae.objectives import loss_terms, matryoshka_groups, run_step
from saeflow.sae.orthogonality import OrthogonalityPenalty
from saeflow.sae.preactivations import Preactivations
from saeflow.sae.seeding import generator
from saeflow.sae.settings import SAESettings
from saeflow.sae.sparse import Pairs, decode_pairs, encode_pairs
from saeflow.sae.step import Step
from saeflow.sae.training_activation import training_activation

D, F, B, K = 12, 30, 16, 3


def config_of(name: str) -> SAESettings:
    return settings(name, d_sae=F, l0=K)


def random_sae(name: str, seed: int = 0) -> SAE:
    stream = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=stream, dtype=torch.float64)  # noqa: E731
    W_dec, variant = normalize(draw(F, D), dim=1), VARIANTS[name]
    if variant.decoder_norm == "free":
        W_dec = W_dec * (1 + draw(F, 1).abs())
    b_enc, b_dec = 0.1 * draw(F), 0.1 * draw(D)
    activation = training_activation(config_of(name), b_enc, scale=4.0).double()
    with torch.no_grad():
        for parameter in activation.parameters():
            parameter.copy_(0.3 + 0.2 * draw(F).abs())
    W_enc = normalize(W_dec, dim=1).t().clone()
    return SAE(W_enc, W_dec, b_enc, b_dec, activation, apply_b_dec_to_input=variant.centred)


def sparse_step(sae: SAE, x_bd: Tensor, name: str, index: int = 0, fixed=None) -> Step:
    """The trainer's step in float64; `fixed` reuses pairs, for differences at a fixed selection."""
    variant = VARIANTS[name]
    input_bd = sae.encoder_input(x_bd).detach()
    with torch.no_grad():
        if fixed is None:
            chunks = Preactivations(input_bd, sae.W_enc, sae.b_enc)
            selected = sae.activation.select(chunks, (B, F))
        else:
            pre_bf = input_bd @ sae.W_enc + sae.b_enc
            selected = fixed, pre_bf[fixed.rows_p, fixed.latents_p]
    nested = variant.matryoshka
    groups = None if nested is None else matryoshka_groups(nested, F)
    dead_f = torch.arange(F) % 4 == 0
    return run_step(sae, x_bd, input_bd, selected, groups, dead_f, index)


def dense_activations(sae: SAE, pre_bf: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Activations and the count of active latents, by plain autograd."""
    activation, kind = sae.activation, VARIANTS[name].activation
    if kind == "gated":
        scale_f = activation.r_mag.exp()
        magnitude_bf = (pre_bf - sae.b_enc) * scale_f + activation.b_mag
        return magnitude_bf.relu() * (pre_bf > 0), (pre_bf > 0).sum()
    if kind == "jumprelu":  # value of a step, slope of the straight-through estimator
        theta_f, width = activation.threshold, activation.bandwidth
        band_bf = ((pre_bf - theta_f).abs() < width / 2) & (pre_bf > 0)
        moved_bf = (band_bf / width) * (theta_f - theta_f.detach())
        open_bf = pre_bf > theta_f
        acts_bf = pre_bf * open_bf - theta_f.detach() * moved_bf
        return acts_bf, open_bf.sum() - moved_bf.sum()
    cut = torch.tensor(-math.inf)
    if kind == "topk":
        cut = pre_bf.detach().topk(K, dim=1).values[:, -1:]
    if kind == "batchtopk":
        cut = pre_bf.detach().flatten().topk(K * B).values[-1]
    acts_bf = pre_bf.relu() * (pre_bf >= cut)
    return acts_bf, (acts_bf > 0).sum()


def dense_losses(sae: SAE, x_bd: Tensor, name: str, terms) -> dict[str, Tensor]:
    """The same losses by plain autograd, with masks, loops and no shortcut."""
    variant = VARIANTS[name]
    pre_bf = (x_bd - sae.b_dec if variant.centred else x_bd) @ sae.W_enc + sae.b_enc
    acts_bf, active = dense_activations(sae, pre_bf, name)
    ends = [F]
    if variant.matryoshka is not None:
        ends = torch.tensor(variant.matryoshka.fractions).cumsum(0).mul(F).round().int().tolist()
    parts = [acts_bf[:, :e] @ sae.W_dec[:e] + sae.b_dec for e in ends]
    losses = {"reconstruction": torch.stack([(x_bd - p).square().mean() for p in parts]).mean()}
    if variant.activation == "gated":
        gates_bf, frozen_fd = pre_bf.relu(), sae.W_dec.detach()
        rests = [x_bd - gates_bf[:, :e] @ frozen_fd[:e] - sae.b_dec.detach() for e in ends]
        losses["gate_reconstruction"] = torch.stack([r.square().mean() for r in rests]).mean()
    if variant.l1 is not None:
        norms_f = sae.W_dec.norm(dim=1) if variant.decoder_norm == "free" else 1.0
        losses["l1"] = (pre_bf.relu() * norms_f).sum(1).mean()
    if variant.l0 is not None:
        losses["l0"] = (active / (B * K) - 1).square()
    if variant.auxk is not None:
        error_bd = (x_bd - parts[-1]).detach()
        dead_bf = pre_bf.relu() * (torch.arange(F) % 4 == 0)
        kept_bf = dead_bf * (dead_bf >= dead_bf.topk(D // 2, dim=1).values[:, -1:])
        rest = error_bd - kept_bf @ sae.W_dec
        variance = (error_bd - error_bd.mean(0)).square().sum(1).mean()
        losses["auxk"] = rest.square().sum(1).mean() / variance
        if not variant.auxk.normalise:
            losses["auxk"] = rest.square().mean()
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
    sae, x_bd = random_sae(name, seed), planted(B, d=D, seed=seed)[0].double()
    terms = loss_terms(config_of(name), D)
    step = sparse_step(sae, x_bd, name)
    expected = dense_losses(sae, x_bd, name, terms)
    assert {term.name for term in terms} == set(expected)
    for term in terms:
        loss = term(sae, step).mean()
        torch.testing.assert_close(loss, expected[term.name])
        wanted, found = gradients(sae, expected[term.name]), gradients(sae, loss)
        for parameter, gradient in wanted.items():
            torch.testing.assert_close(
                found[parameter], gradient, msg=lambda m, t=term, p=parameter: f"{t.name} {p}: {m}"
            )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", VARIANTS)
def test_every_term_equals_finite_differences(name, seed):
    sae, x_bd = random_sae(name, seed), planted(B, d=D, seed=seed)[0].double()
    stream = torch.Generator().manual_seed(seed)
    pairs = sparse_step(sae, x_bd, name).pairs
    still = [p.detach() for p in sparse_step(sae, x_bd, name, fixed=pairs).prefixes_bd]
    for position, listed in enumerate(loss_terms(config_of(name), D)):

        def loss(position: int = position) -> Tensor:
            term = loss_terms(config_of(name), D)[position]
            step = sparse_step(sae, x_bd, name, fixed=pairs)
            if term.name == "auxk":  # its target is detached: hold it still
                object.__setattr__(step, "prefixes_bd", still)
            return term(sae, step).mean()

        analytic = gradients(sae, loss())
        for parameter, tensor in sae.named_parameters():
            if parameter == "activation.threshold":
                continue  # a straight-through estimate is no derivative; see below
            if listed.name == "gate_reconstruction" and parameter in ("W_dec", "b_dec"):
                assert parameter == "b_dec" or analytic[parameter].abs().max() == 0
                continue  # frozen in this term
            direction = torch.randn(tensor.shape, generator=stream, dtype=torch.float64)
            with torch.no_grad():
                tensor.add_(1e-6 * direction)
                above = loss()
                tensor.sub_(2e-6 * direction)
                below = loss()
                tensor.add_(1e-6 * direction)
            slope = ((above - below) / 2e-6).item()
            expected = (analytic[parameter] * direction).sum().item()
            assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7), (listed.name, parameter)


def test_a_thresholds_gradient_is_that_of_the_smoothed_count_and_activation():
    """The estimator is exact for pre-activations jittered evenly within the bandwidth."""
    sae, x_bd = random_sae("jumprelu"), planted(B, d=D)[0].double()
    with torch.no_grad():
        sae.activation.threshold.add_(sae.activation.bandwidth)  # the whole band is positive
    step = sparse_step(sae, x_bd, "jumprelu")
    pre_bf, width = x_bd @ sae.W_enc + sae.b_enc, sae.activation.bandwidth

    def smoothed(theta_f: Tensor) -> Tensor:
        return ((pre_bf - theta_f) / width + 0.5).clamp(0, 1).sum()

    theta_f = sae.activation.threshold.detach().clone()
    direction = torch.randn(F, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = (smoothed(theta_f + 1e-6 * direction) - smoothed(theta_f - 1e-6 * direction)) / 2e-6
    found = gradients(sae, sae.activation.active(step.pre_p, step.pairs).sum())
    got = (found["activation.threshold"] * direction).sum()
    assert got.item() == pytest.approx(slope.item(), rel=1e-4) and abs(slope) > 1
    # An activation falls by the threshold where a latent stops: theta times the count's slope.
    found = gradients(sae, step.values_p.sum())["activation.threshold"]
    counts = gradients(sae, sae.activation.active(step.pre_p, step.pairs).sum())
    torch.testing.assert_close(found, theta_f * counts["activation.threshold"])


def test_encoder_gets_no_gradient_of_inactive_latents():
    sae, x_bd = random_sae("batchtopk"), planted(B, d=D)[0].double()
    step = sparse_step(sae, x_bd, "batchtopk")
    loss = loss_terms(config_of("batchtopk"), D)[0](sae, step).mean()
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
