"""First letters: which words are asked about, and where in the question they are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerFast

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.corpora.documents import DOCUMENTS
from saeflow.evaluation.absorption_rows import Place
from saeflow.evaluation.absorption_settings import FirstLetters
from saeflow.progress import say
from saeflow.subjects.load import Subject

_LETTERS = re.compile(r"[A-Za-z]+")
_TOKEN = re.compile(r" ?[A-Za-z]+")


def vocabulary_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the tokens of ASCII letters, with or without a leading space, sorted."""
    texts = (tokenizer.convert_tokens_to_string([token]) for token in tokenizer.get_vocab())
    return sorted({text for text in texts if _TOKEN.fullmatch(text)})


def corpus_words(corpus: Path, n: int) -> list[str]:
    """Return the `n` most frequent words of a corpus's train split, most frequent first.

    Words are two or more lower-case ASCII letters with no other such letter beside them. Raises
    ArtifactError for a corpus without any.
    """
    read_manifest(corpus, kind="corpus")
    counts: Counter[str] = Counter()
    for batch in pq.ParquetFile(corpus / DOCUMENTS).iter_batches(2000, columns=["split", "text"]):
        for split, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            if split == "train":
                counts.update(_LETTERS.findall(text))
    found = [(-count, word) for word, count in counts.items() if word.islower() and len(word) > 1]
    if not found:
        raise ArtifactError(f"{corpus}: no word of lower-case letters in the train split")
    if len(found) < n:
        say(f"{corpus} has {len(found):,} words, all are used ({n:,} were asked for)")
    return [word for _, word in sorted(found)[:n]]


def letter_places(
    settings: FirstLetters, subject: Subject, words: Sequence[str], seed: int
) -> list[Place]:
    """Return a question about each word up to where it is read, a random share of them held out.

    Before the question come answered ones about other words of the same part of the split, drawn by
    the seed. Words that do not end with a token are left out, and from the vocabulary those that
    are not one token there, with a line that says how many. Raises ValueError for too few words and
    for questions that the subject's context does not hold.
    """
    rng = Random(f"first letters/{seed}")
    shuffled = rng.sample(list(words), len(words))
    n_train = int(len(words) * (1 - settings.test_share))
    train, test = shuffled[:n_train], shuffled[n_train:]
    if min(len(train), len(test)) <= settings.examples:
        raise ValueError(
            f"{len(words)} words are too few to hold out {settings.test_share:g} of them and show "
            f"{settings.examples} others before each: lower `letters.examples` or take "
            "`letters.words: corpus`"
        )
    before = [_examples(settings, word, own, rng) for own in (train, test) for word in own]
    places = [
        Place(tokens, word.strip()[0].lower(), word, i >= n_train)
        for i, (word, tokens) in enumerate(
            zip(shuffled, _questions(settings, subject, before, shuffled), strict=True)
        )
        if tokens is not None
    ]
    if len(places) < len(words):
        say(f"{len(words) - len(places)} of {len(words)} words are cut otherwise; left out")
    return places


def _examples(settings: FirstLetters, word: str, others: Sequence[str], rng: Random) -> str:
    drawn = [other for other in rng.sample(others, settings.examples + 1) if other != word]
    return "".join(
        f"{settings.template.format(word=other)} {other.strip()[0].upper()}\n"
        for other in drawn[: settings.examples]
    )


def _questions(
    settings: FirstLetters, subject: Subject, before: Sequence[str], words: Sequence[str]
) -> list[list[int] | None]:
    """Return each question's tokens up to the one that is read, None for words cut otherwise."""
    bos = subject.begin_tokens
    start = settings.template.index("{word}")
    texts = [b + settings.template.format(word=w) for b, w in zip(before, words, strict=True)]
    encodings = subject.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    found: list[list[int] | None] = []
    for encoding, shown, word in zip(encodings, before, words, strict=True):
        first = len(shown) + start
        at = _last_token(encoding.offsets, first, first + len(word), settings.words)
        if at is not None and settings.position != "word":
            at = len(encoding.ids) + settings.position
        if at is not None and not 0 <= at < subject.context - len(bos):
            raise ValueError(
                f"the question {shown[-80:]}{settings.template.format(word=word)!r} has "
                f"{len(encoding.ids)} tokens, of which {subject.name} reads {subject.context}: "
                "lower `letters.examples` or change `letters.position`"
            )
        found.append(None if at is None else [*bos, *encoding.ids[: at + 1]])
    return found


def _last_token(offsets: Sequence[tuple[int, int]], first: int, end: int, words: str) -> int | None:
    """Return the token with which characters `first` to `end` end, None if they end within one.

    Words of the vocabulary have to be that token alone; its offset may leave out their space.
    """
    ends = [token_end for _, token_end in offsets]
    if end not in ends:
        return None
    at = ends.index(end)
    alone = offsets[at][0] >= first and (at == 0 or ends[at - 1] <= first)
    return at if alone or words != "vocabulary" else None
