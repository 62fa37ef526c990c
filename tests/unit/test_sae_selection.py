"""Selections against full sorts: exact, with ties, whatever the warm bound and the chunks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from saeflow.sae import preactivations
from saeflow.sae import selection as af
from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.preactivations import Chunks, Preactivations, chunk_rows
from saeflow.sae.products import Packed, has_onednn
from saeflow.sae.sparse import Pairs


def dense(pairs: Pairs, values_p: Tensor) -> Tensor:
    acts_bf = torch.zeros(pairs.shape)
    acts_bf[pairs.rows_p, pairs.latents_p] = values_p
    return acts_bf


def whole(pre_bf: Tensor, rows: int = 7) -> Chunks:
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


def topk_by_sorting(pre_bf: Tensor, k: int) -> Tensor:
    return torch.cat([batch_topk_by_sorting(row[None], k) for row in pre_bf])


@pytest.mark.parametrize("width", [61, 64, 512, 1536])
@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("levels", [2, 12, 10**6])
def test_topk_is_exact_with_and_without_groups_and_ties(width, k, levels):
    draw = torch.Generator().manual_seed(width + k)
    pre_bf = torch.randn(11, width, generator=draw).mul(levels).round() / levels
    pre_bf[2], pre_bf[5] = 1.0, -1.0  # all tied, none positive
    pre_bf[7, 3:] = -2.0  # at most three positive
    pairs, values_p = af.SelectTopK(k)(whole(pre_bf, 4), (11, width))
    assert torch.equal(dense(pairs, values_p), topk_by_sorting(pre_bf, k))
    flat = pairs.rows_p * width + pairs.latents_p
    assert torch.equal(flat, flat.sort().values)
    select = af.SelectBatchTopK(k)
    for _ in range(2):  # cold, then with a bound
        kept = dense(*select(whole(pre_bf, 4), (11, width)))
        assert torch.equal(kept, batch_topk_by_sorting(pre_bf, k))


def test_groups_are_formed_where_they_rule_out_most_entries():
    sizes = [af.Groups(torch.randn(2, w), k).size for w, k in ((8192, 32), (1536, 16), (61, 3))]
    assert sizes == [16, 8, 1]
    assert af.Groups(torch.randn(2, 1024), 256).size == 1


def test_topk_of_the_whole_dictionary_is_relu():
    pre_bf = torch.randn(9, 50)
    assert torch.equal(dense(*af.SelectTopK(50)(whole(pre_bf), (9, 50))), pre_bf.relu())


def test_the_smallest_positive_number_is_positive():
    pre_bf = torch.tensor([[0.0, 1e-45, -1e-45, -0.0]])
    for select in (af.SelectTopK(3), af.SelectBatchTopK(3), af.SelectPositive()):
        assert select(whole(pre_bf), (1, 4))[0].latents_p.tolist() == [1]


def test_not_a_number_is_never_selected_and_spares_other_tokens():
    pre_bf = torch.randn(6, 256)
    pre_bf[1], pre_bf[3, :5] = torch.nan, torch.nan
    for select in (af.SelectTopK(4), af.SelectBatchTopK(4), af.SelectPositive(), af.SelectAbove()):
        pairs, values_p = select(whole(pre_bf), (6, 256))
        assert not values_p.isnan().any()
        assert pairs.rows_p.unique().tolist() == [0, 2, 3, 4, 5] or 1 not in pairs.rows_p
    kept = dense(*af.SelectTopK(4)(whole(pre_bf), (6, 256)))
    clean = [0, 2, 4, 5]
    assert torch.equal(kept[clean], topk_by_sorting(pre_bf[clean], 4))


def test_above_keeps_what_exceeds_its_latents_bound():
    pre_bf, select = torch.randn(20, 50), af.SelectAbove()
    select.bound_f = torch.rand(50)
    kept = dense(*select(whole(pre_bf), (20, 50)))
    assert torch.equal(kept, pre_bf * (pre_bf > select.bound_f))
    select.bound_f[7] = 1e9
    assert dense(*select(whole(pre_bf), (20, 50)))[:, 7].abs().max() == 0


def test_preactivations_come_in_chunks(monkeypatch):
    monkeypatch.setattr(preactivations, "_CHUNK_ENTRIES", 30)
    monkeypatch.setattr(preactivations, "_CHUNK_ROWS", 1)
    x_bd, W_enc, b_enc = torch.randn(10, 4), torch.randn(4, 9), torch.randn(9)
    for weights in (W_enc, W_enc.t().contiguous().t()):
        product = Preactivations(x_bd, weights, b_enc)
        expected = x_bd @ W_enc + b_enc
        for _ in range(2):
            parts = list(product())
            assert [start for start, _ in parts] == [0, 3, 6, 9]
            torch.testing.assert_close(torch.cat([p for _, p in parts]), expected)
        rounded = torch.cat([p for _, p in product.rounded()])
        assert rounded.dtype == torch.bfloat16
        torch.testing.assert_close(rounded.float(), expected, rtol=0.02, atol=0.05)
        rows, latents = torch.tensor([0, 0, 3, 9]), torch.tensor([8, 1, 1, 0])
        torch.testing.assert_close(product.at(rows, latents), expected[rows, latents])
        some = torch.cat([p for _, p in product.of_rows(torch.tensor([9, 2, 4, 5]))()])
        torch.testing.assert_close(some, expected[[9, 2, 4, 5]])


def test_preactivations_of_float64_are_float64():
    x_bd, W_enc, b_enc = (torch.randn(*s, dtype=torch.float64) for s in ((10, 4), (4, 9), (9,)))
    parts = torch.cat([p for _, p in Preactivations(x_bd, W_enc, b_enc)()])
    torch.testing.assert_close(parts, x_bd @ W_enc + b_enc, rtol=1e-14, atol=1e-14)


def test_a_tokens_preactivations_depend_on_neither_neighbours_nor_threads():
    x_bd, W_enc, b_enc = torch.randn(300, 96), torch.randn(96, 640), torch.randn(640)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            product = Preactivations(x_bd, W_enc, b_enc)
            results.append(torch.cat([p for _, p in product()]))
            results.append(torch.cat([p for _, p in product.of_rows(torch.arange(7, 300))()]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])
    assert torch.equal(results[0][7:], results[1])


def without_bfloat16(monkeypatch) -> None:
    """As on x86 processors with AVX2 alone, where oneDNN raises for bfloat16."""
    original = torch.ops.mkldnn._linear_pointwise

    def raising(x, *others):
        if x.dtype == torch.bfloat16:
            raise RuntimeError("could not create a primitive descriptor for a matmul primitive")
        return original(x, *others)

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", raising)


def without_operations(monkeypatch) -> None:
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())


def remove(monkeypatch, missing) -> None:
    missing(monkeypatch)
    assert not has_onednn(torch.zeros(1, dtype=torch.bfloat16))


@pytest.mark.parametrize("missing", [without_bfloat16, without_operations])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torch_multiplies_where_onednn_cannot(missing, dtype, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    x_bd, W_enc, b_enc = (torch.randn(*s, generator=draw) for s in ((10, 64), (64, 90), (90,)))
    expected = x_bd @ W_enc + b_enc
    remove(monkeypatch, missing)
    product = Preactivations(x_bd, W_enc, b_enc)
    parts = product() if dtype == torch.float32 else product.rounded()
    found = torch.cat([p.clone() for _, p in parts])
    tolerance = 1e-5 if dtype == torch.float32 else 0.3
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=tolerance)
    unbiased = Packed(W_enc.t().to(dtype), None, 10)(x_bd.to(dtype)).float()
    torch.testing.assert_close(unbiased, expected - b_enc, rtol=0, atol=tolerance)


@pytest.mark.parametrize("missing", [without_bfloat16, without_operations])
def test_a_rounded_bias_is_known_where_torch_multiplies(missing, monkeypatch):
    remove(monkeypatch, missing)
    b_enc = torch.tensor([1.0, 1 + 2**-9, -3.0])
    assert Preactivations(torch.zeros(2, 4), torch.zeros(4, 3), b_enc).bias_error == 2**-9


def test_chunks_fit_a_cache_but_never_starve_the_product():
    assert chunk_rows(512, 1536, cuda=False) == 512
    assert chunk_rows(2048, 8192, cuda=False) == 128
    assert chunk_rows(2048, 65_536, cuda=False) == 64
    assert chunk_rows(10, 65_536, cuda=False) == 10
    assert chunk_rows(2048, 65_536, cuda=True) == 2048
    assert chunk_rows(8192, 65_536, cuda=True) == 4096


def test_jumprelu_keeps_values_above_the_threshold():
    pre_bf = torch.tensor([[-3.0, 0.5, 0.9, 2.0]])
    kept = JumpReLU(torch.tensor([-4.0, 0.0, 1.0, 1.0]))(pre_bf)
    assert kept.tolist() == [[0, 0.5, 0, 2.0]]
