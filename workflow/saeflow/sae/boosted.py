"""Residual SAEs on top of the frozen SAE whose error they were trained on, as they are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from saeflow.sae.model import SAE


class Boosted(nn.Module):
    """x_hat = base(x) + the sum of residual(x) (Koriagin et al. 2025, inference), of activations x.

    Latents and decoder are those of the residual SAEs alone, one after the other: the base adds
    what it reconstructs, and its own latents are not among these. Raises ValueError where two read
    different widths, and for no residual SAE.
    """

    def __init__(self, residuals: SAE | Sequence[SAE], base: SAE) -> None:
        super().__init__()
        added = (residuals,) if isinstance(residuals, SAE) else tuple(residuals)
        if not added:
            raise ValueError("no residual SAE is given: there is nothing to add to the frozen SAE")
        for residual in added:
            if base.d_in != residual.d_in:
                raise ValueError(
                    f"the frozen SAE reads width {base.d_in}, the residual SAE {residual.d_in}: "
                    "give the one that it was trained on"
                )
        self._added, self.base = nn.ModuleList(added), base

    @property
    def residuals(self) -> tuple[SAE, ...]:
        """The residual SAEs, in the order of their latents."""
        return tuple(cast("SAE", residual) for residual in self._added)

    @property
    def residual(self) -> SAE:
        """The residual SAE where there is one; raises ValueError where there are several."""
        first, *others = self.residuals
        if others:
            raise ValueError(
                f"{1 + len(others)} residual SAEs are added here: save them with their base as one "
                "(saeflow.sae.stitch) to have a single SAE"
            )
        return first

    @property
    def W_dec(self) -> Tensor:
        """The decoder (d_sae, d_in) of the residual SAEs."""
        first, *others = (sae.W_dec for sae in self.residuals)
        return torch.cat([first, *others]) if others else first

    def encode(self, x_bd: Tensor) -> Tensor:
        """Return the residual SAEs' latent activations (batch, d_sae)."""
        first, *others = (sae.encode(x_bd) for sae in self.residuals)
        return torch.cat([first, *others], dim=1) if others else first

    def decode(self, acts_bf: Tensor, x_bd: Tensor, base_acts_bf: Tensor | None = None) -> Tensor:
        """Return reconstructions (batch, d_in) of the activations `x_bd` that were encoded.

        `base_acts_bf` (batch, base d_sae) is what the base encodes, for whoever has it already.
        """
        if base_acts_bf is None:
            base_acts_bf = self.base.encode(x_bd)
        x_hat_bd = self.base.decode(base_acts_bf, x_bd)
        saes = self.residuals
        parts = acts_bf.split([sae.d_sae for sae in saes], dim=1)
        for sae, part_bf in zip(saes, parts, strict=True):
            x_hat_bd = x_hat_bd + sae.decode(part_bf, x_bd)
        return x_hat_bd

    def forward(self, x_bd: Tensor) -> Tensor:
        """Return the reconstruction of activations (batch, d_in)."""
        return self.decode(self.encode(x_bd), x_bd)
