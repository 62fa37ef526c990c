"""Latent semantic analysis: TF-IDF weights projected on their leading singular vectors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize
from sklearn.utils.extmath import randomized_svd

from saeflow.artifacts import atomic_path, write_json
from saeflow.progress import say
from saeflow.retrieval.reading import RetrievalError
from saeflow.retrieval.settings import LSA
from saeflow.retrieval.words import splitter

WEIGHTS, TERMS = "lsa.safetensors", "lsa-terms.json"
TRUNCATED_SVD_ITERATIONS = 5


class LSAEncoder:
    """A fitted model; vectors have length 1, or 0 for a text without a known term."""

    files = (WEIGHTS, TERMS)

    def __init__(
        self, settings: LSA, terms: list[str], idf_t: NDArray, directions_td: NDArray
    ) -> None:
        self.settings = settings
        self.terms = terms
        self.idf_t = idf_t
        self.directions_td = directions_td
        self.inputs: dict[str, Path] = {}

    @property
    def width(self) -> int:
        """Entries of a vector."""
        return self.directions_td.shape[1]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, (texts, width)."""
        counter = CountVectorizer(
            analyzer=splitter(self.settings.words), vocabulary=self.terms, dtype=np.float32
        )
        weights_nt = _weigh(counter.transform(texts), self.idf_t, self.settings.sublinear)
        return normalize(weights_nt @ self.directions_td)


def _weigh(counts_nt: csr_matrix, idf_t: NDArray, sublinear: bool) -> csr_matrix:
    weights_nt = counts_nt.tocsr()
    if sublinear:
        weights_nt.data = 1 + np.log(weights_nt.data)
    weights_nt.data = weights_nt.data * idf_t[weights_nt.indices]
    return normalize(weights_nt)


def fit(settings: LSA, texts: Iterable[str], out: Path, root: Path, device: str) -> LSAEncoder:
    """Fit the model to the first `fit_documents` of `texts` and write it into `out`.

    Raises RetrievalError if they have too few terms for the dimensions.
    """
    if all((out / name).is_file() for name in LSAEncoder.files):
        return load(settings, out, root, device)
    sample = list(islice(texts, settings.fit_documents))
    say(f"fitting {settings.dimensions} dimensions to {len(sample):,} documents")
    counter = CountVectorizer(
        analyzer=splitter(settings.words), max_features=settings.max_terms, dtype=np.float32,
        min_df=min(settings.min_documents, len(sample)),
    )  # fmt: skip
    try:
        counts_nt = counter.fit_transform(sample)
    except ValueError as error:
        raise RetrievalError(
            f"LSA: no term is in {settings.min_documents} of {len(sample)} documents ({error}); "
            "lower min_documents, or fit to more documents"
        ) from error
    if min(counts_nt.shape) <= settings.dimensions:
        raise RetrievalError(
            f"LSA: {settings.dimensions} dimensions need more documents and terms than the "
            f"{counts_nt.shape[0]} and {counts_nt.shape[1]} that it is fitted to; lower dimensions"
        )
    frequency_t = np.bincount(counts_nt.indices, minlength=counts_nt.shape[1])
    idf_t = (np.log((1 + len(sample)) / (1 + frequency_t)) + 1).astype(np.float32)
    weights_nt = _weigh(counts_nt, idf_t, settings.sublinear)
    _, _, directions_dt = randomized_svd(
        weights_nt,
        settings.dimensions,
        n_iter=TRUNCATED_SVD_ITERATIONS,
        random_state=settings.seed,
    )
    terms = counter.get_feature_names_out().tolist()
    directions_td = np.ascontiguousarray(directions_dt.T, dtype=np.float32)
    with atomic_path(out / WEIGHTS) as path:
        save_file({"idf": idf_t, "directions": directions_td}, path)
    write_json(out / TERMS, terms)
    return LSAEncoder(settings, terms, idf_t, directions_td)


def load(settings: LSA, folder: Path, root: Path, device: str) -> LSAEncoder:
    """Read the model that `fit` wrote; it runs on the CPU and needs no `root`."""
    tensors = load_file(folder / WEIGHTS)
    terms = json.loads((folder / TERMS).read_text())
    return LSAEncoder(settings, terms, tensors["idf"], tensors["directions"])
