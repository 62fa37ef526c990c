"""OrtSAE's penalty."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saeflow.sae import settings as config
from saeflow.sae.model import SAE
from saeflow.sae.seeding import generator
from saeflow.sae.step import LossTerm, Step

_COSINE_ENTRIES = 1 << 22


class OrthogonalityPenalty(LossTerm):
    """OrtSAE's penalty on aligned decoder rows (arXiv 2509.22033, Eqs. 3-5).

    The latents are split at random into K = ceil(d_sae / chunk_size) chunks of near-equal size,
    anew at each evaluation. For each latent: the largest signed cosine to another one of its
    chunk, squared; mean over the chunk, then over chunks. Evaluated at every n-th step with
    n times gamma. The partition depends on seed and step alone, so that a resumed run draws it
    again. A latent alone in its chunk has no neighbour and counts as 0.
    """

    name = "orthogonality"

    def __init__(self, settings: config.Orthogonality, d_sae: int, seed: int, precision: str = "float32") -> None:
        self.settings = settings
        self.chunks = math.ceil(d_sae / settings.chunk_size)
        self.weight = settings.gamma * settings.every
        self.seed = seed

    def __call__(self, sae: SAE, step: Step) -> Tensor | None:
        """Return the penalty, or None between its turns."""
        if step.index % self.settings.every:
            return None
        draw = generator(self.seed, "orthogonality", step.index)
        shuffled = torch.randperm(sae.d_sae, generator=draw).to(sae.W_dec.device)
        return self.of_chunks(sae.W_dec, shuffled.tensor_split(self.chunks))

    def of_chunks(self, W_dec: Tensor, chunks: Sequence[Tensor]) -> Tensor:
        """Return the penalty for a partition of the rows of `W_dec`, given as index tensors."""
        nearest_f = torch.zeros(len(W_dec), dtype=torch.int64, device=W_dec.device)
        share_f = torch.zeros_like(nearest_f, dtype=W_dec.dtype)
        unit_fd = normalize(W_dec.detach(), dim=1)
        for size in {len(chunk) for chunk in chunks} - {1}:
            chunks_mc = torch.stack([chunk for chunk in chunks if len(chunk) == size])
            nearest_f[chunks_mc] = chunks_mc.gather(1, _nearest_other(unit_fd[chunks_mc]))
            share_f[chunks_mc] = 1 / (size * len(chunks))
        norms_f = W_dec.norm(dim=1)
        dots_f = (W_dec * W_dec.index_select(0, nearest_f)).sum(1)
        norm_products_f = norms_f * norms_f.index_select(0, nearest_f)
        return (share_f * (dots_f / norm_products_f.clamp_min(self.settings.delta)).square()).sum()


def _nearest_other(unit_mcd: Tensor) -> Tensor:
    """Return for each row of m chunks the index (m, c) of its nearest other row by cosine.

    Only the maximum carries gradient, so the cosines need no graph and go in blocks of rows.
    """
    chunks, size, _ = unit_mcd.shape
    rows = max(1, _COSINE_ENTRIES // (chunks * size))
    nearest = []
    for start in range(0, size, rows):
        cosines = unit_mcd[:, start : start + rows] @ unit_mcd.transpose(1, 2)
        cosines.diagonal(start, 1, 2).fill_(-math.inf)
        nearest.append(cosines.argmax(2))
    return torch.cat(nearest, dim=1)
