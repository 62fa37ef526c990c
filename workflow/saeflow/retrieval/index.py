"""Approximate search by faiss: what proposes candidates from an index that stays in memory.

Vectors are kept as 8-bit codes, one byte an entry: 8 million of width 768 take 5.7 GiB, and HNSW's
links at m = 16 another 1.0 GiB, so that a search by either fits 8 GiB with one shard of embeddings.
While an index is built, faiss's arrays double when they are full and are copied: IVF has one a
list, so that it takes little more, but HNSW has one for all codes and takes up to twice that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from saeflow.retrieval.reading import RetrievalError
from saeflow.retrieval.settings import HNSW, IVF

VECTORS_PER_LIST = 64
"""Vectors a list that the clustering reads at most; faiss asks for 39 and more."""


class Shard(NamedTuple):
    """The embeddings of some documents."""

    documents_n: NDArray[np.int64]
    vectors_nd: NDArray[np.float32]


def read_shards_of_vectors(paths: Iterable[Path]) -> Iterator[Shard]:
    """Yield the shards of a dense index one after another, as float32."""
    for path in paths:
        tensors = load_file(path)
        yield Shard(tensors["documents"], tensors["vectors"].astype(np.float32))


def count_vectors(paths: Iterable[Path]) -> int:
    """Return how many vectors the shards have, by their headers alone."""
    total = 0
    for path in paths:
        with safe_open(path, framework="numpy") as shard:
            total += shard.get_slice("documents").get_shape()[0]
    return total


def build(settings: IVF | HNSW, paths: list[Path], total: int) -> Any:
    """Return a faiss index of the `total` vectors in shards `paths`, numbered in their order.

    Beside the index, two shards are in memory at most. With several threads HNSW's links depend on
    their timing. Raises RetrievalError for more lists than vectors.
    """
    first = next(read_shards_of_vectors(paths)).vectors_nd
    width = first.shape[1]
    index = (
        _graph(settings, width) if isinstance(settings, HNSW) else _lists(settings, width, total)
    )
    index.train(first[: VECTORS_PER_LIST * getattr(settings, "nlist", len(first))])
    for shard in read_shards_of_vectors(paths):
        index.add(shard.vectors_nd)
    return index


def _graph(settings: HNSW, width: int) -> Any:
    index: Any = faiss.index_factory(width, f"HNSW{settings.m},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = settings.ef_construction
    return index


def _lists(settings: IVF, width: int, total: int) -> Any:
    if settings.nlist > total:
        raise RetrievalError(
            f"index ivf: nlist {settings.nlist} exceeds the {total} documents; lower nlist"
        )
    index: Any = faiss.index_factory(width, f"IVF{settings.nlist},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = settings.seed
    index.cp.min_points_per_centroid = 1
    return index


def propose(index: Any, settings: IVF | HNSW, queries_qd: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the numbers of the vectors nearest to each query, (queries, neighbours).

    -1 stands where the search found no more.
    """
    neighbours = min(settings.neighbours, index.ntotal)
    if isinstance(settings, HNSW):
        index.hnsw.efSearch = max(settings.ef_search, neighbours)
    else:
        index.nprobe = settings.nprobe
    return index.search(queries_qd, neighbours)[1]


def recall(index: Any, settings: IVF | HNSW, paths: list[Path]) -> float:
    """Return the share of some documents' exact nearest neighbours that the index proposes.

    One shard and its scores are in memory at a time.
    """
    rng = np.random.default_rng(settings.seed)
    some_q = np.sort(rng.permutation(index.ntotal)[: settings.recall_queries])
    queries_qd = _vectors_at(paths, some_q)
    proposed_qk = propose(index, settings, queries_qd)
    nearest_qk = _nearest(paths, queries_qd, proposed_qk.shape[1])
    found = sum(len(np.intersect1d(a, b)) for a, b in zip(proposed_qk, nearest_qk, strict=True))
    return found / nearest_qk.size


def _nearest(paths: list[Path], queries_qd: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Return the places of the k vectors of largest product with each query, (queries, k).

    Of equal products the first counts.
    """
    best_qk = np.empty((len(queries_qd), 0), np.float32)
    places_qk = np.empty((len(queries_qd), 0), np.int64)
    start = 0
    for shard in read_shards_of_vectors(paths):
        scores_qn = queries_qd @ shard.vectors_nd.T
        end = start + scores_qn.shape[1]
        places_qn = np.broadcast_to(np.arange(start, end), scores_qn.shape)
        both_qn = np.concatenate([best_qk, scores_qn], axis=1)
        order_qk = np.argsort(-both_qn, axis=1, kind="stable")[:, :k]
        best_qk = np.take_along_axis(both_qn, order_qk, 1)
        places_qk = np.take_along_axis(np.concatenate([places_qk, places_qn], 1), order_qk, 1)
        start = end
    return places_qk


def _vectors_at(paths: list[Path], places_q: NDArray[np.int64]) -> NDArray[np.float32]:
    rows, start = [], 0
    for shard in read_shards_of_vectors(paths):
        end = start + len(shard.documents_n)
        here = places_q[(places_q >= start) & (places_q < end)] - start
        rows.append(shard.vectors_nd[here])
        start = end
    return np.concatenate(rows)
