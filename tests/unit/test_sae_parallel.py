"""Two processes that share a training do what one does, to rounding."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
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
from saeflow.sae.formats import WEIGHTS, load_sae
from saeflow.sae.optimisation import NonFiniteLoss, Trainer
from saeflow.sae.parallel import Processes
from saeflow.sae.ranks import ALONE, Ranks
from saeflow.sae.selection import SelectBatchTopK
from saeflow.sae.settings import L1, AuxK, SAESettings, Tilt, Variant
from saeflow.sae.shared_selection import SelectSharedBatchTopK
from saeflow.sae.trainer import train_sae

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["saeflow.sae.trainer", "saeflow.sae.parallel"])
SIZE = 2


def _rank(task: Callable, rank: int, folder: Path, *args: Any) -> None:
    """One process of a group that meets at a file; leaves what `task` returns."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=SIZE)
    torch.save(task(Processes(), *args), folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def start(folder: Path, task: Callable, *args: Any) -> list[Any]:
    folder.mkdir(exist_ok=True)
    processes = [
        CONTEXT.Process(target=_rank, args=(task, rank, folder, *args)) for rank in range(SIZE)
    ]
    for process in processes:
        process.start()
    return processes


def on_two(folder: Path, task: Callable, *args: Any) -> list[Any]:
    """Run `task(ranks, *args)` on two ranks and return what each returned."""
    for process in start(folder, task, *args):
        process.join(60)
        assert process.exitcode == 0
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


def test_sums_slices_and_their_gradients(tmp_path):
    first, second = on_two(tmp_path, ask)
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
}
STEPS = 6


def steps(ranks: Ranks, name: str) -> dict[str, Any]:
    """Train a little with everything at work: latents die, gradients are clipped."""
    rows, _ = planted(STEPS * 64 + 640)
    config = settings(
        TRAINED[name], tokens=STEPS * 64, dead_after_tokens=64, clip_norm=0.3, l0=2, seed=1
    )
    trainer = Trainer(config, rows[:500], rows.square().mean().item(), ranks=ranks)
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


def all_variants(ranks: Ranks) -> dict[str, Any]:
    return {name: steps(ranks, name) for name in TRAINED}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[dict[str, Any]]:
    return on_two(tmp_path_factory.mktemp("variants"), all_variants)


@pytest.mark.parametrize("name", TRAINED)
def test_two_ranks_train_as_one_process(trained, name):
    alone = steps(ALONE, name)
    first, second = (rank[name] for rank in trained)
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


def test_the_cut_of_a_shared_batch_is_exact(tmp_path):
    drawn_bf = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    lower_b1 = torch.tensor([10.0] * 4 + [0.0] * 4)[:, None]
    peaked_bf = drawn_bf.clone()
    peaked_bf[:4] *= 0.1
    peaked_bf[7, :8] = 100
    batches = {
        "peaked on one rank": peaked_bf,
        "random": drawn_bf,
        "tied": drawn_bf.round(),
        "on one rank only": drawn_bf - lower_b1,
        "too few": drawn_bf - 2.3,
    }
    first, second = on_two(tmp_path, select, batches)
    for kind, expected in select(ALONE, batches).items():
        for mine, other, (places, values) in zip(first[kind], second[kind], expected, strict=True):
            assert torch.equal(torch.cat([mine[0], other[0]], dim=1), places)
            assert torch.equal(torch.cat([mine[1], other[1]]), values)


def test_a_batch_that_the_ranks_do_not_divide_is_refused():
    class Two(Ranks):
        size = 2

    rows, _ = planted(100)
    with pytest.raises(ValueError, match="batch_size 33 is no multiple of the 2 processes"):
        Trainer(settings("topk", batch_size=33), rows, 1.0, ranks=Two())


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return planted_cache(tmp_path_factory.mktemp("cache"), planted(1000)[0])


def short(steps: int = 20, name: str = "batchtopk", **training: Any) -> SAESettings:
    return settings(name, tokens=steps * 64, dead_after_tokens=640, **training)


def train(ranks: Ranks, config: dict[str, Any], cache: Path, out: Path) -> None:
    os.fsync = lambda handle: None
    out.mkdir(exist_ok=True)
    with (out / f"stderr{ranks.rank}.txt").open("w") as sys.stderr:
        train_sae(SAESettings.model_validate(config), cache, SITE, out, ranks=ranks)


