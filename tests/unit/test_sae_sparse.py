"""Sums over active pairs, by bags and by dense blocks, against dense autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saeflow.sae import crossover, sparse
from saeflow.sae.sparse import Pairs, bag_dots, bag_sums, decode_pairs, encode_pairs

B, D, F = 50, 12, 70


def some_pairs(share: float, seed: int = 0) -> tuple[Pairs, Tensor]:
    """Return pairs of about that share, with empty tokens and latents among others."""
    draw = torch.Generator().manual_seed(seed)
    active_bf = torch.rand(B, F, generator=draw) < share
    active_bf[7], active_bf[-1], active_bf[:, 5], active_bf[:, -1] = False, False, False, False
    rows, latents = active_bf.nonzero(as_tuple=True)
    return Pairs(rows, latents, (B, F)), torch.randn(len(rows), generator=draw)


def on_both_paths(monkeypatch, compute) -> list[Tensor]:
    results = []
    for way in (crossover.ALWAYS_DENSE, crossover.ALWAYS_PAIRS):
        monkeypatch.setattr(crossover, "CPU", way)
        results.append(compute())
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_dense_blocks_equal_bags(share, dtype, monkeypatch):
    monkeypatch.setattr(sparse, "_BLOCK_ENTRIES", 3 * F)
    monkeypatch.setattr(sparse, "_BLOCK_ROWS", 3)
    pairs, values_p = some_pairs(share)
    rows_fd, tokens_bd = torch.randn(F, D, dtype=dtype), torch.randn(B, D, dtype=dtype)
    values_p = values_p.to(dtype)
    acts_bf = torch.zeros(B, F, dtype=dtype)
    acts_bf[pairs.rows_p, pairs.latents_p] = values_p
    order, offsets = pairs.by_latent
    for sums in on_both_paths(
        monkeypatch, lambda: bag_sums(pairs.latents_p, values_p, pairs.row_offsets, rows_fd)
    ):
        torch.testing.assert_close(sums, acts_bf @ rows_fd)
    for sums in on_both_paths(
        monkeypatch, lambda: bag_sums(pairs.rows_by_latent, values_p[order], offsets, tokens_bd)
    ):
        torch.testing.assert_close(sums, acts_bf.t() @ tokens_bd)
    for dots in on_both_paths(
        monkeypatch,
        lambda: bag_dots(pairs.latents_p, pairs.rows_p, pairs.row_offsets, rows_fd, tokens_bd),
    ):
        expected = (tokens_bd @ rows_fd.t())[pairs.rows_p, pairs.latents_p]
        torch.testing.assert_close(dots, expected)


@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_equal_dense_autograd_on_both_paths(groups, monkeypatch):
    pairs, _ = some_pairs(0.3)
    draw = torch.Generator().manual_seed(1)
    shapes = ((D, F), (F, D), (F,), (D,))
    weights = [torch.randn(*s, generator=draw).double().requires_grad_() for s in shapes]
    x_bd = torch.randn(B, D, generator=draw).double()
    group_f = None if groups == 1 else torch.arange(F) * groups // F
    weigh_bgd = torch.randn(B, groups, D, generator=draw).double()

    def gradients(by_pairs: bool) -> Tensor:
        W_enc, W_dec, b_enc, b_dec = weights
        pre_bf = (x_bd - b_dec) @ W_enc + b_enc
        if by_pairs:
            raw_p = pre_bf.detach()[pairs.rows_p, pairs.latents_p]
            input_bd = (x_bd - b_dec).detach()
            active_p = encode_pairs(raw_p, input_bd, W_enc, b_enc, b_dec, pairs)
            parts_bgd = decode_pairs(active_p, W_dec, pairs, group_f, groups)
        else:
            active_bf = torch.zeros(B, F).double()
            active_bf[pairs.rows_p, pairs.latents_p] = 1
            number_f = torch.zeros(F) if group_f is None else group_f
            acts_bf = pre_bf * active_bf
            parts = [(acts_bf * (number_f == g)) @ W_dec for g in range(groups)]
            parts_bgd = torch.stack(parts, 1)
        loss = (parts_bgd.square() * weigh_bgd).sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    expected = gradients(by_pairs=False)
    for got in on_both_paths(monkeypatch, lambda: gradients(by_pairs=True)):
        torch.testing.assert_close(got, expected)


def test_a_frozen_decoder_gets_no_gradient_and_activations_do():
    pairs, values_p = some_pairs(0.1)
    values_p.requires_grad_()
    W_dec = torch.randn(F, D)
    decode_pairs(values_p, W_dec, pairs).sum().backward()
    torch.testing.assert_close(values_p.grad, W_dec.sum(1)[pairs.latents_p])
    assert W_dec.grad is None


def test_the_path_on_a_cpu_depends_on_counts_alone(monkeypatch):
    def blocks_for(pairs: int) -> int:
        taken = []
        monkeypatch.setattr(sparse, "_blocks", lambda *of: taken.append(of) or iter(()))
        columns_p, offsets_g = torch.arange(pairs) % 10, torch.zeros(10, dtype=torch.int64)
        bag_sums(columns_p, torch.ones(pairs), offsets_g, torch.zeros(10, 1))
        return len(taken)

    assert (blocks_for(26), blocks_for(25)) == (1, 0)


def test_one_and_two_threads_give_the_same_bits_on_both_paths(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    active_bf = torch.rand(512, 640, generator=draw) < 0.3
    rows, latents = active_bf.nonzero(as_tuple=True)
    values_p = torch.randn(len(rows), generator=draw)
    W_fd = torch.randn(640, 128, generator=draw)

    def compute() -> Tensor:
        pairs = Pairs(rows, latents, (512, 640))
        sums_bd = bag_sums(latents, values_p, pairs.row_offsets, W_fd)
        return torch.cat(
            [sums_bd.flatten(), bag_dots(latents, rows, pairs.row_offsets, W_fd, sums_bd)]
        )

    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(on_both_paths(monkeypatch, compute))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_pairs_sort_by_latent_stably():
    pairs = Pairs(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 3, 1, 0, 3]), (4, 5))
    order, offsets = pairs.by_latent
    assert order.tolist() == [3, 0, 2, 1, 4]
    assert pairs.rows_by_latent.tolist() == [2, 0, 1, 0, 2]
    assert offsets.tolist() == [0, 1, 3, 3, 5]
    assert pairs.row_offsets.tolist() == [0, 2, 3, 5]


def test_a_device_without_constants_is_measured_once(monkeypatch):
    crossover.measured.cache_clear()
    timed = []
    original = crossover._seconds
    monkeypatch.setattr(
        crossover, "_seconds", lambda work, way, on: timed.append(way) or original(work, way, on)
    )
    cpu = torch.device("cpu")
    found = crossover.measured(cpu, 256, 16)
    assert found.sums > 0 and found.dots > 0
    assert crossover.measured(cpu, 256, 16) is found and len(timed) == 4
    assert crossover.shares(cpu, 256, 16) is crossover.CPU
    monkeypatch.setattr(crossover, "measured", lambda device, columns, d: (device, columns, d))
    other = torch.device("cuda", 0)
    assert crossover.shares(other, 256, 16) == (other, 256, 16)


def test_changing_numbers_of_columns_are_measured_a_few_times(monkeypatch):
    asked = set()
    monkeypatch.setattr(
        crossover, "measured", lambda _, columns, d: asked.add(columns) or crossover.CPU
    )
    for columns in range(1, 5000):
        crossover.shares(torch.device("cuda"), columns, 8)
        assert columns <= min(n for n in asked if n >= columns) < 2 * columns
    assert asked == {2**power for power in range(14)}
