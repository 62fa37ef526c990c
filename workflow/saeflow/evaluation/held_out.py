"""Held-out text for an evaluation, in whole windows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from saeflow.activations.windows import Window, group_by_length, pad, read_windows
from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.progress import say


def held_out_batches(
    tokens: Path, split: str, budget: int, batch_tokens: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield padded windows (b, t) and their lengths (b,) of a split's first `budget` tokens.

    Windows are whole and counted before batching, so that which text is read does not depend on
    `batch_tokens`. A split with fewer tokens is read entirely, with a line that says so. Raises
    ArtifactError for unfinished or damaged tokens and for a split without windows.
    """
    windows = first_windows(tokens, split, budget)
    if not windows:
        raise ArtifactError(f"{tokens / split}.parquet holds no windows: nothing to evaluate on")
    for batch in group_by_length(windows, batch_tokens, np.random.default_rng(0)):
        yield pad(batch)


def first_windows(tokens: Path, split: str, budget: int) -> list[Window]:
    """Return whole windows from the start of a split until they hold `budget` tokens.

    A split with fewer tokens is read entirely, with a line that says so. Raises ArtifactError for
    unfinished or damaged tokens.
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
    if 0 < taken < budget:
        say(f"{split}: {taken:,} tokens in {tokens}, all are used ({budget:,} were asked for)")
    return windows
