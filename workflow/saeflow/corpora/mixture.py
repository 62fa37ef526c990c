"""Source `mixture`: whole documents of several corpora, in given shares.

Documents keep id, labels and split. Which of a corpus are taken is drawn by a hash of the seed and
the document, so that documents that are added to a corpus later change little of the draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saeflow.artifacts import read_manifest
from saeflow.corpora.derived_settings import Mixture
from saeflow.corpora.documents import DOCUMENTS, CorpusError, Tally
from saeflow.corpora.domain import parent_rows
from saeflow.corpora.spool import Row
from saeflow.corpora.text import integer_of

_SPLITS = ("train", "validation", "test")
"""The later of two that a document has is the one that it keeps."""
_READ_ROWS = 2000


class _Part(NamedTuple):
    """The documents of one corpus, in its order."""

    document_n: NDArray[np.int64]
    split_n: NDArray[np.int64]
    """Place in `_SPLITS`."""
    chars_n: NDArray[np.int64]

    @property
    def train_chars(self) -> int:
        return int(self.chars_n[self.split_n == 0].sum())


def rows(settings: Mixture, parents: Mapping[str, Path], tally: Tally) -> Iterator[Row]:
    """Yield rows of the corpora, their folders in `parents`, so that the shares hold.

    A document that is in several corpora counts for the smallest of them; one that some corpus
    holds out is held out. The manifest's stats get `parts`: of each corpus its share as asked for
    and as achieved, and its documents. Raises CorpusError for a corpus without documents to train
    on that are in no smaller one, and ArtifactError for an unfinished one.
    """
    parts = _keep_once({name: _read(folder) for name, folder in parents.items()}, tally)
    for name, part in parts.items():
        if not part.train_chars:
            raise CorpusError(
                f"{parents[name]} has no document to train on that is in no smaller part: it "
                f"cannot make up {settings.parts[name]:.0%} of the mixture; take it out of parts"
            )
    size = min(part.train_chars / settings.parts[name] for name, part in parts.items())
    size = min(size, settings.max_train_chars or size)
    kept = {
        name: _draw(part, round(settings.parts[name] * size), settings.seed)
        for name, part in parts.items()
    }
    tally.facts["parts"] = _described(settings, parts, kept)
    for name, part in parts.items():
        tally.dropped["beyond its share"] += int((~kept[name]).sum())
        wanted = dict(zip(part.document_n[kept[name]], part.split_n[kept[name]], strict=True))
        for row in parent_rows(parents[name]):
            if row.document in wanted:
                yield row._replace(split=_SPLITS[wanted[row.document]])


def _read(folder: Path) -> _Part:
    """Return what a draw needs to know of a corpus; its texts are not held."""
    read_manifest(folder, kind="corpus")
    columns: dict[str, list[NDArray[np.int64]]] = {"document": [], "split": [], "text": []}
    with pq.ParquetFile(folder / DOCUMENTS) as file:
        for batch in file.iter_batches(_READ_ROWS, columns=[*columns]):
            columns["document"].append(batch["document"].to_numpy())
            columns["split"].append(np.array([_SPLITS.index(s.as_py()) for s in batch["split"]]))
            columns["text"].append(pc.utf8_length(batch["text"]).to_numpy())
    return _Part(*(np.concatenate(some) for some in columns.values()))


def _keep_once(parts: Mapping[str, _Part], tally: Tally) -> dict[str, _Part]:
    """Return the parts in the order of their size, each without what a smaller one has."""
    document_n = np.concatenate([part.document_n for part in parts.values()])
    split_n = np.concatenate([part.split_n for part in parts.values()])
    once, place_n = np.unique(document_n, return_inverse=True)
    held_out = np.zeros(len(once), dtype=np.int64)
    np.maximum.at(held_out, place_n, split_n)
    tally.dropped["in another part"] += len(document_n) - len(once)
    taken = np.zeros(len(once), dtype=bool)
    found = {}
    for name in sorted(parts, key=lambda name: (parts[name].train_chars, name)):
        part = parts[name]
        place_n = np.searchsorted(once, part.document_n)
        own_n = ~taken[place_n]
        taken[place_n] = True
        found[name] = _Part(part.document_n[own_n], held_out[place_n[own_n]], part.chars_n[own_n])
    return found


def _draw(part: _Part, train_chars: int, seed: int) -> NDArray[np.bool_]:
    """Return which documents (n,) are taken, so that those to train on have so many characters.

    They are the first in the order of their hashes, held-out ones up to the same hash.
    """
    hashes = [integer_of(f"{seed}/{document}", "mixture") for document in part.document_n.tolist()]
    order_n = np.argsort(hashes, kind="stable")
    chars_n = np.where(part.split_n == 0, part.chars_n, 0)[order_n]
    kept = np.empty(len(order_n), dtype=bool)
    # Up to the number that is nearest to what is asked for.
    kept[order_n] = np.cumsum(chars_n) - chars_n / 2 <= train_chars
    return kept


def _described(
    settings: Mixture, parts: Mapping[str, _Part], kept: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, Any]]:
    chars = {
        name: int(part.chars_n[kept[name] & (part.split_n == 0)].sum())
        for name, part in parts.items()
    }
    return {
        name: {
            "share": settings.parts[name],
            "achieved": chars[name] / sum(chars.values()),
            "documents": int(kept[name].sum()),
            "of_documents": len(kept[name]),
        }
        for name in settings.parts
    }
