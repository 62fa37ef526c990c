"""The classifier: one logit of pooled activations, trained as Marks et al. 2024 train theirs."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from saeflow.debias.settings import Probe as ProbeSettings


class ProbeError(ValueError):
    """A probe that has learnt nothing; the message says what to change."""


class Probe(NamedTuple):
    """A linear probe."""

    weight_d: Tensor
    bias: Tensor

    def logits(self, x_nd: Tensor) -> Tensor:
        """Return the logits (n,) of pooled activations (n, d); above 0 is class 1."""
        return x_nd @ self.weight_d.to(x_nd.device) + self.bias.to(x_nd.device)

    def predict(self, x_nd: Tensor) -> Tensor:
        """Return the classes (n,) as 0 or 1."""
        return (self.logits(x_nd) > 0).long()


def fit_probe(settings: ProbeSettings, x_nd: Tensor, label_n: Tensor, seed: int) -> Probe:
    """Train a probe on pooled activations (n, d) with labels 0 or 1.

    Binary cross entropy, AdamW, in the order that the seed draws. Raises ValueError for a set
    without examples of both classes, and ProbeError for activations that are not finite.
    """
    if not x_nd.isfinite().all():
        wrong = int((~x_nd.isfinite()).any(1).sum())
        raise ProbeError(
            f"{wrong} of {len(x_nd)} pooled activations are not finite: load the subject in float32"
        )
    if set(label_n.tolist()) != {0, 1}:
        raise ValueError(f"a probe needs examples of both classes, not {len(label_n)} of one")
    generator = torch.Generator().manual_seed(seed)
    width = x_nd.shape[1]
    # PyTorch's own initialisation of a linear layer, from a generator of this probe's.
    weight_d = (torch.rand(width, generator=generator) * 2 - 1) / width**0.5
    bias = (torch.rand((), generator=generator) * 2 - 1) / width**0.5
    parameters = [weight_d.requires_grad_(), bias.requires_grad_()]
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    x_nd, label_n = x_nd.detach(), label_n.to(x_nd.dtype)
    for _ in range(settings.epochs):
        order = torch.randperm(len(x_nd), generator=generator)
        for rows in order.split(settings.batch_size):
            loss = binary_cross_entropy_with_logits(x_nd[rows] @ weight_d + bias, label_n[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return Probe(weight_d.detach(), bias.detach())


def check_learnt(
    settings: ProbeSettings, probe: Probe, x_nd: Tensor, label_n: Tensor, what: str
) -> None:
    """Raise ProbeError for a probe that is no better than chance on what it was trained on.

    The classes are as large as each other, and chance is up to two standard errors above a half.
    `what` names the probe and what it reads.
    """
    right = float((probe.predict(x_nd) == label_n).double().mean())
    if right <= 0.5 + 1 / len(label_n) ** 0.5:
        steps = settings.epochs * ceil(len(label_n) / settings.batch_size)
        raise ProbeError(
            f"{what} is right on {right:.1%} of the {len(label_n):,} biographies that it was "
            f"trained on, in {steps:,} steps: it has learnt nothing. Raise "
            "probe.epochs, lower probe.batch_size, change probe.learning_rate, or choose another "
            "probe_site"
        )
