"""BatchTopK's selection from a batch that several processes share."""

from __future__ import annotations

import torch
from torch import Tensor

from saeflow.sae.preactivations import Chunks
from saeflow.sae.ranks import Ranks
from saeflow.sae.selection import BOUND_MARGIN, SelectBatchTopK, as_pairs, largest, survivors
from saeflow.sae.sparse import Pairs


class SelectSharedBatchTopK(SelectBatchTopK):
    """`SelectBatchTopK` for the tokens of one rank, with the cut of the batch of all.

    Every rank keeps what lies above one bound, gathers the values that the others kept and finds
    the cut among all, so that the pairs, also of equal values at the cut, are those of one process.
    Always in float32.
    """

    def __init__(self, k: int, ranks: Ranks) -> None:
        super().__init__(k)
        self.ranks = ranks

    def __call__(self, chunks: Chunks, shape: tuple[int, int]) -> tuple[Pairs, Tensor]:
        """Return this rank's of the at most k x batch pairs."""
        wanted = self.k * shape[0] * self.ranks.size
        for bound in self.bounds(chunks):
            # Each rank has sampled its own rows; any bound will do, but it must be one.
            shared = self.ranks.mean(torch.tensor(bound, dtype=torch.float64)).item()
            flat, values = survivors(chunks(), shared, self.k)
            everything, own = self.ranks.gather(values)
            if len(everything) >= wanted:
                break
        if len(everything) > wanted:
            keep, cut = largest(everything, wanted)
            flat, values = flat[keep[own]], values[keep[own]]
            self.bound = BOUND_MARGIN * cut
        return as_pairs(flat, values, shape)
