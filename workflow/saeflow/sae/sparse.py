"""The sparse half of a training step: products over the active (token, latent) pairs only.

Of the batch x d_sae pre-activations only the selected ones carry gradient, so decoding and all
weight gradients are sums over these pairs. `embedding_bag` computes them without storing a
(pairs, d_in) operand: bags of one token give the reconstruction, bags of one latent (the pairs
sorted by latent) give the rows of both weight gradients. Where many pairs are active (a ReLU early
in training), the same sums are dense products of blocks that hold the pairs among zeros.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saeflow.sae.crossover import Shares, shares
from saeflow.sae.products import Packed

_BLOCK_ENTRIES = 1 << 20
_BLOCK_ROWS = 64
_CUDA_ENTRIES = 1 << 28

with warnings.catch_warnings():  # torch says once a process that sparse tensors are in beta
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], size=(1, 1), check_invariants=False)


@dataclass(frozen=True)
class Pairs:
    """Active (token, latent) pairs of a batch, ordered by token, then by latent.

    `rows_p` and `latents_p` are int64 (pairs,); `shape` is (batch, d_sae).
    """

    rows_p: Tensor
    latents_p: Tensor
    shape: tuple[int, int]

    @cached_property
    def row_offsets(self) -> Tensor:
        """Start of each token's pairs, (batch,)."""
        return bag_offsets(self.rows_p, self.shape[0])

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """The order (pairs,) that sorts by latent, stably, and each latent's start (d_sae,)."""
        offsets = bag_offsets(self.latents_p, self.shape[1])
        if self.latents_p.is_cuda or self.shape[1] > 1 << 16:
            return torch.sort(self.latents_p, stable=True).indices, offsets
        short_p = self.latents_p.numpy().astype(np.uint16)
        return torch.from_numpy(np.argsort(short_p, kind="stable")), offsets  # a radix sort

    @cached_property
    def rows_by_latent(self) -> Tensor:
        """The tokens in the order of `by_latent`."""
        return self.rows_p[self.by_latent[0]]


def bag_offsets(bags_p: Tensor, n_bags: int) -> Tensor:
    """Return the start of each bag (n_bags,) where `bags_p` is sorted, or would be."""
    counts = torch.bincount(bags_p, minlength=n_bags)
    return counts.cumsum(0) - counts


class _Encode(torch.autograd.Function):
    """Pass the selected pre-activations on; backward sends their gradient to the encoder."""

    @staticmethod
    def forward(
        ctx: Any,
        values_p: Tensor,
        input_bd: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        b_dec: Tensor | None,
        pairs: Pairs,
    ) -> Tensor:
        ctx.save_for_backward(input_bd, W_enc)
        ctx.pairs, ctx.centred = pairs, b_dec is not None
        return values_p.view_as(values_p)

    @staticmethod
    def backward(ctx: Any, grad_p: Tensor) -> tuple[Tensor | None, ...]:
        input_bd, W_enc = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        order, offsets = pairs.by_latent
        grad_W_fd = bag_sums(pairs.rows_by_latent, grad_p[order], offsets, input_bd)
        # Without any pair, bincount forgets the weights' type.
        grad_b = torch.bincount(pairs.latents_p, grad_p, pairs.shape[1]).to(grad_p.dtype)
        grad_b_dec = -(W_enc @ grad_b) if ctx.centred else None
        return None, None, grad_W_fd.t(), grad_b, grad_b_dec, None


class _Decode(torch.autograd.Function):
    """Sum decoder rows into bags, weighted by the latents' values."""

    @staticmethod
    def forward(
        ctx: Any, values_p: Tensor, W_dec: Tensor, pairs: Pairs, bags_p: Tensor, n_bags: int
    ) -> Tensor:
        offsets = pairs.row_offsets if n_bags == pairs.shape[0] else bag_offsets(bags_p, n_bags)
        ctx.save_for_backward(values_p, W_dec, bags_p, offsets)
        ctx.pairs = pairs
        return bag_sums(pairs.latents_p, values_p, offsets, W_dec)

    @staticmethod
    def backward(ctx: Any, grad_gd: Tensor) -> tuple[Tensor | None, ...]:
        values_p, W_dec, bags_p, offsets = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        grad_gd = grad_gd.contiguous()
        grad_values = bag_dots(pairs.latents_p, bags_p, offsets, W_dec, grad_gd)
        if not ctx.needs_input_grad[1]:
            return grad_values, None, None, None, None
        order, latent_offsets = pairs.by_latent
        bags_by_latent = pairs.rows_by_latent if bags_p is pairs.rows_p else bags_p[order]
        grad_W = bag_sums(bags_by_latent, values_p[order], latent_offsets, grad_gd)
        return grad_values, grad_W, None, None, None


def encode_pairs(
    values_p: Tensor,
    input_bd: Tensor,
    W_enc: Tensor,
    b_enc: Tensor,
    b_dec: Tensor | None,
    pairs: Pairs,
) -> Tensor:
    """Attach to the positive pre-activations `values_p` (pairs,) their gradient to the encoder.

    `input_bd` is what the encoder multiplied; give `b_dec` where it was subtracted there.
    """
    return _Encode.apply(values_p, input_bd, W_enc, b_enc, b_dec, pairs)


