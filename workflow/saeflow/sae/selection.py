"""Which latents are active in a training step: selections of (token, latent) pairs.

A selection reads pre-activations in chunks of rows that fit a cache, so that batch x d_sae is not
stored on the CPU, and returns the active pairs with their (positive) values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saeflow.sae.sparse import Pairs

_CHUNK_ENTRIES = 1 << 20
_CHUNK_ROWS = 64
_CUDA_ENTRIES = 1 << 28
_MARGIN = 0.9
_DROPPED_BITS = 12

Chunks = Callable[[], Iterator[tuple[int, Tensor]]]
"""Calling it starts a pass: first row and pre-activations (rows, d_sae), valid until the next."""


class Preactivations:
    """The dense product of the step, in row chunks written to one reused buffer."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None

    def __call__(self, input_bd: Tensor, W_enc: Tensor, b_enc: Tensor) -> Chunks:
        """Return the passes over `input_bd @ W_enc + b_enc`."""
        rows = chunk_rows(len(input_bd), W_enc.shape[1], input_bd.is_cuda)
        if self.buffer is None or self.buffer.shape != (rows, W_enc.shape[1]):
            self.buffer = input_bd.new_empty(rows, W_enc.shape[1])
        buffer = self.buffer

        def chunks() -> Iterator[tuple[int, Tensor]]:
            for start in range(0, len(input_bd), rows):
                part = input_bd[start : start + rows]
                yield start, torch.mm(part, W_enc, out=buffer[: len(part)]).add_(b_enc)

        return chunks


def chunk_rows(batch: int, d_sae: int, cuda: bool) -> int:
    """Return the rows of a chunk: a cache's worth, but no fewer than a product needs to be fast.

    On CUDA, where chunks only cost launches, the whole batch up to 1 GiB.
    """
    rows = _CUDA_ENTRIES // d_sae if cuda else max(_CHUNK_ROWS, _CHUNK_ENTRIES // d_sae)
    return max(1, min(batch, rows))


class Selection(Protocol):
    """Chooses the active pairs of a batch of shape (batch, d_sae)."""

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return the pairs and their values (pairs,), all positive."""
        ...


class SelectPositive:
    """ReLU: every positive pre-activation."""

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return all pairs above zero."""
        return _pairs(*_above(chunks, 0.0), shape)


class SelectAbove:
    """Every pre-activation above its latent's bound (d_sae,)."""

    def __init__(self) -> None:
        self.bound_f = torch.zeros(())

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return all pairs above `bound_f`."""
        return _pairs(*_above(chunks, self.bound_f), shape)


class SelectTopK:
    """The k largest positive pre-activations of each token."""

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return at most k pairs a token."""
        flat, values = [], []
        for start, pre_cf in chunks():
            latents_ck = torch.topk(pre_cf, self.k, dim=1, sorted=False).indices.sort(1).values
            values_ck = pre_cf.gather(1, latents_ck)
            rows_c1 = torch.arange(start, start + len(pre_cf), device=pre_cf.device)[:, None]
            positive = values_ck > 0
            flat.append((rows_c1 * shape[1] + latents_ck)[positive])
            values.append(values_ck[positive])
        return _pairs(torch.cat(flat), torch.cat(values), shape)


class SelectBatchTopK:
    """The k x batch largest positive pre-activations of the whole batch (Bussmann et al. 2024).

    Exact. A bound a little below the last batch's cut leaves few survivors, among which the cut is
    found; where a batch has too few survivors the bound was too high and is lowered. The result
    does not depend on the bound. Of equal values at the cut, earlier tokens and latents are kept.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.bound: float | None = None

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return at most k x batch pairs."""
        wanted = self.k * shape[0]
        for bound in self._bounds(chunks):
            flat, values = _above(chunks, bound)
            if len(values) >= wanted:
                break
        if len(values) > wanted:
            keep, cut = _largest(values, wanted)
            flat, values = flat[keep], values[keep]
            self.bound = _MARGIN * cut
        return _pairs(flat, values, shape)

    def _bounds(self, chunks: Chunks) -> Iterator[float]:
        if self.bound is not None:
            yield self.bound
        pre = next(chunks())[1][:8]
        sampled = torch.topk(pre.flatten(), self.k * len(pre)).values[-1].item()
        yield max(0.5 * sampled, 0.0)
        yield 0.0


def _above(chunks: Chunks, bound: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return flat indices and values of all pre-activations above `bound`."""
    flat, values = [], []
    for start, pre_cf in chunks():
        found = _nonzero((pre_cf > bound).flatten())
        values.append(pre_cf.flatten()[found])
        flat.append(found + start * pre_cf.shape[1])
    return torch.cat(flat), torch.cat(values)


def _nonzero(mask: Tensor) -> Tensor:
    if mask.is_cuda:
        return mask.nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))  # half the time of torch's


def _largest(values: Tensor, wanted: int) -> tuple[Tensor, float]:
    """Return a mask of the `wanted` largest, the first of equals at the cut, and the cut."""
    cut = torch.kthvalue(values, len(values) - wanted + 1).values
    above, tied = values > cut, values == cut
    missing = wanted - above.sum()
    return above | (tied & (tied.cumsum(0) <= missing)), cut.item()


def _pairs(flat: Tensor, values: Tensor, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
    rows = flat // shape[1]
    return Pairs(rows, flat - rows * shape[1], shape), values


class Cut:
    """The threshold above which a given number of pre-activations lie, over any number of batches.

    Counts positive pre-activations by the leading 20 bits of their float32 pattern, whose order is
    theirs: a few MiB however many batches come, and a threshold within 0.05 % of the exact one.
    """

    def __init__(self, device: torch.device) -> None:
        self.counts = torch.zeros(1 << (31 - _DROPPED_BITS), dtype=torch.int64, device=device)

    def add(self, chunks: Chunks) -> None:
        """Count the pre-activations (float32) of a batch."""
        for _, pre_cf in chunks():
            bins = pre_cf.flatten().clamp_min(0).view(torch.int32) >> _DROPPED_BITS
            self.counts += torch.bincount(bins, minlength=len(self.counts))

    def threshold(self, wanted: int) -> float:
        """Return the least threshold with at most `wanted` above, 0 if fewer are positive."""
        counts = self.counts.clone()
        counts[0] = 0  # what is not positive
        above = counts.flip(0).cumsum(0).flip(0)
        edge = (above > wanted).sum().to(torch.int32) << _DROPPED_BITS
        return edge.view(torch.float32).item()
