"""Read a cache as shuffled batches of one site: endless, repeatable, from any position, small.

The row groups of all shards are put in an order drawn from the seed and the epoch and read in
blocks of some tens of MiB; the rows of a block are permuted in memory while a background thread
reads the next one. As rows were already permuted within each shard when they were written, a
block mixes documents of the whole cache. Every row comes once an epoch; batches run on over the
ends of blocks and epochs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saeflow.activations.shards import (
    ID_TYPES,
    as_rows,
    damaged,
    open_shard,
    read_group,
    schema,
    stored_type,
)
from saeflow.artifacts import MANIFEST, ArtifactError, read_manifest

BLOCK_BYTES = 64 << 20
"""Stored bytes of a block; a stream holds two."""
_SCALE_BATCH = 8192


class Batch(NamedTuple):
    """A batch of activations with where each row comes from."""

    acts_bd: Tensor
    """(b, d_in) float32."""
    document: Tensor
    """(b,) int64."""
    position: Tensor
    """(b,) int32: offset of the token in its document."""
    token: Tensor
    """(b,) int32."""


class Group(NamedTuple):
    """A row group of a shard."""

    path: Path
    number: int
    rows: int


@dataclass(frozen=True)
class Cache:
    """One site of a cache whose files have been checked against their manifest."""

    site: str
    d_in: int
    dtype: np.dtype
    groups: list[Group]

    @property
    def rows(self) -> int:
        """Rows of the cache."""
        return sum(group.rows for group in self.groups)


def open_cache(folder: str | Path, site: str) -> Cache:
    """Check the cache in `folder` and return its site.

    Raises ArtifactError for an unfinished cache, a truncated shard, a footer that cannot be read
    or does not fit the manifest, and an unknown site.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, kind="activations")
    widths: dict[str, int] = manifest["stats"]["sites"]
    if site not in widths:
        near = difflib.get_close_matches(site, widths, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ArtifactError(
            f"{folder / MANIFEST} has no site {site!r}{hint}; it has: {', '.join(widths)}"
        )
    dtype = manifest["settings"]["activations"]["dtype"]
    groups: list[Group] = []
    for name, rows in manifest["stats"]["shards"].items():
        file = open_shard(folder / name)
        if file.metadata.num_rows != rows or not file.schema_arrow.equals(schema(widths, dtype)):
            raise damaged(folder / name, "its rows or columns are not those of the manifest")
        for number in range(file.num_row_groups):
            groups.append(Group(folder / name, number, file.metadata.row_group(number).num_rows))
    return Cache(site, widths[site], stored_type(dtype), groups)


class _Block:
    """A reusable buffer for the rows of one block."""

    def __init__(self, cache: Cache, rows: int) -> None:
        self.cache, self.rows = cache, 0
        self.acts = np.empty((rows, cache.d_in), cache.dtype)
        self.ids = {name: np.empty(rows, kind) for name, kind in ID_TYPES.items()}

    def fill(
        self, groups: list[Group], key: list[int], with_ids: bool, by_document: bool
    ) -> _Block:
        """Read `groups` and scatter their rows in an order drawn from `key`."""
        self.rows = sum(group.rows for group in groups)
        order = np.random.default_rng(key).permutation(self.rows)
        if by_document:
            order = _documents_together(order, groups)
        names = [self.cache.site, *(ID_TYPES if with_ids else ())]
        targets = {self.cache.site: as_rows(self.acts), **self.ids}
        done = 0
        for group in groups:
            columns = read_group(open_shard(group.path), group.path, group.number, names)
            places = order[done : done + group.rows]
            for name, values in columns.items():
                targets[name][places] = values
            done += group.rows
        return self


def _documents_together(order: np.ndarray, groups: list[Group]) -> np.ndarray:
    """Return new places for rows, with those of a document side by side.

    Documents stand in the order of their first rows in `order`, rows of a document as there.
    """
    read = [read_group(open_shard(g.path), g.path, g.number, ["document"]) for g in groups]
    document = np.concatenate([columns["document"] for columns in read])
    shuffled = np.empty_like(document)
    shuffled[order] = document
    _, first, inverse = np.unique(shuffled, return_index=True, return_inverse=True)
    places = np.empty_like(order)
    places[np.argsort(first[inverse], kind="stable")] = np.arange(len(order))
    return places[order]


class _Reader:
    """The blocks of all epochs from one row on; a background thread fills the next one."""

    def __init__(
        self, cache: Cache, seed: int, block_rows: int, row: int, with_ids: bool, by_document: bool
    ) -> None:
        self.cache, self.seed, self.with_ids = cache, seed, with_ids
        self.by_document = by_document
        self.block_rows = max(block_rows, *(group.rows for group in cache.groups), 1)
        size = min(self.block_rows, cache.rows)
        self.plan = self._plan(row)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="saeflow-activations")
        self.at = 0
        self.current = _Block(cache, size)
        self.coming = self._read_into(_Block(cache, size))

    def _plan(self, row: int) -> Iterator[tuple[list[Group], list[int], int]]:
        """Yield groups of each block, the key of its order, and the first row wanted of it."""
        first_epoch, row = divmod(row, self.cache.rows)
        for epoch in count(first_epoch):
            for number, groups in enumerate(self._blocks(epoch)):
                rows = sum(group.rows for group in groups)
                if row < rows:
                    # Numpy pads keys with zeros, hence + 1 to differ from the epoch's own.
                    yield groups, [self.seed, epoch, number + 1], row
                row = max(0, row - rows)

    def _blocks(self, epoch: int) -> Iterator[list[Group]]:
        groups, rows = self.cache.groups, 0
        block: list[Group] = []
        for index in np.random.default_rng([self.seed, epoch]).permutation(len(groups)):
            if block and rows + groups[index].rows > self.block_rows:
                yield block
                block, rows = [], 0
            block.append(groups[index])
            rows += groups[index].rows
        yield block

    def _read_into(self, block: _Block) -> tuple[Future[_Block], int]:
        groups, key, first = next(self.plan)
        return self.thread.submit(block.fill, groups, key, self.with_ids, self.by_document), first

    def take(self, rows: int) -> Iterator[tuple[_Block, slice]]:
        """Yield the stretches of blocks with the next `rows` rows; each is valid until the next."""
        while rows:
            if self.at == self.current.rows:
                spent, (future, self.at) = self.current, self.coming
                self.current = future.result()
                self.coming = self._read_into(spent)
            stretch = slice(self.at, min(self.at + rows, self.current.rows))
            yield self.current, stretch
            rows -= stretch.stop - stretch.start
            self.at = stretch.stop

    def close(self) -> None:
        """End the background thread."""
        self.thread.shutdown(wait=True, cancel_futures=True)


