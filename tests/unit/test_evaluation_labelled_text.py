"""Labelled documents: which are read, how, and what they are on average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from concept_recall_world import BLOCK, CONTEXT, D_IN, axes_sae, random_sae
from labelled_world import GENDER, PROFESSION, make_world, site_of
from pydantic import TypeAdapter, ValidationError
from torch import nn

from saeflow.evaluation.labelled_text import (
    ClassDocuments,
    NotEnough,
    PairDocuments,
    encode,
    read_class_sets,
    read_classes,
    read_labels,
    read_pair,
    read_pairs,
)
from saeflow.evaluation.labelled_text_problems import balanced_problems
from saeflow.evaluation.labelled_text_rows import skipped_classes
from saeflow.evaluation.labelled_text_settings import (
    Attribute,
    LabelledClasses,
    LabelledPair,
    LabelledTextSettings,
)
from saeflow.evaluation.origin import Key
from saeflow.evaluation.pooled import groups_of, mean_difference, pool
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE, standardised
from saeflow.subjects.load import Subject, load_subject

W = {f"w{i}": i for i in range(1, D_IN)}
BEGIN = 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labelled")
    make_world(root)
    return root


@pytest.fixture(scope="module")
def subject(world: Path) -> Subject:
    return load_subject(world / "subject")


def attribute(given: dict[str, Any]) -> Attribute:
    return TypeAdapter(Attribute).validate_python(given)


def classes(world: Path, subject: Subject, given: Any, **per_class: int) -> ClassDocuments:
    settings = LabelledClasses(corpus="people", attribute=attribute(given))
    per_class = {"train": 4, "test": 2, **per_class}
    return read_classes(settings, world / "people", subject, per_class=per_class, context=CONTEXT)


def pair(world: Path, subject: Subject, train: int = 3, test: int = 2) -> PairDocuments:
    first = attribute({"label": "profession", "classes": ["cook", "poet"]})
    settings = LabelledPair(corpus="people", first=first, second=attribute(GENDER))
    needed = {"train": train, "test": test}
    return read_pair(settings, world / "people", subject, per_quadrant=needed, context=CONTEXT)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"label": "job", "classes": ["a", "b"]}, "cook"),
        ({"label": "city", "classes": ["a", "b"]}, None),
        ({"domain_depth": 1, "classes": ["a", "b"]}, "torch"),
        ({"domain_depth": 2, "classes": ["a", "b"]}, "torch.nn"),
        ({"domain_depth": 9, "classes": ["a", "b"]}, "torch.nn.functional"),
        ({"name_patterns": {"class": r"\.[A-Z]\w*$", "function": r"\.[a-z]\w*$"}}, "class"),
        ({"name_patterns": {"private": r"\._", "torch": "^torch", "any": ""}}, "torch"),
        ({"name_patterns": {"private": r"\._", "function": r"\.[a-z]\w*$"}}, None),
    ],
)
def test_an_attribute_is_read_from_label_domain_or_name(given: Any, value: str | None) -> None:
    assert (
        attribute(given).value("torch.nn.functional", "torch.nn.Linear", {"job": "cook"}) == value
    )


def test_wrong_attributes_are_refused() -> None:
    for given in (
        {"label": "job", "classes": ["a"]},
        {"label": "job", "classes": ["a", "a"]},
        {"name_patterns": {"a": "(", "b": "x"}},
        {"name_patterns": {"a": "x"}},
        {"label": "job", "domain_depth": 1, "classes": ["a", "b"]},
    ):
        with pytest.raises(ValidationError):
            attribute(given)
    with pytest.raises(ValidationError, match="give two classes"):
        LabelledPair.model_validate({"corpus": "c", "first": PROFESSION, "second": GENDER})
    for wrong in (0, 2, 6):
        with pytest.raises(ValidationError, match="train_documents"):
            LabelledTextSettings(train_documents=wrong)


def test_each_class_has_its_first_documents_of_each_split(world: Path, subject: Subject) -> None:
    found = classes(world, subject, PROFESSION)
    assert {name: len(of) for name, of in found.train.items()} == dict.fromkeys(found.train, 4)
    assert {name: len(of) for name, of in found.test.items()} == dict.fromkeys(found.train, 2)
    assert list(found.train) == list(found.test) == ["cook", "poet", "smith"]
    assert not found.skipped
    for word, documents in zip(("w1", "w2", "w3"), found.train.values(), strict=True):
        assert all(tokens[0] == BEGIN and W[word] in tokens for tokens in documents)
        # One man and one woman in turn, as the corpus has them.
        assert [W["w4"] in tokens for tokens in documents] == [True, False, True, False]
    assert classes(world, subject, PROFESSION, train=6).train["cook"][:4] == found.train["cook"]
    assert all(tokens not in found.train["cook"] for tokens in found.test["cook"])


def test_the_same_classes_are_found_by_domain_and_by_name(world: Path, subject: Subject) -> None:
    by_label = classes(world, subject, GENDER)
    by_name = classes(world, subject, {"name_patterns": {"male": r"\.M", "female": r"\.f"}})
    assert by_name == by_label
    by_domain = classes(world, subject, {"domain_depth": 1, "classes": ["cook", "poet"]})
    assert by_domain.train["cook"] == classes(world, subject, PROFESSION).train["cook"]


def test_a_class_with_too_few_documents_is_left_out_with_the_reason(
    world: Path, subject: Subject
) -> None:
    by_both = {"domain_depth": 2, "classes": ["cook.male", "poet.male"]}
    found = classes(world, subject, by_both, train=17, test=9)
    why = "16 train documents, 17 are needed; 8 test documents, 9 are needed"
    assert found.skipped == {"cook.male": why, "poet.male": why}
    assert found.train == found.test == {}
    with pytest.raises(ValueError, match=r"no set has two classes .*people, cook.male: 16 train"):
        skipped_classes({"people": found})
    alone = ClassDocuments({"cook": [[1]]}, {"cook": [[1]]}, {"poet": "few"})
    skipped = skipped_classes({"people": classes(world, subject, PROFESSION), "alone": alone})
    assert [(of["class"], of["skipped"]) for of in skipped] == [
        ("poet", "few"),
        ("cook", "all other classes of its set are skipped"),
    ]


def test_a_class_that_no_document_has_is_an_error(world: Path, subject: Subject) -> None:
    typo = {"label": "profession", "classes": ["cook", "poets"]}
    with pytest.raises(ValueError, match=r"is of class poets; .* cook 48, poet 48, smith 48"):
        classes(world, subject, typo)
    with pytest.raises(ValueError, match="none has this attribute"):
        read_labels(world / "people", {"x": attribute({"label": "city", "classes": ["a", "b"]})})
    settings = LabelledTextSettings(train_documents=8, test_documents=4)
    sets = {"jobs": LabelledClasses(corpus="people", attribute=attribute(PROFESSION))}
    with pytest.raises(ValueError, match=r"corpus 'people' is not given, only \['docs'\]"):
        read_class_sets(settings, sets, {"docs": world}, subject)
    read = read_class_sets(settings, sets, {"people": world / "people"}, subject)
    assert read["jobs"] == classes(world, subject, PROFESSION)


def test_quadrants_that_agree_have_twice_as_many_to_train_on(world: Path, subject: Subject) -> None:
    found = pair(world, subject)
    assert {at: len(of) for at, of in found.train.items()} == {
        (0, 0): 6, (0, 1): 3, (1, 0): 3, (1, 1): 6,
    }  # fmt: skip
    assert set(map(len, found.test.values())) == {2}
    for (a, b), documents in found.train.items():
        says = {W[("w1", "w2")[a]], W[("w4", "w5")[b]]}
        assert all(says <= set(tokens) for tokens in documents)
    assert (found.first, found.second) == ("cook / poet", "male / female")
    with pytest.raises(NotEnough, match="16 train documents of cook and male, 18 are needed; 16"):
        pair(world, subject, train=9)
    settings = LabelledTextSettings(train_documents=36, test_documents=4)
    named = {"people": LabelledPair.model_validate(
        {"corpus": "people", "first": {**PROFESSION, "classes": ["cook", "poet"]}, "second": GENDER}
    )}  # fmt: skip
    read, skipped = read_pairs(settings, named, {"people": world / "people"}, subject)
    assert not read
    assert skipped["people"].startswith("16 train documents of cook and male, 18 are needed")


def test_texts_are_cut_to_the_context_with_the_begin_token(subject: Subject) -> None:
    assert encode(subject, ["w1 w2 w3", "w4"], 3) == [[BEGIN, 1, 2], [BEGIN, 4]]
    assert len(encode(subject, ["w1 " * 50], 99)[0]) == CONTEXT
    with pytest.raises(ValueError, match="context 1 leaves no room"):
        encode(subject, ["w1"], 1)


def test_a_problem_is_a_class_against_as_many_of_the_others() -> None:
    documents = {name: [[10 * c + i] for i in range(4)] for c, name in enumerate("abc")}
    found = balanced_problems(documents)
    assert found.names == ["a", "b", "c"]
    assert [tokens[0] for tokens in found.documents] == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert found.label_n.tolist() == [1] * 4 + [0] * 4
    assert [[found.documents[i][0] for i in rows] for rows in found.rows_cn] == [
        [0, 1, 2, 3, 10, 20, 11, 21],
        [10, 11, 12, 13, 0, 20, 1, 21],
        [20, 21, 22, 23, 0, 10, 1, 11],
    ]
    for wrong in ({"a": [[1]]}, {"a": [[1]], "b": [[1], [2]]}, {"a": [], "b": []}):
        with pytest.raises(ValueError, match="equally many documents"):
            balanced_problems(wrong)


def standardising() -> SAE:
    sae = random_sae()
    return SAE(
        sae.W_enc.data, sae.W_dec.data, sae.b_enc.data, sae.b_dec.data, nn.ReLU(), standardise=True
    )


@pytest.mark.parametrize("batch_tokens", [1, 30, 4096])
def test_means_are_those_of_each_document_alone(world: Path, batch_tokens: int) -> None:
    site = site_of(world, BLOCK, batch_tokens=batch_tokens)
    documents = [[0, 1, 2, 3], [0, 4], [0, 5, 6, 5, 0, 7], [0, 9, 9]]
    saes = {
        Key(4, 0): random_sae(),
        Key(4, 1): standardising(),
        Key(8, 0): Boosted(standardising(), axes_sae()),
    }
    found = {written: pool(site, documents, saes, written=written) for written in (False, True)}
    for i, tokens in enumerate(documents):
        # The first position and special tokens do not count.
        counts = [t for t, token in enumerate(tokens) if t and token]
        x_td = block_output(site.subject, tokens)[counts]
        torch.testing.assert_close(found[True].x_nd[i], x_td.mean(0))
        for key, sae in saes.items():
            with torch.no_grad():
                acts_tf = sae.encode(x_td)
            scale = 1 if key == Key(4, 0) else standardised(x_td).deviation_b1
            for written, factor in ((False, 1), (True, scale)):
                row = found[written].latents[key][[i]].toarray()[0]
                expected = (acts_tf * factor).mean(0)
                np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-6)


def block_output(subject: Subject, tokens: list[int]) -> torch.Tensor:
    kept = []
    handle = subject.model.get_submodule(BLOCK).register_forward_hook(
        lambda module, args, output: kept.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        subject.model(torch.tensor([tokens]))
    handle.remove()
    return kept[0][0]


def test_what_is_written_is_what_the_decoder_makes_of_it(world: Path) -> None:
    """Reconstructions are linear in what is written, so that pooled arithmetic is exact."""
    site = site_of(world, BLOCK)
    sae, documents = standardising(), [[0, 1, 2, 3], [0, 4, 5]]
    found = pool(site, documents, {Key(4, 0): sae}, written=True)
    for i, tokens in enumerate(documents):
        x_td = block_output(site.subject, tokens)[1:]
        with torch.no_grad():
            gain_d = (sae(x_td) - sae.decode(torch.zeros(len(x_td), sae.d_sae), x_td)).mean(0)
        written_f = torch.from_numpy(found.latents[Key(4, 0)][[i]].toarray()[0])
        torch.testing.assert_close(written_f @ sae.W_dec.data, gain_d, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_pooled_is_an_error(world: Path) -> None:
    site = site_of(world)
    with pytest.raises(ValueError, match="a document of 1 tokens has none that counts"):
        pool(site, [[0, 1], [0]], {})
    narrow = SAE(torch.eye(4), torch.eye(4), torch.zeros(4), torch.zeros(4), nn.ReLU())
    with pytest.raises(ValueError, match="16 wide, the SAEs read 4"):
        pool(site, [[0, 1]], {Key(4, 0): narrow})


def test_differences_are_of_means(world: Path) -> None:
    found = pool(site_of(world), [[0, 1], [0, 1, 2], [0, 3]], {Key(4, 0): axes_sae()})
    difference_f = mean_difference(found.latents[Key(4, 0)], np.array([1, 1, 0]))
    expected = {1: 0.75, 2: 0.25, 3: -1.0}
    np.testing.assert_allclose(difference_f, [expected.get(f, 0) for f in range(D_IN)])


def test_saes_are_read_together_as_far_as_memory_goes() -> None:
    saes = {Key(l0, seed): axes_sae() for l0 in (100, 400) for seed in (0, 1, 2)}
    # 100 tokens of L0 100 need 80 kB, of L0 400 four times as much.
    assert [list(group) for group in groups_of(saes, 100)] == [list(saes)]
    keys = [list(group) for group in groups_of(saes, 1_000_000)]
    assert keys == [[key for key in saes if key.l0_target == 100][:2], *[
        [key] for key in list(saes)[2:]
    ]]  # fmt: skip
    assert not list(groups_of({}, 100))
