"""Pretraining: learns, resumes exactly, refuses what cannot work."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file

from saeflow.artifacts import ArtifactError, read_manifest, write_manifest
from saeflow.subjects import pretrain as room
from saeflow.subjects.load import load_subject
from saeflow.subjects.materialise import make_subject
from saeflow.subjects.mixture import Stream, plan_windows
from saeflow.subjects.optimiser import build_optimisers, learning_rate
from saeflow.subjects.settings import PretrainedHere, PretrainSettings

SENTENCE = "the cat and dog sat on a red mat while old birds sang in every green tree"


def settings(**changes) -> PretrainSettings:
    return PretrainSettings(
        **{
            "mixture": {"a": 0.75, "b": 0.25},
            "tokens": 4096,
            "vocab_size": 300,
            "context": 16,
            "d_model": 16,
            "layers": 2,
            "heads": 2,
            "d_mlp": 32,
            "batch_windows": 8,
            "micro_batch": 2,
            "validation_tokens": 256,
            "precision": "float32",
            "log_every": 4,
        }
        | changes
    )


def subject(training: PretrainSettings, **changes) -> PretrainedHere:
    return PretrainedHere(
        **{
            "source": "pretrain",
            "pretrain": True,
            "training": training,
            "sites": ["gpt_neox.layers.*"],
            "context": 16,
            "min_window": 1,
        }
        | changes
    )


def write_corpus(folder: Path, seed: int, documents: int = 300) -> Path:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(SENTENCE.split(), 20)) for _ in range(documents)]
    splits = ["validation" if i % 10 == 0 else "train" for i in range(documents)]
    folder.mkdir(parents=True)
    columns = {"document": list(range(documents)), "split": splits, "text": texts}
    pq.write_table(pa.table(columns), folder / "documents.parquet")
    write_manifest(folder, kind="corpus", settings={"source": "files"}, files=["documents.parquet"])
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("corpora")
    return {name: write_corpus(root / name, seed) for seed, name in enumerate("ab")}


@pytest.fixture(scope="module")
def made(corpora: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "tiny"
    make_subject(subject(settings()), corpora, out, Path())
    return out


def test_it_learns_and_says_how_well(made: Path) -> None:
    manifest = read_manifest(made, kind="subject", deep=True)
    curve = pq.read_table(made / "pretraining.parquet").to_pydict()
    assert curve["loss"][0] > math.log(300) - 1.5
    for losses in manifest["stats"]["validation"].values():
        assert losses["nats_per_token"] < curve["loss"][0]
    assert curve["step"][-1] == 32 and curve["tokens"][-1] == 4096
    assert not (made / "trainer").exists()
    weights = load_file(made / "model.safetensors")
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float16)}


def test_reported_loss_is_that_of_the_saved_model(made: Path, corpora: dict[str, Path]) -> None:
    stats = read_manifest(made, kind="subject")["stats"]["validation"]["a"]
    loaded = load_subject(made)
    texts = pq.read_table(corpora["a"] / "documents.parquet").to_pylist()
    ids: list[int] = []
    for row in texts:
        if row["split"] == "validation":
            ids += [0, *loaded.tokenizer(row["text"], add_special_tokens=False)["input_ids"]]
    windows = torch.tensor([ids[i : i + 17] for i in range(0, 256, 16)])
    logits = loaded.model(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert stats["nats_per_token"] == pytest.approx(loss.item(), abs=1e-3)


def test_same_settings_same_bytes(made: Path, corpora: dict[str, Path], tmp_path: Path) -> None:
    make_subject(subject(settings()), corpora, tmp_path / "again", Path())
    for name in ("model.safetensors", "tokenizer.json", "pretraining.parquet"):
        assert (made / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_stopped_run_ends_with_the_same_bytes(
    made: Path, corpora: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "stopped"
    steps = 0
    step = room._step

    def step_then_sigterm(*args):
        nonlocal steps
        steps += 1
        if steps == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(room, "_step", step_then_sigterm)
    with pytest.raises(SystemExit) as stopped:
        make_subject(subject(settings()), corpora, out, Path())
    assert stopped.value.code == 143
    with pytest.raises(ArtifactError):
        read_manifest(out, kind="subject")
    steps = 100
    make_subject(subject(settings()), corpora, out, Path())
    assert steps == 100 + 32 - 13
    for name in ("model.safetensors", "pretraining.parquet"):
        assert (made / name).read_bytes() == (out / name).read_bytes()


def test_killed_hard_it_goes_on_from_the_checkpoint(
    made: Path, corpora: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    often = subject(settings(checkpoint_minutes=0.002))
    script = (
        "import sys, json; from pathlib import Path\n"
        "from saeflow.subjects.materialise import make_subject\n"
        "from saeflow.subjects.settings import PretrainedHere\n"
        "s, c, out = sys.argv[1:]\n"
        "make_subject(PretrainedHere.model_validate_json(s),"
        " {k: Path(v) for k, v in json.loads(c).items()}, Path(out), Path())\n"
    )
    places = json.dumps({name: str(path) for name, path in corpora.items()})
    argv = [sys.executable, "-c", script, often.model_dump_json(), places, str(out)]
    running = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    state = out / "trainer" / "state.safetensors"
    while not state.exists() and running.poll() is None:
        time.sleep(0.002)
    running.kill()
    running.wait()
    assert state.exists()
    make_subject(often, corpora, out, Path())
    assert (made / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("changed", ["settings", "corpora", "code", "device", "torch"])
def test_state_of_another_run_is_not_taken_over(
    changed: str,
    corpora: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / "trainer"
    state = work / "state.safetensors"
    room._claim(work, settings(), corpora, "cpu")
    state.write_bytes(b"anything")
    room._claim(work, settings(), corpora, "cpu")
    assert state.exists() and not capsys.readouterr().err
    if changed == "code":
        monkeypatch.setattr(room, "fingerprint", lambda module: "another")
    if changed == "torch":
        monkeypatch.setattr(torch, "__version__", "1.0")
    room._claim(
        work,
        settings(lr=1e-3) if changed == "settings" else settings(),
        {"a": corpora["b"], "b": corpora["a"]} if changed == "corpora" else corpora,
        "cuda" if changed == "device" else "cpu",
    )
    assert not state.exists()
    assert f"(other {changed}): starting anew" in capsys.readouterr().err


def test_gradient_of_workers_and_chunks_is_that_of_the_mean_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "HEAD_TOKENS", 7)
    model = room.build_model(settings())
    ids = torch.randint(0, 300, (4, 17), generator=torch.Generator().manual_seed(0))
    loss = room._backward(model, ids, 1 / 64)
    chunked = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    logits = model(ids[:, :-1]).logits
    whole = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    whole.backward()
    assert loss == pytest.approx(whole.item(), rel=1e-5)
    for one, parameter in zip(chunked, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-4, atol=1e-7)


def test_replicas_share_weights_but_not_gradients(tmp_path: Path) -> None:
    run = room._start_or_resume(settings(workers=2), tmp_path, "cpu")
    mine, theirs = run.replicas[0].lm_head.weight, run.replicas[1].lm_head.weight
    with torch.no_grad():
        mine[0, 0] = 42.0
    mine.grad = torch.ones_like(mine)
    assert theirs[0, 0] == 42.0 and theirs.grad is None
    assert run.replicas[1].gpt_neox.embed_in.weight[0, 0] == 42.0


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_every_parameter_has_one_optimiser(optimiser: str) -> None:
    chosen = settings(optimiser=optimiser)
    model = room.build_model(chosen)
    held = [
        id(p)
        for one in build_optimisers(model, model.get_input_embeddings(), chosen)
        for group in one.param_groups
        for p in group["params"]
    ]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_non_finite_loss_names_the_step(
    corpora: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([(5.0, 1.0), (4.9, 1.0), (float("nan"), 1.0)])
    monkeypatch.setattr(room, "_step", lambda *args: next(losses))
    with pytest.raises(FloatingPointError, match="step 2: the loss is nan"):
        make_subject(subject(settings()), corpora, tmp_path / "x", Path())


def test_schedule_rises_stays_and_falls_to_zero() -> None:
    chosen = settings(tokens=128 * 100, lr=1.0, warmup=0.1, decay=0.4)
    rates = [learning_rate(chosen, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9:60] == [1.0] * 51
    assert rates[80] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.025)


def test_plan_keeps_shares_reads_all_and_extends() -> None:
    windows, shares = {"a": 50, "b": 7}, {"a": 0.8, "b": 0.2}
    plan = plan_windows(windows, shares, 1000, seed=3)
    assert plan_windows(windows, shares, 400, seed=3) == plan[:400]
    assert plan_windows(windows, shares, 400, seed=4) != plan[:400]
    of_a = [w for name, w in plan if name == "a"]
    assert 740 < len(of_a) < 860
    assert sorted(of_a[:50]) == sorted(of_a[50:100]) == list(range(50))
    assert of_a[:50] != of_a[50:100]
    with pytest.raises(ValueError, match="'b' holds less than one window"):
        plan_windows({"a": 50, "b": 0}, shares, 10, seed=3)


def test_windows_share_only_the_token_between_them() -> None:
    stream = Stream(np.arange(10, dtype=np.uint16), 0)
    assert stream.windows(4) == 2
    assert stream.window(0, 4).tolist() == [0, 1, 2, 3, 4]
    assert stream.window(1, 4).tolist() == [4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"a": 0.5}}, "sum to 1"),
        ({"heads": 3}, "heads"),
        ({"micro_batch": 3}, "micro_batch"),
        ({"warmup": 0.6, "decay": 0.6}, "overlap"),
        ({"tokens": 100}, "less than two steps"),
        ({"vocab_size": 100_000}, "vocab_size"),
        ({"learning_rate": 1}, "learning_rate"),
    ],
)
def test_impossible_recipes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_too_little_text_for_the_vocabulary(tmp_path: Path) -> None:
    corpora = {name: write_corpus(tmp_path / name, 0, 30) for name in "ab"}
    with pytest.raises(ValueError, match="vocab_size: the corpora yield only"):
        make_subject(subject(settings(vocab_size=4000)), corpora, tmp_path / "x", Path())


def test_shipped_weights_must_come_from_the_recipe(made: Path, tmp_path: Path) -> None:
    shipped = subject(settings(), pretrain=False, shipped=made.name)
    make_subject(shipped, {}, tmp_path / "copy", made.parent)
    copy, original = load_subject(tmp_path / "copy"), load_subject(made)
    ids = torch.arange(12)[None]
    assert torch.equal(copy.model(ids).logits, original.model(ids).logits)
    ours, theirs = (
        read_manifest(folder, kind="subject")["stats"] for folder in (tmp_path / "copy", made)
    )
    assert ours == theirs
    other = subject(settings(lr=1e-3), pretrain=False, shipped=made.name)
    with pytest.raises(ArtifactError, match=r"another lr than.*pretrain: true"):
        make_subject(other, {}, tmp_path / "other", made.parent)
