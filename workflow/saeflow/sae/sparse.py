"""The sparse half of a training step: products over the active (token, latent) pairs only.

Of the batch x d_sae pre-activations only the selected ones carry gradient, so decoding and all
weight gradients are sums over these pairs. `embedding_bag` computes them without storing a
(pairs, d_in) operand: bags of one token give the reconstruction, bags of one latent (the pairs
sorted by latent) give the rows of both weight gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


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
        if self.latents_p.is_cuda:
            return torch.sort(self.latents_p, stable=True).indices, offsets
        starts = np.append(self.row_offsets.numpy(), len(self.latents_p))
        numbered = scipy.sparse.csr_array(
            (np.arange(len(self.latents_p)), self.latents_p.numpy(), starts), shape=self.shape
        )
        return torch.from_numpy(numbered.tocsc().data), offsets  # a counting sort


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
        grad_W_fd = embedding_bag(
            pairs.rows_p[order], input_bd, offsets, mode="sum", per_sample_weights=grad_p[order]
        )
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
        return embedding_bag(
            pairs.latents_p, W_dec, offsets, mode="sum", per_sample_weights=values_p
        )

    @staticmethod
    def backward(ctx: Any, grad_gd: Tensor) -> tuple[Tensor | None, ...]:
        values_p, W_dec, bags_p, offsets = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        grad_gd = grad_gd.contiguous()
        grad_values = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad_gd, W_dec, pairs.latents_p, offsets, bags_p, 0
        )
        order, latent_offsets = pairs.by_latent
        grad_W = embedding_bag(
            bags_p[order], grad_gd, latent_offsets, mode="sum", per_sample_weights=values_p[order]
        )
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
