"""Where training starts: tied unit-norm weights, a central decoder bias, a sensible sparsity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saeflow.sae.model import SAE
from saeflow.sae.seeding import generator
from saeflow.sae.settings import SAESettings

_RELU_EXCESS = 4.0


def initial_sae(settings: SAESettings, sample_nd: Tensor) -> SAE:
    """Return an untrained SAE; `sample_nd` is a sample of scaled activations.

    Decoder rows are seeded random directions of unit norm, the encoder is their transpose and
    b_dec the sample's geometric median. A ReLU SAE starts at `_RELU_EXCESS` times its L0: b_enc
    puts each latent's firing rate there, since a bias that falls by one learning rate a step would
    spend a short training on leaving the d_sae / 2 of a zero bias. The inference activation is set
    when training ends.
    """
    d_in = sample_nd.shape[1]
    W_dec = torch.randn(settings.d_sae, d_in, generator=generator(settings.seed, "weights"))
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    b_dec = geometric_median(sample_nd)
    b_enc = torch.zeros(settings.d_sae)
    if settings.variant.activation == "relu":
        rate = min(0.5, _RELU_EXCESS * settings.l0 / settings.d_sae)
        b_enc = -_upper_quantiles((sample_nd - b_dec)[:2048], W_dec, rate)
    # Stored transposed, so that an encoder column, which is what a pair touches, is contiguous.
    return SAE(W_dec.clone().t(), W_dec, b_enc, b_dec, nn.Identity())


def _upper_quantiles(centred_nd: Tensor, W_dec: Tensor, rate: float) -> Tensor:
    """Return each latent's pre-activation that a share `rate` of the sample exceeds."""
    exceeding = min(len(centred_nd), max(1, round(rate * len(centred_nd))))
    pieces = [
        torch.topk(part @ centred_nd.t(), exceeding).values[:, -1] for part in W_dec.split(1024)
    ]
    return torch.cat(pieces)


def geometric_median(sample_nd: Tensor, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """Return the point (d_in,) of least summed distance to the sample (Weiszfeld's iteration)."""
    points = sample_nd.double()
    median = points.mean(0)
    for _ in range(iterations):
        weights = 1 / (points - median).norm(dim=1).clamp_min(1e-9)
        moved = (weights @ points) / weights.sum()
        if (moved - median).norm() <= tolerance * median.norm().clamp_min(tolerance):
            return moved.float()
        median = moved
    return median.float()
