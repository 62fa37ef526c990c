"""Domains: documents of packages, whose subpackages more specific latents may stand for.

A document counts with one token, the last of its first `context` ones. Absorption is about single
activations, in which a latent is silent or is not, so that a mean over tokens will not do; and by
that token the subject has read most of the document, so that it tells the package best.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.corpora.documents import DOCUMENTS
from saeflow.evaluation.absorption_rows import Place
from saeflow.evaluation.absorption_settings import Domains
from saeflow.evaluation.labelled_text import TEST, TRAIN, read_documents
from saeflow.subjects.load import Subject


def domain_places(settings: Domains, corpus: Path, subject: Subject) -> list[Place]:
    """Return the first documents of a corpus, cut where they are read; those of test are held out.

    The corpus's order is random, so that the first ones are a sample. Raises ArtifactError for an
    unfinished corpus and one without documents in a split.
    """
    read_manifest(corpus, kind="corpus")
    table = pq.read_table(corpus / DOCUMENTS, columns=["split", "domain"])
    split = table["split"].to_numpy()
    wanted = {TRAIN: settings.train_documents, TEST: settings.test_documents}
    found = {name: np.flatnonzero(split == name)[:n] for name, n in wanted.items()}
    if empty := [name for name, places in found.items() if not len(places)]:
        raise ArtifactError(f"{corpus}: split {empty[0]} has no documents")
    domains = {name: table["domain"].take(places).to_pylist() for name, places in found.items()}
    read = read_documents(corpus, found, subject, settings.context)
    return [
        Place(tokens, ".".join(domain.split(".")[: settings.depth]), domain, name == TEST)
        for name in found
        for tokens, domain in zip(read[name], domains[name], strict=True)
    ]
