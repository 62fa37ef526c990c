"""The first stage of a selection: all candidates of a method, best first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from saeflow.artifacts import MANIFEST, ArtifactError, is_unchanged, read_manifest, rebuild_command
from saeflow.corpora.spool import Row
from saeflow.retrieval.encoders import ENCODERS
from saeflow.retrieval.ranking import Scores, combine, ranked
from saeflow.retrieval.reading import read_ids
from saeflow.retrieval.settings import Selection


class Index(Protocol):
    """A finished index of a corpus's train split."""

    def score(self, texts: Sequence[str]) -> Scores:
        """Return how well documents answer each text."""
        ...


def index_modules(kind: str, encoder: str | None = None) -> tuple[str, ...]:
    """Return the modules that search an index: of `kind` bm25 or dense, with this encoder."""
    return (f"saeflow.retrieval.{kind}", *([ENCODERS[encoder]] if encoder else []))


def modules_of(index: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the modules that search the index with this manifest; none without an index."""
    if index is None:
        return ()
    return index_modules(
        index["settings"]["kind"], index["settings"].get("encoder", {}).get("kind")
    )


def check_index(settings: Selection, index: Path | None, general: Path) -> dict[str, Any] | None:
    """Return the manifest of the index that `settings` searches, or None if they search none.

    Raises ValueError for an index that the method does not search, or none where it does;
    ArtifactError for one that is damaged or of another corpus than `general` is now.
    """
    if (index is not None) != settings.retrieves:
        raise ValueError(f"method {settings.method!r} searches {settings.index}; given: {index}")
    if index is None:
        return None
    manifest = read_manifest(index, kind="index")
    if manifest["settings"]["kind"] != settings.method:
        raise ValueError(
            f"{index} is a {manifest['settings']['kind']} index; method {settings.method!r} cannot "
            "search it"
        )
    if not is_unchanged(general / MANIFEST, manifest["inputs"]["corpus"]):
        raise ArtifactError(
            f"{index} is not an index of {general} as it is now; rebuild it with: "
            f"{rebuild_command(index)}"
        )
    return manifest


def open_index(folder: Path, manifest: dict[str, Any], *, root: Path, device: str) -> Index:
    """Return the index in `folder`, ready to be searched; `root` is where its encoder may lie."""
    if manifest["settings"]["kind"] == "bm25":
        from saeflow.retrieval.bm25 import BM25Index

        return BM25Index(folder, manifest)
    from saeflow.retrieval.dense import DenseIndex

    return DenseIndex(folder, manifest, root=root, device=device)


def rank_candidates(
    settings: Selection,
    seeds: Sequence[Row],
    *,
    general: Path,
    domain: Path,
    index: Index | None = None,
) -> pd.DataFrame:
    """Return `document` and `score` of every candidate of the method, best first.

    Methods that do not retrieve score by a random draw. A document without a term in common with
    any seed is no candidate of BM25.
    """
    if settings.method == "seeds":
        ids_n = np.array([seed.document for seed in seeds])
        return pd.DataFrame({"document": ids_n, "score": np.linspace(1, 0, len(ids_n))})
    if index is None:
        ids_n = read_ids(domain if settings.method == "domain" else general, "train")
        return ranked(ids_n, np.random.default_rng(settings.seed or 0).random(len(ids_n)))
    found = index.score([seed.text for seed in seeds])
    by_terms = settings.method == "bm25"
    score_n = combine(found.values_qn, settings.combination, zero_is_no_answer=by_terms)
    if by_terms:
        some_n = (found.values_qn > 0).any(0)
        return ranked(found.documents_n[some_n], score_n[some_n])
    return ranked(found.documents_n, score_n)
