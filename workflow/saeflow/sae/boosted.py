"""A residual SAE on top of the frozen SAE whose error it was trained on, as both are used."""

from __future__ import annotations

from torch import Tensor, nn

from saeflow.sae.model import SAE


class Boosted(nn.Module):
    """x_hat = base(x) + residual(x) (Koriagin et al. 2025, inference), of activations x.

    Latents and decoder are those of `residual` alone: the base adds what it reconstructs, and its
    own latents are not among these. Raises ValueError where the two read different widths.
    """

    def __init__(self, residual: SAE, base: SAE) -> None:
        super().__init__()
        if base.d_in != residual.d_in:
            raise ValueError(
                f"the frozen SAE reads width {base.d_in}, the residual SAE {residual.d_in}: give "
                "the one that it was trained on"
            )
        self.residual, self.base = residual, base

    @property
    def W_dec(self) -> Tensor:
        """The decoder (d_sae, d_in) of the residual SAE."""
        return self.residual.W_dec

    def encode(self, x_bd: Tensor) -> Tensor:
        """Return the residual SAE's latent activations (batch, d_sae)."""
        return self.residual.encode(x_bd)

    def decode(self, acts_bf: Tensor, x_bd: Tensor) -> Tensor:
        """Return reconstructions (batch, d_in) of the activations `x_bd` that were encoded."""
        return self.base(x_bd) + self.residual.decode(acts_bf, x_bd)

    def forward(self, x_bd: Tensor) -> Tensor:
        """Return the reconstruction of activations (batch, d_in)."""
        return self.decode(self.encode(x_bd), x_bd)
