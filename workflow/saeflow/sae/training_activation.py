"""The activation functions as they train: what they select, what they learn, what they become.

Pairs are selected without gradient from the dense product; a module then turns the pre-activations
of these pairs, which carry gradient to the encoder, into activations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saeflow.sae.activation_functions import Gated, JumpReLU, TopK
from saeflow.sae.preactivations import Chunks
from saeflow.sae.proposals import ProposeBatchTopK, ProposeTopK
from saeflow.sae.selection import (
    SelectAbove,
    SelectBatchTopK,
    Selection,
    SelectPositive,
    SelectTopK,
)
from saeflow.sae.settings import JumpReLU as JumpReLUSettings
from saeflow.sae.settings import Precision, SAESettings
from saeflow.sae.sparse import Pairs


class TrainingActivation(nn.Module):
    """Selects pairs; the identity on them, which are positive; an activation function at the end.

    `forward` takes pre-activations (pairs,), the pairs and the encoder bias, and returns
    activations (pairs,).
    """

    def __init__(self, selection: Selection) -> None:
        super().__init__()
        self.selection = selection

    def select(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return the pairs that a gradient needs and their pre-activations."""
        return self.selection(chunks, shape)

    def forward(self, pre_p: Tensor, pairs: Pairs, b_enc: Tensor) -> Tensor:
        """Return the activations of the selected pairs."""
        return pre_p

    def after_update(self) -> None:
        """Put parameters back to where they may be."""

    def finished(self, b_enc: Tensor, rescale_f: Tensor) -> nn.Module:
        """Return the module for inference whose latents are larger by `rescale_f`."""
        raise NotImplementedError


class TrainingReLU(TrainingActivation):
    """Every positive pre-activation."""

    def __init__(self) -> None:
        super().__init__(SelectPositive())

    def finished(self, b_enc: Tensor, rescale_f: Tensor) -> nn.Module:
        """Return ReLU."""
        return nn.ReLU()


class TrainingTopK(TrainingActivation):
    """The k largest of each token."""

    def __init__(self, k: int, precision: Precision) -> None:
        super().__init__(SelectTopK(k) if precision == "float32" else ProposeTopK(k))
        self.k = k

    def finished(self, b_enc: Tensor, rescale_f: Tensor) -> nn.Module:
        """Return TopK: all latents are rescaled alike."""
        return TopK(self.k)


class TrainingBatchTopK(TrainingActivation):
    """The k x batch largest of the batch; at inference a threshold, which has to be calibrated."""

    def __init__(self, k: int, precision: Precision) -> None:
        super().__init__(SelectBatchTopK(k) if precision == "float32" else ProposeBatchTopK(k))
        self.threshold: float | None = None

    def finished(self, b_enc: Tensor, rescale_f: Tensor) -> nn.Module:
        """Return JumpReLU with one threshold. Raises RuntimeError before it is calibrated."""
        if self.threshold is None:
            raise RuntimeError("BatchTopK has no inference threshold before calibrate()")
        return JumpReLU(self.threshold * rescale_f)


