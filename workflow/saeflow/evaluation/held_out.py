"""Held-out text for an evaluation: whole windows, and the rows that the cache's rule keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from saeflow.activations.exclude import keep_mask, sink_mask
from saeflow.activations.windows import Window, group_by_length, pad, read_windows
from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.progress import say


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


def held_out_batches(
    tokens: Path, split: str, budget: int, batch_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield padded windows (b, t) and their lengths (b,) of a split's first `budget` tokens.

    Windows are whole and counted before batching, so that which text is read does not depend on
    `batch_tokens`. A split with fewer tokens is read entirely, with a line that says so. Raises
    ArtifactError for unfinished or damaged tokens and for a split without windows.
    """
    manifest = read_manifest(tokens, kind="tokens")
    path = tokens / f"{split}.parquet"
    if path.name not in manifest["files"]:
        raise ArtifactError(f"{tokens} has no split {split}: it holds {sorted(manifest['files'])}")
    windows: list[Window] = []
    taken = 0
    for window in read_windows(path):
        if taken >= budget:
            break
        windows.append(window)
        taken += len(window.tokens)
    if not windows:
        raise ArtifactError(f"{path} holds no windows: nothing to evaluate on")
    if taken < budget:
        say(f"{split}: {taken:,} tokens in {tokens}, all are used ({budget:,} were asked for)")
    for batch in group_by_length(windows, batch_tokens, np.random.default_rng(0)):
        yield pad(batch)