def wait_for(path: Path, processes: list[Any]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert all(p.is_alive() for p in processes) and time.monotonic() < deadline
        time.sleep(0.01)


def test_a_shared_training_leaves_what_one_process_leaves(tmp_path, cache):
    config = short()
    on_two(tmp_path / "meet", train, config.model_dump(), cache, tmp_path / "two")
    train_sae(config, cache, SITE, tmp_path / "one")
    two, one = load_sae(tmp_path / "two"), load_sae(tmp_path / "one")
    for a, b in zip(two.state_dict().values(), one.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    logs = [pq.read_table(tmp_path / n / "log.parquet").to_pydict() for n in ("two", "one")]
    for name, column in logs[1].items():
        if name not in ("seconds", "l1_coefficient"):
            assert logs[0][name] == pytest.approx(column, rel=1e-4, abs=1e-6)
    stats = [read_manifest(tmp_path / n, kind="sae", deep=True)["stats"] for n in ("two", "one")]
    assert [s["processes"] for s in stats] == [2, 1]
    assert not (tmp_path / "two" / "trainer").exists()


def test_sigterm_to_one_rank_stops_all_and_the_rest_is_bit_equal(tmp_path, cache):
    config, out = short(60, "topk", checkpoint_minutes=1e-6), tmp_path / "stopped"
    processes = start(tmp_path / "first", train, config.model_dump(), cache, out)
    wait_for(out / "trainer" / "state.safetensors", processes)
    processes[1].terminate()
    for process in processes:
        process.join(30)
    assert [p.exitcode for p in processes] == [143, 143]
    said = [(out / f"stderr{rank}.txt").read_text().splitlines()[-1] for rank in range(SIZE)]
    assert "stopped on SIGTERM after step" in said[0] and said[0] == said[1]
    on_two(tmp_path / "second", train, config.model_dump(), cache, out)
    assert "going on from step" in (out / "stderr1.txt").read_text()
    on_two(tmp_path / "whole", train, config.model_dump(), cache, tmp_path / "at once")
    assert (out / WEIGHTS).read_bytes() == (tmp_path / "at once" / WEIGHTS).read_bytes()


def fail(ranks: Ranks) -> str:
    """One rank alone meets an activation that is no number."""
    rows, _ = planted(640)
    trainer = Trainer(settings("batchtopk"), rows, 1.0, ranks=ranks)
    trainer.step(ranks.share(rows[:64]))
    rows[127, 3] = float("nan")
    with pytest.raises(NonFiniteLoss) as error:
        trainer.step(ranks.share(rows[64:128]))
    return str(error.value)


def test_a_loss_that_is_no_number_on_one_rank_stops_all(tmp_path):
    messages = on_two(tmp_path, fail)
    assert "step 1" in messages[0] and messages[0] == messages[1]


def job(task: dict[str, Any], log: Path) -> None:
    """What the script of a workflow job does."""
    sys.stderr = log.open("w", buffering=1)
    os.environ["OMP_NUM_THREADS"] = "1"
    launch.train(task, SIZE)


def test_a_job_starts_its_processes_and_passes_sigterm_on(tmp_path, cache):
    config, out = short(100_000, checkpoint_minutes=1e-4), tmp_path / "out"
    task = {
        "wanted": [{"settings": config.model_dump(mode="json"), "out": str(out), "base": None}],
        "activations": str(cache),
        "site": SITE,
        "device": "cpu",
    }
    process = CONTEXT.Process(target=job, args=(task, tmp_path / "log"))
    process.start()
    wait_for(out / "trainer" / "state.safetensors", [process])
    process.terminate()
    process.join(60)
    assert process.exitcode == 143
    said = (tmp_path / "log").read_text()
    assert said.count("stopped on SIGTERM after step") == 1
    assert not (out / "manifest.json").exists()


def test_a_process_alone_joins_no_group(cache, tmp_path):
    code = """
import json, sys
from saeflow.sae import launch
launch.train(json.load(sys.stdin))
import torch.distributed
assert not torch.distributed.is_initialized()
assert "saeflow.sae.parallel" not in sys.modules
"""
    config = short(2).model_dump(mode="json")
    task = {
        "wanted": [{"settings": config, "out": str(tmp_path / "out"), "base": None}],
        "activations": str(cache),
        "site": SITE,
        "device": "cpu",
    }
    subprocess.run([sys.executable, "-c", code], input=json.dumps(task), text=True, check=True)
    assert (tmp_path / "out" / "manifest.json").exists()
