"""Source `planted`: another corpus with sentences about rare concepts, each of a known frequency.

Concept recall needs a truth: which concepts there are, how rare each is, and where each stands.
Documents, and places in them, are drawn uniformly; a document receives several sentences of a
concept and keeps its split. One that receives
plants has the id of its new text, and labels `planted` (`concept:start:end;...` in characters of
that text) and `background` (`start:end;...`); all others are as they were, so that what was
retrieved, trained on or tokenised of them stays the same.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from saeflow.artifacts import read_manifest
from saeflow.corpora.concepts import NO_CONCEPT, Concept, Writer, concepts
from saeflow.corpora.derived_settings import Planted
from saeflow.corpora.documents import CorpusError, Tally
from saeflow.corpora.domain import parent_rows
from saeflow.corpora.spool import Row
from saeflow.corpora.text import integer_of

PLANTED, BACKGROUND = "planted", "background"
HELD_OUT = ("validation", "test")
_PARAGRAPH = re.compile(r"\n\n")
_SENTENCE = re.compile(r"(?<=[a-z)][.!?]) (?=[A-Z])")


class Plant(NamedTuple):
    """A sentence to plant."""

    concept: str | None
    """None in the background."""
    text: str


class Span(NamedTuple):
    """Where a planted sentence stands in its document, in characters."""

    concept: str
    start: int
    end: int


def rows(settings: Planted, parents: Mapping[str, Path], tally: Tally) -> Iterator[Row]:
    """Yield the rows of the corpus, its folder in `parents`, some with sentences planted in them.

    The manifest's stats get `concepts`: of each its kind, its frequency as asked for and as
    achieved (share of the train split's characters), and its sentences by split. Raises
    CorpusError for more concepts than there are and for a parent without one of the splits.
    """
    parent = parents[settings.corpus]
    splits = read_manifest(parent, kind="corpus")["stats"]["splits"]
    for split in ("train", *HELD_OUT):
        if not splits.get(split, {}).get("documents"):
            raise CorpusError(f"{parent} has no {split} documents to plant concepts in")
    levels = deal_concepts(settings)
    plants = _draw(settings, levels, splits)
    at: Counter[str] = Counter()
    placed: Counter[tuple[str, str | None]] = Counter()
    chars: Counter[str | None] = Counter()
    train_chars = 0
    for row in parent_rows(parent):
        mine = plants.get((row.split, at[row.split]), [])
        at[row.split] += 1
        placed.update((row.split, plant.concept) for plant in mine)
        if mine:
            row = _planted(row, mine, settings.seed)
        if row.split == "train":
            train_chars += len(row.text)
            for plant in mine:
                chars[plant.concept] += len(plant.text)
        yield row
    described = [
        {
            "concept": str(concept),
            "kind": concept.kind,
            "frequency": frequency,
            "achieved": chars[str(concept)] / train_chars,
            "instances": {s: placed[s, str(concept)] for s in ("train", *HELD_OUT)},
        }
        for concept, frequency in levels.items()
    ]
    tally.facts["concepts"] = described
    tally.facts["background"] = {
        "frequency": settings.background,
        "achieved": chars[None] / train_chars,
        "instances": {s: placed[s, None] for s in ("train", *HELD_OUT)},
    }


def deal_concepts(settings: Planted) -> dict[Concept, float]:
    """Return concept -> frequency: drawn by the seed, the kinds spread evenly over the levels."""
    needed = len(settings.frequencies) * settings.concepts_per_frequency
    known = concepts()
    if needed > len(known):
        raise CorpusError(
            f"{len(settings.frequencies)} frequencies x {settings.concepts_per_frequency} concepts "
            f"are {needed}, and there are {len(known)} concepts: lower concepts_per_frequency"
        )
    rng = Random(f"concepts/{settings.seed}")
    chosen = set(rng.sample(known, needed))
    kinds = dict.fromkeys(concept.kind for concept in known)
    mixed: list[Concept] = []
    for kind in kinds:
        own = [concept for concept in known if concept in chosen and concept.kind == kind]
        mixed += rng.sample(own, len(own))
    levels = rng.sample(settings.frequencies, len(settings.frequencies))
    return {concept: levels[i % len(levels)] for i, concept in enumerate(mixed)}


def spans_of(labels: str | None) -> list[Span]:
    """Return what stands planted in a row of a planted corpus, by its `labels` column, in order.

    Sentences of no concept have the concept `background`.
    """
    found = json.loads(labels) if labels else {}
    parts = [part for part in found.get(PLANTED, "").split(";") if part]
    parts += [f"{BACKGROUND}:{part}" for part in found.get(BACKGROUND, "").split(";") if part]
    spans = (Span(part[0], int(part[1]), int(part[2])) for part in (p.split(":") for p in parts))
    return sorted(spans, key=lambda span: span.start)


def _draw(
    settings: Planted, levels: dict[Concept, float], splits: dict[str, Any]
) -> dict[tuple[str, int], list[Plant]]:
    """Return (split, ordinal of a document in it) -> what to plant there."""
    writer = Writer(settings.held_out_phrases, settings.seed)
    share = sum(levels.values()) + settings.background
    train_chars = splits["train"]["characters"] / (1 - share)
    counts = {"validation": settings.validation_instances, "test": settings.test_instances}
    drawn: defaultdict[tuple[str, int], list[Plant]] = defaultdict(list)
    everything: list[tuple[Concept | None, float]] = [*levels.items(), (None, settings.background)]
    for concept, frequency in everything:
        for split in ("train", *HELD_OUT):
            rng = Random(f"plants/{settings.seed}/{concept}/{split}")
            sentences = _sentences(rng, writer, concept, held_out=split != "train")
            if split == "train":
                texts = _up_to(sentences, frequency * train_chars)
            else:
                texts = [next(sentences) for _ in range(counts[split])]
            name = str(concept) if concept else None
            for start in range(0, len(texts), settings.sentences_per_document):
                place = (split, rng.randrange(splits[split]["documents"]))
                some = texts[start : start + settings.sentences_per_document]
                drawn[place] += [Plant(name, text) for text in some]
    return drawn


def _sentences(
    rng: Random, writer: Writer, concept: Concept | None, *, held_out: bool
) -> Iterator[str]:
    while True:
        yield writer.write(rng, concept or rng.choice(NO_CONCEPT), held_out=held_out)


def _up_to(sentences: Iterator[str], chars: float) -> list[str]:
    """Return so many sentences, one or more, that their characters are nearest to `chars`."""
    texts = [next(sentences)]
    total = len(texts[0])
    for text in sentences:
        if total + len(text) / 2 > chars:
            break
        texts.append(text)
        total += len(text)
    return texts


def _planted(row: Row, plants: list[Plant], seed: int) -> Row:
    """Return the row with each sentence at a random boundary of paragraphs or sentences."""
    rng = Random(f"places/{seed}/{row.document}")
    boundaries = _boundaries(row.text)
    places = sorted((rng.choice(boundaries), i) for i in range(len(plants)))
    parts: list[str] = []
    spans: dict[str, list[str]] = {PLANTED: [], BACKGROUND: []}
    length = taken = 0
    for (at, before, after), i in places:
        parts += [row.text[taken:at], before]
        length += at - taken + len(before)
        concept, text = plants[i]
        where = f"{length}:{length + len(text)}"
        spans[PLANTED if concept else BACKGROUND].append(f"{concept}:{where}" if concept else where)
        parts += [text, after]
        length += len(text) + len(after)
        taken = at
    text = "".join([*parts, row.text[taken:]])
    labels = json.loads(row.labels) if row.labels else {}
    labels.update((label, ";".join(found)) for label, found in spans.items() if found)
    return row._replace(
        document=integer_of(text, "document"), text=text, labels=json.dumps(labels, sort_keys=True)
    )


def _boundaries(text: str) -> list[tuple[int, str, str]]:
    """Return (place, what to put before, what after) wherever a sentence may be inserted."""
    return [
        (0, "", "\n\n"),
        *((found.end(), "", "\n\n") for found in _PARAGRAPH.finditer(text)),
        *((found.end(), "", " ") for found in _SENTENCE.finditer(text)),
        (len(text), "\n\n", ""),
    ]
