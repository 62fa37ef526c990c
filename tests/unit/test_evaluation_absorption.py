"""Absorption of hand-built dictionaries, where it is known, and of words read from a subject."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pandas as pd
import pytest
import torch
from absorption_world import (
    ABSORBED,
    D_IN,
    EMBEDDING,
    HELD_OUT,
    LETTERS,
    WORDS,
    absorbing_sae,
    activation,
    letters_sae,
    make_world,
    split_sae,
    word_rows,
)
from concept_recall_world import write_sae
from pretended_cuda import PretendedCuda, on_cuda
from pretended_cuda import values as values_of
from pydantic import ValidationError
from torch import nn

from saeflow.artifacts import ArtifactError, read_manifest
from saeflow.evaluation.absorption import Found, evaluate_absorption, measure_absorption
from saeflow.evaluation.absorption_latents import candidates
from saeflow.evaluation.absorption_rows import LabelledRows, Place, labelled
from saeflow.evaluation.absorption_settings import AbsorptionSettings
from saeflow.evaluation.linear_probes import LinearProbes, train_probes
from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.rows import Point, read_rows
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE

POINT = Point("ortsae", "subject", EMBEDDING, "docs", "all", "batchtopk", 6, 0)
FEW = {"letters": {"min_classes": 2}}


def measure(saes: SAE | dict[Key, SAE], rows: LabelledRows | None = None, **settings: Any) -> Found:
    loaded = saes if isinstance(saes, dict) else {Key(4, 0): saes}
    parsed = AbsorptionSettings.model_validate({**FEW, **settings})
    return measure_absorption(parsed, "letters", rows or word_rows(), loaded, point=POINT)


FIRST = Key(4, 0)


def values(found: Found, key: Key = FIRST) -> dict[str, float]:
    return {
        row.metric.removesuffix("@letters"): row.value
        for row in found.rows
        if Key(row.l0_target, row.seed) == key
    }


def test_a_latent_for_each_letter_absorbs_nothing() -> None:
    assert values(measure(letters_sae())) == {
        "absorption_fraction": 0.0,
        "full_absorption": 0.0,
        "absorption_main_latents": 1.0,
        "absorption_main_f1": 1.0,
        "absorption_probe_f1": 1.0,
        "absorption_rows": 12,
        "absorption_classes_skipped": 0,
    }


def test_absorbed_words_are_counted_and_their_latents_named() -> None:
    """Two of the four held-out words of one letter in three are absorbed, each wholly."""
    found = measure(absorbing_sae())
    assert set(ABSORBED) & set(HELD_OUT) == {"aa", "af"}
    assert values(found)["full_absorption"] == values(found)["absorption_fraction"] == 0.5 / 3
    table = {one["class"]: one for one in found.classes}
    assert [table[letter]["main_latents"] for letter in LETTERS] == [[0], [1], [2]]
    assert [table[letter]["full_absorption"] for letter in LETTERS] == [0.5, 0, 0]
    assert (table["a"]["train_rows"], table["a"]["test_rows"], table["a"]["rows"]) == (16, 4, 4)
    of = {one["latent"]: one for one in found.latents}
    assert of.keys() == {3, 5}  # `ab`, with latent 4, is no held-out word
    for latent, word in ((3, "aa"), (5, "af")):
        assert (of[latent]["class"], of[latent]["parts"]) == ("a", [word])
        assert (of[latent]["full_rows"], of[latent]["fraction_rows"]) == (1, 1)
        assert of[latent]["part_rows"] == [1] and of[latent]["cosine"] > 0.1
        assert of[latent]["share"] == pytest.approx(1, abs=1e-5)


def test_each_sae_has_its_own_rows() -> None:
    found = measure({Key(4, 0): letters_sae(), Key(8, 2): absorbing_sae()})
    assert values(found, Key(4, 0))["full_absorption"] == 0
    assert values(found, Key(8, 2))["full_absorption"] == 0.5 / 3
    assert {(row.metric.removesuffix("@letters"), row.n) for row in found.rows} == {
        *((name, 3) for name in values(found) if name != "absorption_rows"),
        ("absorption_rows", 12),
    }
    assert {(one["l0_target"], one["seed"]) for one in found.latents} == {(8, 2)}


def test_a_letter_split_among_two_latents() -> None:
    """Each is on half of the letter's words: F1 is 2/3 with one of them and 1 with both."""
    found = measure(split_sae())
    table = {one["class"]: one for one in found.classes}
    assert sorted(table["a"]["main_latents"]) == [0, 1]
    assert table["a"]["f1_by_k"] == pytest.approx([2 / 3, 1, 1])
    assert table["b"]["f1_by_k"] == [1, 1] and table["b"]["main_latents"] == [2]
    assert values(found)["absorption_main_latents"] == pytest.approx(4 / 3)
    assert values(found)["full_absorption"] == values(found)["absorption_fraction"] == 0


