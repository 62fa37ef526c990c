"""Cosines between all pairs of an SAE's decoder vectors (SSAE Fig. 20)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CHUNK_ENTRIES = 1 << 22
_SMALLEST_NORM = 1e-12


class PairCosines(NamedTuple):
    """A histogram of the cosines of all pairs, and their mean."""

    counts: NDArray[np.int64]
    """Pairs in each bin of equal width over [-1, 1]."""
    mean: float
    pairs: int


@torch.no_grad()
def pair_cosines(w_dec_fd: Tensor, bins: int, most_latents: int, seed: int) -> PairCosines:
    """Return the cosines of all pairs of rows of `w_dec_fd` (latents, d_in).

    Of more than `most_latents` rows, so many are drawn by `seed`. A zero row has cosine 0 to all
    others. Raises ValueError for fewer than two rows, which make no pair.
    """
    d_sae = w_dec_fd.shape[0]
    if d_sae < 2:
        raise ValueError(f"the decoder has {d_sae} latent, which makes no pair")
    if d_sae > most_latents:
        drawn = np.random.default_rng(seed).choice(d_sae, most_latents, replace=False)
        w_dec_fd = w_dec_fd[torch.from_numpy(np.sort(drawn)).to(w_dec_fd.device)]
    unit_fd = w_dec_fd.float()
    unit_fd = unit_fd / unit_fd.norm(dim=1, keepdim=True).clamp_min(_SMALLEST_NORM)
    n = len(unit_fd)
    counts = torch.zeros(bins, dtype=torch.int64, device=unit_fd.device)
    total = 0.0
    rows = max(1, _CHUNK_ENTRIES // n)
    for start in range(0, n, rows):
        cosines_bf = unit_fd[start : start + rows] @ unit_fd[start:].T
        later_bf = torch.ones_like(cosines_bf, dtype=torch.bool).triu(1)
        cosines_p = cosines_bf[later_bf].clamp(-1, 1)
        bins_p = ((cosines_p + 1) * (bins / 2)).long().clamp_max(bins - 1)
        counts += torch.bincount(bins_p, minlength=bins)
        total += float(cosines_p.double().sum())
    pairs = n * (n - 1) // 2
    return PairCosines(counts.cpu().numpy(), total / pairs, pairs)
