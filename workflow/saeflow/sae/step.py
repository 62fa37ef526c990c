"""What one training step computed, and what a loss term is: a named function of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from saeflow.sae.model import SAE
from saeflow.sae.ranks import ALONE, Ranks
from saeflow.sae.sparse import Pairs


@dataclass(frozen=True)
class Step:
    """What the terms of one training step may read, in the trainer's scaled space.

    Where several processes share the step, tensors and `batch` are of this one's tokens; `tokens`,
    `l0` and `variance` are of all, and a term gets what else it needs of them through `ranks`.
    """

    target_bd: Tensor
    """What is to be reconstructed (batch, d_in): the activations, or a frozen SAE's error."""
    input_bd: Tensor
    """What the encoder multiplied, without gradient."""
    pairs: Pairs
    """Selected (token, latent) pairs: all active ones, and others that a gradient needs."""
    pre_p: Tensor
    """Their pre-activations (of a gated SAE the gate's), with gradient to the encoder."""
    values_p: Tensor
    """Their activations, zero or more, with gradient."""
    prefixes_bd: tuple[Tensor, ...]
    """Reconstructions (batch, d_in) by the nested prefixes; the last is the whole dictionary's."""
    dead_f: Tensor
    """Latents that train and have not fired for a while, bool (d_sae,)."""
    index: int
    """Number of the step, from 0."""
    group_f: Tensor | None = None
    """Each latent's group of nested prefixes, int64 (d_sae,), rising; None is one group."""
    sequence_b: Tensor | None = None
    """Document of each token, int64 (batch,), where a reduction needs it."""
    ranks: Ranks = ALONE
    """The processes that share the step."""

    @property
    def batch(self) -> int:
        """Tokens of this rank, all of them where there is one."""
        return len(self.target_bd)

    @property
    def tokens(self) -> int:
        """Tokens of the step, of all ranks."""
        return self.batch * self.ranks.size

    @property
    def error_bd(self) -> Tensor:
        """What the whole dictionary leaves unexplained, without gradient."""
        return (self.target_bd - self.prefixes_bd[-1]).detach()

    @cached_property
    def l0(self) -> float:
        """Mean number of active latents a token."""
        return self.ranks.sum(torch.count_nonzero(self.values_p)).item() / self.tokens

    def variance(self, entries_bd: Tensor) -> Tensor:
        """Return the mean squared distance () of rows (batch, d_in) from their mean."""
        mean_d = self.ranks.mean(entries_bd.mean(0))
        return self.ranks.mean(total((entries_bd - mean_d).square()) / self.batch)


class LossTerm:
    """One named loss.

    A further term is a class like this and a line in `objectives.loss_terms`.
    """

    name: str
    weight: float
    memory: float = 0.0
    """What it carries from step to step besides its weight; it is part of a checkpoint."""

    def __call__(self, sae: SAE, step: Step) -> Tensor | None:
        """Return the unweighted loss: of each token (batch,), or of the whole step ().

        None where it is not due at this step. Losses of tokens are averaged, or tilted.
        """
        raise NotImplementedError


_SERIAL_ENTRIES = 1 << 15
"""Sums of more entries are split between threads by torch."""


def total(entries: Tensor) -> Tensor:
    """Return the sum over all entries, row sums first: the same on any number of threads."""
    sums = entries.sum(-1).flatten() if entries.ndim > 1 else entries
    return torch.stack([part.sum() for part in sums.split(_SERIAL_ENTRIES)]).sum()
