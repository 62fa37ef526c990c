"""The few documents that say what a domain is, and what must not be among them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from saeflow.corpora.spool import Row
from saeflow.corpora.text import duplicate_key, integer_of
from saeflow.retrieval.reading import RetrievalError, read_ids, read_rows, read_split
from saeflow.retrieval.settings import Seeds

EVALUATION_SPLIT = "test"


def draw_seeds(settings: Seeds, domain: Path, evaluated: Collection[int]) -> list[Row]:
    """Return the seeds of the corpus `domain`, in the order of the draw.

    `evaluated` has the hashes of the split that is evaluated on (`keys_of_split`). Raises
    RetrievalError if the split has fewer documents than asked for, or if a seed is among those.
    """
    available = read_ids(domain, settings.split)
    if len(available) < settings.documents:
        raise RetrievalError(
            f"{domain}: seeds.documents {settings.documents} exceeds the {len(available)} "
            f"documents of its {settings.split} split; lower it, or widen the domain"
        )
    order = np.random.default_rng(settings.seed).permutation(available)
    rows = read_rows(domain, order[: settings.documents].tolist())
    seeds = [rows[document] for document in order[: settings.documents].tolist()]
    leaked = [seed.name for seed in seeds if key_of(seed.text) in evaluated]
    if leaked:
        raise RetrievalError(
            f"{domain}: {len(leaked)} of {len(seeds)} seeds equal a document of its "
            f"{EVALUATION_SPLIT} split ({', '.join(leaked[:3])}): SAEs would be compared on what "
            "they were selected by; draw other seeds, or drop duplicates from the corpus "
            "(`duplicates: letters`)"
        )
    return seeds


def key_of(text: str) -> int:
    """Return a hash that texts share if they agree in their letters."""
    return integer_of(duplicate_key(text, "letters"), "group")


def keys_of_split(corpus: Path, split: str) -> set[int]:
    """Return the hashes of the documents of a split."""
    return {key_of(text) for part in read_split(corpus, split) for text in part.texts}
