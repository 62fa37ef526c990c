"""Named losses: what a variant minimises is the weighted sum of the terms it lists.

All terms are in the scaled space of the trainer (mean square of an input entry is 1 with
`input_scaling: rms`), and the reconstruction is a mean over batch *and* dimensions. That is the
scale at which OrtSAE's gamma = 0.25 is meaningful: its code base averages over dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from saeflow.sae import settings as config
from saeflow.sae.auxk import AuxKLoss
from saeflow.sae.model import SAE
from saeflow.sae.orthogonality import OrthogonalityPenalty
from saeflow.sae.ranks import ALONE, Ranks
from saeflow.sae.sparse import Pairs, decode_pairs, encode_pairs
from saeflow.sae.step import LossTerm, Step
from saeflow.sae.training_activation import TrainingActivation, TrainingJumpReLU, per_latent


class Reconstruction(LossTerm):
    """Squared error, mean over dimensions and Matryoshka's nested prefixes."""

    name, weight = "reconstruction", 1.0

    def __init__(self, nested: config.Matryoshka | None = None) -> None:
        self.shares = _shares(nested)

    def __call__(self, sae: SAE, step: Step) -> Tensor:
        """Return each token's mean square of (target - reconstruction) over all prefixes."""
        return nested_square(step.target_bd, step.prefixes_bd, self.shares)


class L1Penalty(LossTerm):
    """Sum of a token's latent activations, weighted by the norms of free decoder rows.

    For a gated SAE the sum is of its gates' positive pre-activations. With `match_l0` the
    coefficient is steered to the sparsity by a proportional-integral controller in logarithms:
    with off = log(batch L0 / target), limited to -1..1, its logarithm is off plus the sum of
    match_gain * learning_rate * off over the steps. The sum alone would trail a coefficient that
    has to fall while the reconstruction improves, or swing if it were fast enough not to.
    """

    name = "l1"

    def __init__(self, settings: config.SAESettings, l1: config.L1) -> None:
        self.settings, self.target, self.steps = l1, settings.l0, settings.steps
        self.weighted = settings.variant.decoder_norm == "free"
        self.rate = l1.match_gain * settings.training.learning_rate
        self.weight = l1.coefficient
        self.memory = 1.0  # the last off; training starts with many times the target active

    def go_on(self, coefficient: float) -> None:
        """Steer on from a coefficient with which L0 was on its target."""
        self.weight, self.memory = coefficient, 0.0

    def __call__(self, sae: SAE, step: Step) -> Tensor:
        """Return the L1 norm of each token's latents; steer the coefficient for the next step."""
        if self.settings.match_l0:
            off = math.log(max(step.l0, 1 / step.batch) / self.target)
            off = max(-1.0, min(1.0, off))
            self.weight *= math.exp(self.rate * off + off - self.memory)
            self.memory = off
        else:
            self.weight = self.settings.coefficient * _risen(
                self.settings.warmup, step.index + 1, self.steps
            )
        parts_p = step.pre_p
        if self.weighted:
            parts_p = parts_p * per_latent(sae.W_dec.norm(dim=1), step.pairs)
        return by_token(parts_p, step.pairs)


class L0Penalty(LossTerm):
    """(L0 / target - 1)^2 of the batch, by a straight-through estimator (Rajamanoharan 2024b)."""

    name = "l0"

    def __init__(self, settings: config.SAESettings, l0: config.L0) -> None:
        self.settings, self.target, self.steps = l0, settings.l0, settings.steps
        self.weight = l0.coefficient

    def __call__(self, sae: SAE, step: Step) -> Tensor:
        """Return the squared relative distance; its gradient reaches the thresholds."""
        risen = _risen(self.settings.warmup, step.index + 1, self.steps)
        self.weight = self.settings.coefficient * risen
        assert isinstance(sae.activation, TrainingJumpReLU)
        active_p = sae.activation.active(step.pre_p, step.pairs)
        return (step.ranks.sum(active_p.sum()) / (step.tokens * self.target) - 1).square()


