"""OrtSAE's penalty on aligned decoder rows, without a chunk's matrix of cosines.

Only each row's largest cosine counts, so the search for it needs no gradient and may be rough as
long as the last word is exact. On the CPU a large chunk goes in strips of rows, each multiplied by
itself and the rows below it only, since the matrix is symmetric: a strip gives the maxima of its
rows over groups of columns, and those of the columns over groups of its rows. Plain maxima take a
tenth of the time of maxima with their places. The place is found by multiplying each row with the
best group again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from saeflow.sae import settings as config
from saeflow.sae.model import SAE
from saeflow.sae.products import has_onednn
from saeflow.sae.seeding import generator
from saeflow.sae.settings import Precision
from saeflow.sae.step import LossTerm, Step, total

_STRIP = 256
"""Rows of a strip, a multiple of _GROUP."""
_GROUP = 64
"""Neighbours of which a strip keeps the largest cosine only."""
_TRIES: dict[Precision, int] = {"float32": 1, "bfloat16": 2}
"""Groups that are searched for a row's nearest neighbour."""
_WHOLE = 512
"""Up to this size chunks are multiplied whole, several at a time: strips would save nothing."""
_COSINES = 1 << 22
"""Cosines computed at once of chunks that are multiplied whole."""


class OrthogonalityPenalty(LossTerm):
    """OrtSAE's penalty on aligned decoder rows (arXiv 2509.22033, Eqs. 3-5).

    The latents are split at random into K = ceil(d_sae / chunk_size) chunks of near-equal size, or
    into as many as the settings say, anew at each evaluation. For each latent: the largest signed
    cosine to another one of its chunk, squared; mean over the chunk, then over chunks. Evaluated at
    every n-th step with n times gamma. The partition depends on seed and step alone, so that a
    resumed run draws it again. A latent alone in its chunk has no neighbour and counts as 0.

    Value and gradient are computed in the precision of the weights. `precision` is that of the
    search for the nearest neighbour in large chunks on the CPU: float32 finds it up to rounding;
    bfloat16 names two groups of rows that are searched in float32, and the cosine of what it finds
    is the largest up to the rounding of unit vectors and their cosine to 8 bits: it is short by at
    most 0.012, and in practice by a tenth of that in one row of a thousand.
    """

    name = "orthogonality"

    def __init__(
        self,
        settings: config.Orthogonality,
        d_sae: int,
        seed: int,
        precision: Precision = "float32",
    ) -> None:
        self.settings = settings
        self.chunks = settings.chunks or math.ceil(d_sae / settings.chunk_size)
        self.weight = settings.gamma * settings.every
        self.seed = seed
        self.precision = precision

    def __call__(self, sae: SAE, step: Step) -> Tensor | None:
        """Return the penalty (), or None between its turns."""
        if step.index % self.settings.every:
            return None
        draw = generator(self.seed, "orthogonality", step.index)
        shuffled = torch.randperm(sae.d_sae, generator=draw).to(sae.W_dec.device)
        return self.of_chunks(sae.W_dec, shuffled.tensor_split(self.chunks))

    def of_chunks(self, W_dec: Tensor, chunks: Sequence[Tensor]) -> Tensor:
        """Return the penalty () for a partition of the rows of `W_dec`, given as index tensors."""
        share_f = W_dec.new_empty(len(W_dec))
        for chunk in chunks:
            share_f[chunk] = 1 / (len(chunk) * len(chunks))
        nearest_f, cosine_f = nearest_others(W_dec.detach(), chunks, self.precision)
        return _SquaredCosines.apply(W_dec, nearest_f, cosine_f, share_f, self.settings.delta)


