"""The cache holds what a direct forward pass gives, each kept token once, and says what it left."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from activations_planted import (
    SITES,
    VOCAB,
    make_subject,
    make_tokens,
    random_windows,
    read_cache,
    settings,
)

from saeflow.activations import write
from saeflow.activations.buffer import ShuffleBuffer
from saeflow.activations.write import cache_activations
from saeflow.artifacts import ArtifactError, file_digest, read_manifest
from saeflow.subjects.load import load_subject
from saeflow.subjects.sites import SiteError, run_to_sites


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> Path:
    return make_subject(tmp_path_factory.mktemp("subject"))


@pytest.fixture(scope="module")
def windows():
    return random_windows(150)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory, windows) -> Path:
    return make_tokens(tmp_path_factory.mktemp("tokens"), windows)


def expected_rows(subject: Path, windows, skip: int = 1) -> dict[tuple[int, int], tuple]:
    """Token and activations of every kept token, from one forward pass a window."""
    loaded = load_subject(subject)
    rows = {}
    for document, start, ids in windows:
        acts = run_to_sites(loaded, torch.tensor([ids]), SITES)
        for i in range(max(1, skip), len(ids)):  # token 0 is the begin token, a special one
            rows[document, start + i - 1] = (ids[i], {s: acts[s][0, i].numpy() for s in SITES})
    return rows


def test_rows_equal_a_direct_forward_and_come_once(subject, tokens, windows, tmp_path):
    cache_activations(settings(), subject, tokens, "train", SITES, tmp_path)
    expected = expected_rows(subject, windows)
    for site in SITES:
        cache = read_cache(tmp_path, site)
        keys = list(zip(cache["document"].tolist(), cache["position"].tolist(), strict=True))
        assert sorted(keys) == sorted(expected)
        assert [expected[k][0] for k in keys] == cache["token"].tolist()
        direct = np.stack([expected[k][1][site] for k in keys])
        np.testing.assert_allclose(cache["acts"], direct, rtol=1e-4, atol=1e-6)
    stats = read_manifest(tmp_path, kind="activations", deep=True)["stats"]
    assert stats["rows"] == len(expected) == stats["tokens"] - stats["special"]
    assert (stats["special"], stats["first_positions"], stats["sinks"]) == (len(windows), 0, 0)
    assert not (tmp_path / "partial.json").exists()


def test_full_windows_give_exactly_the_bits_of_the_forward(subject, tmp_path):
    text = np.random.default_rng(4).integers(1, VOCAB, (9, 11))
    windows = [(i, 0, [0, *row]) for i, row in enumerate(text.tolist())]
    tokens = make_tokens(tmp_path / "tokens", windows)
    batch = settings(batch_tokens=12 * len(windows))
    cache_activations(batch, subject, tokens, "train", SITES[:1], tmp_path / "out")
    direct = run_to_sites(load_subject(subject), torch.tensor([w[2] for w in windows]), SITES[:1])
    cache = read_cache(tmp_path / "out", SITES[0])
    by_document = {w[0]: direct[SITES[0]][i].numpy() for i, w in enumerate(windows)}
    for document, position, row in zip(
        cache["document"], cache["position"], cache["acts"], strict=True
    ):
        assert (by_document[document][position + 1] == row).all()


def test_float16_is_the_rounded_float32(subject, tokens, tmp_path):
    for dtype in ("float32", "float16"):
        out = tmp_path / dtype
        cache_activations(settings(dtype=dtype), subject, tokens, "train", SITES, out)
    whole = read_cache(tmp_path / "float32", SITES[1], "<f4")
    half = read_cache(tmp_path / "float16", SITES[1], "<f2")
    assert (whole["acts"].astype("<f2") == half["acts"]).all()


def test_long_documents_keep_their_positions(subject, tmp_path):
    text = [1 + i % 60 for i in range(50)]
    windows = [(9, s, [0, *text[s : s + 23]]) for s in (0, 23, 46)]
    tokens = make_tokens(tmp_path / "tokens", windows)
    cache_activations(settings(), subject, tokens, "train", SITES[:1], tmp_path / "out")
    cache = read_cache(tmp_path / "out", SITES[0])
    assert dict(zip(cache["position"].tolist(), cache["token"].tolist(), strict=True)) == dict(
        enumerate(text)
    )


def test_budget_counts_kept_rows_of_the_first_windows(subject, tokens, windows, tmp_path):
    few = settings(tokens={"train": 500}, skip_positions=4)
    cache_activations(few, subject, tokens, "train", SITES[:1], tmp_path)
    cache = read_cache(tmp_path, SITES[0])
    assert len(cache["token"]) == 500
    kept = np.cumsum([max(0, len(w[2]) - 4) for w in windows])
    enough = int((kept < 500).sum()) + 1
    allowed = expected_rows(subject, windows[:enough], skip=4)
    assert {*zip(cache["document"].tolist(), cache["position"].tolist(), strict=True)} <= {*allowed}
    stats = read_manifest(tmp_path, kind="activations")["stats"]
    assert stats["surplus"] == len(allowed) - 500
    assert stats["first_positions"] == sum(min(len(w[2]) - 1, 3) for w in windows[:enough])


def test_a_massive_activation_is_dropped_at_every_site(windows, tmp_path):
    subject = make_subject(tmp_path / "subject", massive_token=5)
    tokens = make_tokens(tmp_path / "tokens", windows)
    planted = sum(w[2].count(5) for w in windows)
    assert planted > 10
    cache_activations(settings(), subject, tokens, "train", SITES, tmp_path / "out")
    stats = read_manifest(tmp_path / "out", kind="activations")["stats"]
    for site in SITES:
        assert 5 not in read_cache(tmp_path / "out", site)["token"]
    assert stats["sinks"] == planted
    norms = np.linalg.norm(read_cache(tmp_path / "out", SITES[0])["acts"], axis=1)
    assert norms.max() <= stats["sink_thresholds"][SITES[0]] < 12 * np.median(norms)
    every = settings(sink_norm=None)
    cache_activations(every, subject, tokens, "train", SITES, tmp_path / "all")
    assert (read_cache(tmp_path / "all", SITES[0])["token"] == 5).sum() == planted


def test_float16_overflow_names_shard_site_document_and_position(tmp_path):
    subject = make_subject(tmp_path / "subject", massive_token=5, scale=1e7)
    tokens = make_tokens(tmp_path / "tokens", [(77, 30, [0, 1, 2, 5, 3])])
    half = settings(dtype="float16", sink_norm=None)
    where = r"shard-00000.*site gpt_neox.layers.0, document 77, position 32 .*dtype: float32"
    with pytest.raises(ArtifactError, match=where):
        cache_activations(half, subject, tokens, "train", SITES[:1], tmp_path / "out")
    cache_activations(
        settings(sink_norm=None), subject, tokens, "train", SITES[:1], tmp_path / "out"
    )


def test_a_nan_is_named_even_where_sinks_are_dropped(tmp_path):
    subject = make_subject(tmp_path / "subject", massive_token=5, scale=float("nan"))
    tokens = make_tokens(tmp_path / "tokens", [(77, 0, [0, 1, 2, 5, 3])])
    with pytest.raises(ArtifactError, match=r"nan at site .*document 77, position"):
        cache_activations(settings(), subject, tokens, "train", SITES[:1], tmp_path / "out")


def test_same_seed_same_bytes_other_seed_other_order(subject, tokens, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cache_activations(settings(seed=seed), subject, tokens, "train", SITES, tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b") != digests(tmp_path / "c")
    position = read_cache(tmp_path / "a", SITES[0])["position"]
    assert not (np.diff(position[:50]) == 1).all()


def digests(folder: Path) -> dict[str, str]:
    return {p.name: file_digest(p) for p in sorted(folder.glob("shard-*"))}


# Children fork from a server that has imported torch and transformers once.
FORK = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def imported_once():
    modules = ["saeflow.activations.write", "transformers.models.gpt_neox.modeling_gpt_neox"]
    FORK.set_forkserver_preload(modules)


def job(subject: Path, tokens: Path, out: Path, log: Path, pause: float) -> None:
    """Cache in a process of its own; `pause` stretches it, so that a kill falls anywhere in it."""
    sys.stderr = log.open("w", buffering=1)
    torch.set_num_threads(1)
    write = ShuffleBuffer.write

    def slow(self, *arguments):
        time.sleep(pause)
        write(self, *arguments)
        time.sleep(pause)

    ShuffleBuffer.write = slow
    cache_activations(settings(), subject, tokens, "train", SITES, out)


def start(subject: Path, tokens: Path, out: Path, pause: float):
    log = out.with_suffix(".log")
    process = FORK.Process(target=job, args=(subject, tokens, out, log, pause))
    process.start()
    return process, log


def test_kill_9_at_random_moments_ends_with_the_same_bytes(subject, tokens, tmp_path):
    moments = random.Random(3)
    interrupted = tmp_path / "interrupted"
    for kills in range(1, 3):
        process, log = start(subject, tokens, interrupted, pause=0.2)
        wait_for(interrupted / f"shard-{2 * kills - 2:05d}.parquet", process, log)
        time.sleep(moments.random() * 0.4)
        process.kill()
        process.join()
        assert not (interrupted / "manifest.json").exists()
    (interrupted / "shard-00099.parquet").write_bytes(b"half")
    process, log = start(subject, tokens, interrupted, pause=0)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert "going on after" in log.read_text()
    process, log = start(subject, tokens, tmp_path / "whole", pause=0)
    process.join()
    assert digests(interrupted) == digests(tmp_path / "whole")
    assert stats_of(interrupted) == stats_of(tmp_path / "whole")
    assert not (interrupted / "partial.json").exists()


def wait_for(path: Path, process, log: Path) -> None:
    while not path.exists() and process.is_alive():
        time.sleep(0.002)
    assert process.is_alive(), log.read_text()


def stats_of(folder: Path) -> dict:
    return read_manifest(folder, kind="activations")["stats"]


def test_sigterm_ends_with_143_and_a_state_to_go_on_from(subject, tokens, tmp_path):
    out = tmp_path / "out"
    process, log = start(subject, tokens, out, pause=0.2)
    wait_for(out / "partial.json", process, log)
    process.terminate()
    process.join()
    assert process.exitcode == 143, log.read_text()
    assert "stopped on SIGTERM" in log.read_text()
    assert not (out / "manifest.json").exists()
    cache_activations(settings(), subject, tokens, "train", SITES, out)
    read_manifest(out, kind="activations", deep=True)


def test_a_state_of_other_settings_is_not_gone_on_from(subject, tokens, tmp_path, capsys):
    cache_activations(settings(), subject, tokens, "train", SITES[:1], tmp_path)
    stop_after_shards(subject, tokens, tmp_path, settings(seed=9), 2)
    assert (tmp_path / "partial.json").exists()
    capsys.readouterr()
    cache_activations(settings(seed=8), subject, tokens, "train", SITES[:1], tmp_path)
    assert "begun with other settings" in capsys.readouterr().err
    fresh = tmp_path / "fresh"
    cache_activations(settings(seed=8), subject, tokens, "train", SITES[:1], fresh)
    assert digests(tmp_path) == digests(fresh)


def stop_after_shards(subject, tokens, out, chosen, shards: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        save = write.Partial.save

        def save_then_stop(self, folder):
            save(self, folder)
            if len(self.shards) == shards:
                raise KeyboardInterrupt

        patch.setattr(write.Partial, "save", save_then_stop)
        with pytest.raises(KeyboardInterrupt):
            cache_activations(chosen, subject, tokens, "train", SITES[:1], out)


def test_a_changed_shard_of_a_partial_cache_is_made_again(subject, tokens, tmp_path, capsys):
    stop_after_shards(subject, tokens, tmp_path, settings(), 2)
    shard = tmp_path / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    cache_activations(settings(), subject, tokens, "train", SITES[:1], tmp_path)
    assert "other sizes than recorded" in capsys.readouterr().err
    read_manifest(tmp_path, kind="activations", deep=True)


def test_too_small_a_disk_is_refused_before_work(subject, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "_free_bytes", lambda folder: 10_000)
    with pytest.raises(ArtifactError, match=r"needs .* KiB but its disk has 9\.8 KiB free"):
        cache_activations(settings(), subject, tokens, "train", SITES, tmp_path)
    assert not list(tmp_path.glob("shard-*"))


def test_a_disk_that_fills_up_leaves_whole_shards_only(subject, tokens, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        monkeypatch.setattr(write, "_free_bytes", lambda folder: 10**12)
        with pytest.raises(ArtifactError, match="the disk is full at"):
            cache_activations(settings(), subject, tokens, "train", SITES, disk / "out")
        names = sorted(p.name for p in (disk / "out").iterdir())
        assert names == ["partial.json", *(f"shard-{i:05d}.parquet" for i in range(len(names) - 1))]
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        cache_activations(settings(), subject, tokens, "train", SITES, disk / "out")
        cache_activations(settings(), subject, tokens, "train", SITES, tmp_path / "out")
        assert digests(disk / "out") == digests(tmp_path / "out")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_errors_name_the_split_and_the_site(subject, tokens, tmp_path):
    with pytest.raises(ArtifactError, match="no split 'test'"):
        cache_activations(settings(), subject, tokens, "test", SITES, tmp_path / "out")
    empty = make_tokens(tmp_path / "empty", [])
    with pytest.raises(ArtifactError, match=r"train.parquet holds no tokens"):
        cache_activations(settings(), subject, empty, "train", SITES, tmp_path / "out")
    short = make_tokens(tmp_path / "short", [(1, 0, [0])])
    with pytest.raises(ArtifactError, match="no token is left"):
        cache_activations(settings(), subject, short, "train", SITES, tmp_path / "out")
    with pytest.raises(SiteError, match=r"gpt_neox\.layers\.9"):
        cache_activations(
            settings(), subject, tokens, "train", ["gpt_neox.layers.9"], tmp_path / "out"
        )
    with pytest.raises(ValueError, match="no entry for split 'train'"):
        cache_activations(
            settings(tokens={"test": 5}), subject, tokens, "train", SITES, tmp_path / "out"
        )


def test_size_and_time_are_said_before_the_work(subject, tokens, tmp_path, capsys):
    cache_activations(settings(), subject, tokens, "train", SITES, tmp_path)
    said = capsys.readouterr().err
    stats = read_manifest(tmp_path, kind="activations")["stats"]
    assert f"{4 * 16 * 3 + 16} bytes a row" in said and " on disk" in said and " s\n" in said
    assert stats["bytes"] == sum(p.stat().st_size for p in tmp_path.glob("shard-*"))
