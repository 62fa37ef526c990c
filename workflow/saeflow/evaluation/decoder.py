"""Geometry of the decoder: how close each latent's direction is to its nearest neighbour."""

from __future__ import annotations

import torch

CHUNK_ENTRIES = 2**23
"""Cosines that are computed at a time: 32 MiB of float32."""
_SMALLEST_NORM = 1e-12


def unit_rows(w_dec_fd: torch.Tensor) -> torch.Tensor:
    """Return decoder vectors (d_sae, d_in) in float32 with unit norm; a row of zeros stays one."""
    unit_fd = w_dec_fd.detach().float()
    return unit_fd / unit_fd.norm(dim=1, keepdim=True).clamp_min(_SMALLEST_NORM)


def max_decoder_cosine(w_dec_fd: torch.Tensor) -> torch.Tensor:
    """Return each latent's largest signed cosine to another decoder vector, shape (d_sae,).

    OrtSAE Eq. 6 is the mean of this vector. Rows are compared in chunks, so that memory stays
    linear in d_sae; a zero decoder vector has cosine 0 to all others. Raises ValueError for
    fewer than two latents.
    """
    d_sae = w_dec_fd.shape[0]
    if d_sae < 2:
        raise ValueError(f"the decoder has {d_sae} latent: there is no other one to compare with")
    unit_fd = unit_rows(w_dec_fd)
    rows = max(1, CHUNK_ENTRIES // d_sae)
    nearest = []
    for start in range(0, d_sae, rows):
        cosines_bf = unit_fd[start : start + rows] @ unit_fd.T
        cosines_bf.diagonal(offset=start).fill_(-2.0)
        nearest.append(cosines_bf.amax(dim=1))
    return torch.cat(nearest)


def random_decoder(d_sae: int, d_in: int, seed: int, device: str = "cpu") -> torch.Tensor:
    """Return i.i.d. Gaussian decoder vectors (d_sae, d_in): the reference level of Fig. 3c."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(d_sae, d_in, generator=generator).to(device)
