"""Windows of tokens: read in order, grouped by length into batches that waste little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

_READ_WINDOWS = 1024


class Window(NamedTuple):
    """One row of a tokens file."""

    document: int
    """Document the window belongs to."""
    start: int
    """Offset of the window's first text token in its document."""
    tokens: np.ndarray
    """Token ids (t,) int32, exactly as fed to the model."""


def read_windows(path: Path, first: int = 0) -> Iterator[Window]:
    """Yield the windows of a tokens file from index `first` on, streaming."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if first >= rows:
            first -= rows
            continue
        columns = ["document", "start", "tokens"]
        for batch in file.iter_batches(_READ_WINDOWS, row_groups=[group], columns=columns):
            yield from _windows_of(batch.slice(min(first, batch.num_rows)))
            first = max(0, first - batch.num_rows)


def _windows_of(batch) -> Iterator[Window]:
    documents = batch["document"].to_numpy()
    starts = batch["start"].to_numpy()
    offsets = batch["tokens"].offsets.to_numpy()
    values = batch["tokens"].values.to_numpy()
    for i in range(batch.num_rows):
        yield Window(int(documents[i]), int(starts[i]), values[offsets[i] : offsets[i + 1]])


def count_tokens(path: Path) -> int:
    """Return the number of tokens in a tokens file, from its footer alone."""
    metadata = pq.read_metadata(path)
    column = metadata.schema.to_arrow_schema().get_field_index("tokens")
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return sum(group.column(column).num_values for group in groups)


def group_by_length(
    windows: Sequence[Window], batch_tokens: int, generator: np.random.Generator
) -> list[list[Window]]:
    """Return `windows` as batches of similar length, each at most `batch_tokens` padded tokens.

    A window longer than `batch_tokens` is a batch of its own. The batches come in random order,
    so that rows which share a shard do not share a length.
    """
    batches: list[list[Window]] = []
    for window in sorted(windows, key=lambda w: len(w.tokens)):  # stable
        # Ascending lengths: the newest window is the longest and sets the padded width.
        if batches and (len(batches[-1]) + 1) * len(window.tokens) <= batch_tokens:
            batches[-1].append(window)
        else:
            batches.append([window])
    return [batches[i] for i in generator.permutation(len(batches))]


def pad(windows: Sequence[Window]) -> tuple[Tensor, Tensor]:
    """Return tokens (b, t) int64, padded on the right with 0, and lengths (b,).

    A causal model needs no attention mask for this: padding stands behind all real tokens, which
    cannot see it.
    """
    lengths = [len(w.tokens) for w in windows]
    tokens_bt = np.zeros((len(windows), max(lengths)), dtype=np.int64)
    for row, window in zip(tokens_bt, windows, strict=True):
        row[: len(window.tokens)] = window.tokens
    return torch.from_numpy(tokens_bt), torch.tensor(lengths)