class ActivationStream:
    """An endless iterator of float32 batches (batch_size, d_in) in a seeded random order.

    `position` counts the batches already consumed; a stream that is opened at a position goes on
    with the batch that would have come next, without reading what precedes. Use it as a context
    manager: leaving it ends the background thread. Memory is two blocks of `block_bytes`. With
    `by_document` the rows of a document stand together within each block, documents shuffled.

    Raises ArtifactError as `open_cache` does, and for a shard that turns out damaged when read.
    """

    def __init__(
        self,
        folder: str | Path,
        site: str,
        *,
        batch_size: int,
        seed: int,
        position: int = 0,
        device: str | torch.device | None = None,
        block_bytes: int = BLOCK_BYTES,
        by_document: bool = False,
    ) -> None:
        if batch_size < 1 or position < 0:
            raise ValueError(f"batch_size {batch_size} and position {position} must be positive")
        self.cache = open_cache(folder, site)
        self.batch_size, self.seed, self.position = batch_size, seed, position
        self.device = torch.device(device or "cpu")
        self._block_rows = max(1, block_bytes // (self.d_in * self.cache.dtype.itemsize))
        self._by_document = by_document
        self._reader: _Reader | None = None
        self._closed = False

    @property
    def rows(self) -> int:
        """Rows of the cache, which is the length of an epoch."""
        return self.cache.rows

    @property
    def d_in(self) -> int:
        """Entries of a row."""
        return self.cache.d_in

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        return self._next(with_ids=False).acts_bd

    def batches_with_ids(self) -> Iterator[Batch]:
        """Yield the same batches together with document, position and token of each row."""
        while True:
            yield self._next(with_ids=True)

    def _next(self, with_ids: bool) -> Batch:
        reader = self._reader_for(with_ids)
        acts_bd = torch.empty(
            (self.batch_size, self.d_in), pin_memory=self.device.type == "cuda"
        )  # fresh, as the caller may keep it
        ids = {name: np.empty(self.batch_size, kind) for name, kind in ID_TYPES.items()}
        done = 0
        for block, rows in reader.take(self.batch_size):
            into = slice(done, done + rows.stop - rows.start)
            acts_bd[into].copy_(torch.from_numpy(block.acts[rows]))
            if with_ids:
                for name, values in ids.items():
                    values[into] = block.ids[name][rows]
            done = into.stop
        self.position += 1
        return Batch(
            acts_bd.to(self.device, non_blocking=True),
            **{name: torch.from_numpy(values) for name, values in ids.items()},
        )

    def _reader_for(self, with_ids: bool) -> _Reader:
        if self._closed:
            raise ValueError("this ActivationStream is closed; open another at its position")
        if self._reader is not None and self._reader.with_ids != with_ids:
            self._reader.close()
            self._reader = None
        if self._reader is None:
            row = self.position * self.batch_size
            self._reader = _Reader(
                self.cache, self.seed, self._block_rows, row, with_ids, self._by_document
            )
        return self._reader

    def close(self) -> None:
        """End the background thread; the stream yields nothing more."""
        self._closed = True
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def __enter__(self) -> ActivationStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def sample(folder: str | Path, site: str, n: int, seed: int) -> Tensor:
    """Return `n` rows (n, d_in) float32 drawn without replacement; all rows if there are fewer.

    Reads one block (or as many as `n` needs), not the whole cache.
    """
    n = min(n, open_cache(folder, site).rows)
    with ActivationStream(folder, site, batch_size=n, seed=seed) as stream:
        return next(stream)


def estimate_scale(folder: str | Path, site: str) -> float:
    """Return the mean squared entry over about one block of rows; the same at every call."""
    cache = open_cache(folder, site)
    rows = min(cache.rows, max(1, BLOCK_BYTES // (cache.d_in * cache.dtype.itemsize)))
    size = min(rows, _SCALE_BATCH)
    with ActivationStream(folder, site, batch_size=size, seed=0) as stream:
        means = [float(next(stream).square().mean()) for _ in range(rows // size)]
    return sum(means) / len(means)