def test_a_gain_below_the_jump_is_no_split() -> None:
    """Then one half of the words is without a main latent, and the other latent absorbs them."""
    for changed in ({"f1_jump": 0.4}, {"max_latents": 1}):
        found = measure(split_sae(), **changed)
        assert values(found)["absorption_main_latents"] == 1
        assert values(found)["full_absorption"] == values(found)["absorption_fraction"] == 0.5 / 3


def test_classes_that_do_not_count_are_named() -> None:
    """Words of `d` look like words of the other letters; of `c` there are three."""
    words = [word for word in WORDS if word[0] != "c"] + ["ca", "cb", "cf"]
    of = word_rows(words)
    strange = torch.stack([activation(word) for word in WORDS[:40]])
    places = [Place([], "d", f"d{i}", i % 5 == 0) for i in range(40)]
    known = [
        Place([], word[0], word, bool(out)) for word, out in zip(words, of.held_out_n, strict=True)
    ]
    rows = labelled(torch.cat([of.x_nd, strange]), [*known, *places], ascii_lowercase)
    bars = {"letters": {"min_classes": 1, "min_rows": 2}}
    found = measure(absorbing_sae(), rows, **bars)
    reasons = {one["class"]: one["skipped"] for one in found.classes if one.get("skipped")}
    assert len(reasons) == 24
    assert reasons["c"] == "1 rows, 2 are needed" and reasons["z"] == "0 rows, 2 are needed"
    assert reasons["d"].startswith("F1 0.") and reasons["d"].endswith("more than 0.6 is needed")
    assert values(found)["absorption_classes_skipped"] == 24
    assert [row.n for row in found.rows if row.metric.startswith("absorption_classes")] == [26]
    assert all(one["full_absorption"] is not None for one in found.classes if one["class"] in "ab")


def test_too_few_classes_are_an_error_that_says_why() -> None:
    with pytest.raises(ValueError, match=r"2 of 3 classes count, 20 are needed \(c: 0 rows, 1 are"):
        measure(letters_sae(), word_rows(WORDS[:40], "abc"), letters={})


def test_the_bar_is_above_what_a_class_needs() -> None:
    bars = {"min_classes": 1, "min_f1": 1.0}
    with pytest.raises(ValueError, match=r"a, b, c: F1 1\.00, more than 1 is needed"):
        measure(letters_sae(), letters=bars)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="L0 4, seed 0 is residual"):
        measure({Key(4, 0): Boosted(letters_sae(), letters_sae())})
    narrow = SAE(torch.eye(2), torch.eye(2), torch.zeros(2), torch.zeros(2), nn.ReLU())
    with pytest.raises(ValueError, match=f"L0 4, seed 0 reads width 2, the rows are {D_IN} wide"):
        measure(narrow)
    dead = letters_sae()
    dead.b_enc.data -= 100
    with pytest.raises(ValueError, match="no latent of the SAE fires"):
        measure(dead)
    with pytest.raises(ValueError, match="the settings leave out letters"):
        measure(letters_sae(), letters=None, domains={})


