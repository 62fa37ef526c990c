"""What makes a training another one beside its settings: code, and the files of a frozen SAE."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from sae_planted import SITE, VARIANTS, planted, planted_cache, settings

from saeflow import fingerprint
from saeflow.preflight import base_files
from saeflow.sae import foreign, formats, identity
from saeflow.sae.identity import sae_digest, training_code
from saeflow.sae.settings import FolderBase, Variant
from saeflow.sae.trainer import train_sae

FOLDER = FolderBase(source="folder", path="base")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with one SAE, trained twice, and another one."""
    root = tmp_path_factory.mktemp("trained")
    cache = planted_cache(root / "cache", planted(400)[0])
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        train_sae(settings("topk", tokens=5 * 64, seed=seed), cache, SITE, root / name)
    return root


def test_the_files_are_those_that_the_readers_open():
    modules = [foreign.sparsify, foreign.dictionary_learning, foreign.gemma_scope]
    assert {*identity.WEIGHTS} == {formats.WEIGHTS, *foreign.READERS}
    configs = {module.CONFIG for module in modules if hasattr(module, "CONFIG")}
    assert {*identity.CONFIGS} == {formats.CONFIG, *configs}


def test_a_base_trained_again_is_the_same_base(trained):
    manifests = [(trained / name / "manifest.json").read_text() for name in ("first", "again")]
    assert manifests[0] != manifests[1]  # they hold times
    digests = [sae_digest(trained / name) for name in ("first", "again", "other")]
    assert digests[0] == digests[1] != digests[2]


def test_a_base_given_by_its_file_has_its_config_too(trained, tmp_path):
    for name in ("cfg.json", "sae_weights.safetensors"):
        (tmp_path / name).write_bytes((trained / "first" / name).read_bytes())
    file = tmp_path / "sae_weights.safetensors"
    before = sae_digest(file)
    assert before == sae_digest(tmp_path) == sae_digest(trained / "first")
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps({**config, "k": 2}))
    assert sae_digest(file) != before
    here = SimpleNamespace(data_dir=tmp_path)
    listed = base_files(here, FolderBase(source="folder", path=file.name), SITE)
    assert listed == [str(tmp_path / "cfg.json"), str(file)]


def edited(monkeypatch, module: str) -> None:
    original = fingerprint._code_hash
    monkeypatch.setattr(
        fingerprint, "_code_hash", lambda name: "edited" if name == module else original(name)
    )


@pytest.mark.parametrize(
    ("module", "alone", "with_folder"),
    [
        ("saeflow.sae.optimisation", True, True),
        ("saeflow.sae.parallel", True, True),
        ("saeflow.sae.foreign", False, True),
        ("saeflow.sae.foreign.gemma_scope", False, True),
        ("saeflow.sae.continued", True, True),
        ("saeflow.report.build", False, False),
    ],
)
def test_an_edit_of_code_that_decides_weights_counts(monkeypatch, module, alone, with_folder):
    others = [Variant(activation="topk", **{key: FOLDER}) for key in ("error_of", "init_from")]
    variants = [VARIANTS["topk"], *others]
    before = [training_code(variant) for variant in variants]
    edited(monkeypatch, module)
    changed = [training_code(v) != b for v, b in zip(variants, before, strict=True)]
    assert changed == [alone, with_folder, with_folder]


def test_an_sae_of_other_code_for_several_processes_is_trained_again(
    trained, tmp_path, monkeypatch
):
    config = settings("topk", tokens=5 * 64)
    train_sae(config, trained / "cache", SITE, tmp_path)
    before = (tmp_path / "manifest.json").read_text()
    train_sae(config, trained / "cache", SITE, tmp_path)
    assert (tmp_path / "manifest.json").read_text() == before
    edited(monkeypatch, "saeflow.sae.parallel")
    train_sae(config, trained / "cache", SITE, tmp_path)
    assert (tmp_path / "manifest.json").read_text() != before
