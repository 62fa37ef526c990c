"""Selections by products in bfloat16 that are to select as products in float32 would.

A pass in bfloat16 proposes more pairs than are wanted, and their pre-activations are computed
again in float32, by which the cut is made. What was not proposed lies below a known bound in
bfloat16, and the proposed pairs show how far bfloat16 is from float32. Where a token's bound comes
closer to the cut than that, the token goes through the selection in float32.

Values are always float32's, and there are as many pairs as float32 selects. That they are the same
pairs is not proven. Where pre-activations differ by no more than the rounding of float32 sums in
different orders, either may be selected. And how far bfloat16 is from float32 is estimated: a pair
that was not proposed, whose error is more than one and a half times the largest seen of those that
were, would be missed. Where a few latents have far larger weights than the rest, the estimate holds
for the largest, so that most tokens are selected twice, which takes longer than float32 alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from saeflow.sae.preactivations import Chunks, Preactivations
from saeflow.sae.selection import (
    BOUND_MARGIN,
    Groups,
    SelectBatchTopK,
    SelectTopK,
    as_pairs,
    kth_largest,
    largest,
    largest_of_rows,
    row_cuts,
    survivors,
)
from saeflow.sae.sparse import Pairs

_EXTRA, _EXTRA_SHARE = 4, 4
"""Proposed a token beyond k: 4 + k / 4. Of 4,096 tokens that left none in doubt at k = 16 and 32
and 3 at k = 64; half as many left hundreds."""
_SLACK = 1 / 24
"""How far below the batch's cut, relatively, pairs are proposed."""
_SAFETY, _NEAR = 1.5, 2.0
_ROUNDING = 2.0**-8
"""The largest relative error of rounding to bfloat16."""
_PROVEN = 1 / 120
"""No product is off by more of the norms' product: two operands rounded, and the sums' errors."""
_TOO_MANY = 4


@dataclass(frozen=True)
class Proposal:
    """Pairs that bfloat16 proposes, and a bound on what it leaves out."""

    product: Preactivations
    flat_p: Tensor
    """Indices into (batch, d_sae), rising."""
    rounded_p: Tensor
    """Pre-activations from operands in bfloat16."""
    bound_b: Tensor
    """What was not proposed of a token lies below this in bfloat16 (batch,)."""

    @property
    def width(self) -> int:
        """Number of latents."""
        return len(self.product.b_enc)

    @cached_property
    def rows_p(self) -> Tensor:
        """Tokens of the pairs, rising."""
        return self.flat_p // self.width

    @cached_property
    def latents_p(self) -> Tensor:
        """Latents of the pairs."""
        return self.flat_p - self.rows_p * self.width

    @cached_property
    def values_p(self) -> Tensor:
        """Pre-activations in float32."""
        return self.product.at(self.rows_p, self.latents_p)

    def doubtful(self, cut_b: Tensor) -> Tensor:
        """Return the tokens (rows,) of which a pair left out might reach the cut in float32.

        A product's error grows with the norms of its token and of its latent's weights: per both,
        one and a half times the largest among pairs of the cut's order is allowed for, with the
        largest norm of any latent. Rounding the result adds its share of the cut. Pairs above the
        product of their norms are left out: they are bias for the most part.
        """
        norm_b = torch.linalg.vector_norm(self.product.input_bd, dim=1)
        norm_f = torch.linalg.vector_norm(self.product.W_fd, dim=1)
        norms_p = norm_b[self.rows_p] * norm_f[self.latents_p]
        telling_p = self.values_p.abs() <= torch.minimum(_NEAR * cut_b[self.rows_p], norms_p)
        telling_p &= norms_p > 0
        error_p = ((self.rounded_p - self.values_p).abs() / norms_p)[telling_p]
        worst = _PROVEN if not len(error_p) else (_SAFETY * error_p.max()).clamp_max(_PROVEN)
        error_b = worst * norm_f.max() * norm_b + _SAFETY * self.product.bias_error
        return (~(self.bound_b + error_b < (1 - _ROUNDING) * cut_b)).nonzero().squeeze(1)

    def without(self, rows_r: Tensor) -> tuple[Tensor, Tensor]:
        """Return flat indices and values of the positive pairs of all other tokens."""
        kept_b = torch.ones(len(self.bound_b), dtype=torch.bool, device=rows_r.device)
        kept_b[rows_r] = False
        kept_p = kept_b[self.rows_p] & (self.values_p > 0)
        return self.flat_p[kept_p], self.values_p[kept_p]


