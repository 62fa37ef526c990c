import json
import os
import signal
import subprocess
import sys

import pytest

from saeflow import artifacts
from saeflow.artifacts import (
    ArtifactError,
    Clock,
    atomic_path,
    begin,
    clear_folder,
    is_unchanged,
    read_manifest,
    write_json,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/manifest.json").write_text("{}")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.bin").write_bytes(b"abc")
    write_manifest(
        out,
        kind="thing",
        settings={"k": 1},
        files=["a.bin"],
        inputs={"source": tmp_path / "source"},
        stats={"rows": 3},
        seed=7,
        code="0123",
        clock=Clock(),
    )
    return out


def test_a_manifest_describes_what_was_made(folder):
    manifest = read_manifest(folder, kind="thing", deep=True)
    assert manifest["settings"] == {"k": 1}
    assert manifest["files"]["a.bin"]["bytes"] == 3
    assert manifest["seed"] == 7
    assert manifest["code"] == "0123"
    assert manifest["stats"] == {"rows": 3}
    assert len(manifest["inputs"]["source"]["sha256"]) == 64
    assert manifest["peak_memory_mib"] > 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "a.bin").write_bytes(b"ab"), "2 bytes, its manifest says 3"),
        (lambda f: (f / "a.bin").unlink(), "missing"),
        (lambda f: (f / "manifest.json").unlink(), "never finished"),
        (lambda f: (f / "manifest.json").write_text("{"), "not readable JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "not of schema"),
    ],
)
def test_damage_is_named_with_the_command_that_mends_it(folder, damage, message):
    damage(folder)
    with pytest.raises(ArtifactError, match=message) as error:
        read_manifest(folder, kind="thing")
    assert f"snakemake --cores all {folder}/manifest.json" in str(error.value)


def test_a_changed_byte_is_seen_by_a_deep_check_only(folder):
    (folder / "a.bin").write_bytes(b"abd")
    read_manifest(folder, kind="thing")
    with pytest.raises(ArtifactError, match="hash"):
        read_manifest(folder, kind="thing", deep=True)


def test_another_kind_is_refused(folder):
    with pytest.raises(ArtifactError, match="describes a 'thing', expected a 'sae'"):
        read_manifest(folder, kind="sae")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_manifest_over_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_manifest(tmp_path, kind="thing", settings={}, files=["absent"])
    assert not (tmp_path / "manifest.json").exists()


def test_clearing_a_folder_removes_what_was_left(folder):
    clear_folder(folder)
    assert not list(folder.iterdir())


def test_a_stage_begins_without_manifest_and_leftovers(folder):
    (folder / ".tmp-a.bin-xyz.bin").write_bytes(b"half")
    assert begin(folder) == folder
    assert [path.name for path in folder.iterdir()] == ["a.bin"]
    assert begin(folder / "new" / "deep").is_dir()


def test_a_write_removes_what_a_killed_one_left_and_no_other_files_write(tmp_path):
    """As in a folder of figures, which several jobs fill at once."""
    path = tmp_path / "a[1].json"
    script = (
        "import os, signal, sys\n"
        "from saeflow.artifacts import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(path)])
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_path(tmp_path / "b.json") as other:
        other.write_text("{}")
        write_json(path, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a[1].json", "b.json"]


def test_an_input_is_known_again_by_its_hash_or_if_large_by_size_and_time(tmp_path, monkeypatch):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"one")
    (tmp_path / "out").mkdir()
    write_manifest(tmp_path / "out", kind="x", settings={}, files=[], inputs={"w": weights})
    entry = read_manifest(tmp_path / "out", kind="x")["inputs"]["w"]
    written = weights.stat().st_mtime_ns
    assert is_unchanged(weights, entry)
    assert not is_unchanged(tmp_path / "absent", entry)
    weights.write_bytes(b"two")
    os.utime(weights, ns=(written, written))
    assert not is_unchanged(weights, entry)
    monkeypatch.setattr(artifacts, "_SMALL_BYTES", 1)
    assert is_unchanged(weights, entry)  # not read: size and time are those recorded
    os.utime(weights, ns=(written, written + 1))
    assert not is_unchanged(weights, entry)
    weights.write_bytes(b"one")
    assert is_unchanged(weights, entry)  # another time, so that it is read
