"""Named losses: what a variant minimises is the weighted sum of the terms it lists.

All terms are in the scaled space of the trainer (mean square of an input entry is 1 with
`input_scaling: rms`), and the reconstruction is a mean over batch *and* dimensions. That is the
scale at which OrtSAE's gamma = 0.25 is meaningful: its code base averages over dimensions.

A further term is one class with a `name`, a `weight` and `__call__(sae, step)`, and a line in
`loss_terms`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from saeflow.sae import settings as config
from saeflow.sae.model import SAE
from saeflow.sae.seeding import generator
from saeflow.sae.sparse import Pairs, decode_pairs, encode_pairs

_COSINE_ENTRIES = 1 << 22


@dataclass(frozen=True)
class Step:
    """What the terms of one training step may read."""

    x_bd: Tensor
    """Scaled activations (batch, d_in)."""
    input_bd: Tensor
    """What the encoder multiplied, without gradient."""
    pairs: Pairs
    """Active (token, latent) pairs."""
    values_p: Tensor
    """Their activations, with gradient to the encoder."""
    prefixes_bd: tuple[Tensor, ...]
    """Reconstructions (batch, d_in) by the nested prefixes; the last is the whole dictionary's."""
    dead_f: Tensor
    """Latents that have not fired for a while, bool (d_sae,)."""
    index: int
    """Number of the step, from 0."""

    @property
    def error_bd(self) -> Tensor:
        """What the whole dictionary leaves unexplained, without gradient."""
        return (self.x_bd - self.prefixes_bd[-1]).detach()


class LossTerm:
    """One named loss."""

    name: str
    weight: float
    memory: float = 0.0
    """What it carries from step to step besides its weight."""

    def __call__(self, sae: SAE, step: Step) -> Tensor | None:
        """Return the unweighted scalar loss, or None where it is not due at this step."""
        raise NotImplementedError


class Reconstruction(LossTerm):
    """Squared error, mean over batch, dimensions and Matryoshka's nested prefixes."""

    name, weight = "reconstruction", 1.0

    def __call__(self, sae: SAE, step: Step) -> Tensor:
        """Return the mean square of (x - x_hat) over all prefixes."""
        squares = [mse_loss(prefix_bd, step.x_bd) for prefix_bd in step.prefixes_bd]
        return torch.stack(squares).mean()


class L1Penalty(LossTerm):
    """Sum of a token's latent activations, mean over the batch.

    Decoder rows have unit norm here, so that weighting by it would change nothing. With `match_l0`
    the coefficient is steered to the sparsity by a proportional-integral controller in logarithms:
    with off = log(batch L0 / target), limited to -1..1, its logarithm is off plus the sum of
    match_gain * learning_rate * off over the steps. The sum alone would trail a coefficient that
    has to fall while the reconstruction improves, or swing if it were fast enough not to.
    """

    name = "l1"

    def __init__(self, settings: config.L1, target_l0: int, learning_rate: float) -> None:
        self.settings, self.target = settings, target_l0
        self.rate = settings.match_gain * learning_rate
        self.weight = settings.coefficient
        self.memory = 1.0  # the last off; training starts with many times the target active

    def __call__(self, sae: SAE, step: Step) -> Tensor:
        """Return the mean L1 norm of a token's latents; steer the coefficient for the next step."""
        batch = len(step.x_bd)
        if self.settings.match_l0:
            off = math.log(max(len(step.values_p), 1) / (batch * self.target))
            off = max(-1.0, min(1.0, off))
            self.weight *= math.exp(self.rate * off + off - self.memory)
            self.memory = off
        return step.values_p.sum() / batch


