"""The training job: read the cache, step, log, checkpoint, and leave a SAELens folder."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from saeflow.activations.stream import ActivationStream, estimate_scale, sample
from saeflow.artifacts import (
    MANIFEST,
    Clock,
    atomic_path,
    begin,
    file_digest,
    read_manifest,
    write_manifest,
)
from saeflow.fingerprint import fingerprint
from saeflow.preempt import EXIT_CODE, StopRequest, preemptible
from saeflow.progress import Progress, say
from saeflow.sae.checkpoint import load_state, save_state
from saeflow.sae.formats import load_sae, save_sae
from saeflow.sae.optimisation import NonFiniteLoss, Outcome, Trainer
from saeflow.sae.settings import SAESettings

LOG = "log.parquet"
TRAINER = "trainer"
_SAMPLE_ROWS = 4096
_LOG_ROWS = 100


def train_sae(
    settings: SAESettings,
    activations: str | Path,
    site: str,
    out: str | Path,
    *,
    device: str = "cpu",
    base: str | Path | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Train one SAE on the cache `activations` and leave a SAELens folder with manifest in `out`.

    `base` is the frozen SAE, in any layout that `load_sae` reads, of a variant with `error_of`.

    Killed at any moment and called again, it goes on from the last checkpoint in `out/trainer` and
    ends with the same weights, bit for bit on the CPU (CUDA adds some gradients in no fixed order).
    On SIGTERM it saves and raises SystemExit(143). `metadata` (model name, context size, ...) goes
    into `cfg.json`. Raises NonFiniteLoss, and what the reader raises.
    """
    clock, activations, out = Clock(), Path(activations), begin(out)
    identity: dict[str, Any] = {
        "settings": settings.identity(),
        "site": site,
        "activations": file_digest(activations / MANIFEST),
        "base": None if base is None else sae_digest(base),
        "device": device,
        "code": fingerprint(__name__),
        "torch": torch.__version__,
    }
    trainer = new_trainer(settings, activations, site, device, base)
    run = _Run(trainer, out / TRAINER, identity)
    with preemptible() as stop:
        run.train(activations, site, stop)
        if run.trainer.needs_calibration:
            run.calibrate(activations, site, stop)
    last = run.log[-1]
    described = {
        **_source(activations),
        "hook_name": site,
        "hf_hook_name": site,
        "training_architecture": settings.variant.architecture,
        "l0": last["l0"],
        "num_dead_features": last["dead_latents"],
    }
    files = save_sae(run.trainer.finished(), out, {**described, **(metadata or {})})
    with atomic_path(out / LOG) as temporary:
        pq.write_table(pa.Table.from_pylist(run.log), temporary)
    write_manifest(
        out,
        kind="sae",
        settings=identity["settings"],
        files=[*files, LOG],
        inputs={"activations": activations},
        stats={
            **last,
            **({"base": identity["base"]} if base else {}),
            "site": site,
            "threshold": run.trainer.threshold,
            "scale": run.trainer.scales.input,
        },
        seed=settings.seed,
        device=device,
        code=identity["code"],
        clock=clock,
    )
    shutil.rmtree(out / TRAINER, ignore_errors=True)


def _source(activations: Path) -> dict[str, str]:
    """Return what the cache's manifest says of its subject and corpus, for `cfg.json`."""
    inputs = read_manifest(activations, kind="activations")["inputs"]
    keys = {"subject": "model_name", "tokens": "dataset_path"}
    return {key: Path(inputs[name]["path"]).name for name, key in keys.items() if name in inputs}


def new_trainer(
    settings: SAESettings,
    activations: Path,
    site: str,
    device: str = "cpu",
    base: str | Path | None = None,
) -> Trainer:
    """Return a trainer at step 0, initialised on a sample of the cache."""
    frozen = None if base is None else load_sae(base)
    sample_nd = sample(activations, site, _SAMPLE_ROWS, settings.seed)
    return Trainer(settings, sample_nd, estimate_scale(activations, site), device, frozen)


def sae_digest(path: str | Path) -> str:
    """Return the SHA-256 of an SAE's file, or of all the files of its folder."""
    files = sorted(Path(path).glob("*")) if Path(path).is_dir() else [Path(path)]
    digests = [f"{file.name} {file_digest(file)}" for file in files if file.is_file()]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