class _SquaredCosines(torch.autograd.Function):
    """The sum over rows i of share_i c_i squared, c_i = w_i w_j / max(|w_i| |w_j|, delta).

    Here j is the row nearest to i. With p_i the denominator, the gradient of the summand to row i
    is 2 share_i c_i times w_j / p_i - c_i w_i / |w_i|^2, the second term only where p_i is above
    delta, and to row j the same with i and j exchanged. All of it is one sparse symmetric matrix
    times `W_dec`, a row of the result at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, W_dec: Tensor, nearest_f: Tensor, cosine_f: Tensor, share_f: Tensor, delta: float
    ) -> Tensor:
        norm_f = W_dec.norm(dim=1)
        product_f = norm_f * norm_f[nearest_f]
        cosine_f = cosine_f * product_f / product_f.clamp_min(delta)
        ctx.save_for_backward(W_dec, nearest_f, cosine_f, share_f, norm_f, product_f)
        ctx.delta = delta
        squares_f = share_f * cosine_f.square()
        return total(squares_f)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        W_dec, nearest_f, cosine_f, share_f, norm_f, product_f = ctx.saved_tensors
        slope_f = 2 * grad * share_f * cosine_f
        across_f = slope_f / product_f.clamp_min(ctx.delta)
        along_f = torch.where(product_f < ctx.delta, 0, slope_f * cosine_f)
        along_f = along_f.index_add(0, nearest_f, along_f)
        along_f = -along_f / norm_f.square().clamp_min(torch.finfo(norm_f.dtype).tiny)
        own = torch.arange(len(W_dec), device=W_dec.device)
        rows, columns = torch.cat([own, own, nearest_f]), torch.cat([own, nearest_f, own])
        order = rows.argsort(stable=True)
        counts_f = torch.bincount(rows, minlength=len(W_dec))
        grad_W = embedding_bag(
            columns[order],
            W_dec,
            counts_f.cumsum(0) - counts_f,
            mode="sum",
            per_sample_weights=torch.cat([along_f, across_f, across_f])[order],
        )
        return grad_W, None, None, None, None


@torch.no_grad()
def nearest_others(
    W_fd: Tensor, chunks: Sequence[Tensor], precision: Precision = "float32"
) -> tuple[Tensor, Tensor]:
    """Return for each row the nearest other row of its chunk, int64 (F,), and their cosine (F,).

    `chunks` are index tensors that partition the rows. Where cosines are equal the choice is the
    same each time and on any number of threads. A row alone in its chunk has row 0 at cosine 0.
    """
    nearest_f = torch.zeros(len(W_fd), dtype=torch.int64, device=W_fd.device)
    cosine_f = W_fd.new_zeros(len(W_fd))
    scale_f = 1 / W_fd.norm(dim=1).clamp_min(torch.finfo(W_fd.dtype).tiny)
    for size in sorted({len(chunk) for chunk in chunks} - {1}):
        chunks_mc = torch.stack([chunk for chunk in chunks if len(chunk) == size])
        in_strips = size > _WHOLE and not W_fd.is_cuda
        for part_mc in chunks_mc.split(1 if in_strips else max(1, _COSINES // size**2)):
            rows = part_mc.flatten()
            unit_nd = W_fd.index_select(0, rows).mul_(scale_f[rows, None])
            if in_strips:
                cosine_f[rows], places_n = _nearest_in_strips(unit_nd, precision)
                nearest_f[rows] = rows[places_n]
            else:
                cosine_f[part_mc], places_mc = _nearest_whole(unit_nd.view(-1, size, W_fd.shape[1]))
                nearest_f[part_mc] = part_mc.gather(1, places_mc)
    return nearest_f, cosine_f


def _nearest_whole(unit_mcd: Tensor) -> tuple[Tensor, Tensor]:
    """Return each unit row's largest cosine to another of its chunk, and its place, (m, c) each.

    In blocks of rows, of all m chunks at once.
    """
    chunks, size, _ = unit_mcd.shape
    rows = max(1, _COSINES // (chunks * size))
    found = []
    for start in range(0, size, rows):
        cosines = unit_mcd[:, start : start + rows] @ unit_mcd.mT
        cosines.diagonal(start, 1, 2).fill_(-math.inf)
        found.append(cosines.max(2))
    values, places = zip(*found, strict=True)
    return torch.cat(values, dim=1), torch.cat(places, dim=1)


def _nearest_in_strips(unit_cd: Tensor, precision: Precision) -> tuple[Tensor, Tensor]:
    """Return each unit row's largest cosine to another, and its place, (c,) each."""
    operand_cd = unit_cd.bfloat16() if precision == "bfloat16" else unit_cd
    maxima_cg = _group_maxima(operand_cd).to(unit_cd.dtype)
    groups = []
    for _ in range(_TRIES[precision]):  # a third of the time of topk
        groups.append(maxima_cg.argmax(1, keepdim=True))
        maxima_cg.scatter_(1, groups[-1], -math.inf)
    return _nearest_in_groups(unit_cd, torch.cat(groups, dim=1))


