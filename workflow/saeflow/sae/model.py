"""The sparse autoencoder in plain torch, as it is used after training."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

_EPSILON = 1e-5


class Standardised(NamedTuple):
    """Activations with mean 0 and standard deviation 1 over the entries of each token."""

    x_bd: Tensor
    mean_b1: Tensor
    deviation_b1: Tensor

    def restore(self, x_bd: Tensor) -> Tensor:
        """Return (batch, d_in) in the space of the original activations."""
        return x_bd * self.deviation_b1 + self.mean_b1


def standardised(x_bd: Tensor) -> Standardised:
    """Standardise each token, as SAELens's `layer_norm` does (Bessel-corrected deviation)."""
    mean_b1 = x_bd.mean(1, keepdim=True)
    deviation_b1 = x_bd.std(1, keepdim=True)
    return Standardised((x_bd - mean_b1) / (deviation_b1 + _EPSILON), mean_b1, deviation_b1)


class SAE(nn.Module):
    """x_hat = f((x - b_dec) W_enc + b_enc) W_dec + b_dec, with f the inference activation.

    `W_enc` is (d_in, d_sae), `W_dec` is (d_sae, d_in). Where `apply_b_dec_to_input` is off, the
    encoder sees x itself. Where `standardise` is on, each token is standardised first and its
    reconstruction is put back to its mean and deviation.
    """

    def __init__(
        self,
        W_enc: Tensor,
        W_dec: Tensor,
        b_enc: Tensor,
        b_dec: Tensor,
        activation: nn.Module,
        *,
        apply_b_dec_to_input: bool = True,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.W_enc = nn.Parameter(W_enc)
        self.W_dec = nn.Parameter(W_dec)
        self.b_enc = nn.Parameter(b_enc)
        self.b_dec = nn.Parameter(b_dec)
        self.activation = activation
        self.apply_b_dec_to_input = apply_b_dec_to_input
        self.standardise = standardise

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_dec.shape[0]

    def encoder_input(self, x_bd: Tensor) -> Tensor:
        """Return what the encoder multiplies: x, standardised and less the decoder bias if so."""
        x_bd = standardised(x_bd).x_bd if self.standardise else x_bd
        return x_bd - self.b_dec if self.apply_b_dec_to_input else x_bd

    def encode(self, x_bd: Tensor) -> Tensor:
        """Return latent activations (batch, d_sae) of activations (batch, d_in)."""
        return self.activation(self.encoder_input(x_bd) @ self.W_enc + self.b_enc)

    def decode(self, acts_bf: Tensor, x_bd: Tensor | None = None) -> Tensor:
        """Return reconstructions (batch, d_in) of latent activations (batch, d_sae).

        A standardising SAE needs the activations `x_bd` that were encoded, whose means and
        deviations it restores; raises ValueError without them.
        """
        x_hat_bd = acts_bf @ self.W_dec + self.b_dec
        if not self.standardise:
            return x_hat_bd
        if x_bd is None:
            raise ValueError("this SAE standardises its input: decode(acts, x) needs x as well")
        return standardised(x_bd).restore(x_hat_bd)

    def forward(self, x_bd: Tensor) -> Tensor:
        """Return the reconstruction of activations (batch, d_in)."""
        return self.decode(self.encode(x_bd), x_bd)
