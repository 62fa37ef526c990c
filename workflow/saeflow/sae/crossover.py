"""From which share of active entries products with zeros are faster than sums over pairs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

_BAGS, _PAIRS_OF_BAG, _REPEATS = 2048, 32, 5


class Shares(NamedTuple):
    """Shares of active entries above which dense products are used."""

    sums: float
    """For weighted sums of rows."""
    dots: float
    """For dot products of pairs."""


CPU = Shares(sums=0.25, dots=0.05)
"""Measured on an AMD EPYC. Sums draw at 0.25 to 0.3 for d = 512 and at 0.2 for d = 2,304, dot
products at 0.04 for d = 512 and 2,304 and at 0.12 for d = 192. Constants, so that a training takes
the same path, and leaves the same bits, whatever else the machine does."""
ALWAYS_PAIRS, ALWAYS_DENSE = Shares(1.0, 1.0), Shares(-1.0, -1.0)


def shares(device: torch.device, columns: int, d: int) -> Shares:
    """Return the shares for `columns` rows of width `d` on a device; on CUDA they are measured.

    For the next power of two of `columns`, on which they hardly depend: the latents that AuxK works
    with are another number at nearly every step, and each measured number would hold a step up.
    """
    if device.type == "cpu":
        return CPU
    return measured(device, 1 << max(0, columns - 1).bit_length(), d)


@cache
def measured(device: torch.device, columns: int, d: int) -> Shares:
    """Time both ways once on some pairs.

    Pairs take time in proportion to their number and dense products take the same however many are
    active, so the share at which they draw follows from one timing of each.
    """
    from saeflow.sae.sparse import bag_dots, bag_sums

    draw = torch.Generator().manual_seed(0)
    columns_p = torch.randint(columns, (_BAGS * _PAIRS_OF_BAG,), generator=draw).to(device)
    bags_p = torch.arange(_BAGS, device=device).repeat_interleave(_PAIRS_OF_BAG)
    offsets_g = torch.arange(_BAGS, device=device) * _PAIRS_OF_BAG
    rows_cd = torch.randn(columns, d, generator=draw).to(device)
    bags_gd = torch.randn(_BAGS, d, generator=draw).to(device)
    weights_p = torch.ones(len(columns_p), device=device)

    def sums(way: Shares) -> None:
        bag_sums(columns_p, weights_p, offsets_g, rows_cd, way)

    def dots(way: Shares) -> None:
        bag_dots(columns_p, bags_p, offsets_g, rows_cd, bags_gd, way)

    active = _PAIRS_OF_BAG / columns
    return Shares(*(active * _ratio(work, device) for work in (sums, dots)))


def _ratio(work: Callable[[Shares], None], device: torch.device) -> float:
    """Return the time of dense products as a multiple of that of pairs."""
    return _seconds(work, ALWAYS_DENSE, device) / _seconds(work, ALWAYS_PAIRS, device)


def _seconds(work: Callable[[Shares], None], way: Shares, device: torch.device) -> float:
    work(way)  # warms up
    best = float("inf")
    for _ in range(_REPEATS):
        _wait(device)
        started = time.perf_counter()
        work(way)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
