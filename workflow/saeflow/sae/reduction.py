"""From one loss a token to one loss a step: the mean, or TERM's tilted risk."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from saeflow.sae import settings as config
from saeflow.sae.step import Step, total

RECONSTRUCTIONS = ("reconstruction", "gate_reconstruction")
"""Terms that `of: reconstruction` tilts; a gated SAE's gates learn from one of their own."""


class Mean:
    """The mean of every term over its tokens; the sum over terms."""

    memory: float | None = None

    def __call__(self, losses: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the sum of weighted `losses`, each of shape (batch,) or ()."""
        return torch.stack([_mean(loss) for loss in losses.values()]).sum()


class Tilted:
    """TERM: (1/t) log mean exp(t loss) over tokens or sequences (arXiv 2007.01162, Eq. 1).

    Its gradient weighs the loss of a token by the softmax of t times the losses. With a running
    normaliser the weights are exp(t loss) / (batch Z) instead, with Z the exponential average of
    the batches' means of exp(t loss) (their stochastic solver, Alg. 2); what is carried on is the
    running risk log(Z) / t, so that t may change in the meantime.
    """

    def __init__(self, settings: config.Tilt, steps: int) -> None:
        self.settings, self.steps = settings, steps
        self.memory: float | None = None

    def __call__(self, losses: Mapping[str, Tensor], step: Step) -> Tensor:
        """Return the risk of weighted `losses`: the tilted ones, and the mean of the others.

        Every rank gathers the tilted losses of all, whose risk is no mean of the ranks' risks.
        """
        everything = self.settings.of == "loss"
        tilted = {
            name: loss
            for name, loss in losses.items()
            if loss.ndim and (everything or name in RECONSTRUCTIONS)
        }
        rest = [_mean(loss) for name, loss in losses.items() if name not in tilted]
        loss_b, _ = step.ranks.gather(torch.stack(list(tilted.values())).sum(0))
        if self.settings.over == "sequence":
            assert step.sequence_b is not None
            loss_b = sequence_means(loss_b, step.ranks.gather(step.sequence_b)[0])
        return torch.stack([self._risk(loss_b, self._t(step.index)), *rest]).sum()

    def _t(self, index: int) -> float:
        return self.settings.t * min(1.0, (index + 1) / max(1.0, self.settings.warmup * self.steps))

    def _risk(self, loss_b: Tensor, t: float) -> Tensor:
        if self.settings.running is None:
            return tilted_risk(loss_b, t)
        # In float64 to the end: t times the rounding of a float32 is not small at a great t.
        present = tilted_risk(loss_b.detach().double(), t).item()
        self.memory = blended_risk(present, self.memory, self.settings.running, t)
        weights_b = (t * (loss_b.detach().double() - self.memory)).exp() / len(loss_b)
        pull = (weights_b.to(loss_b.dtype) * loss_b).sum()
        return pull - pull.detach() + self.memory  # the running risk, with TERM's gradient


def tilted_risk(loss_b: Tensor, t: float) -> Tensor:
    """Return (1/t) log mean exp(t loss), for any t but 0; the mean as t goes to 0.

    Computed about the largest of t times the losses, so that no exponential overflows, and with
    expm1 and log1p, so that a small t loses no digits.
    """
    exact_b = loss_b.double()
    most = (exact_b.max() if t > 0 else exact_b.min()).detach()
    return (most + torch.expm1(t * (exact_b - most)).mean().log1p() / t).to(loss_b.dtype)


def blended_risk(present: float, running: float | None, share: float, t: float) -> float:
    """Return log(share exp(t present) + (1 - share) exp(t running)) / t; `present` at the start."""
    if running is None:
        return present
    most = max(present, running) if t > 0 else min(present, running)
    mixed = share * math.exp(t * (present - most)) + (1 - share) * math.exp(t * (running - most))
    return most + math.log(mixed) / t


def sequence_means(loss_b: Tensor, sequence_b: Tensor) -> Tensor:
    """Return the mean loss of each sequence, in the order of their numbers."""
    _, inverse_b, counts_s = sequence_b.unique(return_inverse=True, return_counts=True)
    sums_s = loss_b.new_zeros(len(counts_s)).index_add(0, inverse_b, loss_b)
    return sums_s / counts_s


def reduction(variant: config.Variant, steps: int) -> Mean | Tilted:
    """Return how a variant's losses of tokens become one."""
    return Mean() if variant.tilt is None else Tilted(variant.tilt, steps)


def _mean(loss: Tensor) -> Tensor:
    return total(loss) / len(loss) if loss.ndim else loss
