"""Cases of retrieval's keys: indexes and selections of a small world of four topics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import faiss
import pyarrow.parquet as pq
from keys_case import Case, Result, Stage, watched
from retrieval_planted import documents, write_bert, write_corpus, write_tokens

from saeflow.artifacts import read_manifest
from saeflow.retrieval.bm25 import BM25Index, index_bm25
from saeflow.retrieval.dense import DenseIndex, index_dense
from saeflow.retrieval.select import select_documents
from saeflow.retrieval.settings import Retrieval, Selection

REVISIONS = ("0" * 40, "1" * 40)
HUB = [("owner/name", REVISIONS[0]), ("owner/name", REVISIONS[1]), ("owner/other", REVISIONS[0])]
QUERIES = [
    "the physicsaa physicsaa physicsab commona array",
    "graphsaa graphsbb commonb commonc",
    "framesaa tensorsbb",
]
WITH_THE = [r._replace(text=f"{r.text} the arrays of") for r in documents(40, seed=5)]


ROWS = sorted([*documents(), *WITH_THE])


def prepare(world: Path) -> None:
    """Write the corpus that is indexed."""
    write_corpus(world / "general", ROWS)


def prepare_encoders(world: Path) -> None:
    """Write encoders besides, and stand-ins for those on the hub."""
    prepare(world)
    for seed, folder in enumerate(("bert", "other_bert", *(f"{m}/{r}" for m, r in HUB))):
        write_bert(world / folder, seed)


def prepare_selection(world: Path) -> None:
    """Write what is selected from: corpora, tokens and indexes."""
    for name, some in (("general", ROWS), ("other", documents(seed=1))):
        write_corpus(world / name, some)
        write_tokens(world / f"one-{name}", some)
        write_tokens(world / f"two-{name}", some, per_word=2)
        index_bm25(Retrieval().bm25, world / name, world / f"index-{name}-bm25")
        for index, dimensions in (("lsa", 8), ("small", 3)):
            dense = dense_of({"kind": "lsa", "dimensions": dimensions})
            index_dense(dense, world / name, world / f"index-{name}-{index}")
    for topic in ("physics", "graphs"):
        of_topic = [r for r in ROWS if r.domain == topic]
        labels = [
            json.dumps({"length": "short" if len(r.text) < 200 else "long"}) for r in of_topic
        ]
        labelled = [r._replace(labels=said) for r, said in zip(of_topic, labels, strict=True)]
        write_corpus(world / topic, labelled)


def dense_of(encoder: dict[str, Any], **more: Any) -> Any:
    return Retrieval.model_validate({"dense": {"d": {"encoder": encoder, **more}}}).dense["d"]


def run_bm25(settings: Retrieval, world: Path, out: Path) -> Result:
    index_bm25(settings.bm25, world / "general", out)
    manifest = read_manifest(out, kind="index")
    found = BM25Index(out, manifest).score(QUERIES)
    shutil.rmtree(out)
    return {"scores": found.values_qn.tolist(), "shards": manifest["stats"]["shards"]}


def run_dense(settings: Retrieval, world: Path, out: Path) -> Result:
    from transformers import AutoModel, AutoTokenizer

    faiss.omp_set_num_threads(1)  # of several, HNSW's links depend on their timing
    real = {"AutoModel": AutoModel.from_pretrained, "AutoTokenizer": AutoTokenizer.from_pretrained}

    def stand_in(name: str) -> Any:
        def from_pretrained(*, revision: str | None = None, **how: Any) -> Any:
            place = how.pop("pretrained_model_name_or_path")
            return real[name](world / place / revision if revision else place, **how)

        return patch(f"transformers.{name}.from_pretrained", from_pretrained)

    with (
        stand_in("AutoModel"),
        stand_in("AutoTokenizer"),
        watched("saeflow.retrieval.huggingface.mean_pooled") as passes,
    ):
        index_dense(settings.dense["d"], world / "general", out, root=world)
        manifest = read_manifest(out, kind="index")
        found = DenseIndex(out, manifest, root=world).score(QUERIES)
    shutil.rmtree(out)
    return {
        "scores": found.values_qn.tolist(),
        "proposed": found.documents_n.tolist(),
        "recall": json.dumps(manifest["stats"].get("recall")),
        "shards": manifest["stats"]["shards"],
        "width": manifest["stats"]["width"],
        "largest pass": max((len(hidden_btd) for hidden_btd, _ in passes), default=0),
    }


def run_selection(settings: Selection, world: Path, out: Path) -> Result:
    tracin = {}
    if settings.tracin is not None:  # its own keys have their own stage
        tracin = {"rerank": lambda candidates, seeds: [len(row.text) for row in candidates]}
    select_documents(
        settings,
        general=world / settings.corpus,
        domain=world / settings.domain,
        tokens=world / f"{settings.subject}-{settings.corpus}",
        index=world / f"index-{settings.corpus}-{settings.index}" if settings.index else None,
        out=out,
        **tracin,
    )
    stats = read_manifest(out, kind="corpus")["stats"]
    selection = pq.read_table(out / "selection.parquet").to_pandas()
    shutil.rmtree(out)
    return {
        "documents": selection.document.tolist(),
        "tokens": selection.tokens.tolist(),
        "method": selection.method.tolist(),
        "seeds": json.dumps(stats["seeds"]),
    }


def dense(encoder: dict[str, Any], cases: dict[str, Case], **index: Any) -> Stage:
    settings = {"dense": {"d": {"encoder": encoder, **({"index": index} if index else {})}}}
    placed = {key: case._replace(path=f"dense.d.{case.path}") for key, case in cases.items()}
    for key, case in placed.items():
        base = {f"dense.d.{path}": value for path, value in case.base.items()}
        placed[key] = case._replace(base=base)
    return Stage(Retrieval.model_validate, settings, run_dense, placed, prepare_encoders)


LSA = {"kind": "lsa", "dimensions": 8}
BERT = {"kind": "huggingface", "folder": "bert", "max_tokens": 32}
FROM_HUB = {"encoder.folder": None, "encoder.model": HUB[0][0], "encoder.revision": HUB[0][1]}
TRACIN = {"site": "s", "sae": {"variant": "v", "corpus": "c", "d_sae": 8, "l0": 2}}
STAGES = {
    "bm25": Stage(
        Retrieval.model_validate,
        {},
        run_bm25,
        {
            "BM25.k1": Case("bm25.k1", 3.0, "scores"),
            "BM25.b": Case("bm25.b", 0.0, "scores"),
            "BM25.method": Case("bm25.method", "atire", "scores"),
            "BM25.shard_documents": Case("bm25.shard_documents", 50, "shards"),
            "Words.pattern": Case("bm25.words.pattern", r"[a-z]{9,}", "scores"),
            "Words.stop_words": Case("bm25.words.stop_words", "none", "scores"),
            "Words.stemming": Case("bm25.words.stemming", "plural", "scores"),
        },
        prepare,
    ),
    "lsa": dense(
        LSA,
        {
            "LSA.dimensions": Case("encoder.dimensions", 5, "width"),
            "LSA.max_terms": Case("encoder.max_terms", 40, "scores"),
            "LSA.min_documents": Case("encoder.min_documents", 20, "scores"),
            "LSA.sublinear": Case("encoder.sublinear", False, "scores"),
            "LSA.fit_documents": Case("encoder.fit_documents", 60, "scores"),
            "LSA.seed": Case("encoder.seed", 1, "scores"),
            "Dense.encoder": Case("encoder", BERT, "scores"),
            "Dense.index": Case("index", {"kind": "ivf", "nlist": 4, "nprobe": 1}, "proposed"),
            "Dense.shard_documents": Case("shard_documents", 50, "shards"),
        },
    ),
    "huggingface": dense(
        BERT,
        {
            "HuggingFace.folder": Case("encoder.folder", "other_bert", "scores"),
            "HuggingFace.model": Case("encoder.model", HUB[2][0], "scores", FROM_HUB),
            "HuggingFace.revision": Case("encoder.revision", HUB[1][1], "scores", FROM_HUB),
            "HuggingFace.max_tokens": Case("encoder.max_tokens", 4, "scores"),
            "HuggingFace.batch": Case("encoder.batch", 5, "largest pass"),
            "HuggingFace.normalise": Case("encoder.normalise", True, "scores"),
        },
    ),
    "ivf": dense(
        LSA,
        {
            "IVF.nlist": Case("index.nlist", 20, "proposed"),
            "IVF.nprobe": Case("index.nprobe", 3, "proposed"),
            "IVF.neighbours": Case("index.neighbours", 5, "proposed"),
            "IVF.recall_queries": Case("index.recall_queries", 3, "recall"),
            "IVF.seed": Case("index.seed", 1, "recall"),
        },
        kind="ivf", nlist=10, nprobe=1, neighbours=40,
    ),
    "hnsw": dense(
        LSA,
        {
            "HNSW.m": Case("index.m", 4, "recall"),
            "HNSW.ef_construction": Case("index.ef_construction", 40, "recall"),
            "HNSW.ef_search": Case("index.ef_search", 60, "recall"),
            "HNSW.neighbours": Case("index.neighbours", 5, "proposed"),
            "HNSW.recall_queries": Case("index.recall_queries", 3, "recall"),
            "HNSW.seed": Case("index.seed", 1, "recall"),
        },
        kind="hnsw", m=2, ef_construction=2, ef_search=1, neighbours=3,
    ),
    "selection": Stage(
        Selection.model_validate,
        {
            "source": "selection",
            "corpus": "general",
            "domain": "physics",
            "subject": "one",
            "method": "bm25",
            "tokens": 400,
            "seeds": {"documents": 5},
        },
        run_selection,
        {
            "Selection.corpus": Case("corpus", "other", "documents"),
            "Selection.domain": Case("domain", "graphs", "documents"),
            "Selection.subject": Case("subject", "two", "tokens"),
            "Selection.method": Case("method", "random", "documents"),
            "Selection.dense": Case(
                "dense", "small", "documents", {"method": "dense", "dense": "lsa"}
            ),
            "Selection.tokens": Case("tokens", 600, "documents"),
            "Selection.combine": Case("combine", "best_rank", "documents"),
            "Selection.tracin": Case("tracin", TRACIN, "documents"),
            "TracIn.candidates": Case("tracin.candidates", 1, "documents", {"tracin": TRACIN}),
            "Selection.seed": Case("seed", 1, "documents", {"method": "random"}),
            "Seeds.documents": Case("seeds.documents", 8, "documents"),
            "Seeds.split": Case("seeds.split", "train", "seeds"),
            "Seeds.by": Case("seeds.by", "length", "seeds"),
            "Seeds.seed": Case("seeds.seed", 1, "seeds"),
        },
        prepare_selection,
    ),
}  # fmt: skip
