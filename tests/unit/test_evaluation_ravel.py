"""Causal effects of hand-built dictionaries on attributes, where they are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from concept_recall_world import write_sae
from pydantic import ValidationError
from ravel_world import (
    COUNTRY,
    D_IN,
    LANGUAGE,
    SITE,
    axes_sae,
    country_sae,
    entities,
    entity_sae,
    make_world,
)
from torch import Tensor, nn

from saeflow.activations.exclusion import read_exclusion
from saeflow.artifacts import read_manifest
from saeflow.evaluation.origin import Key, Member
from saeflow.evaluation.pooled import Site
from saeflow.evaluation.ravel import Measured, evaluate_ravel, measure_ravel
from saeflow.evaluation.ravel_entities import EntityKind, read_entities, shipped_entities
from saeflow.evaluation.ravel_interchange import effects, of_everything, of_latents, of_subspace
from saeflow.evaluation.ravel_pairs import Ready, draw_pairs, ready, split
from saeflow.evaluation.ravel_prompts import known_prompts
from saeflow.evaluation.ravel_settings import RavelSettings
from saeflow.evaluation.rows import Point, read_rows
from saeflow.sae.model import SAE
from saeflow.subjects.load import load_subject

POINT = Point("ortsae", "subject", SITE, "docs", "all", "batchtopk", 6, 0)
SMALL = {"min_entities": 2, "pairs": 60, "batch_pairs": 8, "learning_rate": 0.01}
KEY = Key(4, 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


@pytest.fixture(scope="module")
def site(world: Path) -> Site:
    subject = load_subject(world / "subject")
    return Site(subject, SITE, read_exclusion(world / "cache", subject.special_ids))


def settings_of(**changed: Any) -> RavelSettings:
    return RavelSettings.model_validate({**SMALL, **changed})


def kinds(**changed: Any) -> dict[str, EntityKind]:
    return {"city": EntityKind.model_validate({**entities()["city"], **changed})}


def measure(
    site: Site, saes: SAE | dict[Key, SAE], of: dict[str, EntityKind] | None = None, **changed: Any
) -> Measured:
    loaded = saes if isinstance(saes, dict) else {KEY: saes}
    return measure_ravel(settings_of(**changed), of or kinds(), loaded, site=site, point=POINT)


def values(found: Measured, key: Key = KEY) -> dict[str, float]:
    return {row.metric: row.value for row in found.rows if Key(row.l0_target, row.seed) == key}


def country_pairs(site: Site, **changed: Any) -> Ready:
    settings = settings_of(**changed)
    known = known_prompts(settings, kinds()["city"], site)
    return ready(site, known, draw_pairs(settings, known, "country"))


def mask(latents: list[int], d_sae: int) -> Tensor:
    return torch.isin(torch.arange(d_sae), torch.tensor(latents, dtype=torch.long))


@pytest.mark.parametrize(
    ("latents", "cause", "isolation"),
    [(COUNTRY, 1, 1), (LANGUAGE, 0, 0), ([*COUNTRY, *LANGUAGE], 1, 0), ([], 0, 1)],
)
def test_a_dictionary_of_attributes(
    site: Site, latents: list[int], cause: float, isolation: float
) -> None:
    """Each value has a latent: countries move with theirs alone, also in two tokens."""
    pairs = country_pairs(site)
    assert any(len(target) == 2 for target in pairs.targets)
    found = effects(site, pairs, of_latents(axes_sae(), mask(latents, 6), keep_error=False))
    assert (found.cause, found.isolation) == (cause, isolation)
    assert found.disentanglement == (cause + isolation) / 2
    assert (found.cause_pairs, found.isolation_pairs) == (60, 60)


def test_a_dictionary_that_mixes_attributes(site: Site) -> None:
    sae, pairs = entity_sae(), country_pairs(site)
    every = effects(site, pairs, of_latents(sae, mask(list(range(9)), 9), keep_error=False))
    assert (every.cause, every.isolation) == (1, 0)
    assert values(measure(site, sae))["ravel_disentanglement"] < 0.8


def test_masks_are_learned(site: Site) -> None:
    found = measure(site, {KEY: axes_sae(), Key(8, 1): entity_sae()})
    of = values(found)
    assert of["ravel_cause"] == of["ravel_isolation"] == of["ravel_disentanglement"] == 1
    table = found.details.to_pandas().set_index(["seed", "attribute"])["latents"]
    assert set(COUNTRY) <= set(table[0, "country"]) and not set(LANGUAGE) & set(table[0, "country"])
    assert set(LANGUAGE) <= set(table[0, "language"]) and of["ravel_latents"] == 3
    assert values(found, Key(8, 1))["ravel_disentanglement"] < 1


def test_interchange_without_an_sae(site: Site) -> None:
    of = values(measure(site, entity_sae()))
    assert (of["ravel_cause_whole"], of["ravel_isolation_whole"]) == (1, 0)
    assert of["ravel_disentanglement_whole"] == 0.5
    assert of["ravel_disentanglement_subspace"] == 1
    pairs = country_pairs(site)
    assert effects(site, pairs, of_everything).cause == 1


@pytest.mark.parametrize(("block", "cause"), [(0, 0), (1, 1)])
def test_interchange_where_the_answer_is_read(site: Site, block: int, cause: float) -> None:
    """Block 1 brings the attribute there; before, tokens of the same query are the same."""
    later = site._replace(name=f"gpt_neox.layers.{block}")
    found = effects(later, country_pairs(later, position="prompt"), of_everything)
    assert (found.cause, found.isolation) == (cause, 1 - cause)


def test_the_subspace_is_that_of_the_attribute(site: Site) -> None:
    known = known_prompts(settings_of(), kinds()["city"], site)
    change = of_subspace(known["country"])
    base, source = torch.rand(2, 4, D_IN)
    moved = change(base, source) - base
    along = (source - base)[:, COUNTRY]
    assert torch.allclose(moved[:, COUNTRY], along - along.mean(1, keepdim=True), atol=1e-5)
    assert moved[:, LANGUAGE].abs().max() < 1e-5


def test_the_error_stays_if_asked(site: Site) -> None:
    """Without it languages are lost, which isolation shows."""
    kept, dropped = (values(measure(site, country_sae(), keep_error=k)) for k in (True, False))
    # To move languages this dictionary has no latents, so that their cause is 0 either way.
    assert (kept["ravel_cause"], kept["ravel_isolation"]) == (0.5, 1)
    assert dropped["ravel_cause"] <= 0.75 and dropped["ravel_isolation"] < 1


def test_what_is_not_reconstructed_is_said(site: Site) -> None:
    """Countries and languages vary by 2/3 each; without languages the squared error is 1."""
    for sae, expected in ((axes_sae(), 0), (country_sae(), 3 / 4)):
        found = measure(site, sae, kinds(entities=_but_the_liar()))
        assert values(found)["ravel_unexplained"] == pytest.approx(expected)


def _but_the_liar() -> dict[str, Any]:
    return {name: of for name, of in entities()["city"]["entities"].items() if name != "liar"}


def test_prompts_that_are_left_out_are_counted(site: Site) -> None:
    """`liar` has another country than the subject says; no entity ends in the third template."""
    templates = {**entities()["city"]["templates"]}
    templates["country"] = [*templates["country"], "{entity}s country"]
    found = measure(site, axes_sae(), kinds(templates=templates))
    table = found.details.to_pandas().set_index("attribute")
    expected = {"asked": 30, "cut": 10, "excluded": 0, "wrong": 2, "known": 18, "entities": 9}
    assert table.loc["country", list(expected)].to_dict() == expected
    assert table.loc["language", ["asked", "known", "entities"]].tolist() == [20, 20, 10]
    assert values(found)["ravel_known"] == 38 / 50
    assert [row.n for row in found.rows if row.metric == "ravel_known"] == [50]


def test_only_the_best_known_entities_and_templates_count(site: Site) -> None:
    found = known_prompts(settings_of(max_entities=4, max_templates=3), kinds()["city"], site)
    assert all(of.left_out["beyond_top"] for of in found.values())
    assert len({p.entity for of in found.values() for p in of.prompts}) == 4
    assert len({p.template for of in found.values() for p in of.prompts}) == 3
    assert not any(p.entity == "liar" for of in found.values() for p in of.prompts)


def test_tokens_that_do_not_count_are_left_out(site: Site) -> None:
    late = site._replace(rule=site.rule._replace(skip_positions=2))
    found = known_prompts(settings_of(), kinds()["city"], late)["language"]
    assert found.left_out["excluded"] == 10
    assert {prompt.template for prompt in found.prompts} == {"of {entity} language"}


def test_pairs_differ_in_their_answers(site: Site) -> None:
    settings = settings_of()
    known = known_prompts(settings, kinds()["city"], site)
    pairs = draw_pairs(settings, known, "country")
    assert len(set(pairs)) == len(pairs) == 120
    for pair in pairs:
        prompts = known[pair.attribute].prompts
        assert prompts[pair.base].value != prompts[pair.source].value
        assert pair.is_cause == (pair.attribute == "country")
    train, test = split(settings, pairs)
    assert not set(train) & set(test) and sum(pair.is_cause for pair in train) == 42
    assert len(test) == 36 and sum(pair.is_cause for pair in test) == 18


def test_attributes_that_are_not_known_are_skipped(site: Site) -> None:
    """Of `language` there are two entities; `age` has one value."""
    of = entities()["city"]
    rich = {
        name: {"country": known["country"], "age": "l0"} for name, known in of["entities"].items()
    }
    rich["e00"]["language"] = "l0"
    templates = {**of["templates"], "age": ["{entity} language"]}
    with pytest.raises(ValueError, match="city, language: 1 known entities, 2 are needed"):
        measure(site, axes_sae(), kinds(templates=templates, entities=rich))
    rich["e11"]["language"] = rich["e12"]["language"] = "l1"
    found = measure(site, axes_sae(), kinds(templates=templates, entities=rich), pairs=2)
    assert values(found)["ravel_attributes_skipped"] == 1
    lost = found.details.to_pandas().set_index("attribute")["skipped"].dropna().to_dict()
    assert lost == {"age": "all known entities have the same value"}


def test_another_width_is_refused(site: Site) -> None:
    narrow = SAE(torch.eye(2), torch.eye(2), torch.zeros(2), torch.zeros(2), nn.ReLU())
    with pytest.raises(ValueError, match=f"{D_IN} wide, the SAEs read 2"):
        measure(site, narrow)


# --- entities ------------------------------------------------------------------------------------


def test_the_shipped_facts() -> None:
    found = shipped_entities()
    assert found["city"].entities["Paris"] == {
        "country": "France", "continent": "Europe", "language": "French",
    }  # fmt: skip
    assert found["city"].templates["country"][1] == "{entity} belongs to"
    assert found["laureate"].templates.keys() == {"birthplace", "field", "gender"}


@pytest.mark.parametrize(
    "of",
    [
        {"templates": {"country": ["no entity"]}, "entities": {}},
        {"templates": {"country": ["{entity} is in "]}, "entities": {}},
        {"templates": {"country": ["{entity} in"]}, "entities": {"Paris": {"size": "big"}}},
    ],
)
def test_files_of_another_form_are_refused(of: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "entities.json"
    path.write_text(json.dumps({"city": of}))
    with pytest.raises(ValueError, match=r"entities\.json is no file of entities and templates"):
        read_entities(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="no kind of entities"):
        read_entities(path)


@pytest.mark.parametrize("file", ["/etc/entities.json", "../entities.json"])
def test_files_are_below_data_dir(file: str) -> None:
    with pytest.raises(ValidationError, match="leaves data_dir"):
        RavelSettings.model_validate({"file": file})


# --- jobs ----------------------------------------------------------------------------------------


def test_the_job_writes_rows_and_details(world: Path, tmp_path: Path) -> None:
    write_sae(tmp_path / "mixed", axes_sae(), SITE, world / "cache", 1)
    evaluate_ravel(
        settings_of(file="entities.json"),
        [Member(4, 0, world / "sae"), Member(4, 1, tmp_path / "mixed")],
        subject=world / "subject",
        activations=world / "cache",
        data_dir=world,
        point=POINT,
        out=tmp_path / "out",
    )
    rows = read_rows([tmp_path / "out" / "ravel.parquet"])
    assert set(rows["seed"]) == {0, 1} and set(rows["split"]) == {"test"}
    found = rows[rows["metric"] == "ravel_disentanglement"]
    assert found["value"].tolist() == [1, 1] and found["n"].tolist() == [2, 2]
    details = pd.read_parquet(tmp_path / "out" / "ravel_details.parquet")
    assert len(details) == 4
    assert read_manifest(tmp_path / "out", kind="metrics")["inputs"].keys() == {
        "subject", "activations", "exclusion", "entities", "l0_4/seed0", "l0_4/seed1",
    }  # fmt: skip


def test_a_file_needs_data_dir(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set data_dir"):
        evaluate_ravel(
            settings_of(file="entities.json"),
            [],
            subject=tmp_path,
            activations=tmp_path,
            point=POINT,
            out=tmp_path / "out",
        )
