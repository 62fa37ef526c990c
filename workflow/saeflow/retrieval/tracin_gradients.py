"""Gradients of an SAE's loss, token by token, as the outer products that they are.

The parameters are those of a finished SAE: W_enc, W_dec, b_enc and b_dec, reading raw activations
(of a standardising SAE: standardised ones). A token's loss is ||x_hat - x||^2 + l1 * sum f, its
gradient g (x) f by W_dec and d (x) u by W_enc, where u is what the encoder multiplied, g the
gradient by x_hat and d that by the pre-activations. So its inner product with another gradient G is
f . (G_dec g) + d . (G_enc u) + ...: two products over the active latents, and no gradient of one
token or passage is ever stored.

A JumpReLU's threshold and a TopK's choice are held fixed, as a BatchTopK's threshold is at
inference. Decoder rows move freely, although training keeps them at unit norm.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from saeflow.sae.activation_functions import JumpReLU, TopK
from saeflow.sae.model import SAE, standardised
from saeflow.sae.preactivations import Preactivations
from saeflow.sae.selection import SelectAbove, Selection, SelectPositive, SelectTopK
from saeflow.sae.sparse import Pairs, bag_dots, bag_sums


class Gradient(NamedTuple):
    """A sum of gradients by an SAE's parameters."""

    W_enc_fd: Tensor
    """(d_sae, d_in), transposed, so that a latent's part is one row."""
    W_dec_fd: Tensor
    b_enc_f: Tensor
    b_dec_d: Tensor


class Factors(NamedTuple):
    """What the gradients of some tokens' losses are made of."""

    pairs: Pairs
    """The active (token, latent) pairs."""
    acts_p: Tensor
    """Latent activations."""
    pulls_p: Tensor
    """Gradients of the loss by the pre-activations."""
    input_bd: Tensor
    """What the encoder multiplied."""
    error_bd: Tensor
    """Gradients of the loss by the reconstructions."""


@torch.no_grad()
def factors(sae: SAE, x_bd: Tensor, l1: float = 0.0) -> Factors:
    """Return the factors of the tokens `x_bd` (batch, d_in); `l1` is the L1 penalty's weight.

    Raises ValueError for a gated SAE, whose gates learn from a loss of their own.
    """
    select = _selection(sae.activation)
    x_bd = standardised(x_bd).x_bd if sae.standardise else x_bd
    input_bd = x_bd - sae.b_dec if sae.apply_b_dec_to_input else x_bd
    product = Preactivations(input_bd, sae.W_enc, sae.b_enc)
    pairs, acts_p = select(product, (len(x_bd), sae.d_sae))
    x_hat_bd = bag_sums(pairs.latents_p, acts_p, pairs.row_offsets, sae.W_dec) + sae.b_dec
    error_bd = 2 * (x_hat_bd - x_bd)
    return Factors(pairs, acts_p, _dots(pairs, sae.W_dec, error_bd) + l1, input_bd, error_bd)


@torch.no_grad()
def weighted_sum(sae: SAE, found: Factors, weights_b: Tensor) -> Gradient:
    """Return the sum over tokens of weight times gradient."""
    pairs = found.pairs
    order_p, offsets_f = pairs.by_latent
    weights_p = weights_b[pairs.rows_p]

    def sums(values_p: Tensor, rows_bd: Tensor) -> Tensor:
        weighted_p = (values_p * weights_p)[order_p]
        return bag_sums(pairs.rows_by_latent, weighted_p, offsets_f, rows_bd)

    b_enc_f = torch.zeros_like(sae.b_enc).index_add(0, pairs.latents_p, found.pulls_p * weights_p)
    b_dec_d = weights_b @ found.error_bd
    if sae.apply_b_dec_to_input:
        b_dec_d = b_dec_d - sae.W_enc @ b_enc_f
    W_enc_fd, W_dec_fd = sums(found.pulls_p, found.input_bd), sums(found.acts_p, found.error_bd)
    return Gradient(W_enc_fd, W_dec_fd, b_enc_f, b_dec_d)


@torch.no_grad()
def inner_products(sae: SAE, found: Factors, gradient: Gradient) -> Tensor:
    """Return each token's inner product (batch,) of its gradient with `gradient`."""
    pairs, weights_f = found.pairs, gradient.b_enc_f
    if sae.apply_b_dec_to_input:
        weights_f = weights_f - gradient.b_dec_d @ sae.W_enc
    by_encoder_p = _dots(pairs, gradient.W_enc_fd, found.input_bd) + weights_f[pairs.latents_p]
    by_decoder_p = _dots(pairs, gradient.W_dec_fd, found.error_bd)
    products_p = found.pulls_p * by_encoder_p + found.acts_p * by_decoder_p
    return (found.error_bd @ gradient.b_dec_d).index_add(0, pairs.rows_p, products_p)


def _selection(activation: nn.Module) -> Selection:
    """Return what finds the active pairs without storing (batch, d_sae)."""
    match activation:
        case nn.ReLU():
            return SelectPositive()
        case TopK(k=k):
            return SelectTopK(k)
        case JumpReLU(threshold=threshold_f):
            select = SelectAbove()
            select.bound_f = threshold_f.clamp_min(0)
            return select
    raise ValueError(
        f"TracIn has no gradient for the activation {type(activation).__name__}: take an SAE with "
        "relu, topk, batchtopk or jumprelu"
    )


def _dots(pairs: Pairs, rows_fd: Tensor, bags_bd: Tensor) -> Tensor:
    """Return (pairs,): the dot product of each pair's row of latents and row of tokens."""
    return bag_dots(pairs.latents_p, pairs.rows_p, pairs.row_offsets, rows_fd, bags_bd)