@pytest.mark.parametrize("template", ["first letter:", "{word} or {word}", "{word} {letter}"])
def test_templates_have_one_word(template: str) -> None:
    with pytest.raises(ValidationError, match="once and no other braces"):
        AbsorptionSettings.model_validate({"letters": {"template": template}})


def test_candidates_are_the_latents_that_fire_and_of_many_the_best() -> None:
    rows = word_rows()
    label_nc = rows.class_n[:, None] == torch.arange(3)
    sae = absorbing_sae(WORDS[:20])
    sae.b_enc.data[7] = -100  # never fires
    everything = candidates(sae, rows.x_nd, label_nc, 4096)
    assert everything.tolist() == [latent for latent in range(1, 23) if latent != 7]
    # Letter a has twenty latents of its own, alike, in place of latent 0, which never fires.
    best = candidates(sae, rows.x_nd, label_nc, 3)
    assert {1, 2} < set(best.tolist()) and len(best) == 3


# --- jobs ----------------------------------------------------------------------------------------

ASKED = {"template": "{word} :", "examples": 2, "min_classes": 3, "min_rows": 2}
DOMAINS = {"min_classes": 3, "context": 4}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


def evaluate(
    world: Path, out: Path, saes: list[Member] | None = None, site: str = EMBEDDING, **settings: Any
) -> tuple[dict[tuple[int, int, str], float], pd.DataFrame, pd.DataFrame]:
    """Values by L0, seed and metric, and the two tables."""
    evaluate_absorption(
        AbsorptionSettings.model_validate({"letters": ASKED, **settings}),
        saes or [Member(4, 0, world / "sae")],
        subject=world / "subject",
        activations=world / "cache",
        corpus=world / "corpus",
        point=POINT._replace(site=site),
        out=out,
    )
    rows = read_rows([out / "absorption.parquet"])
    keys = zip(rows["l0_target"], rows["seed"], rows["metric"], strict=True)
    return (
        dict(zip(keys, rows["value"], strict=True)),
        pd.read_parquet(out / "absorption_details.parquet"),
        pd.read_parquet(out / "absorption_latents.parquet"),
    )


def test_words_of_the_vocabulary_through_the_subject(world: Path, tmp_path: Path) -> None:
    found, classes, latents = evaluate(world, tmp_path / "out")
    assert (
        found[4, 0, "absorption_probe_f1@letters"] == found[4, 0, "absorption_main_f1@letters"] == 1
    )
    # Twenty words and the capital letter, a fifth held out, as they happen to be drawn.
    counted = classes[classes["skipped"].isna()].set_index("class")
    assert (counted["train_rows"] + counted["test_rows"]).to_dict() == dict.fromkeys("abc", 21)
    assert counted["test_rows"].sum() == 13 == found[4, 0, "absorption_rows@letters"]
    absorbed = latents["parts"].str[0].tolist()
    assert set(absorbed) <= set(ABSORBED) and (latents["full_rows"] == 1).all()
    share = len(absorbed) / counted.loc["a", "test_rows"]
    assert found[4, 0, "full_absorption@letters"] == pytest.approx(share / 3)
    assert found[4, 0, "full_absorption"] == found[4, 0, "full_absorption@letters"]
    assert (
        classes["class"].nunique() == 26 and found[4, 0, "absorption_classes_skipped@letters"] == 23
    )
    assert read_manifest(tmp_path / "out", kind="metrics")["inputs"].keys() == {
        "subject", "activations", "exclusion", "corpus", "l0_4/seed0",
    }  # fmt: skip