class AuxKLoss(LossTerm):
    """Error of rebuilding the error with the top dead latents (Gao et al. 2024, App. A.2).

    Divided by the error's variance over the batch, so that the term keeps its size while the
    reconstruction improves. The target is detached; gradient reaches the dead latents' encoder
    and decoder. Zero where no latent is dead.
    """

    name = "auxk"

    def __init__(self, settings: config.AuxK, d_in: int) -> None:
        self.weight = settings.coefficient
        self.k = settings.k or max(1, d_in // 2)

    def __call__(self, sae: SAE, step: Step) -> Tensor:
        """Return the normalised squared error."""
        dead = step.dead_f.nonzero().squeeze(1)
        if not len(dead):
            return step.x_bd.new_zeros(())
        error_bd = step.error_bd
        pairs, values_p = self._select(sae, step, dead)
        active_p = encode_pairs(
            values_p, step.input_bd, sae.W_enc, sae.b_enc, _input_bias(sae), pairs
        )
        rebuilt_bd = decode_pairs(active_p, sae.W_dec, pairs)[:, 0]
        variance = total((error_bd - error_bd.mean(0)).square())
        return mse_loss(rebuilt_bd, error_bd, reduction="sum") / variance.clamp_min(1e-12)

    @torch.no_grad()
    def _select(self, sae: SAE, step: Step, dead: Tensor) -> tuple[Pairs, Tensor]:
        """Return each token's top k positive dead latents and their pre-activations."""
        pre_bn = torch.addmm(sae.b_enc[dead], step.input_bd, sae.W_enc[:, dead])
        if self.k < len(dead):
            kept_bk = pre_bn.topk(self.k, dim=1, sorted=False).indices
            pre_bn = torch.zeros_like(pre_bn).scatter(1, kept_bk, pre_bn.gather(1, kept_bk))
        rows, columns = (pre_bn > 0).nonzero(as_tuple=True)
        shape = (len(step.x_bd), sae.d_sae)
        return Pairs(rows, dead[columns], shape), pre_bn[rows, columns]


class OrthogonalityPenalty(LossTerm):
    """OrtSAE's penalty on aligned decoder rows (arXiv 2509.22033, Eqs. 3-5).

    The latents are split at random into K = ceil(d_sae / chunk_size) chunks of near-equal size,
    anew at each evaluation. For each latent: the largest signed cosine to another one of its
    chunk, squared; mean over the chunk, then over chunks. Evaluated at every n-th step with
    n times gamma. The partition depends on seed and step alone, so that a resumed run draws it
    again. A latent alone in its chunk has no neighbour and counts as 0.
    """

    name = "orthogonality"

    def __init__(self, settings: config.Orthogonality, d_sae: int, seed: int) -> None:
        self.settings = settings
        self.chunks = math.ceil(d_sae / settings.chunk_size)
        self.weight = settings.gamma * settings.every
        self.seed = seed

    def __call__(self, sae: SAE, step: Step) -> Tensor | None:
        """Return the penalty, or None between its turns."""
        if step.index % self.settings.every:
            return None
        draw = generator(self.seed, "orthogonality", step.index)
        shuffled = torch.randperm(sae.d_sae, generator=draw).to(sae.W_dec.device)
        return self.of_chunks(sae.W_dec, shuffled.tensor_split(self.chunks))

    def of_chunks(self, W_dec: Tensor, chunks: Sequence[Tensor]) -> Tensor:
        """Return the penalty for a partition of the rows of `W_dec`, given as index tensors."""
        nearest_f = torch.zeros(len(W_dec), dtype=torch.int64, device=W_dec.device)
        share_f = torch.zeros_like(nearest_f, dtype=W_dec.dtype)
        unit_fd = normalize(W_dec.detach(), dim=1)
        for size in {len(chunk) for chunk in chunks} - {1}:
            chunks_mc = torch.stack([chunk for chunk in chunks if len(chunk) == size])
            nearest_f[chunks_mc] = chunks_mc.gather(1, _nearest_other(unit_fd[chunks_mc]))
            share_f[chunks_mc] = 1 / (size * len(chunks))
        norms_f = W_dec.norm(dim=1)
        dots_f = (W_dec * W_dec.index_select(0, nearest_f)).sum(1)
        norm_products_f = norms_f * norms_f.index_select(0, nearest_f)
        return (share_f * (dots_f / norm_products_f.clamp_min(self.settings.delta)).square()).sum()


def _nearest_other(unit_mcd: Tensor) -> Tensor:
    """Return for each row of m chunks the index (m, c) of its nearest other row by cosine.

    Only the maximum carries gradient, so the cosines need no graph and go in blocks of rows.
    """
    chunks, size, _ = unit_mcd.shape
    rows = max(1, _COSINE_ENTRIES // (chunks * size))
    nearest = []
    for start in range(0, size, rows):
        cosines = unit_mcd[:, start : start + rows] @ unit_mcd.transpose(1, 2)
        cosines.diagonal(start, 1, 2).fill_(-math.inf)
        nearest.append(cosines.argmax(2))
    return torch.cat(nearest, dim=1)


def total(entries: Tensor) -> Tensor:
    """Return the sum over all entries, row sums first: the same on any number of threads."""
    return entries.sum(-1).sum()


def matryoshka_groups(settings: config.Matryoshka, d_sae: int, device: str = "cpu") -> Tensor:
    """Return each latent's group, int64 (d_sae,), rising; boundaries are rounded fractions."""
    edges = torch.tensor(settings.fractions, dtype=torch.float64).cumsum(0)
    boundaries = (edges * d_sae).round().long()
    boundaries[-1] = d_sae
    return torch.bucketize(torch.arange(d_sae), boundaries, right=True).to(device)


def _input_bias(sae: SAE) -> Tensor | None:
    return sae.b_dec if sae.apply_b_dec_to_input else None


def run_step(
    sae: SAE,
    x_bd: Tensor,
    input_bd: Tensor,
    selected: tuple[Pairs, Tensor],
    group_f: Tensor | None,
    dead_f: Tensor,
    index: int,
) -> Step:
    """Return the step with gradients attached: encode the selected pairs, decode the prefixes."""
    pairs, raw_p = selected
    values_p = encode_pairs(raw_p, input_bd, sae.W_enc, sae.b_enc, _input_bias(sae), pairs)
    groups = 1 if group_f is None else int(group_f[-1]) + 1
    parts_bgd = decode_pairs(values_p, sae.W_dec, pairs, group_f, groups)
    prefixes_bd = tuple(accumulate(parts_bgd.unbind(1), initial=sae.b_dec))[1:]
    return Step(x_bd, input_bd, pairs, values_p, prefixes_bd, dead_f, index)


def loss_terms(settings: config.SAESettings, d_in: int) -> list[LossTerm]:
    """Return the terms of a variant at one point of the grid."""
    variant = settings.variant
    terms: list[LossTerm] = [Reconstruction()]
    if variant.l1 is not None:
        terms.append(L1Penalty(variant.l1, settings.l0, settings.training.learning_rate))
    if variant.auxk is not None:
        terms.append(AuxKLoss(variant.auxk, d_in))
    if variant.orthogonality is not None:
        terms.append(OrthogonalityPenalty(variant.orthogonality, settings.d_sae, settings.seed))
    return terms
