"""Selection by bfloat16 against selection by float32: the same pairs, but for rounding's ties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeflow.sae import proposals
from saeflow.sae.preactivations import Preactivations
from saeflow.sae.proposals import ProposeBatchTopK, ProposeTopK
from saeflow.sae.selection import SelectBatchTopK, SelectTopK
from saeflow.sae.sparse import Pairs


def inputs(kind: str, batch: int, d: int, draw: torch.Generator) -> Tensor:
    x_bd = torch.randn(batch, d, generator=draw)
    match kind:
        case "massive":
            x_bd[:, 3] += 300  # in one dimension of every token
        case "offset":
            x_bd += 20
        case "some_massive":
            x_bd[::9, 3] += 3000
        case "unequal":
            x_bd *= torch.logspace(-3, 3, batch)[:, None]
        case "near_ties":
            x_bd = x_bd[:1] + 1e-3 * x_bd  # tokens alike
        case "equal":
            x_bd = x_bd[:4].repeat(batch // 4, 1)
        case "some_zero":
            x_bd[::5] = 0
    return x_bd


def acts(pairs: Pairs, values_p: Tensor) -> Tensor:
    acts_bf = torch.zeros(pairs.shape)
    acts_bf[pairs.rows_p, pairs.latents_p] = values_p
    return acts_bf


def case(kind: str, d: int, d_sae: int, batch: int = 64, seed: int = 0) -> Preactivations:
    draw = torch.Generator().manual_seed(seed)
    W_fd = normalize(torch.randn(d_sae, d, generator=draw), dim=1)
    if kind == "near_equal_latents":
        W_fd[1::2] = W_fd[::2] + 1e-5 * W_fd[1::2]
    if kind == "unequal_latents":
        W_fd *= torch.logspace(0, 2, d_sae)[torch.randperm(d_sae, generator=draw), None]
    if kind == "few_large_latents":
        W_fd[:32] *= 30
    b_enc = 0.1 * torch.randn(d_sae, generator=draw)
    if kind == "large_biases":
        b_enc *= 1000
    return Preactivations(inputs(kind, batch, d, draw), W_fd.t(), b_enc)


def assert_alike(product: Preactivations, propose, exact) -> None:
    """Equal, or different where float32 itself, summed in another order, might differ."""
    shape = len(product.input_bd), len(product.b_enc)
    pairs, values_p = propose(product, shape)
    flat = pairs.rows_p * shape[1] + pairs.latents_p
    assert torch.equal(flat, flat.sort().values) and (values_p > 0).all()
    got, expected = acts(pairs, values_p), acts(*exact(product, shape))
    assert (got > 0).sum() == (expected > 0).sum()
    scale_b1 = product.input_bd.norm(dim=1, keepdim=True) * product.W_fd.norm(dim=1).max()
    scale_b1 = scale_b1 + product.b_enc.abs().max()
    both = (got > 0) & (expected > 0)
    assert ((got - expected).abs() * both <= 1e-6 * scale_b1).all()
    odd_b1 = ((got > 0) != (expected > 0)).any(1, keepdim=True)
    kept_b1 = expected.masked_fill(expected == 0, torch.inf)
    least_b1 = kept_b1.amin(1, keepdim=True) if isinstance(exact, SelectTopK) else kept_b1.min()
    swapped = ((got + expected - least_b1).abs() <= 2e-6 * scale_b1) | both | (got + expected == 0)
    assert swapped.all() and odd_b1.float().mean() < 0.3


KINDS = [
    "gaussian", "massive", "offset", "some_massive", "unequal", "near_ties", "equal", "some_zero",
    "near_equal_latents", "large_biases", "unequal_latents", "few_large_latents",
]  # fmt: skip


@pytest.mark.parametrize("d", [128, 512, 2304])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_proposes_what_float32_selects(kind, d):
    product = case(kind, d, 1024)
    assert_alike(product, ProposeTopK(16), SelectTopK(16))
    warm, exact = ProposeBatchTopK(16), SelectBatchTopK(16)
    for _ in range(2):
        assert_alike(product, warm, exact)


def with_one_large_latent(k: int, seed: int) -> Preactivations:
    """Of one token alone, a latent with weights of norm 100 is a little above the cut.

    Its bfloat16 errors are a hundred times those of any other pair that is proposed.
    """
    product = case("gaussian", 512, 1024, seed=seed)
    product.W_fd[0] *= 100
    unit_d = product.W_fd[0] / 100
    product.input_bd[0] += (10 - product.input_bd[0] @ unit_d) * unit_d
    others_f = product.input_bd[0] @ product.W_fd[1:].t() + product.b_enc[1:]
    at_cut = others_f.topk(k).values[-1] + 0.02
    product.b_enc[0] = at_cut - (product.input_bd[0] @ product.W_fd[0])
    return product


def test_the_errors_of_latents_with_large_weights_are_allowed_for():
    for seed in range(12):
        product = with_one_large_latent(16, seed)
        assert_alike(product, ProposeTopK(16), SelectTopK(16))
        assert ProposeTopK(16)(product, (64, 1024))[0].latents_p[0] == 0


def test_no_pair_is_lost_at_the_cut_where_tokens_are_selected_again():
    """Their values are summed in another order then, and one may end just below the cut."""
    for seed in range(30):
        product = case("few_large_latents", 128, 1024, seed=seed)
        _, values_p = ProposeBatchTopK(16)(product, (64, 1024))
        assert len(values_p) == 16 * 64, seed


def test_where_too_few_are_left_float32_selects(monkeypatch):
    product = case("few_large_latents", 128, 1024)
    expected = acts(*SelectBatchTopK(16)(product, (64, 1024)))
    original = Preactivations.at
    monkeypatch.setattr(Preactivations, "at", lambda self, *of: 1.2 * original(self, *of))
    everything = torch.arange(64)
    monkeypatch.setattr(proposals.Proposal, "doubtful", lambda self, cut_b: everything)
    assert torch.equal(acts(*ProposeBatchTopK(16)(product, (64, 1024))), expected)


@pytest.mark.parametrize("k", [1, 5, 200, 256])
def test_every_k_is_selected(k):
    product = case("gaussian", 64, 256)
    assert_alike(product, ProposeTopK(k), SelectTopK(k))
    assert_alike(product, ProposeBatchTopK(k), SelectBatchTopK(k))


def test_few_tokens_are_selected_again_where_bfloat16_is_clear(monkeypatch):
    seen: list[int] = []
    original = Preactivations.of_rows
    monkeypatch.setattr(
        Preactivations, "of_rows", lambda self, rows: seen.append(len(rows)) or original(self, rows)
    )
    product = case("gaussian", 512, 4096, batch=256)
    ProposeTopK(32)(product, (256, 4096))
    ProposeBatchTopK(32)(product, (256, 4096))
    assert sum(seen) < 25


@pytest.mark.parametrize(
    ("propose", "exact", "kind"),
    [
        (ProposeTopK, SelectTopK, "massive"),
        (ProposeBatchTopK, SelectBatchTopK, "gaussian"),
    ],
)
def test_without_margin_and_check_bfloat16_selects_otherwise(propose, exact, kind, monkeypatch):
    product = case(kind, 128, 1024, batch=512)
    assert_alike(product, propose(16), exact(16))
    none = torch.zeros(0, dtype=torch.int64)
    monkeypatch.setattr(proposals.Proposal, "doubtful", lambda self, cut_b: none)
    monkeypatch.setattr(proposals, "_EXTRA", 0)
    monkeypatch.setattr(proposals, "_EXTRA_SHARE", 10**9)
    monkeypatch.setattr(proposals, "_SLACK", 0.0)
    with pytest.raises(AssertionError):
        assert_alike(product, propose(16), exact(16))


def test_a_bound_of_an_earlier_batch_does_not_change_the_result():
    product = case("gaussian", 128, 1024)
    results = []
    for bound in (None, 0.0, 0.1, 1e9):
        select = ProposeBatchTopK(16)
        select.bound = bound
        results.append(acts(*select(product, (64, 1024))))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_tokens_that_are_no_number_neither_hang_nor_spread():
    product = case("gaussian", 128, 1024)
    product.input_bd[5] = torch.nan
    got = acts(*ProposeTopK(16)(product, (64, 1024)))
    assert got[5].abs().max() == 0 and ((got > 0).sum(1)[torch.arange(64) != 5] == 16).all()
    assert not acts(*ProposeBatchTopK(16)(product, (64, 1024))).isnan().any()


def test_negative_preactivations_alone_select_nothing():
    product = case("gaussian", 128, 1024)
    product.b_enc -= 100
    for select in (ProposeTopK(16), ProposeBatchTopK(16)):
        assert len(select(product, (64, 1024))[1]) == 0
