"""Latents in the form and scale that train, and the SAE that is put together of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from saeflow.sae.model import SAE
from saeflow.sae.settings import SAESettings
from saeflow.sae.training_activation import training_activation


class Latents(NamedTuple):
    """Encoder and decoder rows of some latents, with all that is a latent's own."""

    W_enc_fd: Tensor
    """Encoder, a row a latent."""
    W_dec: Tensor
    """Decoder (latents, d_in)."""
    b_enc: Tensor
    """Encoder bias (latents,)."""
    learnt: dict[str, Tensor]
    """What the activation function learns of each latent, (latents,) by parameter name."""


def joined(first: Latents, second: Latents) -> Latents:
    """Return the latents of `first` and then those of `second`."""
    learnt = {name: torch.cat([own, second.learnt[name]]) for name, own in first.learnt.items()}
    return Latents(
        torch.cat([first.W_enc_fd, second.W_enc_fd]),
        torch.cat([first.W_dec, second.W_dec]),
        torch.cat([first.b_enc, second.b_enc]),
        learnt,
    )


@torch.no_grad()
def training_sae(settings: SAESettings, latents: Latents, b_dec: Tensor, rms: float) -> SAE:
    """Return the SAE of `latents` and `b_dec` (d_in,) with the activation function that trains.

    `rms` is the root mean square of a scaled input entry.
    """
    variant = settings.variant
    activation = training_activation(settings, latents.b_enc, rms)
    for name, learnt_f in latents.learnt.items():
        activation.get_parameter(name).copy_(learnt_f)
    # Stored transposed, so that an encoder column, which is what a pair touches, is contiguous.
    sae = SAE(
        latents.W_enc_fd.contiguous().t(),
        latents.W_dec.contiguous(),
        latents.b_enc,
        b_dec,
        activation,
        apply_b_dec_to_input=variant.centred,
    )
    sae.b_dec.requires_grad_(variant.decoder_bias and not settings.frozen_latents)
    return sae
