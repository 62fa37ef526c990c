"""Dense retrieval: embeddings of documents in shards on disk, searched one after another.

An exact search holds one shard and a score for each seed and document: for 8 million documents of
width 768, 32 seeds and shards of 100,000 that is 0.5 GB of vectors (as stored, and as float32) and
1.0 GB of scores, where an index of all vectors in memory would be 25 GB. Indexing holds the texts
of a shard and its vectors. The shards are float16, 12.3 GB on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from saeflow.artifacts import (
    MANIFEST,
    ArtifactError,
    Clock,
    atomic_path,
    begin,
    clear_folder,
    file_digest,
    is_unchanged,
    read_manifest,
    rebuild_command,
    write_json,
    write_manifest,
)
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress, say
from saeflow.retrieval.encoders import (
    ENCODERS,
    Encoder,
    encoder_files,
    fit_encoder,
    load_encoder,
)
from saeflow.retrieval.index import build, count_vectors, propose, read_shards_of_vectors, recall
from saeflow.retrieval.ranking import Scores, joined
from saeflow.retrieval.reading import (
    Part,
    RetrievalError,
    read_ids,
    read_shards,
    read_split,
)
from saeflow.retrieval.settings import Dense, Flat

PARTIAL = "partial.json"
NEIGHBOURS = "neighbours.faiss"
BLOCK_TEXTS = 2048
"""Texts embedded between two lines of progress, and sorted by length for that."""


def index_dense(
    settings: Dense, corpus: Path, out: Path, *, root: Path = Path(), device: str = "cpu"
) -> None:
    """Write the dense index of the train split of `corpus` into folder `out`.

    `root` is what an encoder's folder is relative to. A killed run goes on after the last shard
    that it wrote, if settings, corpus, encoder and code are the same. Raises RetrievalError for a
    corpus without training documents.
    """
    clock = Clock()
    read_manifest(corpus, kind="corpus")
    total = len(read_ids(corpus, "train"))
    if not total:
        raise RetrievalError(f"{corpus} has no training documents to index")
    code = fingerprint(__name__, ENCODERS[settings.encoder.kind])
    model = {path.name: file_digest(path) for path in encoder_files(settings.encoder, root)}
    _resume(out, {"settings": settings.model_dump(mode="json"), "code": code, "encoder": model,
                  "corpus": file_digest(corpus / MANIFEST)})  # fmt: skip
    texts = (text for part in read_split(corpus, "train") for text in part.texts)
    encoder = fit_encoder(settings.encoder, texts, out, root=root, device=device)
    files = _write_shards(settings, encoder, corpus, out, total)
    stats: dict[str, Any] = {"documents": total, "width": encoder.width, "shards": len(files)}
    if not isinstance(settings.index, Flat):
        stats["recall"] = _write_neighbours(settings, [out / name for name in files], out, total)
        files.append(NEIGHBOURS)
    (out / PARTIAL).unlink()
    write_manifest(
        out,
        kind="index",
        settings={"kind": "dense", **settings.model_dump(mode="json")},
        files=[*files, *encoder.files],
        inputs={"corpus": corpus, **encoder.inputs},
        stats=stats,
        device=device,
        code=code,
        clock=clock,
    )


def _resume(out: Path, identity: dict[str, Any]) -> None:
    """Keep what a run of the same identity left in `out`, and clear anything else."""
    begin(out)
    partial = out / PARTIAL
    if not partial.is_file() or json.loads(partial.read_text()) != identity:
        clear_folder(out)
        write_json(partial, identity)


def _write_shards(
    settings: Dense, encoder: Encoder, corpus: Path, out: Path, total: int
) -> list[str]:
    files = []
    with Progress(total, "documents", "embedding") as progress:
        for number, part in enumerate(read_shards(corpus, "train", settings.shard_documents)):
            files.append(f"embeddings-{number:05d}.safetensors")
            if (out / files[-1]).is_file():
                progress.update(len(part.texts))
            else:
                _write_shard(encoder, part, out / files[-1], progress)
    return files


def _write_shard(encoder: Encoder, part: Part, path: Path, progress: Progress) -> None:
    vectors_nd = np.empty((len(part.texts), encoder.width), np.float16)
    for start in range(0, len(part.texts), BLOCK_TEXTS):
        block = part.texts[start : start + BLOCK_TEXTS]
        with np.errstate(over="ignore"):
            vectors_nd[start : start + len(block)] = encoder.encode(block)
        progress.update(len(block))
    if not np.isfinite(vectors_nd).all():
        raise RetrievalError(f"{path}: an embedding is not finite in float16; use another encoder")
    with atomic_path(path) as temporary:
        save_file({"documents": part.documents_n, "vectors": vectors_nd}, temporary)


def _write_neighbours(
    settings: Dense, paths: list[Path], out: Path, total: int
) -> dict[str, float]:
    assert not isinstance(settings.index, Flat)
    index = build(settings.index, paths, total)
    found = recall(index, settings.index, paths)
    at = min(settings.index.neighbours, total)
    say(f"{settings.index.kind}: recall at {at:,} neighbours against exact search {found:.3f}")
    with atomic_path(out / NEIGHBOURS) as path:
        faiss.write_index(index, str(path))
    return {"at": at, "value": found}


class DenseIndex:
    """A finished index in folder `folder`, whose manifest is `manifest`.

    Raises ArtifactError for an encoder that has changed since, or that has another width than the
    index.
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], *, root: Path = Path(), device: str = "cpu"
    ) -> None:
        known = {key: value for key, value in manifest["settings"].items() if key != "kind"}
        self.settings = Dense.model_validate(known)
        self.folder, self.manifest = folder, manifest
        self.paths = sorted(folder.glob("embeddings-*.safetensors"))
        self.encoder = load_encoder(self.settings.encoder, folder, root=root, device=device)
        width = manifest["stats"]["width"]
        if self.encoder.width != width:
            raise ArtifactError(
                f"{folder} has vectors of width {width}, its encoder makes {self.encoder.width}: "
                f"they are not of one model; rebuild the index with: {rebuild_command(folder)}"
            )
        for name, path in self.encoder.inputs.items():
            if name not in manifest["inputs"] or not is_unchanged(path, manifest["inputs"][name]):
                raise ArtifactError(
                    f"{path} changed after {folder} was made with it; rebuild the index with: "
                    f"{rebuild_command(folder)}"
                )

    def score(self, texts: Sequence[str]) -> Scores:
        """Return the dot product of each text with every document, or with the proposed ones."""
        queries_qd = self.encoder.encode(texts)
        return score_shards(self.paths, queries_qd, self._proposed(queries_qd))

    def _proposed(self, queries_qd: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        """Return which documents some query's approximate neighbours are; None: all."""
        if isinstance(self.settings.index, Flat):
            return None
        path = self.folder / NEIGHBOURS
        if file_digest(path) != self.manifest["files"][NEIGHBOURS]["sha256"]:
            raise ArtifactError(
                f"{path} does not have the hash of its manifest; rebuild the index with: "
                f"{rebuild_command(self.folder)}"
            )
        found_qk = propose(faiss.read_index(str(path)), self.settings.index, queries_qd)
        proposed_n = np.zeros(self.manifest["stats"]["documents"], bool)
        proposed_n[found_qk[found_qk >= 0]] = True
        return proposed_n


def score_shards(
    paths: Sequence[Path],
    queries_qd: NDArray[np.float32],
    proposed_n: NDArray[np.bool_] | None = None,
) -> Scores:
    """Return the dot products of queries with the vectors in shards `paths`, one shard at a time.

    With `proposed_n`, which says so of each vector in the shards' order, of the proposed alone.
    """

    def parts() -> Iterator[Scores]:
        start = 0
        for documents_n, vectors_nd in read_shards_of_vectors(paths):
            end = start + len(documents_n)
            here_n = slice(None) if proposed_n is None else proposed_n[start:end]
            yield Scores(documents_n[here_n], queries_qd @ vectors_nd[here_n].T)
            start = end

    total = count_vectors(paths) if proposed_n is None else int(proposed_n.sum())
    return joined(parts(), len(queries_qd), total)