class ProposeTopK:
    """What `SelectTopK` selects, found in bfloat16."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.proposed = k + _EXTRA + k // _EXTRA_SHARE
        self.exact = SelectTopK(k)

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return at most k pairs a token."""
        assert isinstance(chunks, Preactivations)
        if self.proposed >= shape[1]:
            return self.exact(chunks, shape)
        proposal = self._propose(chunks)
        counts_b = torch.bincount(proposal.rows_p, minlength=shape[0])
        cut_b = row_cuts(proposal.rows_p, proposal.values_p, counts_b, self.k).clamp_min(0)
        doubtful_r = proposal.doubtful(cut_b)
        flat, values = proposal.without(doubtful_r)
        kept = largest_of_rows(flat // shape[1], values, shape[0], self.k)
        flat, values = flat[kept], values[kept]
        if len(doubtful_r):
            pairs, redone = self.exact(chunks.of_rows(doubtful_r), (len(doubtful_r), shape[1]))
            again = doubtful_r[pairs.rows_p] * shape[1] + pairs.latents_p
            flat, values = merged(flat, values, again, redone)
        return as_pairs(flat, values, shape)

    def _propose(self, product: Preactivations) -> Proposal:
        flat, rounded, bounds = [], [], []
        for start, pre_cf in product.rounded():
            keys_cf = as_keys(pre_cf)
            groups = Groups(keys_cf, self.proposed)
            bounds_c1 = groups.row_bounds(self.proposed).clamp_min(1)
            found = groups.at_least(bounds_c1)
            rows = found // pre_cf.shape[1]
            crowded_c = torch.bincount(rows, minlength=len(pre_cf)) > _TOO_MANY * self.proposed
            if crowded_c.any():  # ties: of these tokens nothing is proposed
                bounds_c1[crowded_c] = key_of(torch.inf)
                found = found[~crowded_c[rows]]
            rounded.append(pre_cf.flatten()[found].float())
            flat.append(found + start * pre_cf.shape[1])
            bounds.append(bounds_c1[:, 0].view(torch.bfloat16).float())
        return Proposal(product, torch.cat(flat), torch.cat(rounded), torch.cat(bounds))


class ProposeBatchTopK(SelectBatchTopK):
    """What `SelectBatchTopK` selects, found in bfloat16."""

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return at most k x batch pairs."""
        assert isinstance(chunks, Preactivations)
        wanted = self.k * shape[0]
        proposal = self._propose(chunks, shape)
        if proposal is None:
            return super().__call__(chunks, shape)
        cut = kth_largest(proposal.values_p[None], wanted).clamp_min(0).squeeze()
        doubtful_r = proposal.doubtful(cut.expand(shape[0]))
        flat, values = proposal.without(doubtful_r)
        if len(doubtful_r):
            # The cut can only rise by what is added, so that no other token becomes doubtful. From
            # a little below it, as the pass sums in another order: the last pair must not be lost.
            part = chunks.of_rows(doubtful_r)
            again, redone = survivors(part(), (1 - _SLACK) * cut.item(), self.k)
            rows = again // shape[1]
            again += (doubtful_r[rows] - rows) * shape[1]
            flat, values = merged(flat, values, again, redone)
        if len(values) < wanted:
            return super().__call__(chunks, shape)
        if len(values) > wanted:
            keep, _ = largest(values, wanted)
            flat, values = flat[keep], values[keep]
        return as_pairs(flat, values, shape)

    def _propose(self, product: Preactivations, shape: tuple[int, int]) -> Proposal | None:
        """Return the pairs a little below the cut in bfloat16, None where these are too many.

        Or too few, as of a batch without enough positive pairs. This does not depend on the bound
        that the last batch left, on which only the time does.
        """
        wanted = self.k * shape[0]
        for bound in self.bounds(product):
            least = key_of(bound)
            keys = ((start, as_keys(pre_cf)) for start, pre_cf in product.rounded())
            flat, found = survivors(keys, least, self.k)
            if len(found) < wanted:
                continue
            rounded = found.view(torch.bfloat16).float()
            cut = kth_largest(rounded[None], wanted).item()
            lowest = key_of((1 - _SLACK) * cut)
            if least <= lowest:
                break
        else:
            return None
        proposed = found >= lowest
        if proposed.sum() > _TOO_MANY * wanted:
            return None
        self.bound = BOUND_MARGIN * cut
        bound_b = found.new_full((shape[0],), lowest).view(torch.bfloat16).float()
        return Proposal(product, flat[proposed], rounded[proposed], bound_b)


def as_keys(rounded: Tensor) -> Tensor:
    """Return int16 in the order of the positive bfloat16 they are made of, others below 1.

    torch compares these twenty times as fast.
    """
    return rounded.view(torch.int16)


def key_of(value: float) -> int:
    """Return the key of a value, at least that of the smallest positive one."""
    return max(1, int(as_keys(torch.tensor(value).bfloat16())))


def merged(
    flat: Tensor, values: Tensor, more_flat: Tensor, more_values: Tensor
) -> tuple[Tensor, Tensor]:
    """Return both, by rising flat index."""
    flat, order = torch.cat([flat, more_flat]).sort()
    return flat, torch.cat([values, more_values])[order]