class GateReconstruction(LossTerm):
    """Squared error of the gates' own reconstruction by the frozen decoder.

    The term that gives a gated SAE's gates their gradient (Rajamanoharan et al. 2024a, Eq. 8);
    a mean over the same nested prefixes as the reconstruction.
    """

    name, weight = "gate_reconstruction", 1.0

    def __init__(self, nested: config.Matryoshka | None = None) -> None:
        self.shares = _shares(nested)

    def __call__(self, sae: SAE, step: Step) -> Tensor:
        """Return each token's mean square over dimensions."""
        frozen_fd, groups = sae.W_dec.detach(), len(self.shares)
        parts_bgd = decode_pairs(step.pre_p, frozen_fd, step.pairs, step.group_f, groups)
        prefixes_bd = nested_prefixes(parts_bgd, sae.b_dec.detach())
        return nested_square(step.target_bd, prefixes_bd, self.shares)


def nested_prefixes(parts_bgd: Tensor, b_dec: Tensor) -> tuple[Tensor, ...]:
    """Return the reconstructions (batch, d_in) by the first group, the first two, ..., all."""
    return tuple(accumulate(parts_bgd.unbind(1), initial=b_dec))[1:]


def nested_square(
    target_bd: Tensor, prefixes_bd: Sequence[Tensor], shares: Sequence[float]
) -> Tensor:
    """Return each token's mean square (batch,) over dimensions, weighted over prefixes."""
    parts = zip(shares, prefixes_bd, strict=True)
    squares = [share * (target_bd - x_bd).square().mean(1) for share, x_bd in parts if share]
    return squares[0] if len(squares) == 1 else torch.stack(squares).sum(0)


def _shares(nested: config.Matryoshka | None) -> list[float]:
    """Return the weight of each prefix; they sum to one."""
    weights = (1.0,) if nested is None else nested.weights or (1.0,) * len(nested.fractions)
    return [weight / sum(weights) for weight in weights]


def by_token(values_p: Tensor, pairs: Pairs) -> Tensor:
    """Return the sum (batch,) of `values_p` (pairs,) over each token's pairs."""
    return values_p.new_zeros(pairs.shape[0]).index_add(0, pairs.rows_p, values_p)


def _risen(warmup: float, step: int, steps: int) -> float:
    return min(1.0, step / max(1.0, warmup * steps))


def matryoshka_groups(
    settings: config.Matryoshka, d_sae: int, added: int = 0, device: str = "cpu"
) -> Tensor:
    """Return each latent's group, int64 (d_sae,), rising; `added` ones are in the last."""
    boundaries = torch.tensor(settings.boundaries(d_sae, added))
    return torch.bucketize(torch.arange(d_sae), boundaries, right=True).to(device)


def run_step(
    sae: SAE,
    target_bd: Tensor,
    input_bd: Tensor,
    selected: tuple[Pairs, Tensor],
    group_f: Tensor | None,
    dead_f: Tensor,
    index: int,
    sequence_b: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> Step:
    """Return the step with gradients attached: encode the selected pairs, decode the prefixes."""
    pairs, raw_p = selected
    bias = sae.b_dec if sae.apply_b_dec_to_input else None
    pre_p = encode_pairs(raw_p, input_bd, sae.W_enc, sae.b_enc, bias, pairs)
    assert isinstance(sae.activation, TrainingActivation)
    values_p = sae.activation(pre_p, pairs, sae.b_enc)
    groups = 1 if group_f is None else int(group_f[-1]) + 1
    parts_bgd = decode_pairs(values_p, sae.W_dec, pairs, group_f, groups)
    prefixes_bd = nested_prefixes(parts_bgd, sae.b_dec)
    parts = (target_bd, input_bd, pairs, pre_p, values_p, prefixes_bd)
    return Step(*parts, dead_f, index, group_f, sequence_b, ranks)


def loss_terms(settings: config.SAESettings, d_in: int) -> list[LossTerm]:
    """Return the terms of a variant at one point of the grid."""
    variant = settings.variant
    terms: list[LossTerm] = [Reconstruction(variant.matryoshka)]
    if variant.activation == "gated":
        terms.append(GateReconstruction(variant.matryoshka))
    if variant.l1 is not None:
        terms.append(L1Penalty(settings, variant.l1))
    if variant.l0 is not None:
        terms.append(L0Penalty(settings, variant.l0))
    if variant.auxk is not None:
        terms.append(AuxKLoss(variant.auxk, d_in))
    if variant.orthogonality is not None:
        section = variant.orthogonality
        terms.append(OrthogonalityPenalty(section, settings.d_sae, settings.seed, section.search))
    return terms
