"""The rule by which an activation cache was written, for those who read the same activations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from saeflow.activations.exclude import keep_mask, sink_mask
from saeflow.artifacts import read_manifest


class Exclusion(NamedTuple):
    """The rule of an activation cache (`activations.exclude`) with its calibrated thresholds."""

    special_ids: frozenset[int]
    skip_positions: int
    thresholds: Mapping[str, float]
    """Largest kept norm of each cached site; empty where sinks are kept."""

    def kept(self, tokens_bt: Tensor, lengths_b: Tensor, acts: Mapping[str, Tensor]) -> Tensor:
        """Return the bool mask (b, t) of rows that the cache would hold.

        `acts` holds activations (b, t, d) of every site that has a threshold.
        """
        kept_bt = keep_mask(tokens_bt, lengths_b, self.special_ids, self.skip_positions)
        if self.thresholds:
            norms = {site: acts[site].float().norm(dim=-1).flatten() for site in self.thresholds}
            sinks_bt = sink_mask(norms, self.thresholds).view(kept_bt.shape)
            kept_bt = kept_bt & ~sinks_bt.to(kept_bt.device)
        return kept_bt


def read_exclusion(cache: Path, special_ids: frozenset[int]) -> Exclusion:
    """Return the rule by which the activation cache `cache` was written.

    Raises ArtifactError if the cache is unfinished or damaged.
    """
    manifest = read_manifest(cache, kind="activations")
    skip_positions = manifest["settings"]["activations"]["skip_positions"]
    return Exclusion(special_ids, skip_positions, manifest["stats"]["sink_thresholds"] or {})
