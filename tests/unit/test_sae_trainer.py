"""The training job: what it leaves behind, and that no interruption changes it."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sae_planted import SITE, interrupt_after, planted, planted_cache, settings, training_job
from safetensors import safe_open
from torch import Tensor

from saeflow.activations.stream import ActivationStream
from saeflow.artifacts import read_manifest
from saeflow.evaluation.rows import SCHEMA
from saeflow.sae import timing
from saeflow.sae.checkpoint import STATE
from saeflow.sae.formats import WEIGHTS, load_sae
from saeflow.sae.optimisation import NonFiniteLoss, Trainer
from saeflow.sae.settings import SAESettings
from saeflow.sae.timing import time_variants
from saeflow.sae.trainer import train_sae

# One process imports torch and is forked for each job, where each start would cost two seconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["saeflow.sae.trainer"])


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return planted_cache(tmp_path_factory.mktemp("cache"), planted(1000)[0])


def short(name: str = "batchtopk", steps: int = 40, **training) -> SAESettings:
    return settings(name, tokens=steps * 64, dead_after_tokens=640, **training)


def start(config: SAESettings, cache: Path, out: Path) -> BaseProcess:
    process = CONTEXT.Process(target=training_job, args=(config.model_dump(), cache, out))
    process.start()
    return process


def wait_for_checkpoint(process: BaseProcess, out: Path) -> None:
    """Return once this process has written a state of its own."""
    state = out / "trainer" / STATE
    before = state.stat().st_mtime_ns if state.exists() else None
    deadline = time.monotonic() + 60
    while not state.exists() or state.stat().st_mtime_ns == before:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)


def test_a_finished_folder_has_weights_log_and_manifest(tmp_path, cache):
    train_sae(short("ortsae"), cache, SITE, tmp_path, metadata={"context_size": 128})
    manifest = read_manifest(tmp_path, kind="sae", deep=True)
    assert set(manifest["files"]) == {"cfg.json", WEIGHTS, "log.parquet"}
    assert {p.name for p in tmp_path.iterdir()} == {*manifest["files"], "manifest.json"}
    assert load_sae(tmp_path).d_sae == 64
    metadata = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert (metadata["hook_name"], metadata["context_size"]) == (SITE, 128)
    log = pq.read_table(tmp_path / "log.parquet").to_pydict()
    assert log["step"] == list(range(1, 41)) and log["tokens"][-1] == 40 * 64
    assert log["explained_variance"][-1] > log["explained_variance"][0]
    assert log["loss_orthogonality"][0] > log["loss_orthogonality"][-1] > 0
    terms = {"loss_reconstruction", "loss_auxk", "learning_rate", "dead_latents", "seconds", "l0"}
    assert terms <= set(log)


def test_a_long_training_logs_about_every_hundredth(tmp_path, cache):
    train_sae(short(steps=250), cache, SITE, tmp_path)
    steps = pq.read_table(tmp_path / "log.parquet")["step"].to_pylist()
    assert 100 <= len(steps) <= 130 and steps[-1] == 250


@pytest.mark.parametrize("name", ["relu", "ortsae"])
def test_kill_9_at_random_moments_does_not_change_the_weights(tmp_path, cache, name, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    config = short(name, steps=200, checkpoint_minutes=0)
    train_sae(short(name, steps=200), cache, SITE, tmp_path / "whole")
    out, draw = tmp_path / "killed", random.Random(name)
    for _ in range(3):
        process = start(config, cache, out)
        wait_for_checkpoint(process, out)
        time.sleep(draw.random() * 0.1)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and not (out / "manifest.json").exists()
    train_sae(config, cache, SITE, out)
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    log = [pq.read_table(f / "log.parquet").drop(["seconds"]) for f in (out, tmp_path / "whole")]
    assert log[0].equals(log[1])
    left = {"stderr.txt", "cfg.json", WEIGHTS, "log.parquet", "manifest.json"}
    assert {path.name for path in out.iterdir()} == left


def test_sigterm_saves_and_leaves_with_143(tmp_path, cache):
    process = start(short(steps=100_000, checkpoint_minutes=1e-3), cache, tmp_path)
    wait_for_checkpoint(process, tmp_path)
    process.terminate()
    process.join(60)
    assert process.exitcode == 143 and not (tmp_path / "manifest.json").exists()
    with safe_open(tmp_path / "trainer" / STATE, framework="pt") as file:
        saved = json.loads(file.metadata()["saeflow"])["numbers"]["trainer"]["index"]
    said = (tmp_path / "stderr.txt").read_text()
    assert f"stopped on SIGTERM after step {saved:,}" in said


def test_a_state_of_other_settings_is_left_aside_with_a_line(tmp_path, cache, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 10, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train_sae(short(checkpoint_minutes=0), cache, SITE, tmp_path / "a")
    other = short(checkpoint_minutes=0, learning_rate=1e-3)
    train_sae(other, cache, SITE, tmp_path / "a")
    assert "belongs to another training (other settings)" in capsys.readouterr().err
    train_sae(other, cache, SITE, tmp_path / "b")
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


def test_a_damaged_state_is_left_aside_with_a_line(tmp_path, cache, capsys):
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / STATE).write_bytes(b"\x10\0\0\0\0\0\0\0 not a header")
    train_sae(short(), cache, SITE, tmp_path)
    assert "cannot be read" in capsys.readouterr().err


def test_resume_reads_on_where_the_data_stopped(tmp_path, cache, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 25, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train_sae(short(checkpoint_minutes=0), cache, SITE, tmp_path)
    seen = []
    original = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, x, _: seen.append(x) or original(self, x))
    train_sae(short(checkpoint_minutes=0), cache, SITE, tmp_path)
    assert len(seen) == 15
    with ActivationStream(cache, SITE, batch_size=64, seed=0) as stream:
        expected = [next(stream) for _ in range(40)][25:]
    assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))


def test_a_non_finite_cache_names_batch_and_folder(tmp_path):
    rows, _ = planted(640)
    rows[100, 3] = float("inf")
    bad = planted_cache(tmp_path / "cache", rows)
    config = short(input_scaling="none")
    with pytest.raises(NonFiniteLoss, match=r"step \d+.*batch \d+ of 64 rows of .*cache"):
        train_sae(config, bad, SITE, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_inference_l0_is_k_on_the_cache(tmp_path, cache):
    train_sae(short(steps=20), cache, SITE, tmp_path)
    rows, sae = planted(1000)[0], load_sae(tmp_path)
    assert (sae.encode(rows) > 0).sum(1).float().mean().item() == pytest.approx(3, rel=0.02)


def counted(monkeypatch) -> list[Tensor]:
    """Note the batches on which thresholds are set."""
    seen: list[Tensor] = []
    original = Trainer.count
    monkeypatch.setattr(Trainer, "count", lambda s, cut, x: seen.append(x) or original(s, cut, x))
    return seen


def test_the_threshold_is_calibrated_on_the_batches_after_the_last_step(
    tmp_path, cache, monkeypatch
):
    seen = counted(monkeypatch)
    train_sae(short(steps=10, calibration_batches=3), cache, SITE, tmp_path / "a")
    with ActivationStream(cache, SITE, batch_size=64, seed=0) as stream:
        expected = [next(stream) for _ in range(13)][10:]
    assert len(seen) == 3
    assert all(np.array_equal(a, b) for a, b in zip(seen, expected, strict=True))
    train_sae(short(steps=10), cache, SITE, tmp_path / "b")
    assert len(seen) == 3 + 16  # the 1,000 rows once


def test_sigterm_while_calibrating_saves_and_the_next_run_only_calibrates(
    tmp_path, cache, monkeypatch
):
    original = Trainer.count

    def stopped(self, cut, raw_bd):
        signal.raise_signal(signal.SIGTERM)
        original(self, cut, raw_bd)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "count", stopped)
        with pytest.raises(SystemExit) as left:
            train_sae(short(), cache, SITE, tmp_path / "a")
    assert left.value.code == 143 and not (tmp_path / "a" / "manifest.json").exists()
    with monkeypatch.context() as patch:
        interrupt_after(patch, 0, KeyboardInterrupt)
        train_sae(short(), cache, SITE, tmp_path / "a")
    train_sae(short(), cache, SITE, tmp_path / "b")
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()


def test_a_label_and_the_checkpoint_interval_do_not_make_another_training(
    tmp_path, cache, monkeypatch
):
    base = short("matryoshka", checkpoint_minutes=0)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 25, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train_sae(base, cache, SITE, tmp_path)
    renamed = SAESettings.model_validate(base.identity())
    assert (renamed.variant.label, renamed.training.checkpoint_minutes) == ("", 5.0)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 15, KeyboardInterrupt)
        train_sae(renamed, cache, SITE, tmp_path)
    metadata = json.loads((tmp_path / "cfg.json").read_text())["metadata"]
    assert metadata["training_architecture"] == "batchtopk+matryoshka"
    manifest = read_manifest(tmp_path, kind="sae")
    assert manifest["settings"] == base.identity()
    assert "label" not in manifest["settings"]["variant"]


def test_a_state_of_another_torch_is_left_aside_with_a_line(tmp_path, cache, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt_after(patch, 10, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            train_sae(short(checkpoint_minutes=0), cache, SITE, tmp_path)
    monkeypatch.setattr("saeflow.sae.trainer.version", lambda package: "2.0.0")
    train_sae(short(), cache, SITE, tmp_path)
    assert "belongs to another training (other torch)" in capsys.readouterr().err


def test_an_sae_is_finished_where_torch_names_a_build_that_its_package_does_not(
    tmp_path, cache, monkeypatch
):
    monkeypatch.setattr("torch.__version__", "2.0.0+another")
    train_sae(short(), cache, SITE, tmp_path)
    monkeypatch.delattr(Trainer, "step")  # which nothing needs
    train_sae(short(), cache, SITE, tmp_path)


def test_a_state_that_a_finished_sae_left_is_removed(tmp_path, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("saeflow.sae.trainer.forget", lambda out: None)  # killed before
        train_sae(short(checkpoint_minutes=0), cache, SITE, tmp_path)
    assert (tmp_path / "trainer" / STATE).exists()
    monkeypatch.delattr(Trainer, "step")  # which nothing needs
    train_sae(short(), cache, SITE, tmp_path)
    assert not (tmp_path / "trainer").exists() and (tmp_path / "manifest.json").exists()


ORIGIN = {"paper": "p", "subject": "s", "corpus": "c", "split": "train", "selection": "all"}


def test_timing_is_tidy_and_interleaved(tmp_path, cache, monkeypatch):
    order = []
    original = Trainer.step
    monkeypatch.setattr(
        Trainer,
        "step",
        lambda self, x: order.append(self.settings.variant.label) or original(self, x),
    )
    variants = {"batchtopk": short(), "ortsae": short("ortsae")}
    time_variants(variants, cache, SITE, tmp_path, rounds=4, steps=4, origin=ORIGIN)
    read_manifest(tmp_path, kind="timing", deep=True)
    table = pq.read_table(tmp_path / "timing.parquet")
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert sorted((r["variant"], r["seed"]) for r in rows) == [
        (v, s) for v in ("batchtopk", "ortsae") for s in range(4)
    ]
    assert all(0 < r["value"] < 10 and r["n"] == 4 for r in rows)
    assert {r["metric"] for r in rows} == {"step_seconds"}
    turns = [order[i] for i in range(0, len(order), 4)]
    assert order == [name for name in turns for _ in range(4)]
    rounds = list(zip(turns[2::2], turns[3::2], strict=True))  # the first warms up
    assert sorted(rounds) == 2 * [("BatchTopK", "OrtSAE")] + 2 * [("OrtSAE", "BatchTopK")]


def test_timing_over_sizes_takes_every_variant_at_each(tmp_path, cache, monkeypatch):
    order = []
    original = Trainer.step
    monkeypatch.setattr(
        Trainer,
        "step",
        lambda self, x: (
            order.append((self.sae.d_sae, self.settings.variant.label)) or original(self, x)
        ),
    )
    variants = {"batchtopk": short(), "ortsae": short("ortsae")}
    sizes = {"rounds": 2, "steps": 2, "d_sae": [32, 48]}
    time_variants(variants, cache, SITE, tmp_path, origin=ORIGIN, **sizes)
    rows = pq.read_table(tmp_path / "timing.parquet").to_pylist()
    timed = sorted((row["d_sae"], row["variant"], row["seed"]) for row in rows)
    assert timed == [(d, v, s) for d in (32, 48) for v in ("batchtopk", "ortsae") for s in (0, 1)]
    assert all(0 < row["value"] < 10 for row in rows)
    turns = order[::2]
    assert order == [turn for turn in turns for _ in range(2)]
    first, second = turns[4:8], turns[8:]  # the first round warms up
    assert first == [(d, v) for d in (32, 48) for v in ("BatchTopK", "OrtSAE")]
    assert second == [(d, v) for d in (32, 48) for v in ("OrtSAE", "BatchTopK")]


def test_timing_reads_nothing_while_its_clock_runs(tmp_path, cache, monkeypatch):
    seen: dict[str, list] = {"BatchTopK": [], "OrtSAE": []}
    original = Trainer.step

    def step(self, raw_bd):
        assert not [t for t in threading.enumerate() if t.name.startswith("saeflow-activations")]
        seen[self.settings.variant.label].append(raw_bd)
        return original(self, raw_bd)

    monkeypatch.setattr(Trainer, "step", step)
    variants = {"batchtopk": short(), "ortsae": short("ortsae")}
    time_variants(variants, cache, SITE, tmp_path, rounds=2, steps=4, origin=ORIGIN)
    with ActivationStream(cache, SITE, batch_size=64, seed=0) as stream:
        expected = [next(stream) for _ in range(12)]
    for batches in seen.values():
        assert all(np.array_equal(a, b) for a, b in zip(batches, expected, strict=True))


def test_timing_gives_its_device_to_reader_trainer_and_manifest(tmp_path, cache, monkeypatch):
    given = []
    for name in ("ActivationStream", "new_trainer"):
        original = getattr(timing, name)

        def noted(*args, original=original, **options):
            given.append(str(options.get("device", args[-1])))
            return original(*args, **options)

        monkeypatch.setattr(timing, name, noted)
    time_variants(
        {"a": short()}, cache, SITE, tmp_path, rounds=1, steps=2, origin=ORIGIN, device="cpu:0"
    )
    assert given == ["cpu:0"] * 3
    assert read_manifest(tmp_path, kind="timing")["device"] == "cpu:0"


def test_timing_refuses_rounds_of_unequal_work(tmp_path, cache):
    with pytest.raises(ValueError, match=r"steps 5 is no multiple of .*every 2 of ortsae"):
        time_variants(
            {"ortsae": short("ortsae")}, cache, SITE, tmp_path, rounds=1, steps=5, origin=ORIGIN
        )
    with pytest.raises(ValueError, match=r"rounds 3 is no multiple of the 2 variants"):
        variants = {"a": short(), "b": short()}
        time_variants(variants, cache, SITE, tmp_path, rounds=3, steps=4, origin=ORIGIN)
    with pytest.raises(ValueError, match=r"one batch_size.*\[32, 64\]"):
        variants = {"a": short(), "b": short(batch_size=32)}
        time_variants(variants, cache, SITE, tmp_path, rounds=2, steps=4, origin=ORIGIN)
