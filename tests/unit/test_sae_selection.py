"""Selections against full sorts: exact, with ties, whatever the warm bound and the chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saeflow.sae import selection as af
from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.sparse import Pairs


def dense(pairs: Pairs, values_p: Tensor) -> Tensor:
    acts_bf = torch.zeros(pairs.shape)
    acts_bf[pairs.rows_p, pairs.latents_p] = values_p
    return acts_bf


def whole(pre_bf: Tensor, rows: int = 7) -> af.Chunks:
    return lambda: ((i, pre_bf[i : i + rows]) for i in range(0, len(pre_bf), rows))


def batch_topk_by_sorting(pre_bf: Tensor, k: int) -> Tensor:
    flat = pre_bf.relu().flatten()
    order = sorted(range(len(flat)), key=lambda i: (-flat[i].item(), i))[: k * len(pre_bf)]
    kept = torch.zeros_like(flat)
    kept[order] = flat[order]
    return kept.view_as(pre_bf)


@pytest.mark.parametrize("bound", [None, 0.0, 0.5, 2.0, 1e9])
def test_batch_topk_is_exact_whatever_the_bound(bound):
    pre_bf = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    select = af.SelectBatchTopK(4)
    select.bound = bound
    assert torch.equal(dense(*select(whole(pre_bf), (20, 50))), batch_topk_by_sorting(pre_bf, 4))


def test_batch_topk_recovers_from_a_batch_of_smaller_activations():
    pre_bf = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    select = af.SelectBatchTopK(4)
    select(whole(pre_bf), (20, 50))
    warm = select.bound
    assert warm is not None and warm > (pre_bf / 10).max()  # the case of interest
    kept = dense(*select(whole(pre_bf / 10), (20, 50)))
    assert torch.equal(kept, batch_topk_by_sorting(pre_bf / 10, 4))
    assert select.bound == pytest.approx(warm / 10)


def test_batch_topk_keeps_the_first_of_equals_at_the_cut():
    pre_bf = torch.tensor([[1.0, 2.0, 1.0], [1.0, 3.0, 1.0]])
    kept = dense(*af.SelectBatchTopK(2)(whole(pre_bf), (2, 3)))
    assert kept.tolist() == [[1, 2, 1], [0, 3, 0]]


def test_batch_topk_keeps_no_negative_value():
    pre_bf = torch.tensor([[-1.0, 2.0, -3.0], [-1.0, -3.0, 0.0]])
    pairs, values_p = af.SelectBatchTopK(2)(whole(pre_bf), (2, 3))
    assert (pairs.rows_p.tolist(), pairs.latents_p.tolist(), values_p.tolist()) == ([0], [1], [2])


def test_batch_topk_keeps_all_where_too_few_are_positive():
    pre_bf = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    select = af.SelectBatchTopK(5)
    select.bound = 1.0  # of an earlier batch
    assert torch.equal(dense(*select(whole(pre_bf, 2), (6, 5))), pre_bf.relu())
    for k in (1, 5):
        pairs, values_p = af.SelectBatchTopK(k)(whole(-pre_bf.abs(), 2), (6, 5))
        assert len(pairs.rows_p) == len(values_p) == 0


def test_the_cut_leaves_the_wanted_number_above_over_all_batches():
    draw = torch.Generator().manual_seed(1)
    batches = [scale * torch.randn(50, 60, generator=draw) for scale in (0.1, 1, 30)]
    cut, entries = af.Cut(torch.device("cpu")), torch.cat(batches).flatten()
    for pre_bf in batches:
        cut.add(whole(pre_bf))
    for wanted in (10, 500, 3000):
        exact = entries.sort(descending=True).values[wanted - 1 : wanted + 1]
        threshold = cut.threshold(wanted)
        assert exact[1] / 1.0005 <= threshold <= exact[0] * 1.0005
        assert 0.99 * wanted <= (entries > threshold).sum() <= wanted
    assert cut.threshold(len(entries)) == 0


def test_topk_keeps_k_positive_values_of_each_token_in_order_of_latents():
    pre_bf = torch.randn(20, 50, generator=torch.Generator().manual_seed(1))
    pre_bf[3] = -1
    pairs, values_p = af.SelectTopK(4)(whole(pre_bf), (20, 50))
    assert torch.equal(dense(pairs, values_p), TopK(4)(pre_bf))
    assert pairs.rows_p.bincount(minlength=20).tolist() == [4] * 3 + [0] + [4] * 16
    flat = pairs.rows_p * 50 + pairs.latents_p
    assert torch.equal(flat, flat.sort().values)


def test_relu_keeps_all_positive_values():
    pre_bf = torch.randn(20, 50)
    assert torch.equal(dense(*af.SelectPositive()(whole(pre_bf), (20, 50))), pre_bf.relu())


def test_preactivations_come_in_chunks_of_one_buffer(monkeypatch):
    monkeypatch.setattr(af, "_CHUNK_ENTRIES", 30)
    monkeypatch.setattr(af, "_CHUNK_ROWS", 1)
    x_bd, W_enc, b_enc = torch.randn(10, 4), torch.randn(4, 9), torch.randn(9)
    product = af.Preactivations()
    parts = [(start, part.clone()) for start, part in product(x_bd, W_enc, b_enc)()]
    assert [start for start, _ in parts] == [0, 3, 6, 9]
    torch.testing.assert_close(torch.cat([p for _, p in parts]), x_bd @ W_enc + b_enc)
    assert product.buffer is not None and product.buffer.shape == (3, 9)


def test_chunks_fit_a_cache_but_never_starve_the_product():
    assert af.chunk_rows(512, 1536, cuda=False) == 512
    assert af.chunk_rows(2048, 8192, cuda=False) == 128
    assert af.chunk_rows(2048, 65_536, cuda=False) == 64
    assert af.chunk_rows(10, 65_536, cuda=False) == 10
    assert af.chunk_rows(2048, 65_536, cuda=True) == 2048
    assert af.chunk_rows(8192, 65_536, cuda=True) == 4096


def test_jumprelu_keeps_values_above_the_threshold():
    pre_bf = torch.tensor([[-3.0, 0.5, 0.9, 2.0]])
    kept = JumpReLU(torch.tensor([-4.0, 0.0, 1.0, 1.0]))(pre_bf)
    assert kept.tolist() == [[0, 0.5, 0, 2.0]]


def test_pairs_sort_by_latent_stably():
    pairs = Pairs(torch.tensor([0, 0, 1, 2, 2]), torch.tensor([1, 3, 1, 0, 3]), (4, 5))
    order, offsets = pairs.by_latent
    assert order.tolist() == [3, 0, 2, 1, 4]
    assert offsets.tolist() == [0, 1, 3, 3, 5]
    assert pairs.row_offsets.tolist() == [0, 2, 3, 5]
