"""BM25 over the documents of a corpus that may be trained on, by bm25s with compiled loops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from safetensors.numpy import load_file, save_file

from saeflow.artifacts import Clock, atomic_path, begin, read_manifest, write_json, write_manifest
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress
from saeflow.retrieval.ranking import Scores, joined
from saeflow.retrieval.reading import Part, RetrievalError, read_ids, read_shards
from saeflow.retrieval.settings import BM25
from saeflow.retrieval.words import splitter


def index_bm25(settings: BM25, corpus: Path, out: Path) -> None:
    """Write the BM25 index of the train split of `corpus` into folder `out`.

    Memory: one shard's terms and postings, 8 bytes a posting. Raises RetrievalError if no
    document has a term.
    """
    clock, out = Clock(), begin(out)
    read_manifest(corpus, kind="corpus")
    total = len(read_ids(corpus, "train"))
    terms_seen = postings = 0
    files: list[str] = []
    with Progress(total, "documents", "indexing for BM25") as progress:
        for number, part in enumerate(read_shards(corpus, "train", settings.shard_documents)):
            found = _write_shard(settings, part, out, number)
            terms_seen, postings = terms_seen + found[0], postings + found[1]
            files += [_postings(number), _terms(number)]
            progress.update(len(part.texts))
    if not postings:
        raise RetrievalError(
            f"{corpus}: no training document has a term that the pattern "
            f"{settings.words.pattern!r} finds; there is nothing to search"
        )
    write_manifest(
        out,
        kind="index",
        settings={"kind": "bm25", **settings.model_dump(mode="json")},
        files=files,
        inputs={"corpus": corpus},
        stats={"documents": total, "shards": len(files) // 2, "postings": postings},
        code=fingerprint(__name__),
        clock=clock,
    )


def _postings(number: int) -> str:
    return f"postings-{number:05d}.safetensors"


def _terms(number: int) -> str:
    return f"terms-{number:05d}.json"


def _write_shard(settings: BM25, part: Part, out: Path, number: int) -> tuple[int, int]:
    """Write one shard and return how many terms and postings it has."""
    split = splitter(settings.words)
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(t, len(vocabulary)) for t in split(text)] for text in part.texts]
    tensors = {"documents": part.documents_n}
    if vocabulary:
        scorer = _scorer(settings)
        scorer.index((ids, vocabulary), create_empty_token=False, show_progress=False)
        tensors |= {name: scorer.scores[name] for name in ("data", "indices", "indptr")}
    with atomic_path(out / _postings(number)) as path:
        save_file(tensors, path)
    write_json(out / _terms(number), list(vocabulary))
    return len(vocabulary), len(tensors.get("data", ()))


def _scorer(settings: BM25) -> bm25s.BM25:
    return bm25s.BM25(k1=settings.k1, b=settings.b, method=settings.method, backend="numba")


class BM25Index:
    """A finished index in folder `folder`, whose manifest is `manifest`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        known = {key: value for key, value in manifest["settings"].items() if key != "kind"}
        self.settings = BM25.model_validate(known)
        self.folder = folder
        self.shards = manifest["stats"]["shards"]
        self.documents = manifest["stats"]["documents"]

    def score(self, texts: Sequence[str]) -> Scores:
        """Return the score of every document against every text; no term in common scores 0."""
        split = splitter(self.settings.words)
        queries = [split(text) for text in texts]
        parts = (self._score_shard(number, queries) for number in range(self.shards))
        return joined(parts, len(queries), self.documents)

    def _score_shard(self, number: int, queries: Sequence[Sequence[str]]) -> Scores:
        tensors = load_file(self.folder / _postings(number))
        documents_n = tensors["documents"]
        values_qn = np.zeros((len(queries), len(documents_n)), np.float32)
        if "data" in tensors:
            scorer = _scorer(self.settings)
            scorer.scores = {name: tensors[name] for name in ("data", "indices", "indptr")}
            scorer.nonoccurrence_array = None  # a term that does not occur adds nothing
            scorer.scores["num_docs"] = len(documents_n)
            terms = json.loads((self.folder / _terms(number)).read_text())
            ids = {term: i for i, term in enumerate(terms)}
            for values_n, query in zip(values_qn, queries, strict=True):
                values_n[:] = scorer.get_scores_from_ids([ids[t] for t in query if t in ids])
        return Scores(documents_n, values_qn)
