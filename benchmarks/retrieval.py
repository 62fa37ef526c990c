"""Retrieval: building and searching indexes, in time and memory, with recall.

python benchmarks/retrieval.py [--vectors 1000000] [--width 256] [--documents 100000] [--json FILE]

Everything is synthetic. Vectors lie around centres, as embeddings of topics do; words follow Zipf's
law. Each index is built and searched by saeflow's own functions in a process of its own, whose
peak memory is the process's largest resident size, libraries included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import bm25s
import faiss
import numpy as np
from safetensors.numpy import save_file

from saeflow.retrieval.dense import score_shards
from saeflow.retrieval.index import build, propose, recall
from saeflow.retrieval.settings import HNSW, IVF

SPREAD = 0.5
SHARD = 100_000
QUERIES, NEIGHBOURS = 32, 1000
DOCUMENT_WORDS, QUERY_WORDS, VOCABULARY = 100, 10, 50_000
COMMON_LEFT_OUT = 30
"""Zipf's law from the word of this rank on: stop words are not indexed."""


def write_vectors(folder: Path, total: int, width: int) -> list[Path]:
    """Write shards of vectors of length 1, each a centre and noise, as `index_dense` does.

    A centre has as many vectors as neighbours are searched.
    """
    rng = np.random.default_rng(0)
    centres = max(1, total // NEIGHBOURS)
    centres_cd = rng.standard_normal((centres, width), dtype=np.float32)
    paths = []
    for start in range(0, total, SHARD):
        n = min(SHARD, total - start)
        noise_nd = SPREAD * rng.standard_normal((n, width), dtype=np.float32)
        vectors_nd = centres_cd[rng.integers(centres, size=n)] + noise_nd
        vectors_nd /= np.linalg.norm(vectors_nd, axis=1, keepdims=True)
        paths.append(folder / f"embeddings-{len(paths):05d}.safetensors")
        ids_n = np.arange(start, start + n)
        save_file({"documents": ids_n, "vectors": vectors_nd.astype(np.float16)}, paths[-1])
    return paths


def queries_of(width: int) -> np.ndarray:
    """As many vectors as there are seeds, near centres of their own."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((QUERIES, width), dtype=np.float32) / width**0.5


def search_exactly(paths: list[Path], total: int, width: int) -> dict[str, float]:
    """Compare every vector with every query."""
    queries_qd = queries_of(width)
    started = time.perf_counter()
    found = score_shards(paths, queries_qd)
    seconds = time.perf_counter() - started
    assert found.values_qn.shape == (QUERIES, total)
    return {"build_seconds": 0.0, "queries_per_second": QUERIES / seconds, "recall": 1.0}


def search_ivf(paths: list[Path], total: int, width: int) -> dict[str, float]:
    """Inverted lists; their number follows the rule of thumb."""
    nlist = max(1, min(int(4 * total**0.5), total // 40))
    nprobe = max(1, nlist // 16)
    return _search(IVF(kind="ivf", nlist=nlist, nprobe=nprobe, neighbours=NEIGHBOURS), paths, total)


def search_hnsw(paths: list[Path], total: int, width: int) -> dict[str, float]:
    """The graph, at its defaults."""
    return _search(HNSW(kind="hnsw", neighbours=NEIGHBOURS), paths, total)


def _search(settings: IVF | HNSW, paths: list[Path], total: int) -> dict[str, float]:
    started = time.perf_counter()
    index = build(settings, paths, total)
    built = time.perf_counter() - started
    queries_qd = queries_of(index.d)
    started = time.perf_counter()
    propose(index, settings, queries_qd)
    seconds = time.perf_counter() - started
    peak = peak_mib()
    return {
        "build_seconds": built,
        "queries_per_second": QUERIES / seconds,
        "recall": recall(index, settings, paths),
        "peak_mib": peak,
    }


def search_words(backend: str, documents: int) -> dict[str, float]:
    """Top 100 of `documents` by bm25s, for queries of ten words."""
    rng = np.random.default_rng(0)
    shares_v = np.cumsum(1 / (np.arange(VOCABULARY) + COMMON_LEFT_OUT))
    shares_v /= shares_v[-1]
    words_nw = np.searchsorted(shares_v, rng.random((documents, DOCUMENT_WORDS)))
    queries_qw = np.searchsorted(shares_v, rng.random((256, QUERY_WORDS)))
    vocabulary = {str(i): i for i in range(VOCABULARY)}
    index = bm25s.BM25(backend=backend)
    started = time.perf_counter()
    index.index((words_nw.tolist(), vocabulary), create_empty_token=False, show_progress=False)
    built = time.perf_counter() - started
    queries = queries_qw.tolist()
    index.retrieve(queries[:2], k=100, show_progress=False)  # compiles
    started = time.perf_counter()
    index.retrieve(queries, k=100, show_progress=False)
    seconds = time.perf_counter() - started
    return {"build_seconds": built, "queries_per_second": len(queries) / seconds}


def peak_mib() -> float:
    """Largest resident size of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measured(measure: Callable[..., dict], arguments: tuple[Any, ...]) -> dict[str, float]:
    result = measure(*arguments)
    return {"peak_mib": peak_mib(), **result}


def alone(measure: Callable[..., dict], *arguments: Any) -> dict[str, float]:
    """Run `measure` in a fresh process and return its result and that process's peak memory."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_measured, measure, arguments).result()


def report(what: str, result: Mapping[str, float]) -> None:
    """Print one measurement."""
    numbers = "  ".join(f"{name.replace('_', ' ')} {value:,.3g}" for name, value in result.items())
    print(f"{what:34} {numbers}", flush=True)


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--skip", nargs="*", default=[], choices=["flat", "ivf", "hnsw", "bm25"])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    threads = faiss.omp_get_max_threads()
    print(f"{arguments.vectors:,} vectors of width {arguments.width}, {threads} threads")
    print(f"{QUERIES} queries, recall at {NEIGHBOURS:,} neighbours against exact search")
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_vectors(Path(folder), arguments.vectors, arguments.width)
        searches = {"flat": search_exactly, "ivf": search_ivf, "hnsw": search_hnsw}
        for name, search in searches.items():
            if name not in arguments.skip:
                results[name] = alone(search, paths, arguments.vectors, arguments.width)
                report(name, results[name])
    for backend in () if "bm25" in arguments.skip else ("numba", "numpy"):
        results[f"bm25 {backend}"] = alone(search_words, backend, arguments.documents)
        report(f"BM25, {backend}, {arguments.documents:,}", results[f"bm25 {backend}"])
    if arguments.json:
        size = {"vectors": arguments.vectors, "width": arguments.width, "threads": threads}
        arguments.json.write_text(json.dumps({**size, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
