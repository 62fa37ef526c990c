"""The few documents that say what a domain is, and what must not be among them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from saeflow.corpora.spool import Row
from saeflow.corpora.text import duplicate_key, integer_of
from saeflow.retrieval.reading import (
    RetrievalError,
    read_ids,
    read_label,
    read_rows,
    read_split,
)
from saeflow.retrieval.settings import Seeds

EVALUATION_SPLIT = "test"


def draw_seeds(settings: Seeds, domain: Path, evaluated: Collection[int]) -> list[Row]:
    """Return the seeds of the corpus `domain`, in the order of the draw.

    `evaluated` has the hashes of the split that is evaluated on (`keys_of_split`). Raises
    RetrievalError if the split has fewer documents (with the label, where one is given) than asked
    for, or if a seed is among those.
    """
    values = values_by_document(settings, domain)
    available = [*read_ids(domain, settings.split)] if settings.by is None else [*values]
    if len(available) < settings.documents:
        label = "" if settings.by is None else f" with the label {settings.by!r}"
        raise RetrievalError(
            f"{domain}: seeds.documents {settings.documents} exceeds the {len(available)} "
            f"documents{label} of its {settings.split} split; lower it, or widen the domain"
        )
    rng = np.random.default_rng(settings.seed)
    order, wanted = rng.permutation(available).tolist(), settings.documents
    drawn = order[:wanted] if settings.by is None else _spread(order, values, wanted, rng)
    rows = read_rows(domain, drawn)
    seeds = [rows[document] for document in drawn]
    leaked = [seed.name for seed in seeds if key_of(seed.text) in evaluated]
    if leaked:
        raise RetrievalError(
            f"{domain}: {len(leaked)} of {len(seeds)} seeds equal a document of its "
            f"{EVALUATION_SPLIT} split ({', '.join(leaked[:3])}): SAEs would be compared on what "
            "they were selected by; draw other seeds, or drop duplicates from the corpus "
            "(`duplicates: letters`)"
        )
    return seeds


def values_by_document(settings: Seeds, domain: Path) -> dict[int, tuple[str, ...]]:
    """Return the values of the label `by`, by document of the split that has any."""
    if settings.by is None:
        return {}
    said = read_label(domain, settings.split, settings.by)
    values = {document: _values(text) for document, text in said.items()}
    return {document: found for document, found in values.items() if found}


def _values(text: str) -> tuple[str, ...]:
    parts = (part.partition(":")[0].strip() for part in text.split(";"))
    return tuple(dict.fromkeys(filter(None, parts)))


def _spread(
    order: Sequence[int],
    values: Mapping[int, tuple[str, ...]],
    documents: int,
    rng: np.random.Generator,
) -> list[int]:
    """Return the documents drawn: each time the next in `order` of a value that has fewest.

    Values with equally many come in an order that is drawn, too.
    """
    waiting: dict[str, list[int]] = {value: [] for found in values.values() for value in found}
    for document in reversed(order):
        for value in values[document]:
            waiting[value].append(document)
    held = dict.fromkeys(rng.permutation(sorted(waiting)).tolist(), 0)
    drawn: dict[int, None] = {}
    while len(drawn) < documents:
        document = waiting[min((v for v in held if waiting[v]), key=lambda v: held[v])].pop()
        if document not in drawn:
            drawn[document] = None
            held.update({value: held[value] + 1 for value in values[document]})
    return list(drawn)


def count_values(settings: Seeds, domain: Path, seeds: Sequence[Row]) -> dict[str, dict[str, int]]:
    """Return `seed_values`: how many seeds have each value of the label `by`; nothing without."""
    if settings.by is None:
        return {}
    values = values_by_document(settings, domain)
    counts = {value: 0 for found in values.values() for value in found}
    for seed in seeds:
        counts.update({value: counts[value] + 1 for value in values[seed.document]})
    return {"seed_values": dict(sorted(counts.items()))}


def key_of(text: str) -> int:
    """Return a hash that texts share if they agree in their letters."""
    return integer_of(duplicate_key(text, "letters"), "group")


def keys_of_split(corpus: Path, split: str) -> set[int]:
    """Return the hashes of the documents of a split."""
    return {key_of(text) for part in read_split(corpus, split) for text in part.texts}
