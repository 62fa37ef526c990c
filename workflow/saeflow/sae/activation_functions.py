"""What makes latents sparse at inference: modules from pre-activations to activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TopK(nn.Module):
    """Keep the k largest positive pre-activations of each token."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, pre_bf: Tensor) -> Tensor:
        """Return activations (batch, d_sae)."""
        top = torch.topk(pre_bf, self.k, dim=-1)
        return torch.zeros_like(pre_bf).scatter(-1, top.indices, top.values.relu())


class JumpReLU(nn.Module):
    """Keep positive pre-activations above a threshold per latent (BatchTopK at inference)."""

    def __init__(self, threshold_f: Tensor) -> None:
        super().__init__()
        self.threshold: Tensor
        self.register_buffer("threshold", threshold_f)

    def forward(self, pre_bf: Tensor) -> Tensor:
        """Return activations (batch, d_sae)."""
        return pre_bf.relu() * (pre_bf > self.threshold)


class Gated(nn.Module):
    """Gate on the sign of the pre-activation, magnitude from a scaled and shifted copy of it.

    Rajamanoharan et al. 2024: gate z + b_gate and magnitude exp(r_mag) z + b_mag share the product
    z. The pre-activation given here is the gate's, so that the magnitude is scale * gate + shift
    with scale = exp(r_mag) and shift = b_mag - exp(r_mag) b_gate.
    """

    def __init__(self, scale_f: Tensor, shift_f: Tensor) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale_f)
        self.register_buffer("shift", shift_f)

    def forward(self, pre_bf: Tensor) -> Tensor:
        """Return activations (batch, d_sae)."""
        return (pre_bf * self.scale + self.shift).relu() * (pre_bf > 0)