def _group_maxima(unit_cd: Tensor) -> Tensor:
    """Return each row's largest cosine to another of each _GROUP consecutive rows, (c, groups).

    Of bfloat16 as integers in the same order. Zero rows fill the last group up; a cosine to one of
    these, or of a row to itself, is -inf. What lies below the diagonal follows from what is above:
    the maxima of a strip's columns over its groups of rows.
    """
    size, groups = len(unit_cd), math.ceil(len(unit_cd) / _GROUP)
    missing = groups * _GROUP - size
    filled_cd = pad(unit_cd, (0, 0, 0, missing)) if missing else unit_cd
    rounded = unit_cd.dtype == torch.bfloat16
    dtype = torch.int16 if rounded else unit_cd.dtype
    maxima_cg = unit_cd.new_empty(len(filled_cd), groups, dtype=dtype)
    for start in range(0, size, _STRIP):
        cosines = _products(filled_cd[start : start + _STRIP], filled_cd[start:])
        cosines.diagonal().fill_(-math.inf)
        cosines[:, size - start :] = -math.inf
        ordered = _as_integers(cosines) if rounded else cosines
        first, last = start // _GROUP, (start + len(ordered)) // _GROUP
        maxima_cg[start:, first:last] = ordered.unflatten(0, (-1, _GROUP)).amax(1).T
        maxima_cg[start : start + _STRIP, first:] = ordered.unflatten(1, (-1, _GROUP)).amax(2)
    return maxima_cg[:size]


def _as_integers(values: Tensor) -> Tensor:
    """Return int16 in the order of bfloat16 `values`; their maxima take a fifth of the time."""
    bits = values.view(torch.int16)
    return (bits >> 15).bitwise_and_(0x7FFF).bitwise_xor_(bits)


def _nearest_in_groups(unit_cd: Tensor, groups_ct: Tensor) -> tuple[Tensor, Tensor]:
    """Return each unit row's largest cosine to another of its t groups, and its place, (c,) each.

    The rows that want the same group are multiplied with it together.
    """
    size, tries = groups_ct.shape
    order = groups_ct.flatten().argsort(stable=True)
    counts = torch.bincount(groups_ct.flatten(), minlength=math.ceil(size / _GROUP)).tolist()
    found = []
    for first, rows in zip(range(0, size, _GROUP), (order // tries).split(counts), strict=True):
        cosines = _products(unit_cd.index_select(0, rows), unit_cd[first : first + _GROUP])
        places = torch.arange(first, first + cosines.shape[1])
        values, columns = cosines.masked_fill_(rows[:, None] == places, -math.inf).max(1)
        found.append((values, columns + first))
    values, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    values_ct = torch.empty_like(values).index_copy_(0, order, values).view(size, tries)
    places_ct = torch.empty_like(places).index_copy_(0, order, places).view(size, tries)
    best_c, winner_c = values_ct.max(1)
    return best_c, places_ct.gather(1, winner_c[:, None]).squeeze(1)


def _products(a_md: Tensor, b_nd: Tensor) -> Tensor:
    """Return all dot products (m, n) of rows, on the CPU.

    Each matrix is multiplied once, so that `products.Packed` would cost more than it saves.
    """
    if has_onednn(a_md):
        return torch.ops.mkldnn._linear_pointwise(a_md, b_nd, None, "none", [], "")
    return a_md @ b_nd.T
