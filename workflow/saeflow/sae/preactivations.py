"""The dense product of a training step: pre-activations in chunks of rows that fit a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

from torch import Tensor

from saeflow.sae.products import Packed
from saeflow.sae.sparse import bag_offsets, pair_dots

_CHUNK_ENTRIES = 1 << 20
_CHUNK_ROWS = 64
_CUDA_ENTRIES = 1 << 28

Chunks = Callable[[], Iterator[tuple[int, Tensor]]]
"""Calling it starts a pass: first row and pre-activations (rows, d_sae), valid until the next."""


class Preactivations:
    """The passes over `input_bd @ W_enc + b_enc`, of which a chunk at a time exists.

    Calling it is a pass in the precision of the weights.
    """

    def __init__(self, input_bd: Tensor, W_enc: Tensor, b_enc: Tensor) -> None:
        self.input_bd, self.W_fd, self.b_enc = input_bd, W_enc.detach().t(), b_enc.detach()
        self.rows = chunk_rows(len(input_bd), len(b_enc), input_bd.is_cuda)

    def __call__(self) -> Iterator[tuple[int, Tensor]]:
        """Start a pass in the weights' own precision."""
        return self._pass(self._product, self.input_bd)

    def rounded(self) -> Iterator[tuple[int, Tensor]]:
        """Start a pass in bfloat16: rounded operands, float32 sums and bias, a rounded result.

        Where torch computes it, without oneDNN, the bias is rounded too: see `bias_error`.
        """
        return self._pass(self._rounded_product, self.input_bd.bfloat16())

    def at(self, rows_p: Tensor, latents_p: Tensor) -> Tensor:
        """Return single pre-activations (pairs,) of rising rows, without storing (pairs, d_in)."""
        offsets_b = bag_offsets(rows_p, len(self.input_bd))
        products_p = pair_dots(latents_p, rows_p, offsets_b, self.W_fd, self.input_bd)
        return products_p + self.b_enc[latents_p]

    def of_rows(self, rows_r: Tensor) -> Preactivations:
        """Return the passes over some rows only."""
        part = Preactivations(self.input_bd[rows_r], self.W_fd.t(), self.b_enc)
        part._product = self._product
        return part

    @cached_property
    def bias_error(self) -> float:
        """The largest error that rounding the bias adds to a rounded pass."""
        if self._rounded_product.packed:
            return 0.0
        return (self.b_enc - self.b_enc.bfloat16()).abs().max().item()

    @cached_property
    def _product(self) -> Packed:
        return Packed(self.W_fd, self.b_enc, self.rows)

    @cached_property
    def _rounded_product(self) -> Packed:
        return Packed(self.W_fd.bfloat16(), self.b_enc, self.rows)

    def _pass(self, product: Packed, input_bd: Tensor) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(input_bd), self.rows):
            yield start, product(input_bd[start : start + self.rows])


def chunk_rows(batch: int, d_sae: int, cuda: bool) -> int:
    """Return the rows of a chunk: a cache's worth, but no fewer than a product needs to be fast.

    On CUDA, where chunks only cost launches, the whole batch up to 1 GiB.
    """
    rows = _CUDA_ENTRIES // d_sae if cuda else max(_CHUNK_ROWS, _CHUNK_ENTRIES // d_sae)
    return max(1, min(batch, rows))