def decode_pairs(
    values_p: Tensor, W_dec: Tensor, pairs: Pairs, group_f: Tensor | None = None, groups: int = 1
) -> Tensor:
    """Return the sum of value times decoder row, without bias, as (batch, groups, d_in).

    `group_f` (d_sae,) numbers each latent's group, rising with the latent; None is one group.
    """
    batch = pairs.shape[0]
    bags_p = pairs.rows_p if group_f is None else pairs.rows_p * groups + group_f[pairs.latents_p]
    flat = _Decode.apply(values_p, W_dec, pairs, bags_p, batch * groups)
    return flat.view(batch, groups, W_dec.shape[1])


def bag_sums(
    columns_p: Tensor,
    weights_p: Tensor,
    offsets_g: Tensor,
    rows_cd: Tensor,
    dense_from: Shares | None = None,
) -> Tensor:
    """Return for each bag of pairs the weighted sum of rows (bags, d).

    Bag g begins at pair `offsets_g[g]`; pair p adds `weights_p[p] * rows_cd[columns_p[p]]`. From a
    share of active entries on (`crossover.shares`, or `dense_from`), in blocks with zeros.
    """
    dense_from = dense_from or shares(rows_cd.device, *rows_cd.shape)
    if _active(columns_p, offsets_g, rows_cd) <= dense_from.sums:
        return embedding_bag(
            columns_p, rows_cd, offsets_g, mode="sum", per_sample_weights=weights_p
        )
    block = _block_rows(rows_cd)
    product = Packed(rows_cd.t(), None, block)
    sums_gd = rows_cd.new_empty(len(offsets_g), rows_cd.shape[1])
    weights_rc = rows_cd.new_empty(block, len(rows_cd))
    for first, last, pairs, places_p in _blocks(columns_p, offsets_g, len(rows_cd), block):
        part_rc = weights_rc[: last - first].zero_()
        part_rc.view(-1)[places_p] = weights_p[pairs]
        sums_gd[first:last] = product(part_rc)
    return sums_gd


def bag_dots(
    columns_p: Tensor,
    bags_p: Tensor,
    offsets_g: Tensor,
    rows_cd: Tensor,
    bags_gd: Tensor,
    dense_from: Shares | None = None,
) -> Tensor:
    """Return (pairs,): the dot product of each pair's row and its bag's entry of `bags_gd`."""
    dense_from = dense_from or shares(rows_cd.device, *rows_cd.shape)
    if _active(columns_p, offsets_g, rows_cd) <= dense_from.dots:
        return pair_dots(columns_p, bags_p, offsets_g, rows_cd, bags_gd)
    block = _block_rows(rows_cd)
    product = Packed(rows_cd, None, block)
    dots_p = rows_cd.new_empty(len(columns_p))
    for first, last, pairs, places_p in _blocks(columns_p, offsets_g, len(rows_cd), block):
        dots_p[pairs] = product(bags_gd[first:last]).flatten()[places_p]
    return dots_p


def pair_dots(
    columns_p: Tensor, bags_p: Tensor, offsets_g: Tensor, rows_cd: Tensor, bags_gd: Tensor
) -> Tensor:
    """Return the same one pair at a time; neither (pairs, d) operand is stored."""
    if bags_gd.is_cuda or not len(columns_p):
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            bags_gd, rows_cd, columns_p, offsets_g, bags_p, 0
        )
    # Two thirds of the time of embedding_bag's own.
    pattern = torch.sparse_csr_tensor(
        torch.cat([offsets_g, offsets_g.new_tensor([len(columns_p)])]),
        columns_p,
        bags_gd.new_zeros(len(columns_p)),
        size=(len(bags_gd), len(rows_cd)),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(pattern, bags_gd, rows_cd.t(), beta=0.0).values()


def _active(columns_p: Tensor, offsets_g: Tensor, rows_cd: Tensor) -> float:
    return len(columns_p) / max(1, len(offsets_g) * len(rows_cd))


def _block_rows(rows_cd: Tensor) -> int:
    entries = _CUDA_ENTRIES if rows_cd.is_cuda else _BLOCK_ENTRIES
    return max(_BLOCK_ROWS, entries // len(rows_cd))


def _blocks(
    columns_p: Tensor, offsets_g: Tensor, columns: int, block: int
) -> Iterator[tuple[int, int, slice, Tensor]]:
    """Yield blocks of bags: first and last, their pairs, and where these lie in (bags, columns)."""
    counts_g = torch.diff(offsets_g, append=offsets_g.new_tensor([len(columns_p)]))
    for first in range(0, len(offsets_g), block):
        last = min(first + block, len(offsets_g))
        start = int(offsets_g[first])
        pairs = slice(start, start + int(counts_g[first:last].sum()))
        starts_r = torch.arange(0, (last - first) * columns, columns, device=columns_p.device)
        places_p = torch.repeat_interleave(starts_r, counts_g[first:last])
        yield first, last, pairs, places_p.add_(columns_p[pairs])
