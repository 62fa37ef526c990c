"""Where training starts: tied unit-norm weights, a central decoder bias, a sensible sparsity."""

from __future__ import annotations

import torch
from torch import Tensor

from saeflow.sae.model import SAE
from saeflow.sae.seeding import generator
from saeflow.sae.settings import TOP_K, SAESettings
from saeflow.sae.training_activation import TrainingJumpReLU, training_activation

_EXCESS = 4.0


def initial_sae(
    settings: SAESettings, sample_nd: Tensor, target_nd: Tensor, scale: float = 1.0
) -> SAE:
    """Return an untrained SAE for scaled activations like `sample_nd` and targets `target_nd`.

    Decoder rows are seeded random directions of unit norm, the encoder is their transpose and
    b_dec the targets' geometric median, or zero where it is not learnt. What is steered to its L0
    (ReLU, JumpReLU, Gated) starts at `_EXCESS` times it: b_enc puts each latent's firing rate
    there, since a bias that falls by one learning rate a step would spend a short training on
    leaving the d_sae / 2 of a zero bias. `scale` is the root mean square of a scaled entry. The
    SAE's activation is the one that trains.
    """
    variant, d_in = settings.variant, sample_nd.shape[1]
    W_dec = torch.randn(settings.d_sae, d_in, generator=generator(settings.seed, "weights"))
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    b_dec = geometric_median(target_nd) if variant.decoder_bias else torch.zeros(d_in)
    b_enc = torch.zeros(settings.d_sae)
    if variant.activation not in TOP_K:
        rate = min(0.5, _EXCESS * settings.l0 / settings.d_sae)
        input_nd = sample_nd[:2048] - b_dec if variant.centred else sample_nd[:2048]
        b_enc = -_upper_quantiles(input_nd, W_dec, rate)
    activation = training_activation(settings, b_enc, scale)
    if isinstance(activation, TrainingJumpReLU):
        b_enc = b_enc + activation.threshold.detach()
    # Stored transposed, so that an encoder column, which is what a pair touches, is contiguous.
    sae = SAE(
        W_dec.clone().t(), W_dec, b_enc, b_dec, activation, apply_b_dec_to_input=variant.centred
    )
    sae.b_dec.requires_grad_(variant.decoder_bias)
    return sae


def _upper_quantiles(input_nd: Tensor, W_dec: Tensor, rate: float) -> Tensor:
    """Return each latent's pre-activation that a share `rate` of the sample exceeds."""
    exceeding = min(len(input_nd), max(1, round(rate * len(input_nd))))
    pieces = [
        torch.topk(part @ input_nd.t(), exceeding).values[:, -1] for part in W_dec.split(1024)
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
