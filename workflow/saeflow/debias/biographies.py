"""Biographies with two labels: the ambiguous, the balanced and the tested sets of Bias in Bios.

Ambiguous: people of class 0 of both labels (male professors) and of class 1 of both (female
nurses), so that gender tells the profession without fail. Balanced: all four subgroups, as many of
each (Marks et al. 2024, section 4; SSAE section 3.1.3).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import pyarrow.parquet as pq
import torch
from torch import Tensor

from saeflow.artifacts import read_manifest
from saeflow.debias.names import AMBIGUOUS, SUBGROUPS, Subgroup, subgroup_name
from saeflow.debias.settings import Classes, DebiasSettings
from saeflow.progress import say
from saeflow.subjects.load import Subject

_Chosen = list[tuple[Subgroup, str]]
_READ_DOCUMENTS = 4096


class BiographyError(ValueError):
    """The corpus cannot give the sets that are asked for; the message says what is missing."""


class Examples(NamedTuple):
    """Biographies as they are fed to the subject."""

    tokens: list[list[int]]
    """Token ids of each, the begin token first where the subject has one."""
    gender_n: Tensor
    """Class of gender (n,), 0 or 1."""
    profession_n: Tensor
    """Class of profession (n,), 0 or 1."""

    def first(self, n: int) -> Examples:
        """Return the first n; the sets are shuffled, so that these are a sample."""
        return Examples(self.tokens[:n], self.gender_n[:n], self.profession_n[:n])

    def where(self, subgroup: Subgroup) -> Tensor:
        """Return the indices of a subgroup, in order."""
        gender, profession = subgroup
        return ((self.gender_n == gender) & (self.profession_n == profession)).nonzero()[:, 0]

    def equal_parts(self, subgroups: Sequence[Subgroup]) -> Tensor:
        """Return the indices of as many of each subgroup as the smallest has, the first ones."""
        parts = [self.where(subgroup) for subgroup in subgroups]
        n = min(map(len, parts))
        return torch.cat([part[:n] for part in parts])


class _Read(NamedTuple):
    """What a corpus holds."""

    texts: dict[tuple[str, Subgroup], list[str]]
    """By split and subgroup, in document order."""
    dropped: int
    other: dict[str, dict[str, int]]


class BiographySets(NamedTuple):
    """What the methods train on and are tested on."""

    ambiguous: Examples
    """Train split, two subgroups, shuffled."""
    balanced: Examples
    """Train split, four subgroups, shuffled."""
    test: Examples
    """Test split: the four subgroups in full, or up to `sizes.test` of each."""
    judge: Examples
    """Validation split, four subgroups, for the judge."""
    dropped: int
    """Documents without a label, of all splits."""
    other: dict[str, dict[str, int]]
    """By label: how many documents of all splits have which value that is none of its classes."""


def read_sets(settings: DebiasSettings, corpus: Path, subject: Subject, seed: int) -> BiographySets:
    """Return the sets from a corpus whose documents have both labels.

    Of each subgroup the first biographies in document order are taken; the seed shuffles the
    training sets. A label that is null or blank is none; values of neither class (the other
    professions of Bias in Bios) are left out and counted. Raises BiographyError, naming document
    and file, for a biography without a label where these are not dropped, and, with all
    counts, for a subgroup that is empty or too small; ArtifactError for an unfinished or damaged
    corpus.
    """
    read_manifest(corpus, kind="corpus")
    found = _read(settings, corpus / "documents.parquet")
    if found.dropped:
        say(f"{corpus}: {found.dropped:,} documents without a label are left out")

    def take(split: str, subgroups: Sequence[Subgroup], n: int | None, *, equal: bool) -> _Chosen:
        texts = {s: found.texts.get((split, s), []) for s in SUBGROUPS}
        needed = n if equal and n else 1
        _check_counts(settings, f"{corpus}: split {split}", texts, subgroups, needed, found.other)
        if equal and n is None:
            n = min(len(texts[s]) for s in subgroups)
        return [(s, text) for s in subgroups for text in texts[s][:n]]

    sizes = settings.sizes
    ambiguous = take("train", AMBIGUOUS, sizes.ambiguous_train, equal=True)
    balanced = take("train", SUBGROUPS, sizes.balanced_train, equal=True)
    Random(seed).shuffle(ambiguous)
    Random(seed).shuffle(balanced)
    return BiographySets(
        ambiguous=_examples(settings, subject, ambiguous),
        balanced=_examples(settings, subject, balanced),
        test=_examples(settings, subject, take("test", SUBGROUPS, sizes.test, equal=False)),
        judge=_examples(settings, subject, take("validation", SUBGROUPS, sizes.judge, equal=False)),
        dropped=found.dropped,
        other=found.other,
    )


def _read(settings: DebiasSettings, path: Path) -> _Read:
    both = (settings.genders, settings.professions)
    texts: dict[tuple[str, Subgroup], list[str]] = {}
    other: dict[str, Counter[str]] = {classes.label: Counter() for classes in both}
    dropped = 0
    for row in _rows(path):
        labels = json.loads(row["labels"]) if row["labels"] else {}
        missing = [c.label for c in both if _is_blank(labels.get(c.label))]
        if missing:
            if settings.on_unlabelled == "refuse":
                raise BiographyError(
                    f"{path}: document {row['document']} ({row['name']}) has no label "
                    f"{missing[0]!r}; name the column in the corpus's labels, or set on_unlabelled "
                    "to drop"
                )
            dropped += 1
            continue
        gender, profession = (_class(classes, labels) for classes in both)
        if gender is not None and profession is not None:
            texts.setdefault((row["split"], (gender, profession)), []).append(row["text"])
        for classes, found in zip(both, (gender, profession), strict=True):
            if found is None:
                other[classes.label][str(labels[classes.label])] += 1
    return _Read(texts, dropped, {label: dict(sorted(n.items())) for label, n in other.items()})


def _is_blank(value: object) -> bool:
    return value is None or not str(value).strip()


def _rows(path: Path) -> Iterator[dict]:
    columns = ["document", "name", "split", "text", "labels"]
    for batch in pq.ParquetFile(path).iter_batches(_READ_DOCUMENTS, columns=columns):
        yield from batch.to_pylist()


def _class(classes: Classes, labels: dict[str, str]) -> int | None:
    """Return 0 or 1, or None for somebody of neither class."""
    values = list(classes.values.values())
    value = str(labels[classes.label])
    return values.index(value) if value in values else None


def _check_counts(
    settings: DebiasSettings,
    where: str,
    texts: dict[Subgroup, list[str]],
    subgroups: Sequence[Subgroup],
    needed: int,
    other: dict[str, dict[str, int]],
) -> None:
    for subgroup in subgroups:
        if len(texts[subgroup]) < needed:
            counts = ", ".join(f"{subgroup_name(settings, s)} {len(texts[s]):,}" for s in SUBGROUPS)
            unknown = "; ".join(
                f"its documents also have the {label} {', '.join(list(values)[:10])}"
                for label, values in other.items()
                if values
            )
            raise BiographyError(
                f"{where} has {len(texts[subgroup]):,} of {subgroup_name(settings, subgroup)}, "
                f"{needed:,} are needed ({'; '.join(filter(None, (counts, unknown)))}); give the "
                "corpus more documents or the split a larger share, lower sizes, or mend the "
                "values of professions and genders"
            )


def _examples(settings: DebiasSettings, subject: Subject, chosen: _Chosen) -> Examples:
    bos = subject.begin_tokens
    room = min(settings.max_tokens or subject.context, subject.context) - len(bos)
    if room < 1:
        raise ValueError(f"max_tokens {settings.max_tokens} leaves no room for text: raise it")
    bpe = subject.tokenizer.backend_tokenizer
    bpe.encode_special_tokens = True  # what looks like a special token in a text is text
    encoded = bpe.encode_batch_fast([text for _, text in chosen], add_special_tokens=False)
    empty = Counter(not encoding.ids for encoding in encoded)[True]
    if empty:
        raise BiographyError(f"{empty} biographies have no token at all; raise min_chars")
    return Examples(
        [[*bos, *encoding.ids[:room]] for encoding in encoded],
        torch.tensor([gender for (gender, _), _ in chosen]),
        torch.tensor([profession for (_, profession), _ in chosen]),
    )
