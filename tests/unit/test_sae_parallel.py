"""Two processes that share a training do what one does, to rounding.

Starting processes takes longer than what they are asked, so one pair answers for all tests.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from sae_planted import SITE, VARIANTS, planted, planted_cache, settings
from torch import Tensor

from saeflow.artifacts import read_manifest
from saeflow.sae import launch
from saeflow.sae.continued import Start
from saeflow.sae.formats import WEIGHTS, load_sae
from saeflow.sae.optimisation import NonFiniteLoss, Outcome, Trainer
from saeflow.sae.parallel import Processes
from saeflow.sae.ranks import ALONE, Ranks
from saeflow.sae.selection import SelectBatchTopK
from saeflow.sae.settings import L1, AuxK, Extension, FolderBase, SAESettings, Tilt, Variant
from saeflow.sae.shared_selection import SelectSharedBatchTopK
from saeflow.sae.trainer import train_sae

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["saeflow.sae.trainer", "saeflow.sae.parallel"])
SIZE = 2


def _rank(rank: int, folder: Path) -> None:
    """One process of a group that meets at a file; leaves its answers."""
    torch.set_num_threads(1)
    os.fsync = lambda handle: None
    meet = f"file://{folder}/meet"
    patience = timedelta(seconds=60)
    dist.init_process_group("gloo", meet, timeout=patience, rank=rank, world_size=SIZE)
    ranks = Processes()
    answers = {
        "asked": ask(ranks),
        "trained": {name: steps(ranks, name) for name in TRAINED},
        "selected": select(ranks, batches()),
        "failed": fail(ranks),
        "shared": share(ranks, folder),
    }
    torch.save(answers, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the two processes leave: their answers, and the SAEs that they share."""
    folder = tmp_path_factory.mktemp("pair")
    planted_cache(folder / "cache", planted(1000)[0])
    processes = [CONTEXT.Process(target=_rank, args=(rank, folder)) for rank in range(SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    return folder


@pytest.fixture(scope="module")
def answers(folder) -> list[dict[str, Any]]:
    """The answers of both ranks."""
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(SIZE)]


def ask(ranks: Ranks) -> dict[str, Any]:
    own = torch.arange(3.0) + 10 * ranks.rank
    own.requires_grad_()
    everything, place = ranks.gather(own[: 1 + ranks.rank])
    loss = ranks.sum(own).square().sum() + (everything * torch.arange(1.0, 4)).sum()
    loss.backward()
    return {
        "gathered": everything.detach(),
        "place": (place.start, place.stop),
        "mean": ranks.mean(own.detach()),
        "any": ranks.any(ranks.rank == 1, False),
        "none": ranks.gather(own[:0])[0].detach(),
        "slice": ranks.share(torch.arange(6)),
        "gradient": own.grad,
    }


def test_sums_slices_and_their_gradients(answers):
    first, second = (rank["asked"] for rank in answers)
    for rank, answers in enumerate((first, second)):
        assert answers["gathered"].tolist() == [0, 10, 11]
        assert answers["mean"].tolist() == [5, 6, 7]
        assert answers["any"] == (True, False) and len(answers["none"]) == 0
        assert answers["slice"].tolist() == [[0, 1, 2], [3, 4, 5]][rank]
    assert (first["place"], second["place"]) == ((0, 1), (1, 3))
    # The mean over ranks of these is the gradient by both ranks' entries: 2 sum, and the weights.
    summed = 2 * torch.tensor([10.0, 12, 14])
    assert torch.equal(first["gradient"] / 2, summed + torch.tensor([1.0, 0, 0]))
    assert torch.equal(second["gradient"] / 2, summed + torch.tensor([2.0, 3, 0]))


TRAINED = {
    **VARIANTS,
    "running": Variant(activation="topk", tilt=Tilt(t=5.0, running=0.2)),
    "sequences": Variant(activation="batchtopk", tilt=Tilt(t=5.0, over="sequence")),
    "scheduled": Variant(activation="relu", l1=L1(match_l0=False), auxk=AuxK()),
    "continued": Variant(
        activation="relu", l1=L1(), auxk=AuxK(), init_from=FolderBase(source="folder", path="x")
    ),
    "extended": Variant(
        activation="relu",
        l1=L1(match_l0=False),
        auxk=AuxK(),
        init_from=FolderBase(source="folder", path="x"),
        extend=Extension(latents=16),
    ),
}
STEPS = 6


def steps(ranks: Ranks, name: str) -> dict[str, Any]:
    """Train a little with everything at work: latents die, gradients are clipped."""
    rows, _ = planted(STEPS * 64 + 640)
    config = settings(
        TRAINED[name], tokens=STEPS * 64, dead_after_tokens=64, clip_norm=0.3, l0=2, seed=1
    )
    begun = (rows[:500], rows.square().mean().item())
    start = None
    if config.variant.init_from is not None:
        base = settings("relu", d_sae=config.start_width)
        start = Start(Trainer(base, *begun).finished(), l1=0.2)
    trainer = Trainer(config, *begun, ranks=ranks, start=start)
    with torch.no_grad():
        trainer.sae.b_enc[:4] -= 100  # these die at once
    log = []
    for i in range(STEPS):
        batch = slice(64 * i, 64 * (i + 1))
        documents = torch.arange(len(rows))[batch] // 7  # one lies on both sides of the cut
        outcome = trainer.step(ranks.share(rows[batch]), ranks.share(documents))
        log.append([outcome.loss, outcome.step.l0, outcome.explained_variance])
        log[-1] += [outcome.losses.get(term.name, 0.0) for term in trainer.terms]
        log[-1] += trainer.weights.values()
    if trainer.needs_calibration:
        trainer.calibrate(ranks.share(part) for part in rows[-640:].split(64))
    return {
        "parameters": {n: p.detach() for n, p in trainer.sae.named_parameters()},
        "idle": trainer.idle_tokens_f,
        "dead": int(trainer.dead_f.sum()),
        "log": torch.tensor(log, dtype=torch.float64),
        "threshold": trainer.threshold or 0.0,
    }


@pytest.mark.parametrize("name", TRAINED)
def test_two_ranks_train_as_one_process(answers, name):
    alone = steps(ALONE, name)
    first, second = (rank["trained"][name] for rank in answers)
    for key, parameter in alone["parameters"].items():
        torch.testing.assert_close(first["parameters"][key], parameter, rtol=0, atol=1e-5)
        assert torch.equal(first["parameters"][key], second["parameters"][key])
    assert alone["dead"] > 0 and torch.equal(first["idle"], alone["idle"])
    torch.testing.assert_close(first["log"], alone["log"], rtol=1e-5, atol=1e-5)
    assert torch.equal(first["log"], second["log"])
    assert first["threshold"] == second["threshold"]
    assert first["threshold"] == pytest.approx(alone["threshold"], rel=1e-3)


SCALES = (1.0, 0.1, 1.0)
"""Of the second batch all is below the bound that the first one left."""


def select(ranks: Ranks, batches: dict[str, Tensor]) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return places and values that BatchTopK selects of each kind of batch, times `SCALES`."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for kind, pre_bf in batches.items():
        selection = SelectSharedBatchTopK(2, ranks) if ranks.size > 1 else SelectBatchTopK(2)
        own_bf = ranks.share(pre_bf)
        for scale in SCALES:
            pairs, values = selection(
                lambda own_bf=scale * own_bf: iter([(0, own_bf)]), tuple(own_bf.shape)
            )
            places = torch.stack([pairs.rows_p + ranks.rank * len(own_bf), pairs.latents_p])
            found.setdefault(kind, []).append((places, values))
    return found


def batches() -> dict[str, Tensor]:
    """Return kinds of pre-activations (8, 64)."""
    drawn_bf = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    lower_b1 = torch.tensor([10.0] * 4 + [0.0] * 4)[:, None]
    peaked_bf = drawn_bf.clone()
    peaked_bf[:4] *= 0.1
    peaked_bf[7, :8] = 100
    return {
        "peaked on one rank": peaked_bf,
        "random": drawn_bf,
        "tied": drawn_bf.round(),
        "on one rank only": drawn_bf - lower_b1,
        "too few": drawn_bf - 2.3,
    }


def test_the_cut_of_a_shared_batch_is_exact(answers):
    first, second = (rank["selected"] for rank in answers)
    for kind, expected in select(ALONE, batches()).items():
        for mine, other, (places, values) in zip(first[kind], second[kind], expected, strict=True):
            assert torch.equal(torch.cat([mine[0], other[0]], dim=1), places)
            assert torch.equal(torch.cat([mine[1], other[1]]), values)


def test_a_batch_that_the_ranks_do_not_divide_is_refused():
    class Two(Ranks):
        size = 2

    rows, _ = planted(100)
    with pytest.raises(ValueError, match="batch_size 33 is no multiple of the 2 processes"):
        Trainer(settings("topk", batch_size=33), rows, 1.0, ranks=Two())


def short(steps: int = 20, **training: Any) -> SAESettings:
    return settings("batchtopk", tokens=steps * 64, dead_after_tokens=640, **training)


def train(ranks: Ranks, folder: Path, name: str) -> tuple[int, str]:
    """Train one SAE into `name`; return the exit code and what was said."""
    said, code = io.StringIO(), 0
    with redirect_stderr(said):
        try:
            train_sae(short(snapshots=[0.25]), folder / "cache", SITE, folder / name, ranks=ranks)
        except SystemExit as left:
            code = int(str(left.code))
    return code, said.getvalue()


def refusal(ranks: Ranks, folder: Path, name: str) -> str:
    """Return what both are told where the second rank does not see the first one's folder."""
    with pytest.raises(ValueError, match="shared file system") as error:
        train(ranks, folder, "nowhere" if ranks.rank else name)
    return str(error.value)


def share(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """Train at once, and with SIGTERM to the second rank alone after eight steps."""
    original = Trainer.step

    def step(self: Trainer, raw_bd: Tensor, sequence_b: Tensor | None = None) -> Outcome:
        if ranks.rank == 1 and self.index == 7:
            signal.raise_signal(signal.SIGTERM)
        return original(self, raw_bd, sequence_b)

    at_once = train(ranks, folder, "two")
    Trainer.step = step
    stopped = train(ranks, folder, "stopped")
    Trainer.step = original
    refusals = [refusal(ranks, folder, name) for name in ("stopped", "two")]
    return {
        "at once": at_once,
        "stopped": stopped,
        "refusals": refusals,
        "resumed": train(ranks, folder, "stopped"),
    }


def test_a_shared_training_leaves_what_one_process_leaves(tmp_path, folder, answers):
    train_sae(short(snapshots=[0.25]), folder / "cache", SITE, tmp_path)
    two, one = load_sae(folder / "two"), load_sae(tmp_path)
    for a, b in zip(two.state_dict().values(), one.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    logs = [pq.read_table(out / "log.parquet").to_pydict() for out in (folder / "two", tmp_path)]
    for name, column in logs[1].items():
        if name not in ("seconds", "l1_coefficient"):
            assert logs[0][name] == pytest.approx(column, rel=1e-4, abs=1e-6)
    stats = [read_manifest(o, kind="sae", deep=True)["stats"] for o in (folder / "two", tmp_path)]
    assert [s["processes"] for s in stats] == [2, 1]
    two, one = (load_sae(o / "snapshots/step00000005") for o in (folder / "two", tmp_path))
    for a, b in zip(two.state_dict().values(), one.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert [rank["shared"]["at once"][0] for rank in answers] == [0, 0]
    assert not (folder / "two" / "trainer").exists()


def test_sigterm_to_one_rank_stops_all_and_the_rest_is_bit_equal(folder, answers):
    for rank in answers:
        code, said = rank["shared"]["stopped"]
        assert code == 143 and "stopped on SIGTERM after step 8, saved in" in said
        code, said = rank["shared"]["resumed"]
        assert code == 0 and "going on from step 8 of 20" in said
    assert (folder / "stopped" / WEIGHTS).read_bytes() == (folder / "two" / WEIGHTS).read_bytes()


def test_ranks_that_do_not_see_the_same_folders_are_told(folder, answers):
    first, second = (rank["shared"]["refusals"] for rank in answers)
    assert "(8, 0 steps)" in first[0] and "(8, 0 steps)" in second[0]
    assert "(1, 0 finished SAEs)" in first[1] and "(1, 0 finished SAEs)" in second[1]
    assert not (folder / "nowhere").exists()


def fail(ranks: Ranks) -> str:
    """One rank alone meets an activation that is no number."""
    rows, _ = planted(640)
    trainer = Trainer(settings("batchtopk"), rows, 1.0, ranks=ranks)
    trainer.step(ranks.share(rows[:64]))
    rows[127, 3] = float("nan")
    with pytest.raises(NonFiniteLoss) as error:
        trainer.step(ranks.share(rows[64:128]))
    return str(error.value)


def test_a_loss_that_is_no_number_on_one_rank_stops_all(answers):
    messages = [rank["failed"] for rank in answers]
    assert "step 1" in messages[0] and messages[0] == messages[1]


def job(task: dict[str, Any], log: Path) -> None:
    """What the script of a workflow job does."""
    sys.stderr = log.open("w", buffering=1)
    os.environ["OMP_NUM_THREADS"] = "1"
    launch.train(task, SIZE)


def wait_for(path: Path, process: Any) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_starts_its_processes_and_passes_sigterm_on(tmp_path, folder):
    config, out = short(100_000, checkpoint_minutes=1e-4), tmp_path / "out"
    task = {
        "wanted": [
            {
                "settings": config.model_dump(mode="json"),
                "out": str(out),
                "base": None,
                "init": None,
            }
        ],
        "activations": str(folder / "cache"),
        "site": SITE,
        "device": "cpu",
    }
    process = CONTEXT.Process(target=job, args=(task, tmp_path / "log"))
    process.start()
    wait_for(out / "trainer" / "state.safetensors", process)
    process.terminate()
    process.join(60)
    assert process.exitcode == 143
    said = (tmp_path / "log").read_text()
    assert said.count("stopped on SIGTERM after step") == 1
    assert not (out / "manifest.json").exists()


def test_a_process_alone_joins_no_group(folder, tmp_path):
    code = """
import json, sys
from saeflow.sae import launch
launch.train(json.load(sys.stdin))
import torch.distributed
assert not torch.distributed.is_initialized()
assert "saeflow.sae.parallel" not in sys.modules
"""
    variant = Variant(activation="batchtopk", init_from=FolderBase(source="folder", path="two"))
    given = {
        "settings": settings(variant, tokens=2 * 64).model_dump(mode="json"),
        "out": str(tmp_path / "out"),
        "base": None,
        "init": str(folder / "two"),
    }
    task = {
        "wanted": [given],
        "activations": str(folder / "cache"),
        "site": SITE,
        "device": "cpu",
    }
    subprocess.run([sys.executable, "-c", code], input=json.dumps(task), text=True, check=True)
    assert read_manifest(tmp_path / "out", kind="sae")["stats"]["init"]["l1"] is None
