"""Where planted sentences stand among a subject's tokens, and stretches of text without any."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from saeflow.activations.windows import Window, read_windows
from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.corpora.planted import Span, spans_of
from saeflow.subjects.folder import load_tokenizer

UNPLANTED = "unplanted"


class Instance(NamedTuple):
    """A stretch of a window: positions `start` to `end` of the tokens as fed to the subject."""

    concept: str
    """A concept, `background`, or `unplanted`."""
    window: Window
    start: int
    end: int


class PlantedDocument(NamedTuple):
    """A document with plants, as the subject reads it."""

    split: str
    ids: list[int]
    spans: list[tuple[str, int, int]]
    """Concept, first token and the token after the last."""


def planted_documents(corpus: Path, subject: Path) -> dict[int, PlantedDocument]:
    """Return the documents of a planted corpus that hold plants, tokenised, by document id.

    Raises ArtifactError for a corpus without plants.
    """
    read_manifest(corpus, kind="corpus")
    columns = ["document", "split", "text", "labels"]
    table = pq.read_table(corpus / "documents.parquet", columns=columns)
    rows = [
        (document, split, text, spans)
        for document, split, text, labels in zip(*table.to_pydict().values(), strict=True)
        if labels and (spans := spans_of(labels))
    ]
    if not rows:
        raise ArtifactError(f"{corpus} has no planted document: give a corpus of source `planted`")
    bpe = load_tokenizer(subject).backend_tokenizer
    bpe.encode_special_tokens = True
    encodings = bpe.encode_batch([text for _, _, text, _ in rows], add_special_tokens=False)
    return {
        document: PlantedDocument(split, encoding.ids, _token_spans(encoding.offsets, spans))
        for (document, split, _, spans), encoding in zip(rows, encodings, strict=True)
    }


def _token_spans(
    offsets: list[tuple[int, int]], spans: Iterable[Span]
) -> list[tuple[str, int, int]]:
    """Return the tokens that overlap each span of characters."""
    starts, ends = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    return [
        (
            span.concept,
            int(np.searchsorted(ends, span.start, side="right")),
            int(np.searchsorted(starts, span.end, side="left")),
        )
        for span in spans
    ]


def token_shares(
    documents: Iterable[PlantedDocument], tokens_stats: dict[str, Any]
) -> dict[str, float]:
    """Return concept -> share of the train split's text tokens that stand in its sentences."""
    total = tokens_stats["train"]["text_tokens"]
    counts: Counter[str] = Counter()
    for document in documents:
        if document.split == "train":
            for concept, start, end in document.spans:
                counts[concept] += end - start
    return {concept: count / total for concept, count in counts.items()}


def find_instances(
    documents: dict[int, PlantedDocument],
    tokens: Path,
    split: str,
    unplanted: float,
    seed: int,
) -> list[Instance]:
    """Return the planted sentences of a split and, for each, `unplanted` stretches without plants.

    A sentence that is cut by the end of a window is where more of it is; one whose windows were
    dropped is left out. Unplanted stretches have the lengths of planted ones and a random place
    in a random window, long enough, of a document without plants. Raises ArtifactError for tokens
    that are not those of `documents`, and for a split without instances or without windows that
    could hold the stretches.
    """
    begin = int(read_manifest(tokens, kind="tokens")["settings"]["prepend_bos"])
    path = tokens / f"{split}.parquet"
    windows: defaultdict[int, list[Window]] = defaultdict(list)
    plain: list[Window] = []
    for window in read_windows(path):
        if window.document not in documents:
            plain.append(window)
            continue
        text = documents[window.document].ids
        length = len(window.tokens) - begin
        if window.tokens[begin:].tolist() != text[window.start : window.start + length]:
            raise ArtifactError(
                f"{path}: document {window.document} has other tokens than the planted corpus and "
                "the subject give; tokens, corpus and subject must belong together"
            )
        windows[window.document].append(window)
    planted = [
        Instance(concept, *place)
        for document, own in windows.items()
        for concept, start, end in documents[document].spans
        if (place := _place(own, start, end, begin)) is not None
    ]
    if not planted:
        raise ArtifactError(f"{path} holds no planted sentence of the corpus")
    lengths = [instance.end - instance.start for instance in planted]
    return planted + _plain_stretches(plain, lengths, unplanted, begin, seed, path)


def _place(
    windows: Sequence[Window], start: int, end: int, begin: int
) -> tuple[Window, int, int] | None:
    """Return the window with most of the document's tokens `start` to `end`, and where there."""
    best: tuple[Window, int, int] | None = None
    for window in windows:
        first = max(start, window.start) - window.start
        last = min(end - window.start, len(window.tokens) - begin)
        if last > first and (best is None or last - first > best[2] - best[1]):
            best = (window, first + begin, last + begin)
    return best


def _plain_stretches(
    windows: list[Window], lengths: list[int], share: float, begin: int, seed: int, path: Path
) -> list[Instance]:
    generator = np.random.default_rng(seed)
    drawn = np.resize(generator.permutation(lengths), round(share * len(lengths)))
    ordered = sorted(windows, key=lambda window: len(window.tokens))
    text_lengths = np.array([len(window.tokens) - begin for window in ordered])
    found = []
    for length in drawn:
        first = int(np.searchsorted(text_lengths, length))
        if first == len(ordered):
            raise ArtifactError(
                f"{path} has no window of {length} tokens without plants to compare with; plant "
                "fewer instances"
            )
        window = ordered[generator.integers(first, len(ordered))]
        start = begin + int(generator.integers(len(window.tokens) - begin - length + 1))
        found.append(Instance(UNPLANTED, window, start, start + int(length)))
    return found
