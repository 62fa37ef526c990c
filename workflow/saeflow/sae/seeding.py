"""Independent random streams from one seed, a stream for each purpose."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU generator for `purpose` at `index`.

    Streams are told apart by a hash, so that the weights drawn from seed 0 are not the numbers
    that other code draws from `manual_seed(0)` (a planted dictionary, say, would be known at the
    start). Needing no state, they are the same after a resume.
    """
    digest = hashlib.sha256(f"saeflow {seed} {purpose} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
