"""Losses in closed form."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from sae_planted import settings
from torch import Tensor, nn

from saeflow.sae.model import SAE
from saeflow.sae.objectives import (
    AuxKLoss,
    L1Penalty,
    OrthogonalityPenalty,
    Reconstruction,
    Step,
    loss_terms,
    matryoshka_groups,
    run_step,
)
from saeflow.sae.settings import L1, AuxK, Matryoshka, Orthogonality
from saeflow.sae.sparse import Pairs, decode_pairs


def sae_of(W_dec: Tensor) -> SAE:
    d_sae, d_in = W_dec.shape
    return SAE(W_dec.clone().t(), W_dec, torch.zeros(d_sae), torch.zeros(d_in), nn.Identity())


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
    assert Reconstruction()(sae, step).item() == pytest.approx((4 + 9) / 8)


def test_matryoshka_averages_the_errors_of_nested_prefixes():
    sae = sae_of(torch.eye(4))
    x_bd = torch.tensor([[1.0, 1, 1, 1]])
    groups = matryoshka_groups(Matryoshka(fractions=(0.25, 0.25, 0.5)), 4)
    assert groups.tolist() == [0, 1, 2, 2]
    step = step_of(sae, x_bd, x_bd.clone(), groups)
    prefixes = [prefix_bd[0].tolist() for prefix_bd in step.prefixes_bd]
    assert prefixes == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert Reconstruction()(sae, step).item() == pytest.approx((3 / 4 + 2 / 4 + 0) / 3)


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


def test_l1_is_the_mean_over_tokens_of_the_sum_over_latents():
    sae = sae_of(torch.eye(4))
    step = step_of(sae, torch.zeros(2, 4), torch.tensor([[1.0, 2, 0, 0], [0, 0, 0, 3]]))
    assert L1Penalty(L1(), 2, 0.1)(sae, step).item() == pytest.approx(3)


def test_l1_coefficient_is_proportional_to_l0_and_integrates_it():
    sae, dense = sae_of(torch.eye(4)), torch.ones(2, 4)
    term = L1Penalty(L1(coefficient=1, match_gain=2), 1, 0.05)
    term(sae, step_of(sae, dense, dense))
    assert term.weight == pytest.approx(math.exp(0.1))  # l0 is 4 for 1: off by more than e
    sparse = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    half = math.log(0.5)
    term(sae, step_of(sae, dense, sparse))
    assert term.weight == pytest.approx(math.exp(0.1 + 0.1 * half + half - 1))
    term(sae, step_of(sae, dense, sparse))  # as far off as before: only the sum goes on
    assert term.weight == pytest.approx(math.exp(0.1 + 0.2 * half + half - 1))
    fixed = L1Penalty(L1(coefficient=1, match_l0=False), 1, 0.05)
    fixed(sae, step_of(sae, dense, dense))
    assert fixed.weight == 1


def test_l1_keeps_l0_at_the_target_while_the_coefficient_has_to_fall():
    rate, steps, target, batch = 2e-3, 1200, 8, 512
    term = L1Penalty(L1(), target, rate)
    start, log_l0, seen = math.log(term.weight), math.log(4 * target), []
    for i in range(steps):
        active = torch.ones(round(batch * math.exp(log_l0)))
        term(None, SimpleNamespace(x_bd=torch.empty(batch, 1), values_p=active))
        # L0 follows at the pace of the learning rate; the coefficient that holds it falls by 30 %.
        holding = start + 0.3 - 0.35 * i / steps
        log_l0 += 20 * rate * (holding - math.log(term.weight) + math.log(target) - log_l0)
        seen.append(math.exp(log_l0) / target)
    assert max(abs(l0 - 1) for l0 in seen[steps // 2 :]) < 0.01


def test_auxk_is_one_where_dead_latents_rebuild_nothing_and_zero_where_all():
    x_bd = torch.tensor([[0.0, 2, 0, 0], [0, 0, 0, 4], [0, 0, 0, 0], [0, 0, 0, 0]])
    x_bd -= x_bd.mean(0)
    nothing = torch.zeros(4, 4)
    blind = sae_of(torch.eye(4))
    with torch.no_grad():
        blind.b_enc.fill_(-100)
    assert AuxKLoss(AuxK(k=2), 4)(blind, step_of(blind, x_bd, nothing)).item() == pytest.approx(1)
    signed = sae_of(torch.tensor([[0.0] * 4, [0, 1, 0, 0], [0] * 4, [0, 0, 0, 1],
                                  [0] * 4, [0, -1, 0, 0], [0] * 4, [0, 0, 0, -1]]))  # fmt: skip
    step = step_of(signed, x_bd, torch.zeros(4, 8))
    assert AuxKLoss(AuxK(k=2), 4)(signed, step).item() == pytest.approx(0, abs=1e-12)


def test_auxk_reaches_encoder_and_decoder_of_dead_latents_only():
    sae = sae_of(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))
    x_bd = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    AuxKLoss(AuxK(k=2), 4)(sae, step_of(sae, x_bd, torch.zeros(6, 8))).backward()
    for gradient in (sae.W_enc.grad.t(), sae.W_dec.grad, sae.b_enc.grad[:, None]):
        assert gradient[1::2].abs().sum() > 0
        assert gradient[::2].abs().sum() == 0


def test_auxk_is_zero_while_no_latent_is_dead():
    sae = sae_of(torch.eye(4))
    step = step_of(sae, torch.ones(2, 4), torch.zeros(2, 4))
    object.__setattr__(step, "dead_f", torch.zeros(4, dtype=torch.bool))
    assert AuxKLoss(AuxK(), 4)(sae, step).item() == 0


def orthogonality(W_dec: Tensor, **changes) -> OrthogonalityPenalty:
    return OrthogonalityPenalty(Orthogonality(**changes), len(W_dec), seed=0)


def test_orthogonality_is_the_squared_largest_signed_cosine():
    half, root = 0.5, math.sqrt(0.75)
    rows = torch.tensor([[2.0, 0, 0], [half, root, 0], [-3, 0, 0], [0, 0, 1]])
    # Largest cosine to another row: 0.5, 0.5, 0 (opposite rows do not count), 0.
    term = orthogonality(rows)
    value = term.of_chunks(rows, [torch.arange(4)])
    assert value.item() == pytest.approx((0.25 + 0.25 + 0 + 0) / 4)


def test_orthogonality_averages_within_chunks_then_over_chunks():
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 1]])
    chunks = [torch.tensor([0, 1]), torch.tensor([2, 4, 3])]
    value = orthogonality(rows).of_chunks(rows, chunks)
    assert value.item() == pytest.approx((1 + (1 + 1 + 0.5) / 3) / 2)


def test_orthogonality_counts_a_lone_latent_as_zero():
    rows = torch.tensor([[1.0, 0], [1, 0], [1, 0]])
    value = orthogonality(rows).of_chunks(rows, [torch.tensor([0, 2]), torch.tensor([1])])
    assert value.item() == pytest.approx(0.5)


def test_orthogonality_partitions_anew_and_is_due_every_nth_step(monkeypatch):
    rows = torch.randn(22, 3, generator=torch.Generator().manual_seed(0))
    term = orthogonality(rows, chunk_size=5, every=3, gamma=0.25)
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


def test_orthogonality_in_blocks_of_rows_is_the_same(monkeypatch):
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    whole = orthogonality(rows).of_chunks(rows, [torch.arange(50)])
    monkeypatch.setattr("saeflow.sae.objectives._COSINE_ENTRIES", 7 * 50)
    blocks = orthogonality(rows).of_chunks(rows, [torch.arange(50)])
    torch.testing.assert_close(blocks, whole)


def test_variants_list_their_terms():
    named = {name: [t.name for t in loss_terms(settings(name), 32)]
             for name in ("relu", "topk", "ortsae")}  # fmt: skip
    assert named == {
        "relu": ["reconstruction", "l1"],
        "topk": ["reconstruction", "auxk"],
        "ortsae": ["reconstruction", "auxk", "orthogonality"],
    }
