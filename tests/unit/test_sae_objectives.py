"""Losses in closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from sae_planted import settings
from torch import Tensor

from saeflow.sae.model import SAE
from saeflow.sae.objectives import (
    GateReconstruction,
    L0Penalty,
    L1Penalty,
    Reconstruction,
    loss_terms,
    matryoshka_groups,
    run_step,
)
from saeflow.sae.orthogonality import OrthogonalityPenalty
from saeflow.sae.settings import L0, L1, Matryoshka, Orthogonality, Variant
from saeflow.sae.settings import JumpReLU as JumpReLUSettings
from saeflow.sae.sparse import Pairs, decode_pairs
from saeflow.sae.step import Step
from saeflow.sae.training_activation import TrainingGated, TrainingJumpReLU, TrainingReLU


def sae_of(W_dec: Tensor) -> SAE:
    d_sae, d_in = W_dec.shape
    return SAE(W_dec.clone().t(), W_dec, torch.zeros(d_sae), torch.zeros(d_in), TrainingReLU())


def step_of(
    sae: SAE, x_bd: Tensor, acts_bf: Tensor, groups: Tensor | None = None, index: int = 0
) -> Step:
    """A step with given activations; every second latent is dead."""
    rows, latents = acts_bf.nonzero(as_tuple=True)
    selected = Pairs(rows, latents, tuple(acts_bf.shape)), acts_bf[rows, latents]
    dead_f = torch.arange(sae.d_sae) % 2 == 1
    return run_step(sae, x_bd, x_bd, selected, groups, dead_f, index)


def test_reconstruction_is_a_mean_over_batch_and_dimensions():
    sae = sae_of(torch.eye(4))
    x_bd = torch.tensor([[1.0, 2, 0, 0], [0, 0, 0, 4]])
    step = step_of(sae, x_bd, torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 1]]))
    assert Reconstruction()(sae, step).tolist() == pytest.approx([4 / 4, 9 / 4])


def test_matryoshka_averages_the_errors_of_nested_prefixes():
    sae = sae_of(torch.eye(4))
    x_bd = torch.tensor([[1.0, 1, 1, 1]])
    groups = matryoshka_groups(Matryoshka(fractions=(0.25, 0.25, 0.5)), 4)
    assert groups.tolist() == [0, 1, 2, 2]
    step = step_of(sae, x_bd, x_bd.clone(), groups)
    prefixes = [prefix_bd[0].tolist() for prefix_bd in step.prefixes_bd]
    assert prefixes == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    alike = Reconstruction(Matryoshka(fractions=(0.25, 0.25, 0.5)))
    assert alike(sae, step).item() == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)
    weighted = Reconstruction(Matryoshka(fractions=(0.25, 0.25, 0.5), weights=(3, 0, 1)))
    assert weighted(sae, step).item() == pytest.approx((3 * 3 / 4 + 0) / 4)


@pytest.mark.parametrize("d_sae", [33, 64, 1000, 65536])
def test_matryoshka_groups_have_the_published_sizes(d_sae):
    groups = matryoshka_groups(Matryoshka(), d_sae)
    sizes = groups.bincount().tolist()
    assert sum(sizes) == d_sae and len(sizes) == 5
    for size, fraction in zip(sizes, Matryoshka().fractions, strict=True):
        assert abs(size - fraction * d_sae) <= 1
    if d_sae == 65536:
        assert sizes == [2048, 4096, 8192, 16384, 34816]


def test_decode_of_no_pairs_is_zero():
    none = Pairs(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), (3, 4))
    W_dec = torch.eye(4, requires_grad=True)
    out = decode_pairs(torch.empty(0), W_dec, none)
    out.sum().backward()
    assert out.shape == (3, 1, 4) and out.abs().sum() == 0
    assert W_dec.grad is not None and W_dec.grad.abs().sum() == 0


def l1_penalty(target: int = 1, rate: float = 0.05, norm: str = "unit", **l1) -> L1Penalty:
    variant = Variant(activation="relu", l1=L1(**l1), decoder_norm=norm)
    config = settings(variant, l0=target, learning_rate=rate, tokens=10 * 64)
    return L1Penalty(config, config.variant.l1)


def test_l1_is_each_tokens_sum_over_latents():
    sae = sae_of(torch.eye(4))
    step = step_of(sae, torch.zeros(2, 4), torch.tensor([[1.0, 2, 0, 0], [0, 0, 0, 3]]))
    assert l1_penalty()(sae, step).tolist() == [3, 3]


def test_l1_weighs_latents_by_the_norms_of_free_decoder_rows():
    sae = sae_of(torch.diag(torch.tensor([1.0, 2, 3, 4])))
    step = step_of(sae, torch.zeros(2, 4), torch.tensor([[1.0, 2, 0, 0], [0, 0, 0, 3]]))
    loss_b = l1_penalty(norm="free")(sae, step)
    assert loss_b.tolist() == [5, 12]
    loss_b.sum().backward()
    assert sae.W_dec.grad.diagonal().tolist() == [1, 2, 0, 3]


def test_l1_coefficient_is_proportional_to_l0_and_integrates_it():
    sae, dense = sae_of(torch.eye(4)), torch.ones(2, 4)
    term = l1_penalty(coefficient=1, match_gain=2)
    term(sae, step_of(sae, dense, dense))
    assert term.weight == pytest.approx(math.exp(0.1))  # l0 is 4 for 1: off by more than e
    sparse = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    half = math.log(0.5)
    term(sae, step_of(sae, dense, sparse))
    assert term.weight == pytest.approx(math.exp(0.1 + 0.1 * half + half - 1))
    term(sae, step_of(sae, dense, sparse))  # as far off as before: only the sum goes on
    assert term.weight == pytest.approx(math.exp(0.1 + 0.2 * half + half - 1))


def test_an_unsteered_coefficient_stays_or_rises_over_its_warmup():
    sae, dense = sae_of(torch.eye(4)), torch.ones(2, 4)
    fixed = l1_penalty(coefficient=2, match_l0=False)
    rising = l1_penalty(coefficient=2, match_l0=False, warmup=0.5)
    seen = []
    for index in range(10):
        for term in (fixed, rising):
            term(sae, step_of(sae, dense, dense, index=index))
        seen.append(rising.weight)
        assert fixed.weight == 2
    assert seen == pytest.approx([0.4, 0.8, 1.2, 1.6, 2, 2, 2, 2, 2, 2])


def test_l1_keeps_l0_at_the_target_while_the_coefficient_has_to_fall():
    rate, steps, target, batch = 2e-3, 1200, 8, 512
    term = l1_penalty(target, rate)
    start, log_l0, seen = math.log(term.weight), math.log(4 * target), []
    none = torch.zeros(0, dtype=torch.int64)
    for i in range(steps):
        l0 = round(batch * math.exp(log_l0)) / batch
        empty = {"pre_p": torch.zeros(0), "pairs": Pairs(none, none, (batch, 1))}
        term(None, SimpleNamespace(l0=l0, batch=batch, **empty))
        # L0 follows at the pace of the learning rate; the coefficient that holds it falls by 30 %.
        holding = start + 0.3 - 0.35 * i / steps
        log_l0 += 20 * rate * (holding - math.log(term.weight) + math.log(target) - log_l0)
        seen.append(math.exp(log_l0) / target)
    assert max(abs(l0 - 1) for l0 in seen[steps // 2 :]) < 0.01


def jumping(sae: SAE, threshold: float, bandwidth: float) -> SAE:
    learnt = JumpReLUSettings(threshold=threshold, bandwidth=bandwidth)
    sae.activation = TrainingJumpReLU(sae.d_sae, learnt, 1.0)
    return sae


def test_jumprelu_selects_its_band_and_activates_what_is_above():
    sae = jumping(sae_of(torch.eye(4)), threshold=1.0, bandwidth=0.5)
    pre_bf = torch.tensor([[0.7, 0.8, 1.2, 3.0]])
    pairs, pre_p = sae.activation.select(lambda: iter([(0, pre_bf)]), (1, 4))
    assert pairs.latents_p.tolist() == [1, 2, 3]
    values_p = sae.activation(pre_p, pairs, sae.b_enc)
    assert values_p.tolist() == pytest.approx([0, 1.2, 3])
    values_p.sum().backward()
    assert sae.activation.threshold.grad.tolist() == pytest.approx([0, -2, -2, 0])
    with torch.no_grad():
        sae.activation.threshold.sub_(2)
    sae.activation.after_update()
    assert sae.activation.threshold.tolist() == [0] * 4


def test_the_l0_penalty_is_the_squared_relative_distance_and_moves_thresholds():
    sae = jumping(sae_of(torch.eye(4)), threshold=1.0, bandwidth=0.5)
    config = settings(
        Variant(activation="jumprelu", l0=L0(coefficient=3, warmup=0.5)), l0=2, tokens=10 * 64
    )
    term = L0Penalty(config, config.variant.l0)
    acts_bf = torch.tensor([[0.8, 1.2, 3, 4], [0, 0, 0, 5.0]])
    loss = term(sae, step_of(sae, torch.zeros(2, 4), acts_bf))
    assert (loss.item(), term.weight) == (pytest.approx((4 / 4 - 1) ** 2), pytest.approx(0.6))
    acts_bf = torch.tensor([[0.8, 1.2, 3, 4], [0, 0, 2, 5.0]])
    loss = term(sae, step_of(sae, torch.zeros(2, 4), acts_bf, index=7))
    assert (loss.item(), term.weight) == (pytest.approx((5 / 4 - 1) ** 2), pytest.approx(3))
    loss.backward()
    slope = 2 * (5 / 4 - 1) / 4 * -1 / 0.5
    assert sae.activation.threshold.grad.tolist() == pytest.approx([slope, slope, 0, 0])


def test_a_gated_saes_magnitude_and_gate_have_biases_of_their_own():
    sae = sae_of(torch.eye(3))
    sae.activation = TrainingGated(torch.zeros(3))
    with torch.no_grad():
        sae.b_enc.copy_(torch.tensor([1.0, 1, 1]))
        sae.activation.r_mag.fill_(math.log(2))
        sae.activation.b_mag.copy_(torch.tensor([0.0, 1, -10]))
    pre_bf = torch.tensor([[1.5, 2, 3]])  # the product is 0.5, 1, 2
    step = step_of(sae, torch.tensor([[1.0, 3, 0]]), pre_bf)
    assert step.values_p.tolist() == pytest.approx([1, 3, 0])
    assert Reconstruction()(sae, step).item() == pytest.approx(0)
    gate = GateReconstruction()(sae, step)
    assert gate.item() == pytest.approx((0.5**2 + 1 + 3**2) / 3)


def test_orthogonality_partitions_anew_and_is_due_every_nth_step(monkeypatch):
    rows = torch.randn(22, 3, generator=torch.Generator().manual_seed(0))
    config = Orthogonality(chunk_size=5, every=3, gamma=0.25)
    term = OrthogonalityPenalty(config, len(rows), seed=0)
    assert term.weight == pytest.approx(0.75)
    seen = []
    monkeypatch.setattr(term, "of_chunks", lambda W_dec, chunks: seen.append(chunks) or W_dec.sum())
    sae = sae_of(rows)
    due = [
        term(sae, step_of(sae, torch.zeros(1, 3), torch.zeros(1, 22), index=i)) is not None
        for i in range(7)
    ]
    assert due == [True, False, False, True, False, False, True]
    assert [sorted(len(c) for c in chunks) for chunks in seen] == [[4, 4, 4, 5, 5]] * 3
    for chunks in seen:
        assert sorted(torch.cat(list(chunks)).tolist()) == list(range(22))
    assert seen[0][0].tolist() != seen[1][0].tolist() != seen[2][0].tolist()


def test_variants_list_their_terms():
    named = {name: [t.name for t in loss_terms(settings(name), 32)]
             for name in ("relu", "topk", "ortsae", "jumprelu", "gated")}  # fmt: skip
    assert named == {
        "relu": ["reconstruction", "l1"],
        "topk": ["reconstruction", "auxk"],
        "ortsae": ["reconstruction", "auxk", "orthogonality"],
        "jumprelu": ["reconstruction", "l0", "auxk"],
        "gated": ["reconstruction", "gate_reconstruction", "l1"],
    }