class TrainingJumpReLU(TrainingActivation):
    """Pre-activations above a learnt threshold a latent (Rajamanoharan et al. 2024b).

    The thresholds' gradients come from pairs within half a bandwidth of them, so that pairs a
    little below are selected too; their activation is zero.
    """

    def __init__(self, d_sae: int, settings: JumpReLUSettings, scale: float) -> None:
        super().__init__(SelectAbove())
        self.bandwidth = settings.bandwidth * scale
        self.threshold = nn.Parameter(torch.full((d_sae,), settings.threshold * scale))

    def select(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return the positive pairs above the lower edge of their latent's band."""
        assert isinstance(self.selection, SelectAbove)
        self.selection.bound_f = (self.threshold.detach() - self.bandwidth / 2).clamp_min(0)
        return self.selection(chunks, shape)

    def forward(self, pre_p: Tensor, pairs: Pairs, b_enc: Tensor) -> Tensor:
        """Return the pre-activations above their threshold, and zeros."""
        return _Jump.apply(pre_p, per_latent(self.threshold, pairs), self.bandwidth)

    def active(self, pre_p: Tensor, pairs: Pairs) -> Tensor:
        """Return 1 for active pairs and 0 for others, with gradient to the thresholds."""
        return _Active.apply(pre_p.detach(), per_latent(self.threshold, pairs), self.bandwidth)

    @torch.no_grad()
    def after_update(self) -> None:
        """Keep thresholds from falling below zero."""
        self.threshold.clamp_min_(0)

    def finished(self, b_enc: Tensor, rescale_f: Tensor) -> nn.Module:
        """Return JumpReLU with the learnt thresholds."""
        return JumpReLU(self.threshold.detach() * rescale_f)


class TrainingGated(TrainingActivation):
    """Gate and magnitude from one product (Rajamanoharan et al. 2024a); b_enc is the gate's bias.

    The magnitude exp(r_mag) z + b_mag reads the product z without the gate's bias, to which it
    passes no gradient.
    """

    def __init__(self, b_gate: Tensor) -> None:
        super().__init__(SelectPositive())
        self.r_mag = nn.Parameter(torch.zeros_like(b_gate))
        self.b_mag = nn.Parameter(b_gate.clone())

    def forward(self, pre_p: Tensor, pairs: Pairs, b_enc: Tensor) -> Tensor:
        """Return the magnitudes of the open gates."""
        product_p = pre_p - per_latent(b_enc, pairs)
        scale_p = per_latent(self.r_mag, pairs).exp()
        return (product_p * scale_p + per_latent(self.b_mag, pairs)).relu()

    def finished(self, b_enc: Tensor, rescale_f: Tensor) -> nn.Module:
        """Return the gated activation function."""
        scale_f = self.r_mag.detach().exp()
        return Gated(scale_f, (self.b_mag.detach() - scale_f * b_enc.detach()) * rescale_f)


class _PerLatent(torch.autograd.Function):
    """A parameter's entry for each pair; the sums backward have one order on any machine."""

    @staticmethod
    def forward(ctx: Any, parameter_f: Tensor, pairs: Pairs) -> Tensor:
        ctx.pairs = pairs
        return parameter_f[pairs.latents_p]

    @staticmethod
    def backward(ctx: Any, grad_p: Tensor) -> tuple[Tensor | None, ...]:
        pairs: Pairs = ctx.pairs
        sums_f = torch.bincount(pairs.latents_p, grad_p, pairs.shape[1])
        return sums_f.to(grad_p.dtype), None  # without any pair, bincount forgets the type


def per_latent(parameter_f: Tensor, pairs: Pairs) -> Tensor:
    """Return (pairs,): the entry of `parameter_f` (d_sae,) for each pair's latent."""
    return _PerLatent.apply(parameter_f, pairs)


class _Jump(torch.autograd.Function):
    """x where x > threshold; the threshold's gradient is -threshold / bandwidth in the band."""

    @staticmethod
    def forward(ctx: Any, pre_p: Tensor, threshold_p: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_p, threshold_p)
        ctx.bandwidth = bandwidth
        return pre_p * (pre_p > threshold_p)

    @staticmethod
    def backward(ctx: Any, grad_p: Tensor) -> tuple[Tensor | None, ...]:
        pre_p, threshold_p = ctx.saved_tensors
        band_p = in_band(pre_p, threshold_p, ctx.bandwidth)
        grad_threshold_p = -threshold_p / ctx.bandwidth * band_p * grad_p
        return grad_p * (pre_p > threshold_p), grad_threshold_p, None


class _Active(torch.autograd.Function):
    """1 where x > threshold; the threshold's gradient is -1 / bandwidth in the band."""

    @staticmethod
    def forward(ctx: Any, pre_p: Tensor, threshold_p: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_p, threshold_p)
        ctx.bandwidth = bandwidth
        return (pre_p > threshold_p).to(pre_p.dtype)

    @staticmethod
    def backward(ctx: Any, grad_p: Tensor) -> tuple[Tensor | None, ...]:
        pre_p, threshold_p = ctx.saved_tensors
        band_p = in_band(pre_p, threshold_p, ctx.bandwidth)
        return None, -band_p / ctx.bandwidth * grad_p, None


def in_band(pre_p: Tensor, threshold_p: Tensor, bandwidth: float) -> Tensor:
    """Return 1 within half a bandwidth of the threshold, the rectangle kernel, and 0 outside."""
    return ((pre_p - threshold_p).abs() < bandwidth / 2).to(pre_p.dtype)


def training_activation(
    settings: SAESettings, b_enc: Tensor, scale: float = 1.0
) -> TrainingActivation:
    """Return the activation function that a variant trains with.

    `b_enc` (latents,) is the encoder's bias at the start, one entry a latent, `scale` the root mean
    square of a scaled input entry, in which JumpReLU's threshold and bandwidth are given.
    """
    match settings.variant.activation:
        case "relu":
            return TrainingReLU()
        case "topk":
            return TrainingTopK(settings.l0, settings.training.selection)
        case "batchtopk":
            return TrainingBatchTopK(settings.l0, settings.training.selection)
        case "jumprelu":
            learnt = settings.variant.jumprelu or JumpReLUSettings()
            return TrainingJumpReLU(len(b_enc), learnt, scale)
        case "gated":
            return TrainingGated(b_enc)
