"""Which latents are active in a training step: exact selections of (token, latent) pairs.

A selection reads pre-activations in chunks of rows that fit a cache, so that batch x d_sae is not
stored on the CPU, and returns the active pairs with their (positive) values. Few of a chunk's
entries are active, so most are ruled out sixteen at a time: by the maximum of their group.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saeflow.sae.preactivations import Chunks as Chunks
from saeflow.sae.sparse import Pairs

_GROUP_SIZES = (64, 32, 16, 8, 4, 2)
_GROUPS_PER_WANTED = 12
_FEWEST_GROUPS = 64
BOUND_MARGIN = 0.9
"""What BatchTopK's next bound is of the last cut."""
_TOO_MANY = 4
_DROPPED_BITS = 12


class Selection(Protocol):
    """Chooses the active pairs of a batch of shape (batch, d_sae)."""

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return the pairs and their values (pairs,), all positive."""
        ...


class SelectPositive:
    """ReLU: every positive pre-activation."""

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return all pairs above zero."""
        return as_pairs(*_above(chunks, torch.zeros(())), shape)


class SelectAbove:
    """Every pre-activation above its latent's bound (d_sae,)."""

    def __init__(self) -> None:
        self.bound_f = torch.zeros(())

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return all pairs above `bound_f`."""
        return as_pairs(*_above(chunks, self.bound_f), shape)


class SelectTopK:
    """The k largest positive pre-activations of each token; of equals at the cut, the first."""

    def __init__(self, k: int) -> None:
        self.k = k

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return at most k pairs a token."""
        flat, values = [], []
        for start, pre_cf in chunks():
            groups = Groups(pre_cf, self.k)
            found = groups.at_least(groups.row_bounds(self.k))
            found_values = pre_cf.flatten()[found]
            if len(found) > _TOO_MANY * self.k * len(pre_cf):  # ties, which would fill the memory
                kept = largest_of_rows(found // shape[1], found_values, len(pre_cf), self.k)
                found, found_values = found[kept], found_values[kept]
            flat.append(found + start * shape[1])
            values.append(found_values)
        found, found_values = torch.cat(flat), torch.cat(values)
        kept = largest_of_rows(found // shape[1], found_values, shape[0], self.k)
        return as_pairs(found[kept], found_values[kept], shape)


class SelectBatchTopK:
    """The k x batch largest positive pre-activations of the whole batch (Bussmann et al. 2024).

    A bound a little below the last batch's cut leaves few survivors, among which the cut is found;
    where a batch has too few survivors the bound was too high and is lowered. The result does not
    depend on the bound. Of equal values at the cut, earlier tokens and latents are kept.
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.bound: float | None = None

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return at most k x batch pairs."""
        wanted = self.k * shape[0]
        for bound in self.bounds(chunks):
            flat, values = survivors(chunks(), bound, self.k)
            if len(values) >= wanted:
                break
        if len(values) > wanted:
            keep, cut = largest(values, wanted)
            flat, values = flat[keep], values[keep]
            self.bound = BOUND_MARGIN * cut
        return as_pairs(flat, values, shape)

    def bounds(self, chunks: Chunks) -> Iterator[float]:
        """Yield bounds to try in turn: the last batch's, one of this batch's first rows, zero."""
        if self.bound is not None:
            yield self.bound
        pre_cf = next(chunks())[1][:8]
        sampled = torch.topk(pre_cf.flatten(), self.k * len(pre_cf)).values[-1].item()
        yield max(0.5 * sampled, 0.0)
        yield 0.0


class Groups:
    """The entries of a chunk (rows, d_sae) in groups, each known by its maximum.

    A group's members are d_sae / size apart, for so a maximum of groups is a maximum of rows of
    memory. The k-th largest of a row's group maxima is at most its k-th largest entry.
    """

    def __init__(self, entries_cf: Tensor, wanted: int) -> None:
        """Form groups of about a twelfth as many entries as leaves `wanted` of them a row."""
        self.entries_cf = entries_cf
        rows, width = entries_cf.shape
        size = _group_size(width, wanted, entries_cf.is_cuda)
        self.size, self.groups = size, width // size
        self.maxima_cg = entries_cf
        if size > 1:
            self.maxima_cg = entries_cf.view(rows, size, self.groups).amax(1)

    def row_bounds(self, k: int) -> Tensor:
        """Return for each row (rows, 1) at most its k-th largest entry."""
        return kth_largest(self.maxima_cg, min(k, self.groups))

    def at_least(self, bounds_c1: Tensor) -> Tensor:
        """Return the flat indices, rising, of positive entries that reach their row's bound."""
        bounds_c1 = bounds_c1.clamp_min(_least_positive(self.entries_cf.dtype))
        hot = nonzero(self.maxima_cg >= bounds_c1)
        if self.size == 1:
            return hot
        rows, width = hot // self.groups, self.entries_cf.shape[1]
        members = torch.arange(0, width, self.groups, device=hot.device)
        flat_nm = (hot + rows * (width - self.groups))[:, None] + members
        flat_m = flat_nm.flatten()
        entries_nm = self.entries_cf.flatten().index_select(0, flat_m).view_as(flat_nm)
        bounds_n1 = bounds_c1.expand(len(self.entries_cf), 1).index_select(0, rows)
        return _sorted(flat_m[nonzero(entries_nm >= bounds_n1)])


def _group_size(width: int, wanted: int, cuda: bool) -> int:
    """Return 1, no groups, where too few would be left to tell rows apart, and on CUDA."""
    fewest = max(_FEWEST_GROUPS, _GROUPS_PER_WANTED * wanted)
    fitting = [s for s in _GROUP_SIZES if width % s == 0 and width // s >= fewest]
    return 1 if cuda or not fitting else fitting[0]


@cache
def _least_positive(dtype: torch.dtype) -> float | int:
    if not dtype.is_floating_point:
        return 1
    zero = torch.zeros((), dtype=dtype)
    return torch.nextafter(zero, zero + 1).item()


def survivors(
    chunks: Iterator[tuple[int, Tensor]], bound: float, wanted: int
) -> tuple[Tensor, Tensor]:
    """Return flat indices and values of positive entries that reach `bound`, `wanted` a row."""
    flat, values = [], []
    for start, pre_cf in chunks:
        bounds_11 = torch.full((1, 1), bound, dtype=pre_cf.dtype, device=pre_cf.device)
        found = Groups(pre_cf, wanted).at_least(bounds_11)
        values.append(pre_cf.flatten()[found])
        flat.append(found + start * pre_cf.shape[1])
    return torch.cat(flat), torch.cat(values)


def _above(chunks: Chunks, bound_f: Tensor) -> tuple[Tensor, Tensor]:
    """Return flat indices and values of all pre-activations above `bound_f`, however many."""
    flat, values = [], []
    for start, pre_cf in chunks():
        found = nonzero(pre_cf > bound_f)
        values.append(pre_cf.flatten()[found])
        flat.append(found + start * pre_cf.shape[1])
    return torch.cat(flat), torch.cat(values)


def largest_of_rows(rows_p: Tensor, values_p: Tensor, rows: int, k: int) -> Tensor:
    """Return a mask (pairs,) of each row's k largest, the first of equals; rows rise."""
    counts_r = torch.bincount(rows_p, minlength=rows)
    if not len(rows_p) or counts_r.max() <= k:
        return torch.ones_like(rows_p, dtype=torch.bool)
    starts_r = counts_r.cumsum(0) - counts_r
    cuts_p = row_cuts(rows_p, values_p, counts_r, k)[rows_p]
    above_p, tied_p = values_p > cuts_p, values_p == cuts_p
    missing_r = k - torch.bincount(rows_p[above_p], minlength=rows)
    seen_p = tied_p.cumsum(0)
    seen_before_r = torch.cat([seen_p.new_zeros(1), seen_p])[starts_r]
    return above_p | (tied_p & (seen_p - seen_before_r[rows_p] <= missing_r[rows_p]))


def row_cuts(rows_p: Tensor, values_p: Tensor, counts_r: Tensor, k: int) -> Tensor:
    """Return each row's k-th largest value (rows,), -inf where it has fewer; rows rise."""
    starts_r = counts_r.cumsum(0) - counts_r
    widest = max(k, int(counts_r.max()))
    padded_rw = values_p.new_full((len(counts_r), widest), -torch.inf)
    places_p = torch.arange(len(rows_p), device=rows_p.device) - starts_r[rows_p]
    padded_rw.flatten()[rows_p * widest + places_p] = values_p
    return kth_largest(padded_rw, k)[:, 0]


def kth_largest(entries_cn: Tensor, k: int) -> Tensor:
    """Return the k-th largest of each row as (rows, 1)."""
    if entries_cn.is_cuda:
        return torch.topk(entries_cn, k, dim=1).values[:, -1:]
    place = entries_cn.shape[1] - k
    # A third of the time of torch's kthvalue, a tenth where rows are long.
    return torch.from_numpy(np.partition(entries_cn.numpy(), place, axis=1)[:, place, None])


def largest(values_p: Tensor, wanted: int) -> tuple[Tensor, float]:
    """Return a mask of the `wanted` largest, the first of equals at the cut, and the cut."""
    cut = kth_largest(values_p[None], wanted).squeeze()
    above, tied = values_p > cut, values_p == cut
    missing = wanted - above.sum()
    return above | (tied & (tied.cumsum(0) <= missing)), cut.item()


def nonzero(mask: Tensor) -> Tensor:
    """Return the flat indices of true entries, rising."""
    if mask.is_cuda:
        return mask.flatten().nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))  # a tenth of the time of torch's


def _sorted(indices: Tensor) -> Tensor:
    if indices.is_cuda:
        return indices.sort().values
    return torch.from_numpy(np.sort(indices.numpy()))  # a tenth of the time of torch's


def as_pairs(flat: Tensor, values: Tensor, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
    """Return the pairs of flat indices into `shape`, rising, and their values."""
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
