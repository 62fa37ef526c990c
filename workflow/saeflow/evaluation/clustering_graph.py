"""The graph that joins similar decoder vectors, and its global clustering coefficient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from saeflow.evaluation.decoder import CHUNK_ENTRIES

_BINS = 1 << 16
_MOST_EDGES = 5 * 10**7
_BLOCK_ENTRIES = 1 << 24

Ints = NDArray[Any]


class Graph(NamedTuple):
    """One graph of latents: pairs whose cosine is above `cosine` are joined."""

    cosine: float
    edges: int
    triangles: int
    triples: int
    """Pairs of edges that share a latent."""

    @property
    def coefficient(self) -> float | None:
        """3 triangles / triples, None where no latent has two edges."""
        return 3 * self.triangles / self.triples if self.triples else None


class Edges(NamedTuple):
    """Pairs of latents, from the closest on; `first_e` is the smaller of each."""

    first_e: Ints
    second_e: Ints
    cosine_e: NDArray[np.float32]


def graphs_by_density(unit_fd: Tensor, densities: Sequence[float]) -> list[Graph]:
    """Return for each density the graph of that share of all pairs of rows, the closest ones.

    Pairs as close as the first that is left out are left out too. Raises ValueError where the
    densest has more edges than can be held.
    """
    latents = len(unit_fd)
    wanted = [round(density * (latents * (latents - 1) // 2)) for density in densities]
    edges = edges_above(unit_fd, _bound_below(unit_fd, max(wanted) + 1))
    last = [edges.cosine_e[n] if n < len(edges.cosine_e) else -1.0 for n in wanted]
    return [_graph(latents, edges, float(cosine)) for cosine in last]


def graphs_by_cosine(unit_fd: Tensor, cosines: Sequence[float]) -> list[Graph]:
    """Return for each cosine the graph of the pairs of rows above it.

    Raises ValueError where the densest has more edges than can be held.
    """
    edges = edges_above(unit_fd, min(cosines))
    return [_graph(len(unit_fd), edges, cosine) for cosine in cosines]


@torch.no_grad()
def edges_above(unit_fd: Tensor, cosine: float) -> Edges:
    """Return the pairs of rows, all of unit norm, whose cosine is above `cosine`.

    Raises ValueError where there are more than can be held.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    held = 0
    for start, cosines_bf in _later_cosines(unit_fd):
        first_e, second_e = (cosines_bf > cosine).nonzero(as_tuple=True)
        held += len(first_e)
        if held > _MOST_EDGES:
            raise ValueError(
                f"more than {_MOST_EDGES:,} pairs of {len(unit_fd):,} decoder vectors have a "
                f"cosine above {cosine:.3f}: ask for sparser graphs in clustering.levels"
            )
        found.append((first_e + start, second_e + start, cosines_bf[first_e, second_e]))
    edges = Edges(*(torch.cat(part).cpu().numpy() for part in zip(*found, strict=True)))
    closest = np.argsort(-edges.cosine_e, kind="stable")
    return Edges(*(part[closest] for part in edges))


@torch.no_grad()
def _bound_below(unit_fd: Tensor, wanted: int) -> float:
    """Return a cosine a little below which at least `wanted` pairs begin, or below them all."""
    counts = torch.zeros(_BINS, dtype=torch.int64, device=unit_fd.device)
    for _, cosines_bf in _later_cosines(unit_fd):
        pairs_p = cosines_bf[cosines_bf > -2]
        bins_p = ((pairs_p + 1) * (_BINS / 2)).long().clamp_(0, _BINS - 1)
        counts += torch.bincount(bins_p, minlength=_BINS)
    reached = counts.flip(0).cumsum(0) >= wanted
    if not reached.any():
        return -2.0
    lowest = _BINS - 1 - int(reached.int().argmax())
    return (lowest - 1) / (_BINS / 2) - 1  # a bin lower, as cosines are rounded into bins


def _later_cosines(unit_fd: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield chunks of rows: the first, and the cosines (rows, from the first on) to later rows.

    Those to the row itself and to earlier ones are -3.
    """
    rows = max(1, CHUNK_ENTRIES // len(unit_fd))
    for start in range(0, len(unit_fd), rows):
        cosines_bf = unit_fd[start : start + rows] @ unit_fd[start:].T
        later_bf = torch.ones_like(cosines_bf, dtype=torch.bool).triu_(1)
        yield start, cosines_bf.masked_fill_(~later_bf, -3.0)


def _graph(latents: int, edges: Edges, cosine: float) -> Graph:
    kept = int(np.searchsorted(-edges.cosine_e, -cosine, side="left"))
    first_e, second_e = edges.first_e[:kept], edges.second_e[:kept]
    degree_f = np.bincount(np.concatenate([first_e, second_e]), minlength=latents)
    return Graph(
        cosine,
        kept,
        count_triangles(latents, first_e, second_e),
        int((degree_f * (degree_f - 1) // 2).sum()),
    )


def count_triangles(latents: int, first_e: Ints, second_e: Ints) -> int:
    """Return the triangles of a graph whose edges each name their smaller end first.

    With U the upper triangle of the adjacency, the sum of (U @ U) * U counts each triangle once; it
    is a sixth of the same with the whole adjacency. Blocks of rows bound the memory.
    """
    ones_e = np.ones(len(first_e), dtype=np.int32)
    upper = csr_array((ones_e, (first_e, second_e)), shape=(latents, latents))
    block = max(1, _BLOCK_ENTRIES // latents)
    parts = (upper[start : start + block] for start in range(0, latents, block))
    return sum(int((part @ upper).multiply(part).sum()) for part in parts)
