"""Parametrisations of other libraries, rewritten as the ones used here without changing outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from saeflow.sae.activation_functions import Gated
from saeflow.sae.model import SAE
from saeflow.sae.reading import FormatError


def gated(r_mag_f: Tensor, b_gate_f: Tensor, b_mag_f: Tensor, path: Path) -> Gated:
    """Return the activation of a gated SAE whose `b_enc` is `b_gate_f` (see `Gated`).

    Raises FormatError where exp(r_mag), or the shift that it gives, is not finite.
    """
    scale_f = r_mag_f.exp()
    shift_f = (b_mag_f.double() - scale_f.double() * b_gate_f.double()).float()
    if not (torch.isfinite(scale_f) & torch.isfinite(shift_f)).all():
        raise FormatError(f"{path}: r_mag has values whose exponential is not finite in float32")
    return Gated(scale_f, shift_f)


def gated_magnitude(activation: Gated, b_gate_f: Tensor) -> tuple[Tensor, Tensor]:
    """Return r_mag and b_mag of a gated SAE, the inverse of `gated`.

    Raises FormatError where a scale is not positive, as it has no logarithm.
    """
    if not (activation.scale > 0).all():
        raise FormatError("a gated SAE with a scale that is not positive cannot be saved")
    shift_f, scale_f = activation.shift.double(), activation.scale.double()
    return scale_f.log().float(), (shift_f + scale_f * b_gate_f.double()).float()


def assembled(
    weights: Mapping[str, Tensor],
    activation: nn.Module,
    *,
    apply_b_dec_to_input: bool,
    standardise: bool = False,
) -> SAE:
    """Return the SAE of `W_enc`, `W_dec`, `b_enc` and `b_dec` among `weights`."""
    return SAE(
        weights["W_enc"],
        weights["W_dec"],
        weights["b_enc"],
        weights["b_dec"],
        activation,
        apply_b_dec_to_input=apply_b_dec_to_input,
        standardise=standardise,
    )


def with_unit_decoder(W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, path: Path) -> dict[str, Tensor]:
    """Return encoder and decoder with the norm of each decoder row moved into its latent.

    The reconstruction stays, latents grow by the norm of their row. Raises FormatError for a row
    of norm zero, which has no direction.
    """
    norm_f = W_dec.norm(dim=1)
    if not (norm_f > 0).all():
        raise FormatError(f"{path}: the decoder has a row of norm zero, it cannot be normalised")
    return {"W_enc": W_enc * norm_f, "b_enc": b_enc * norm_f, "W_dec": W_dec / norm_f[:, None]}