class _Run:
    """One training with its log; the place in the cache is the number of steps taken."""

    def __init__(self, trainer: Trainer, folder: Path, identity: Mapping[str, Any]) -> None:
        self.trainer, self.folder, self.identity = trainer, folder, identity
        self.log: list[dict[str, float | int | None]] = []
        self.losses: dict[str, float] = {}
        self.seconds = 0.0
        if (found := load_state(folder, identity)) is not None:
            tensors, numbers = found
            trainer.restore(tensors, numbers["trainer"])
            self.log, self.losses = numbers["log"], numbers["losses"]
            self.seconds = numbers["seconds"]
            say(f"going on from step {trainer.index:,} of {trainer.steps:,}")

    def save(self) -> None:
        """Write a checkpoint of the moment after the last step."""
        tensors, numbers = self.trainer.state()
        more = {"log": self.log, "losses": self.losses, "seconds": self.seconds}
        save_state(self.folder, self.identity, tensors, {"trainer": numbers, **more})

    def train(self, activations: Path, site: str, stop: StopRequest) -> None:
        """Take the remaining steps; save now and then, and when `stop` is requested."""
        trainer, settings = self.trainer, self.trainer.settings
        training = settings.training
        if trainer.index == trainer.steps:
            return
        earlier, started = self.seconds, time.monotonic()
        saved = started
        what = f"training {settings.variant.architecture} d{settings.d_sae} l0 {settings.l0}"
        stream = self._stream(activations, site)
        with stream, Progress(trainer.steps, "steps", what, done=trainer.index) as progress:
            for raw_bd, sequence_b in self._batches(stream):
                outcome = self._step(raw_bd, sequence_b, activations)
                self.seconds = earlier + time.monotonic() - started
                self._record(outcome)
                progress.update(1)
                finished = trainer.index == trainer.steps
                due = time.monotonic() - saved >= 60 * training.checkpoint_minutes
                if stop.requested or (due and not finished):
                    self.save()
                    saved = time.monotonic()
                if stop.requested:
                    self._leave()
                if finished:
                    return

    def calibrate(self, activations: Path, site: str, stop: StopRequest) -> None:
        """Set the inference threshold on the batches after the last step, at most one epoch."""
        training = self.trainer.training
        with self._stream(activations, site) as stream:
            epoch = math.ceil(stream.rows / training.batch_size)
            batches = islice(stream, min(training.calibration_batches, epoch))
            self.trainer.calibrate(takewhile(lambda _: not stop.requested, batches))
        if stop.requested:
            self.save()
            self._leave()

    def _stream(self, activations: Path, site: str) -> ActivationStream:
        """Open the cache at the place of the next step."""
        settings = self.trainer.settings
        return ActivationStream(
            activations,
            site,
            batch_size=settings.training.batch_size,
            seed=settings.seed,
            position=self.trainer.index,
            device=self.identity["device"],
            by_document=self.trainer.needs_sequences,
        )

    def _batches(self, stream: ActivationStream) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield activations and, where a tilt is over sequences, their documents."""
        if self.trainer.needs_sequences:
            yield from ((batch.acts_bd, batch.document) for batch in stream.batches_with_ids())
        yield from ((raw_bd, None) for raw_bd in stream)

    def _leave(self) -> NoReturn:
        say(f"stopped on SIGTERM after step {self.trainer.index:,}, saved in {self.folder}")
        raise SystemExit(EXIT_CODE)

    def _step(self, raw_bd: Tensor, sequence_b: Tensor | None, activations: Path) -> Outcome:
        try:
            return self.trainer.step(raw_bd, sequence_b)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(
                f"{error}; this is batch {self.trainer.index:,} of {len(raw_bd)} rows of "
                f"{activations} in the order of seed {self.trainer.settings.seed}: look for "
                "non-finite activations, or lower learning_rate"
            ) from error

    def _record(self, outcome: Outcome) -> None:
        """Add a log row about every hundredth of the training, and at its last step."""
        trainer, step = self.trainer, outcome.step
        self.losses |= outcome.losses
        last = trainer.index == trainer.steps
        if step.index % max(1, trainer.steps // _LOG_ROWS) and not last:
            return
        row: dict[str, float | int | None] = {
            "step": trainer.index,
            "tokens": trainer.index * step.batch,
            "loss": outcome.loss,
            **{f"loss_{term.name}": self.losses.get(term.name) for term in trainer.terms},
            "l0": step.l0,
            "explained_variance": outcome.explained_variance,
            "learning_rate": trainer.optimiser.param_groups[0]["lr"],
            "l1_coefficient": trainer.weights.get("l1"),
            "dead_latents": int(trainer.dead_f.sum()),
            "seconds": self.seconds,
        }
        self.log.append(row)
