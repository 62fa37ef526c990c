"""Training's kernels on tensors that pass for CUDA ones: no mixed devices, the CPU's results."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pretended_cuda import DEVICE, PretendedCuda, on_cuda, values
from torch import Tensor
from torch.nn.functional import normalize

from saeflow.sae import crossover, orthogonality, sparse
from saeflow.sae.auxk import AuxKLoss
from saeflow.sae.orthogonality import OrthogonalityPenalty
from saeflow.sae.preactivations import Preactivations
from saeflow.sae.proposals import ProposeBatchTopK, ProposeTopK
from saeflow.sae.selection import (
    Cut,
    SelectAbove,
    SelectBatchTopK,
    SelectPositive,
    SelectTopK,
)
from saeflow.sae.settings import AuxK, Orthogonality
from saeflow.sae.sparse import Pairs, bag_dots, bag_sums, decode_pairs
from saeflow.sae.step import Step

B, D, F = 48, 64, 1024


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=draw) for shape in shapes]


@pytest.fixture
def weights():
    """Inputs (B, D), encoder (D, F), its bias: a third of the tokens is doubtful in bfloat16."""
    x_bd, W_fd, b_enc = drawn((B, D), (F, D), (F,))
    x_bd[::3] = x_bd[:1] + 1e-3 * x_bd[::3]
    return x_bd, normalize(W_fd, dim=1).t(), 0.1 * b_enc


def dense(pairs: Pairs, values_p: Tensor) -> Tensor:
    acts_bf = torch.zeros(pairs.shape)
    acts_bf[pairs.rows_p.as_subclass(Tensor), pairs.latents_p.as_subclass(Tensor)] = values_p
    return acts_bf


@pytest.mark.parametrize(
    ("make", "exact"),
    [
        (lambda: SelectTopK(8), lambda: SelectTopK(8)),
        (lambda: SelectBatchTopK(8), lambda: SelectBatchTopK(8)),
        (lambda: SelectPositive(), lambda: SelectPositive()),
        (lambda: SelectAbove(), lambda: SelectPositive()),
        (lambda: ProposeTopK(8), lambda: SelectTopK(8)),
        (lambda: ProposeBatchTopK(8), lambda: SelectBatchTopK(8)),
    ],
)
def test_selections(weights, make, exact):
    select, expected = make(), dense(*exact()(Preactivations(*weights), (B, F)))
    for _ in range(2):  # cold, then with a bound
        with PretendedCuda(), torch.no_grad():
            product = Preactivations(*map(on_cuda, weights))
            pairs, values_p = select(product, (B, F))
        torch.testing.assert_close(dense(pairs, values(values_p)), expected)


def test_a_bound_a_latent_and_a_cut_over_batches(weights):
    x_bd, W_enc, b_enc = weights
    with PretendedCuda(), torch.no_grad():
        product = Preactivations(*map(on_cuda, weights))
        select, cut = SelectAbove(), Cut(DEVICE)
        select.bound_f = on_cuda(torch.full((F,), 0.5))
        pairs, values_p = select(product, (B, F))
        cut.add(product)
        threshold = cut.threshold(100)
    pre_bf = x_bd @ W_enc + b_enc
    torch.testing.assert_close(dense(pairs, values(values_p)), pre_bf * (pre_bf > 0.5))
    assert 95 <= (pre_bf > threshold).sum() <= 100


def pairs_there(share: float) -> tuple[Pairs, Tensor]:
    active_bf = torch.rand(B, F, generator=torch.Generator().manual_seed(1)) < share
    rows, latents = active_bf.nonzero(as_tuple=True)
    return Pairs(on_cuda(rows), on_cuda(latents), (B, F)), on_cuda(drawn((len(rows),))[0])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.6])
@pytest.mark.parametrize("way", [crossover.ALWAYS_DENSE, crossover.ALWAYS_PAIRS])
def test_sums_and_dots_of_pairs_and_their_gradients(share, way, monkeypatch):
    x_bd, W_fd = drawn((B, D), (F, D))
    pairs, values_p = pairs_there(share)
    acts_bf = dense(pairs, values(values_p))
    monkeypatch.setattr(crossover, "measured", lambda *of: way)
    with PretendedCuda(), torch.no_grad():
        x, W = on_cuda(x_bd), on_cuda(W_fd)
        order, offsets = pairs.by_latent
        sums = decode_pairs(values_p, W, pairs)
        parts = decode_pairs(values_p, W, pairs, on_cuda(torch.arange(F) * 3 // F), 3)
        turned = bag_sums(pairs.rows_by_latent, values_p[order], offsets, x)
        dots = bag_dots(pairs.latents_p, pairs.rows_p, pairs.row_offsets, W, x)
        ctx = SimpleNamespace(saved_tensors=(x, W.t()), pairs=pairs, centred=True)
        encoder = sparse._Encode.backward(ctx, values_p)
        ctx = SimpleNamespace(
            saved_tensors=(values_p, W, pairs.rows_p, pairs.row_offsets),
            pairs=pairs,
            needs_input_grad=(True, True),
        )
        decoder = sparse._Decode.backward(ctx, x)

    def close(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(values(found), expected, atol=1e-4, rtol=1e-4)

    at = pairs.rows_p.as_subclass(Tensor), pairs.latents_p.as_subclass(Tensor)
    close(sums[:, 0], acts_bf @ W_fd)
    close(parts.sum(1), acts_bf @ W_fd)
    close(turned, acts_bf.t() @ x_bd)
    close(dots, (x_bd @ W_fd.t())[at])
    close(encoder[2], (acts_bf.t() @ x_bd).t())
    close(encoder[3], acts_bf.sum(0))
    close(encoder[4], -(W_fd.t() @ acts_bf.sum(0)))
    close(decoder[0], (x_bd @ W_fd.t())[at])
    close(decoder[1], acts_bf.t() @ x_bd)


def test_the_crossover_is_measured(monkeypatch):
    monkeypatch.setattr(crossover, "_wait", lambda device: None)
    with PretendedCuda():
        found = crossover.measured.__wrapped__(DEVICE, 128, 16)
    assert found.sums > 0 and found.dots > 0


@pytest.mark.parametrize("normalise", [True, False])
def test_the_dead_latent_term(normalise, monkeypatch):
    monkeypatch.setattr(crossover, "measured", lambda *of: crossover.CPU)
    x_bd, W_dec, W_fd, b_enc, b_dec, x_hat_bd = drawn((B, D), (F, D), (F, D), (F,), (D,), (B, D))
    none, dead_f = torch.zeros(0, dtype=torch.int64), torch.arange(F) % 3 == 0

    def loss_b(place) -> Tensor:
        sae = SimpleNamespace(
            W_enc=place(W_fd).t(), W_dec=place(W_dec), b_enc=place(b_enc), b_dec=place(b_dec),
            apply_b_dec_to_input=True,
        )  # fmt: skip
        x, empty = place(x_bd), place(torch.zeros(0))
        pairs = Pairs(place(none), place(none), (B, F))
        step = Step(x, x - sae.b_dec, pairs, empty, empty, (place(x_hat_bd),), place(dead_f), 0)
        with torch.no_grad():
            return AuxKLoss(AuxK(normalise=normalise), D)(sae, step)

    with PretendedCuda():
        found = loss_b(on_cuda)
    torch.testing.assert_close(values(found), loss_b(lambda x: x))


@pytest.mark.parametrize("chunk_size", [100, 700])
def test_the_orthogonality_penalty(chunk_size):
    W_fd = drawn((F, D))[0]
    term = OrthogonalityPenalty(Orthogonality(chunk_size=chunk_size), F, 0)
    chunks = torch.arange(F).tensor_split(term.chunks)
    dense_W = W_fd.clone().requires_grad_()
    expected = term.of_chunks(dense_W, chunks)
    expected.backward()
    with PretendedCuda(), torch.no_grad():
        W = on_cuda(W_fd)
        assert term(SimpleNamespace(W_dec=W, d_sae=F), SimpleNamespace(index=0)) > 0
        found = term.of_chunks(W, [on_cuda(chunk) for chunk in chunks])
        nearest_f, cosine_f = orthogonality.nearest_others(W, [on_cuda(c) for c in chunks])
        share_f = on_cuda(torch.cat([torch.full((len(c),), 1 / len(c)) for c in chunks]))
        share_f = share_f / len(chunks)
        ctx = SimpleNamespace(save_for_backward=lambda *of: setattr(ctx, "saved_tensors", of))
        orthogonality._SquaredCosines.forward(ctx, W, nearest_f, cosine_f, share_f, 1e-8)
        grad_W = orthogonality._SquaredCosines.backward(ctx, on_cuda(torch.ones(())))[0]
    torch.testing.assert_close(values(found), expected.detach())
    torch.testing.assert_close(values(grad_W), dense_W.grad)


def test_a_mixture_and_a_numpy_view_are_seen():
    """Without this, the tests above might pass for anything."""
    with PretendedCuda():
        there = on_cuda(torch.ones(3))
        assert there.is_cuda and torch.zeros(2, device=there.device).is_cuda
        assert (there + torch.zeros(())).is_cuda and not there.cpu().is_cuda
        for mixed in (lambda: there + torch.ones(3), lambda: torch.cat([there, torch.ones(3)])):
            with pytest.raises(RuntimeError, match="mixes"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
