"""The buffer in which rows gather until a shard is full."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from saeflow.activations.rows import Rows, describe
from saeflow.activations.shards import ID_TYPES, stored_type, write_shard
from saeflow.artifacts import ArtifactError


class ShuffleBuffer:
    """Up to `size` rows in their stored precision, written in random order as one shard."""

    def __init__(self, widths: Mapping[str, int], dtype: str, size: int) -> None:
        self.size, self.filled, self.dtype = size, 0, dtype
        self.ids = {name: np.empty(size, kind) for name, kind in ID_TYPES.items()}
        self.acts = {s: np.empty((size, d), stored_type(dtype)) for s, d in widths.items()}

    @property
    def full(self) -> bool:
        """Whether the buffer takes no more rows."""
        return self.filled == self.size

    def add(self, rows: Rows, start: int, shard: str) -> int:
        """Take rows from `start` on and return how many fitted.

        Raises ArtifactError naming shard, site, document and position of a value that is not
        finite or that the stored precision cannot hold.
        """
        stop = min(len(rows), start + self.size - self.filled)
        into = slice(self.filled, self.filled + stop - start)
        for name, values in rows.ids.items():
            self.ids[name][into] = values[start:stop]
        for site, acts_nd in rows.acts.items():
            self._check_range(rows, site, start, stop, shard)
            torch.from_numpy(self.acts[site][into]).copy_(acts_nd[start:stop])
        self.filled += stop - start
        return stop - start

    def _check_range(self, rows: Rows, site: str, start: int, stop: int, shard: str) -> None:
        limit = float(np.finfo(self.dtype).max)
        acts_nd = rows.acts[site][start:stop]
        if acts_nd.numel() == 0 or float(torch.stack(acts_nd.aminmax()).abs().max()) <= limit:
            return
        bad = ~(acts_nd.abs() <= limit)  # true for NaN as well
        row = int(bad.any(dim=1).nonzero()[0, 0])
        value = float(acts_nd[row][bad[row]][0])
        advice = (
            f"{self.dtype} holds up to {limit:g}; set activations.dtype: float32"
            if math.isfinite(value)
            else "the forward pass overflowed or the weights are damaged; check the subject, or "
            "set activations.precision: float32"
        )
        place = describe(rows.ids, site, start + row)
        raise ArtifactError(f"{shard}: activation {value:g} at {place}: {advice}")

    def write(self, path: Path, seed: int, shard: int) -> None:
        """Write the rows to `path` in an order drawn from `seed` and `shard`, then empty."""
        order = np.random.default_rng([seed, shard]).permutation(self.filled)
        write_shard(path, self.ids, self.acts, order)
        self.filled = 0
