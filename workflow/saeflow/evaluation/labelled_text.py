"""Documents with known attributes: found in a corpus, in equal numbers, as the subject reads them.

Documents come in the order of the corpus, which is that of a hash of their text, so that the first
ones are a sample. Those of the train split are what probes learn on (the subject and the SAEs may
have seen them too); those of the test split are what they are judged on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saeflow.artifacts import read_manifest
from saeflow.corpora.documents import DOCUMENTS
from saeflow.evaluation.labelled_text_settings import (
    Attribute,
    LabelledClasses,
    LabelledPair,
    LabelledTextSettings,
)
from saeflow.subjects.load import Subject

TRAIN, TEST = "train", "test"
_READ_DOCUMENTS = 4096
_Name = TypeVar("_Name")

Documents = list[list[int]]
"""Token ids of each document, the begin token first where the subject has one."""
Quadrant = tuple[int, int]
"""Which class, 0 or 1, of the first and of the second attribute."""
QUADRANTS: tuple[Quadrant, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))


class ClassDocuments(NamedTuple):
    """As many documents of each class, by class."""

    train: dict[str, Documents]
    test: dict[str, Documents]
    skipped: Mapping[str, str]
    """Class that is left out -> why."""


class PairDocuments(NamedTuple):
    """As many documents of each quadrant, and of both that agree twice as many to train on."""

    train: dict[Quadrant, Documents]
    test: dict[Quadrant, Documents]
    first: str
    """The classes of the first attribute, for tables."""
    second: str


def count_tokens(documents: ClassDocuments | PairDocuments) -> int:
    """Return how many tokens all documents have."""
    of_all = [*documents.train.values(), *documents.test.values()]
    return sum(len(tokens) for of_one in of_all for tokens in of_one)


class NotEnough(ValueError):
    """A corpus has too few documents; the message says of what, how many and what to do."""


def read_class_sets(
    settings: LabelledTextSettings,
    sets: Mapping[str, LabelledClasses],
    corpora: Mapping[str, Path],
    subject: Subject,
) -> dict[str, ClassDocuments]:
    """Return the documents of each set; see `read_classes`."""
    per_class = {TRAIN: settings.train_documents // 2, TEST: settings.test_documents // 2}
    return {
        name: read_classes(
            of,
            folder_of(of.corpus, corpora),
            subject,
            per_class=per_class,
            context=settings.context,
        )
        for name, of in sets.items()
    }


def folder_of(corpus: str, corpora: Mapping[str, Path]) -> Path:
    """Return the folder of a corpus; raises ValueError where it is not given."""
    if corpus not in corpora:
        raise ValueError(f"the folder of corpus {corpus!r} is not given, only {sorted(corpora)}")
    return corpora[corpus]


def corpus_inputs(corpora: Mapping[str, Path]) -> dict[str, Path]:
    """Return the folders of corpora by names for a manifest."""
    return {f"corpus.{name}": folder for name, folder in corpora.items()}


def read_classes(
    settings: LabelledClasses,
    corpus: Path,
    subject: Subject,
    *,
    per_class: Mapping[str, int],
    context: int,
) -> ClassDocuments:
    """Return `per_class` documents (by split) of each class of an attribute.

    A class with fewer is left out and said to be. Raises ArtifactError for an unfinished corpus
    and ValueError for a class that no document has.
    """
    labels = read_labels(corpus, {"class": settings.attribute})
    wanted: dict[str, dict[str, NDArray[np.int64]]] = {}
    skipped: dict[str, str] = {}
    for name in settings.attribute.classes:
        found = {split: _places(labels, split, {"class": name}) for split in per_class}
        few = [
            f"{len(places):,} {split} documents, {per_class[split]:,} are needed"
            for split, places in found.items()
            if len(places) < per_class[split]
        ]
        if few:
            skipped[name] = "; ".join(few)
        else:
            wanted[name] = {s: places[: per_class[s]] for s, places in found.items()}
    read = {
        split: read_documents(corpus, {n: of[split] for n, of in wanted.items()}, subject, context)
        for split in (TRAIN, TEST)
    }
    return ClassDocuments(read[TRAIN], read[TEST], skipped)


def read_pairs(
    settings: LabelledTextSettings,
    pairs: Mapping[str, LabelledPair],
    corpora: Mapping[str, Path],
    subject: Subject,
) -> tuple[dict[str, PairDocuments], dict[str, str]]:
    """Return the documents of each pair, and why there are none of the others; see `read_pair`."""
    per_quadrant = {TRAIN: settings.train_documents // 4, TEST: settings.test_documents // 4}
    found, skipped = {}, {}
    for name, of in pairs.items():
        corpus = folder_of(of.corpus, corpora)
        try:
            found[name] = read_pair(
                of, corpus, subject, per_quadrant=per_quadrant, context=settings.context
            )
        except NotEnough as error:
            skipped[name] = str(error)
    return found, skipped


def read_pair(
    settings: LabelledPair,
    corpus: Path,
    subject: Subject,
    *,
    per_quadrant: Mapping[str, int],
    context: int,
) -> PairDocuments:
    """Return `per_quadrant` documents (by split) of each pair of classes of two attributes.

    Raises NotEnough for a pair with too few, ArtifactError for an unfinished corpus and ValueError
    for a class that no document has.
    """
    labels = read_labels(corpus, {"first": settings.first, "second": settings.second})
    wanted: dict[str, dict[Quadrant, NDArray[np.int64]]] = {TRAIN: {}, TEST: {}}
    few = []
    for split, of_split in wanted.items():
        for a, b in QUADRANTS:
            values = {"first": settings.first.classes[a], "second": settings.second.classes[b]}
            places = _places(labels, split, values)
            needed = per_quadrant[split] * (2 if split == TRAIN and a == b else 1)
            of_split[a, b] = places[:needed]
            if len(places) < needed:
                which = " and ".join(values.values())
                few.append(f"{len(places):,} {split} documents of {which}, {needed:,} are needed")
    if few:
        raise NotEnough("; ".join(few))
    return PairDocuments(
        read_documents(corpus, wanted[TRAIN], subject, context),
        read_documents(corpus, wanted[TEST], subject, context),
        " / ".join(settings.first.classes),
        " / ".join(settings.second.classes),
    )


def read_labels(corpus: Path, attributes: Mapping[str, Attribute]) -> pd.DataFrame:
    """Return the split and the attributes of each document, by its place in the corpus.

    Raises ArtifactError for an unfinished corpus, and ValueError, naming the values that there
    are, for a class that no document has.
    """
    read_manifest(corpus, kind="corpus")
    parts = []
    file = pq.ParquetFile(corpus / DOCUMENTS)
    for batch in file.iter_batches(_READ_DOCUMENTS, columns=["split", "domain", "name", "labels"]):
        split, domain, name, labels = (column.to_pylist() for column in batch.columns)
        parsed = [json.loads(of) if of else {} for of in labels]
        columns = {
            of: list(map(attribute.value, domain, name, parsed))
            for of, attribute in attributes.items()
        }
        parts.append(pd.DataFrame({"split": split, **columns}))
    found = pd.concat(parts, ignore_index=True)
    for name, attribute in attributes.items():
        counts = found[name].value_counts()
        if unknown := sorted(set(attribute.classes) - set(counts.index)):
            there_are = ", ".join(f"{value} {n:,}" for value, n in counts.head(20).items())
            raise ValueError(
                f"{corpus}: no document is of class {', '.join(unknown)}; documents by class: "
                f"{there_are or 'none has this attribute'}"
            )
    return found


def _places(labels: pd.DataFrame, split: str, values: Mapping[str, str]) -> NDArray[np.int64]:
    """Return where the documents of a split with these attributes stand, in order."""
    among = labels["split"] == split
    for name, value in values.items():
        among &= labels[name] == value
    return np.flatnonzero(among)


def read_documents(
    corpus: Path, places: Mapping[_Name, NDArray[np.int64]], subject: Subject, context: int
) -> dict[_Name, Documents]:
    """Return the documents at these places of the corpus, by name, as `subject` reads them."""
    texts: dict[int, str] = {}
    sought = np.unique(np.concatenate([*places.values(), np.empty(0, np.int64)])).astype(np.int64)
    first = 0
    for batch in pq.ParquetFile(corpus / DOCUMENTS).iter_batches(_READ_DOCUMENTS, columns=["text"]):
        here = sought[(sought >= first) & (sought < first + len(batch))]
        read = batch["text"].take(pa.array(here - first)).to_pylist()
        texts.update(zip(here.tolist(), read, strict=True))
        first += len(batch)
    return {
        name: encode(subject, [texts[place] for place in found.tolist()], context)
        for name, found in places.items()
    }


def encode(subject: Subject, texts: Sequence[str], context: int) -> Documents:
    """Return the first `context` tokens of each text, the begin token included where there is one.

    What looks like a special token in a text is text. Raises ValueError where no text fits.
    """
    bos = subject.begin_tokens
    room = min(context, subject.context) - len(bos)
    if room < 1:
        raise ValueError(f"context {context} leaves no room for text: raise it")
    bpe = subject.tokenizer.backend_tokenizer
    bpe.encode_special_tokens = True
    encodings = bpe.encode_batch_fast(list(texts), add_special_tokens=False)
    return [[*bos, *encoding.ids[:room]] for encoding in encodings]
