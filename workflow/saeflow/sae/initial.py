"""Where training starts: tied unit-norm weights, a central decoder bias, a sensible sparsity."""

from __future__ import annotations

import torch
from torch import Tensor

from saeflow.sae.latents import Latents, training_sae
from saeflow.sae.model import SAE
from saeflow.sae.seeding import generator
from saeflow.sae.settings import TOP_K, SAESettings
from saeflow.sae.training_activation import TrainingJumpReLU, training_activation

_EXCESS = 4.0


def initial_sae(
    settings: SAESettings, sample_nd: Tensor, target_nd: Tensor, scale: float = 1.0
) -> SAE:
    """Return an untrained SAE for scaled activations like `sample_nd` and targets `target_nd`.

    Latents are `initial_latents`, and b_dec is the targets' geometric median, or zero where it is
    not learnt. `scale` is the root mean square of a scaled entry. The SAE's activation is the one
    that trains.
    """
    d_in = sample_nd.shape[1]
    b_dec = geometric_median(target_nd) if settings.variant.decoder_bias else torch.zeros(d_in)
    draw = generator(settings.seed, "weights")
    latents = initial_latents(settings, settings.d_sae, sample_nd, b_dec, scale, draw)
    return training_sae(settings, latents, b_dec, scale)


def initial_latents(
    settings: SAESettings,
    number: int,
    sample_nd: Tensor,
    b_dec: Tensor,
    scale: float,
    draw: torch.Generator,
) -> Latents:
    """Return untrained latents for scaled activations like `sample_nd`, in an SAE with `b_dec`.

    Decoder rows are random directions of unit norm from `draw`, and the encoder is their transpose.
    What is steered to its L0 (ReLU, JumpReLU, Gated) starts at `_EXCESS` times it: b_enc puts each
    latent's firing rate there, since a bias that falls by one learning rate a step would spend a
    short training on leaving the d_sae / 2 of a zero bias.
    """
    variant = settings.variant
    W_dec = torch.randn(number, sample_nd.shape[1], generator=draw)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    b_enc = torch.zeros(number)
    if variant.activation not in TOP_K:
        rate = min(0.5, _EXCESS * settings.l0 / settings.d_sae)
        input_nd = sample_nd[:2048] - b_dec if variant.centred else sample_nd[:2048]
        b_enc = -_upper_quantiles(input_nd, W_dec, rate)
    activation = training_activation(settings, b_enc, scale)
    if isinstance(activation, TrainingJumpReLU):
        b_enc = b_enc + activation.threshold.detach()
    learnt = {name: learnt_f.detach() for name, learnt_f in activation.named_parameters()}
    return Latents(W_dec.clone(), W_dec, b_enc, learnt)


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
