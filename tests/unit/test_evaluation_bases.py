"""How the workflow finds the frozen SAE of each residual one that it evaluates."""

from __future__ import annotations

import runpy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from keys_config import ROOT, lookups
from keys_config import base as smoke
from snakemake.iocontainers import Wildcards
from test_evaluation_core import null_sae

from saeflow.config import Config
from saeflow.sae.formats import WEIGHTS, save_sae


def point(**changes: str) -> Wildcards:
    found = {"subject": "tiny", "site": "gpt_neox.layers.1", "corpus": "docs"}
    found |= {"variant": "residual", "d_sae": "128", "l0": "4"}
    return Wildcards(fromdict=found | changes)


def test_the_workflow_finds_the_base_of_each_seed() -> None:
    config = Config.model_validate({**smoke(), "seeds": [3, 7]})
    rules = lookups(config)
    folders = [
        f"{config.root}/saes/tiny/gpt_neox.layers.1/docs/topk/d64-l0_4/seed{seed}"
        for seed in (3, 7)
    ]
    assert rules.point_bases(point()) == folders
    assert rules.point_base_inputs(point()) == [f"{folder}/manifest.json" for folder in folders]
    assert rules.point_bases(point(variant="relu")) == [None, None]
    assert rules.point_base_inputs(point(variant="relu")) == []


def test_the_workflow_finds_a_base_in_a_folder_for_every_seed(tmp_path: Path) -> None:
    save_sae(null_sae(), tmp_path / "published", {})
    tree = smoke() | {"data_dir": str(tmp_path)}
    tree["variants"]["residual"]["error_of"] = {"source": "folder", "path": "published"}
    rules = lookups(Config.model_validate(tree))
    folder = str(tmp_path / "published")
    assert rules.point_bases(point()) == [folder] * len(tree["seeds"])
    assert rules.point_base_inputs(point()) == [f"{folder}/cfg.json", f"{folder}/{WEIGHTS}"]


def with_residual_series(base: dict[str, Any] | None = None) -> Config:
    """The smoke scale, where a series of the sweep of general text is residual SAEs."""
    tree = smoke() | {"seeds": [3, 7]}
    tree["ssae"]["sweeps"]["gsae"]["series"]["term"]["variant"] = "residual"
    if base is not None:
        tree["variants"]["residual"]["error_of"] = base
    return Config.model_validate(tree)


def series(name: str) -> Wildcards:
    return Wildcards(fromdict={"paper": "ssae", "sweep": "gsae", "series": name, "tested": "docs"})


def test_measures_of_a_series_find_its_bases() -> None:
    config = with_residual_series()
    rules, place = lookups(config), "saes/tiny/gpt_neox.layers.1/docs/topk/d64-l0_4"
    folders = {seed: f"{config.root}/{place}/seed{seed}" for seed in (3, 7)}
    manifests = [f"{folder}/manifest.json" for folder in folders.values()]
    assert rules.reference_bases(series("term")) == folders
    assert rules.reference_base_inputs(series("term")) == manifests
    assert [sae["base"] for sae in rules.series_params(series("term"))] == list(folders.values())
    assert rules.series_base_inputs(series("term")) == manifests
    assert rules.reference_bases(series("erm")) == {}
    assert rules.reference_base_inputs(series("erm")) == []
    assert rules.map_bases(series("term")) == {"term": folders[3]}
    assert rules.map_base_inputs(series("term")) == manifests[:1]


def test_importers_count_as_code_of_a_series() -> None:
    rules = lookups(with_residual_series({"source": "folder", "path": "published"}))
    rules.series_core_code.__globals__["fingerprint"] = lambda *modules: modules
    foreign = "saeflow.sae.foreign"
    assert rules.series_core_code(series("term")) == ("saeflow.evaluation.core", foreign)
    assert rules.series_core_code(series("erm")) == ("saeflow.evaluation.core",)
    measures = "saeflow.evaluation.token_measures"
    assert rules.series_tokens_code(series("term")) == (measures, foreign)
    assert rules.series_tokens_code(series("erm")) == (measures,)


@pytest.mark.parametrize(
    ("script", "function"),
    [
        ("measure_tokens", "saeflow.evaluation.token_measures.measure_tokens"),
        ("explain_latents", "saeflow.autointerp.score.explain_latents"),
        ("recall_concepts", "saeflow.evaluation.concept_recall.measure_concept_recall"),
        ("map_series", "saeflow.evaluation.maps.map_series"),
    ],
)
def test_a_job_of_a_series_gives_its_bases(
    script: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("saeflow.job.job", lambda *_: nullcontext())
    monkeypatch.setattr(function, lambda _, saes, **others: given.update(others, saes=saes))
    key = "term" if script == "map_series" else 7
    names = ("subject", "tokens", "activations", "exclusion", "corpus")
    where = lookups(with_residual_series()).series_point(series("term"))
    snakemake = SimpleNamespace(
        log=["log"],
        threads=1,
        params=SimpleNamespace(
            settings={}, saes={key: "sae"}, bases={key: "base"}, split="test", point=where,
            activations={key: "cache"}, seed=3, data_dir=".",
        ),
        input=SimpleNamespace(**{name: f"{name}/m" for name in names}),
        output=["out/m"],
        resources=SimpleNamespace(gpu=0),
    )  # fmt: skip
    path = ROOT / "workflow" / "scripts" / f"{script}.py"
    runpy.run_path(str(path), {"snakemake": snakemake})
    assert (given["saes"], given["bases"]) == ({key: Path("sae")}, {key: Path("base")})


def test_importers_count_as_code_where_the_base_may_need_one() -> None:
    tree = smoke()
    tree["variants"]["published"] = {
        "activation": "topk",
        "error_of": {"source": "folder", "path": "published"},
    }
    core_code = lookups(Config.model_validate(tree)).core_code
    core_code.__globals__["fingerprint"] = lambda *modules: modules
    assert core_code(point(variant="published")) == (
        "saeflow.evaluation.core",
        "saeflow.sae.foreign",
    )
    for name in ("residual", "relu"):
        assert core_code(point(variant=name)) == ("saeflow.evaluation.core",)


def test_the_job_gives_each_seed_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("saeflow.job.job", lambda *_: nullcontext())
    monkeypatch.setattr(
        "saeflow.evaluation.core.evaluate_core",
        lambda _, saes, **others: given.update(others, saes=saes),
    )
    snakemake = SimpleNamespace(
        log=["log"],
        threads=1,
        params=SimpleNamespace(
            settings={"splits": {"test": 1}}, seeds=[3, 7, 9], bases=["b3", None, "b9"], paper="p"
        ),
        input=SimpleNamespace(
            saes=["s3/m", "s7/m", "s9/m"], subject="subject/m", tokens="tokens/m", activations="a/m"
        ),
        output=["out/m"],
        wildcards=point(),
        resources=SimpleNamespace(gpu=0),
    )
    runpy.run_path(
        str(ROOT / "workflow" / "scripts" / "evaluate_core.py"), {"snakemake": snakemake}
    )
    assert given["saes"] == {3: Path("s3"), 7: Path("s7"), 9: Path("s9")}
    assert given["bases"] == {3: Path("b3"), 9: Path("b9")}
