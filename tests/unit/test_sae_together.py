"""Several SAEs from one read of the cache: the weights of each are those it has alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from sae_planted import SITE, Stop, planted, planted_cache, settings
from safetensors import safe_open

from saeflow.activations.stream import ActivationStream
from saeflow.sae.checkpoint import STATE
from saeflow.sae.formats import WEIGHTS
from saeflow.sae.optimisation import NonFiniteLoss, Trainer
from saeflow.sae.settings import SAESettings, Tilt, Variant
from saeflow.sae.trainer import Wanted, train_sae, train_saes

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["saeflow.sae.trainer"])
NAMES = ("relu", "topk", "ortsae")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return planted_cache(tmp_path_factory.mktemp("cache"), planted(1000)[0])


def short(name: str, steps: int = 40, **training: Any) -> SAESettings:
    return settings(name, tokens=steps * 64, dead_after_tokens=640, **training)


def wanted(out: Path, **training: Any) -> list[Wanted]:
    return [Wanted(short(name, **training), out / name) for name in NAMES]


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory) -> Path:
    """The same SAEs, trained one by one."""
    out = tmp_path_factory.mktemp("alone")
    for one in wanted(out):
        train_sae(one.settings, cache, SITE, one.out)
    return out


def weights(out: Path, names: tuple[str, ...] = NAMES) -> list[bytes]:
    return [(out / name / WEIGHTS).read_bytes() for name in names]


def logs(out: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(out / name / "log.parquet") for name in NAMES]
    return [table.drop_columns("seconds").to_pydict() for table in tables]


def saved_index(out: Path) -> int:
    with safe_open(out / "trainer" / STATE, framework="pt") as file:
        return json.loads(file.metadata()["saeflow"])["numbers"]["trainer"]["index"]


def test_weights_and_logs_are_those_of_saes_trained_alone(tmp_path, cache, alone, monkeypatch):
    read = []
    original = ActivationStream.__next__
    monkeypatch.setattr(
        ActivationStream, "__next__", lambda self: read.append(self.position) or original(self)
    )
    train_saes(wanted(tmp_path), cache, SITE)
    assert weights(tmp_path) == weights(alone) and logs(tmp_path) == logs(alone)
    # Each batch once: a sample, one for the scale, 40 steps, 16 for the threshold of OrtSAE.
    assert read == [0, 0, *range(40 + 16)]
    assert not list(tmp_path.glob("*/trainer"))


def job(items: list[tuple[dict[str, Any], str]], cache: Path, stderr: Path) -> None:
    os.fsync = lambda handle: None
    torch.set_num_threads(1)
    with stderr.open("w") as sys.stderr:
        all_wanted = [Wanted(SAESettings.model_validate(s), Path(out)) for s, out in items]
        train_saes(all_wanted, cache, SITE)


def start(tmp_path: Path, cache: Path, **training: Any) -> Any:
    items = [(w.settings.model_dump(), str(w.out)) for w in wanted(tmp_path, **training)]
    process = CONTEXT.Process(target=job, args=(items, cache, tmp_path / "stderr"))
    process.start()
    return process


def wait_for(process: Any, path: Path, before: int | None = None) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_mtime_ns == before:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.003)


def test_kill_9_between_the_saves_of_a_moment_changes_no_weights(tmp_path, cache, alone):
    draw = random.Random(0)
    for _ in range(2):
        state = tmp_path / draw.choice(NAMES) / "trainer" / STATE
        before = state.stat().st_mtime_ns if state.exists() else None
        process = start(tmp_path, cache, checkpoint_minutes=0)
        wait_for(process, state, before)
        process.kill()
        process.join()
    train_saes(wanted(tmp_path), cache, SITE)
    assert weights(tmp_path) == weights(alone) and logs(tmp_path) == logs(alone)


def interrupt_saves_after(monkeypatch, saves: int) -> None:
    """Fail between two saves, as a stand-in for a kill."""
    from saeflow.sae import run

    original, left = run.save_state, iter(range(saves))

    def save(*args):
        if next(left, None) is None:
            raise Stop
        original(*args)

    monkeypatch.setattr(run, "save_state", save)


def steps_taken(monkeypatch) -> dict[str, list[int]]:
    taken: dict[str, list[int]] = {}
    original = Trainer.step

    def step(self, raw_bd, sequence_b=None):
        taken.setdefault(self.settings.variant.label, []).append(self.index)
        return original(self, raw_bd, sequence_b)

    monkeypatch.setattr(Trainer, "step", step)
    return taken


def test_who_was_saved_later_skips_batches_until_its_turn(tmp_path, cache, alone, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_saves_after(patch, 3 * 9 + 1)  # ReLU after 10 steps, the others after 9
        with pytest.raises(Stop):
            train_saes(wanted(tmp_path, checkpoint_minutes=0), cache, SITE)
    assert [saved_index(tmp_path / name) for name in NAMES] == [10, 9, 9]
    taken = steps_taken(monkeypatch)
    train_saes(wanted(tmp_path), cache, SITE)
    assert taken == {
        "ReLU": [*range(10, 40)], "TopK": [*range(9, 40)], "OrtSAE": [*range(9, 40)]
    }  # fmt: skip
    assert weights(tmp_path) == weights(alone) and logs(tmp_path) == logs(alone)


def test_finished_saes_are_left_alone_and_others_are_not(tmp_path, cache, alone, monkeypatch):
    for name in ("relu", "topk"):
        rate = 1e-3 if name == "topk" else 3e-3
        train_sae(short(name, learning_rate=rate), cache, SITE, tmp_path / name)
    kept = (tmp_path / "relu" / "manifest.json").stat().st_mtime_ns
    taken = steps_taken(monkeypatch)
    train_saes(wanted(tmp_path), cache, SITE)
    assert set(taken) == {"TopK", "OrtSAE"}
    assert (tmp_path / "relu" / "manifest.json").stat().st_mtime_ns == kept
    assert weights(tmp_path) == weights(alone)
    (tmp_path / "relu" / WEIGHTS).write_bytes(b"damaged")
    train_saes(wanted(tmp_path), cache, SITE)
    assert weights(tmp_path) == weights(alone)


def test_a_job_that_fails_at_its_end_has_lost_no_training(tmp_path, cache, alone, monkeypatch):
    from saeflow.sae import run

    original = run.save_sae

    def fail(sae, folder, metadata):
        if folder.name == "topk":
            raise Stop
        return original(sae, folder, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(run, "save_sae", fail)
        with pytest.raises(Stop):
            train_saes(wanted(tmp_path), cache, SITE)
    (tmp_path / "relu" / "manifest.json").unlink()  # as the workflow does with a failed job
    taken = steps_taken(monkeypatch)
    train_saes(wanted(tmp_path), cache, SITE)
    assert not taken and weights(tmp_path) == weights(alone)


def test_sigterm_saves_all(tmp_path, cache):
    process = start(tmp_path, cache, steps=100_000, checkpoint_minutes=1e-3)
    wait_for(process, tmp_path / "ortsae" / "trainer" / STATE)
    process.terminate()
    process.join(60)
    assert process.exitcode == 143
    assert len({saved_index(tmp_path / name) for name in NAMES}) == 1
    assert (tmp_path / "stderr").read_text().count("stopped on SIGTERM after step") == len(NAMES)


def diverging(monkeypatch, *labels: str) -> None:
    """Let the SAEs of these names meet an activation that is no number, at their step 7."""
    original = Trainer.step

    def step(self, raw_bd, sequence_b=None):
        if self.settings.variant.label in labels and self.index == 7:
            raw_bd = raw_bd * float("nan")
        return original(self, raw_bd, sequence_b)

    monkeypatch.setattr(Trainer, "step", step)


def test_the_others_of_a_diverging_sae_are_finished(tmp_path, cache, alone, monkeypatch, capsys):
    others = ("relu", "ortsae")
    with monkeypatch.context() as patch:
        diverging(patch, "TopK")
        with pytest.raises(NonFiniteLoss, match=r"step 7.*topk"):
            train_saes(wanted(tmp_path), cache, SITE)
    assert "the other SAEs of this job go on" in capsys.readouterr().err
    assert weights(tmp_path, others) == weights(alone, others)
    assert not (tmp_path / "topk" / "manifest.json").exists()
    # As the workflow does with the new files of a failed job: it takes no training to repeat them.
    (tmp_path / "relu" / "manifest.json").unlink()
    taken = steps_taken(monkeypatch)
    train_saes(wanted(tmp_path, checkpoint_minutes=0), cache, SITE)
    assert taken == {"TopK": [*range(40)]}
    assert weights(tmp_path) == weights(alone) and not list(tmp_path.glob("*/trainer"))


def test_a_diverged_sae_goes_on_from_the_last_state_before(tmp_path, cache, monkeypatch):
    diverging(monkeypatch, "TopK")
    for _ in range(2):
        with pytest.raises(NonFiniteLoss):
            train_saes(wanted(tmp_path, checkpoint_minutes=0), cache, SITE)
        assert saved_index(tmp_path / "topk") == 7


def test_a_job_ends_when_all_of_its_saes_diverge(tmp_path, cache, monkeypatch):
    diverging(monkeypatch, "TopK", "ReLU", "OrtSAE")
    taken = steps_taken(monkeypatch)
    with pytest.raises(NonFiniteLoss, match=r"(?s)step 7.*relu.*step 7.*topk.*step 7.*ortsae"):
        train_saes(wanted(tmp_path), cache, SITE)
    assert max(max(steps) for steps in taken.values()) == 7


def test_trainings_of_different_lengths_share_what_they_can(tmp_path, cache, alone):
    longer = Wanted(short("topk", steps=60), tmp_path / "longer")
    train_saes([*wanted(tmp_path), longer], cache, SITE)
    assert weights(tmp_path) == weights(alone)
    train_sae(longer.settings, cache, SITE, tmp_path / "by itself")
    assert weights(tmp_path, ("longer",)) == weights(tmp_path, ("by itself",))


def test_what_decides_the_batches_must_agree(tmp_path, cache):
    first = Wanted(short("topk"), tmp_path / "a")
    tilted = Variant(activation="topk", tilt=Tilt(t=5.0, over="sequence"))
    for other, reason in [
        (short("topk", batch_size=32), "one batch_size: it is 64"),
        (settings("topk", seed=1), "one seed: it is 0 .* and 1"),
        (settings(tilted), "one by_document: it is False"),
    ]:
        with pytest.raises(ValueError, match=f"need {reason}"):
            train_saes([first, Wanted(other, tmp_path / "b")], cache, SITE)
