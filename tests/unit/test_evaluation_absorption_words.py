"""Which words are asked about, in which form, and which token of it is read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from absorption_world import BLOCK, EMBEDDING, TOKENS, WORDS, activation, make_world
from subjects_tiny import make as make_tiny_subject

from saeflow.activations.exclusion import Exclusion
from saeflow.artifacts import ArtifactError, write_manifest
from saeflow.evaluation.absorption_domains import domain_places
from saeflow.evaluation.absorption_rows import Place, read_places
from saeflow.evaluation.absorption_settings import Domains, FirstLetters
from saeflow.evaluation.absorption_words import corpus_words, letter_places, vocabulary_words
from saeflow.evaluation.pooled import Site
from saeflow.subjects.load import Subject, load_subject


@pytest.fixture(scope="module")
def bytes_subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A byte-level tokenizer with a few words of text about cats and dogs; context 32."""
    return make_tiny_subject("gpt_neox", tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


@pytest.fixture(scope="module")
def subject(world: Path) -> Subject:
    return load_subject(world / "subject")


def text_of(subject: Subject, place: Place) -> str:
    assert place.tokens[0] == subject.tokenizer.bos_token_id
    return subject.tokenizer.decode(place.tokens[1:])


def test_vocabulary_words_are_tokens_of_letters(bytes_subject: Subject) -> None:
    words = vocabulary_words(bytes_subject.tokenizer)
    assert words == sorted(set(words))
    assert {"a", "Z", " the", "the"} <= set(words)
    for word in words:
        assert word.removeprefix(" ").isascii() and word.removeprefix(" ").isalpha()
        ids = bytes_subject.tokenizer(word, add_special_tokens=False)["input_ids"]
        assert bytes_subject.tokenizer.decode(ids) == word


def test_a_word_is_read_at_its_last_token(bytes_subject: Subject) -> None:
    settings = FirstLetters(examples=0)
    words = vocabulary_words(bytes_subject.tokenizer)
    places = letter_places(settings, bytes_subject, words, seed=0)
    assert len(places) == len(words)
    for place in places:
        text = text_of(bytes_subject, place)
        assert text == place.part and place.class_name == text.strip()[0].lower()
        assert len(place.tokens) == 2  # a word of the vocabulary is one token


def test_words_of_several_tokens(bytes_subject: Subject) -> None:
    settings = FirstLetters(words="corpus", examples=0, test_share=0.5)
    places = letter_places(settings, bytes_subject, ["cat", "zebra", "dogma", "rug"], seed=0)
    assert sorted(text_of(bytes_subject, place) for place in places) == [
        "cat", "dogma", "rug", "zebra",
    ]  # fmt: skip
    assert max(len(place.tokens) for place in places) > 3
    assert sum(place.held_out for place in places) == 2


def test_words_that_the_question_cuts_otherwise_are_left_out(
    bytes_subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind a letter, `he` joins it; several letters are no token of the vocabulary."""
    settings = FirstLetters(examples=0, template="t{word}", test_share=0.5)
    places = letter_places(settings, bytes_subject, ["he", "zz", "Q", "X"], seed=0)
    assert sorted(place.part for place in places) == ["Q", "X"]
    assert "2 of 4 words are cut otherwise; left out" in capsys.readouterr().err


def test_answered_examples_stand_before(bytes_subject: Subject) -> None:
    settings = FirstLetters(words="corpus", template="{word}:", examples=2, position=-1)
    words = ["ant", "bee", "cat", "dog", "emu", "fox", "gnu", "hen", "ibis", "jay"]
    words += [word + "s" for word in words]
    places = letter_places(settings, bytes_subject, words, seed=0)
    train = {place.part for place in places if not place.held_out}
    assert len(train) == 16 and len(places) == 20
    for place in places:
        first, second, asked = text_of(bytes_subject, place).split("\n")
        assert asked == f"{place.part}:"
        shown = []
        for line in (first, second):
            word, letter = line.split(": ")
            assert letter == word[0].upper()
            shown.append(word)
        assert place.part not in shown and len(set(shown)) == 2
        assert {word in train for word in shown} == {not place.held_out}
    again = letter_places(settings, bytes_subject, words, seed=0)
    other = letter_places(settings, bytes_subject, words, seed=1)
    assert places == again != other


def test_saebench_reads_the_sixth_token_from_the_end(subject: Subject) -> None:
    """Where the rest of its question is five tokens, that is the word's."""
    word = FirstLetters(examples=3, template="{word} : : : : :")
    sixth = FirstLetters(examples=3, template="{word} : : : : :", position=-6)
    assert letter_places(word, subject, WORDS, 0) == letter_places(sixth, subject, WORDS, 0)


def test_too_few_words_and_too_long_questions(bytes_subject: Subject) -> None:
    words = vocabulary_words(bytes_subject.tokenizer)
    with pytest.raises(ValueError, match=r"12 words are too few to hold out 0\.2 of them and show"):
        letter_places(FirstLetters(), bytes_subject, words[:12], 0)
    with pytest.raises(ValueError, match=r"of which gpt_neox reads 32: lower `letters\.examples`"):
        letter_places(FirstLetters(examples=2), bytes_subject, words, 0)
    with pytest.raises(ValueError, match=r"change `letters\.position`"):
        letter_places(FirstLetters(examples=0, position=-60), bytes_subject, words, 0)


def test_corpus_words_by_frequency(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = corpus_words(world / "corpus", 1000)
    assert set(words) == set(WORDS)
    assert "has 60 words, all are used (1,000 were asked for)" in capsys.readouterr().err
    texts = ["the cat The CAT a cats-cat", "cat do_not dot", "never seen"]
    write_texts(tmp_path / "corpus", texts, ["train", "train", "test"])
    assert corpus_words(tmp_path / "corpus", 4) == ["cat", "cats", "do", "dot"]
    write_texts(tmp_path / "none", ["A B C"], ["train"])
    with pytest.raises(ArtifactError, match="no word of lower-case letters"):
        corpus_words(tmp_path / "none", 4)


def write_texts(folder: Path, texts: list[str], splits: list[str]) -> None:
    folder.mkdir()
    columns = {"text": texts, "split": splits, "domain": ["d.e"] * len(texts)}
    pq.write_table(pa.table(columns), folder / "documents.parquet")
    write_manifest(folder, kind="corpus", settings={}, files=["documents.parquet"])


# --- documents -----------------------------------------------------------------------------------


def test_domains_are_read_at_the_last_of_the_first_tokens(world: Path, subject: Subject) -> None:
    settings = Domains(context=3, train_documents=12, test_documents=5)
    places = domain_places(settings, world / "corpus", subject)
    assert [place.held_out for place in places] == [False] * 12 + [True] * 5
    assert {place.class_name for place in places} == {"a"}
    first = places[0]  # the second document: word 1 and the four after it
    assert (first.part, text_of(subject, first)) == ("a.ab", "ab ac")
    deep = domain_places(Domains(depth=2, test_documents=3), world / "corpus", subject)
    assert [place.class_name for place in deep[-3:]] == ["a.aa", "a.ad", "a.ag"]
    assert text_of(subject, deep[-3]) == "aa ab ac ad ae"


def test_a_corpus_without_a_split_is_said(tmp_path: Path, subject: Subject) -> None:
    write_texts(tmp_path / "corpus", ["aa ab"], ["train"])
    with pytest.raises(ArtifactError, match="split test has no documents"):
        domain_places(Domains(), tmp_path / "corpus", subject)


# --- activations ---------------------------------------------------------------------------------


def places_of(lengths: list[int]) -> list[Place]:
    return [
        Place([0, *(TOKENS.index(WORDS[(7 * i + j) % 60]) for j in range(n))], "c", f"p{i}", False)
        for i, n in enumerate(lengths)
    ]


def site_of(subject: Subject, name: str, skip: int = 0, batch_tokens: int = 4096) -> Site:
    return Site(subject, name, Exclusion(subject.special_ids, skip, {}), batch_tokens)


def test_places_are_read_in_their_order(subject: Subject) -> None:
    places = places_of([3, 1, 8, 2, 8, 5])
    rows = read_places(site_of(subject, EMBEDDING), places)
    expected = [activation(TOKENS[place.tokens[-1]]) for place in places]
    assert torch.equal(rows.x_nd, torch.stack(expected))
    assert rows.parts == [f"p{i}" for i in range(6)]


@pytest.mark.parametrize("batch_tokens", [4096, 10])
def test_a_block_is_read_as_in_a_plain_pass(subject: Subject, batch_tokens: int) -> None:
    places = places_of([3, 1, 8, 2, 8, 5])
    rows = read_places(site_of(subject, BLOCK, batch_tokens=batch_tokens), places)
    for place, x_d in zip(places, rows.x_nd, strict=True):
        found: list[torch.Tensor] = []
        hook = subject.model.get_submodule(BLOCK).register_forward_hook(
            lambda module, args, output, found=found: found.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        subject.model(torch.tensor([place.tokens]))
        hook.remove()
        torch.testing.assert_close(x_d, found[0][0, -1], rtol=1e-4, atol=1e-4)


def test_tokens_that_do_not_count_are_no_rows(
    subject: Subject, capsys: pytest.CaptureFixture[str]
) -> None:
    places = places_of([3, 1, 0, 2])
    rows = read_places(site_of(subject, EMBEDDING, skip=2), places, classes="ab")
    assert rows.parts == ["p0", "p3"] and rows.classes == ["a", "b", "c"]
    assert rows.class_n.tolist() == [2, 2]
    assert "2 of 4 tokens do not count; left out" in capsys.readouterr().err
    with pytest.raises(ValueError, match="none of the 4 tokens counts at"):
        read_places(site_of(subject, EMBEDDING, skip=9), places)
