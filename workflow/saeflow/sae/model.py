"""The sparse autoencoder in plain torch, as it is used after training."""

from __future__ import annotations

from torch import Tensor, nn


class SAE(nn.Module):
    """x_hat = f((x - b_dec) W_enc + b_enc) W_dec + b_dec, with f the inference activation.

    `W_enc` is (d_in, d_sae), `W_dec` is (d_sae, d_in). Where `apply_b_dec_to_input` is off, the
    encoder sees x itself.
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
    ) -> None:
        super().__init__()
        self.W_enc = nn.Parameter(W_enc)
        self.W_dec = nn.Parameter(W_dec)
        self.b_enc = nn.Parameter(b_enc)
        self.b_dec = nn.Parameter(b_dec)
        self.activation = activation
        self.apply_b_dec_to_input = apply_b_dec_to_input

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_dec.shape[0]

    def encoder_input(self, x_bd: Tensor) -> Tensor:
        """Return what the encoder multiplies: x less the decoder bias, or x."""
        return x_bd - self.b_dec if self.apply_b_dec_to_input else x_bd

    def encode(self, x_bd: Tensor) -> Tensor:
        """Return latent activations (batch, d_sae) of activations (batch, d_in)."""
        return self.activation(self.encoder_input(x_bd) @ self.W_enc + self.b_enc)

    def decode(self, acts_bf: Tensor) -> Tensor:
        """Return reconstructions (batch, d_in) of latent activations (batch, d_sae)."""
        return acts_bf @ self.W_dec + self.b_dec

    def forward(self, x_bd: Tensor) -> Tensor:
        """Return the reconstruction of activations (batch, d_in)."""
        return self.decode(self.encode(x_bd))
