"""SAEs kept on the way: they are those of their step, and no interruption changes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sae_planted import SITE, Stop, interrupt_after, planted, planted_cache, settings

from saeflow.activations.stream import ActivationStream
from saeflow.artifacts import read_manifest
from saeflow.sae.formats import CONFIG, WEIGHTS, load_sae
from saeflow.sae.optimisation import learning_rate
from saeflow.sae.settings import SAESettings
from saeflow.sae.trainer import Wanted, new_trainer, train_sae, train_saes

SHARES = (0.25, 0.6)
STEPS = {"snapshots/step00000010": 10, "snapshots/step00000024": 24}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return planted_cache(tmp_path_factory.mktemp("cache"), planted(1000)[0])


def short(name: str = "relu", shares: tuple[float, ...] = SHARES, **more: Any) -> SAESettings:
    return settings(name, tokens=40 * 64, snapshots=shares, **more)


def files(out: Path) -> dict[str, bytes]:
    return {f: (out / f / WEIGHTS).read_bytes() for f in STEPS}


@pytest.mark.parametrize("name", ["relu", "batchtopk"])
def test_a_snapshot_is_the_sae_of_its_step(tmp_path, cache, name):
    config = short(name)
    train_sae(config, cache, SITE, tmp_path)
    trainer = new_trainer(config, cache, SITE)
    expected = {}
    with ActivationStream(cache, SITE, batch_size=64, seed=0) as stream:
        for raw_bd in (next(stream) for _ in range(24)):
            trainer.step(raw_bd)
            if name == "batchtopk":
                trainer.calibrate([raw_bd])
            expected[trainer.index] = trainer.finished()
            batch = raw_bd
    for folder, step in STEPS.items():
        found, same = load_sae(tmp_path / folder).state_dict(), expected[step].state_dict()
        assert all(found[name].equal(same[name]) for name in same)
    sae = load_sae(tmp_path / "snapshots/step00000024")
    l0 = (sae.encode(batch) > 0).sum(1).float().mean().item()
    assert name == "relu" or l0 == pytest.approx(3, rel=0.02)


def test_the_manifest_lists_them_and_they_change_nothing_else(tmp_path, cache):
    train_sae(short(), cache, SITE, tmp_path / "with")
    train_sae(short(shares=()), cache, SITE, tmp_path / "without")
    same = [(tmp_path / name / WEIGHTS).read_bytes() for name in ("with", "without")]
    assert same[0] == same[1] and not (tmp_path / "without" / "snapshots").exists()
    manifest = read_manifest(tmp_path / "with", kind="sae", deep=True)
    assert {f"{f}/{n}" for f in STEPS for n in (CONFIG, WEIGHTS)} < set(manifest["files"])
    entries = manifest["stats"]["snapshots"]
    assert [(entry["step"], entry["share"]) for entry in entries] == [(10, 0.25), (24, 0.6)]
    training = short().training
    rates = [learning_rate(training, step - 1, 40) for step in STEPS.values()]
    assert [entry["learning_rate"] for entry in entries] == rates
    assert all(entry["l1_coefficient"] > 0 for entry in entries)
    assert "snapshots" not in read_manifest(tmp_path / "without", kind="sae")["stats"]


@pytest.mark.parametrize("steps", [5, 10, 17, 39])
def test_an_interrupted_training_leaves_the_same_snapshots(tmp_path, cache, monkeypatch, steps):
    train_sae(short(), cache, SITE, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(patch, steps)
        with pytest.raises(Stop):
            train_sae(short(checkpoint_minutes=0), cache, SITE, tmp_path / "cut")
    train_sae(short(), cache, SITE, tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    stats = [read_manifest(tmp_path / f, kind="sae", deep=True)["stats"] for f in ("cut", "whole")]
    assert stats[0]["snapshots"] == stats[1]["snapshots"]


def test_those_of_another_training_go_and_a_missing_one_is_made_again(tmp_path, cache):
    train_sae(short(shares=(0.5,)), cache, SITE, tmp_path)
    train_sae(short(), cache, SITE, tmp_path)
    assert sorted(p.name for p in (tmp_path / "snapshots").iterdir()) == [
        "step00000010", "step00000024"
    ]  # fmt: skip
    before = files(tmp_path)
    (tmp_path / "snapshots/step00000010" / WEIGHTS).unlink()
    train_sae(short(), cache, SITE, tmp_path)
    assert files(tmp_path) == before


def test_saes_of_one_read_have_their_own(tmp_path, cache):
    names = ("relu", "topk")
    train_saes([Wanted(short(name), tmp_path / name) for name in names], cache, SITE)
    for name in names:
        train_sae(short(name), cache, SITE, tmp_path / "alone" / name)
        assert files(tmp_path / name) == files(tmp_path / "alone" / name)


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        ((0.6, 0.2), "must rise"),
        ((0.5, 0.5), "must rise"),
        ((0.0,), "greater than 0"),
        ((1.0,), "less than 1"),
        ((0.5, 0.501), "do not fall on 2 steps of their own"),
        ((0.001,), "between the first and the last of 40"),
        ((0.999,), "between the first and the last of 40"),
    ],
)
def test_impossible_shares_are_refused(shares, reason):
    with pytest.raises(ValidationError, match=reason):
        short(shares=shares)