def test_words_of_the_corpus_and_domains(world: Path, tmp_path: Path) -> None:
    """Every word is in the train split of the corpus; a document is read at its third word."""
    letters = {**ASKED, "words": "corpus", "test_share": 0.5}
    found, classes, latents = evaluate(world, tmp_path, letters=letters, domains=DOMAINS)
    of = {name: table.set_index("class") for name, table in classes.groupby("concept")}
    assert of["letters"].loc[list("abc"), "train_rows"].sum() == 30
    assert of["domains"]["train_rows"].to_dict() == {"a": 13, "b": 13, "c": 14}
    assert of["domains"]["test_rows"].to_dict() == {"a": 7, "b": 7, "c": 6}
    own = latents[latents["concept"] == "domains"]
    # Test documents of letter a start with its words 0, 3, 6 ..., 18, whose third ones are 2,
    # 5 (`af`), 8, ..., 0 (`aa`).
    assert dict(zip(own["latent"], own["parts"].str[0], strict=True)) == {3: "a.as", 5: "a.ad"}
    assert found[4, 0, "full_absorption@domains"] == pytest.approx(2 / 7 / 3)
    assert found[4, 0, "absorption_rows@domains"] == 20
    both = (found[4, 0, f"full_absorption@{concept}"] for concept in ("letters", "domains"))
    assert found[4, 0, "full_absorption"] == pytest.approx(sum(both) / 2)


def test_seeds_and_l0_targets_in_one_job(world: Path, tmp_path: Path) -> None:
    write_sae(tmp_path / "sae", absorbing_sae([*ABSORBED, "ba"]), EMBEDDING, world / "cache", 1)
    saes = [Member(4, 0, world / "sae"), Member(4, 1, tmp_path / "sae")]
    with pytest.raises(ArtifactError, match="d_sae 7 for 6"):
        evaluate(world, tmp_path / "out", saes)
    write_sae(tmp_path / "other", absorbing_sae(["ba", "bb", "bc"]), EMBEDDING, world / "cache", 1)
    found, classes, _ = evaluate(
        world, tmp_path / "out", [saes[0], Member(4, 1, tmp_path / "other")], domains=DOMAINS
    )
    table = classes[(classes["concept"] == "domains")].set_index(["seed", "class"])
    assert table["full_absorption"].round(6).to_dict() == {
        (0, "a"): round(2 / 7, 6), (0, "b"): 0, (0, "c"): 0,
        (1, "a"): 0, (1, "b"): round(1 / 7, 6), (1, "c"): 0,
    }  # fmt: skip
    assert found[4, 0, "absorption_probe_f1@letters"] == found[4, 1, "absorption_probe_f1@letters"]


def test_what_is_missing_is_said_before_the_work(world: Path, tmp_path: Path) -> None:
    def job(**settings: Any) -> None:
        evaluate_absorption(
            AbsorptionSettings.model_validate(settings),
            [],
            subject=world / "nothing",
            activations=world / "nothing",
            point=POINT,
            out=tmp_path,
        )

    with pytest.raises(ValueError, match="absorption of nothing"):
        job(letters=None)
    with pytest.raises(ValueError, match="words or domains of a corpus, and none is given"):
        job(letters={"words": "corpus"})
    with pytest.raises(ValueError, match="words or domains of a corpus, and none is given"):
        job(domains={})


def test_on_cuda_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mixing devices; only the probes' optimiser would look at the tensors' storage."""
    sae, rows = absorbing_sae(), word_rows()
    expected = measure(sae, rows)
    monkeypatch.setattr(
        "saeflow.evaluation.absorption_classes.train_probes", trained_on_cuda(train_probes)
    )
    monkeypatch.setattr(
        "saeflow.evaluation.absorption_latents.train_probes", trained_on_cuda(train_probes)
    )
    for name, parameter in list(sae.named_parameters()):
        setattr(sae, name, nn.Parameter(on_cuda(parameter.data), requires_grad=False))
    with PretendedCuda():
        found = measure(sae, rows._replace(x_nd=on_cuda(rows.x_nd)))
    assert found.rows == expected.rows
    assert found.classes == expected.classes


def trained_on_cuda(train: Any) -> Any:
    def trained(settings: Any, x_nd: Any, label_nc: Any, *, seed: int) -> LinearProbes:
        probes = train(settings, values_of(x_nd), values_of(label_nc), seed=seed)
        return LinearProbes(on_cuda(probes.weight_cd), on_cuda(probes.bias_c))

    return trained
