"""One training from batch to batch: its steps, its log, its checkpoint and what it leaves."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from saeflow.artifacts import (
    ArtifactError,
    Clock,
    atomic_path,
    begin,
    read_manifest,
    write_manifest,
)
from saeflow.progress import say
from saeflow.sae.checkpoint import load_state, save_state
from saeflow.sae.extended import extended_parts
from saeflow.sae.formats import save_sae
from saeflow.sae.optimisation import NonFiniteLoss, Outcome, Trainer
from saeflow.sae.parts import EXTENDED
from saeflow.sae.selection import Cut
from saeflow.sae.snapshots import Snapshots

LOG = "log.parquet"
TRAINER = "trainer"
_LOG_ROWS = 100


class Run:
    """A training that takes the batches of a cache in their order, from `position` to `end`.

    After the batches of its steps it counts those on which an inference threshold is set. It goes
    on from the state in `out/trainer`, if that is of `identity`; the cache `activations` has
    `rows`. Of several ranks each has a run of its own; the first writes, and all read it.
    """

    def __init__(
        self,
        trainer: Trainer,
        out: Path,
        identity: Mapping[str, Any],
        activations: Path,
        rows: int,
    ) -> None:
        self.trainer, self.out, self.identity = trainer, out, identity
        self.activations = activations
        self.log: list[dict[str, float | int | None]] = []
        self.losses: dict[str, float] = {}
        self.seconds = 0.0
        self.saved_index: int | None = None
        self.failure: NonFiniteLoss | None = None
        self.cut, self.counted = Cut(trainer.idle_tokens_f.device), 0
        self.snapshots = Snapshots(out, trainer.settings)
        training, self.end = trainer.training, trainer.steps
        if trainer.needs_calibration:
            epoch = math.ceil(rows / training.batch_size)
            self.end += min(training.calibration_batches, epoch)
        if (found := load_state(out / TRAINER, identity)) is not None:
            tensors, numbers = found
            trainer.restore(tensors, numbers["trainer"])
            self.log, self.losses = numbers["log"], numbers["losses"]
            self.seconds, self.saved_index = numbers["seconds"], trainer.index
            self.snapshots.taken = numbers["snapshots"]
            say(f"going on from step {trainer.index:,} of {trainer.steps:,}")

    def begin(self) -> None:
        """Make `out` ready: what another training left there counts no more."""
        begin(self.out)
        if not self.trainer.index:
            self.snapshots.clear()

    @property
    def position(self) -> int:
        """Batches taken, which is the place in the cache."""
        return self.trainer.index + self.counted

    @property
    def is_active(self) -> bool:
        """Whether more batches are needed, and of use."""
        return self.failure is None and self.position < self.end

    def take(self, raw_bd: Tensor, sequence_b: Tensor | None, waited: float) -> None:
        """Train on, or count, the batch at `position`; `waited` seconds were spent on reading.

        A training that diverges ends here: `failure` tells the batch.
        """
        started = time.monotonic()
        if self.trainer.index == self.trainer.steps:
            self.trainer.count(self.cut, raw_bd)
            self.counted += 1
            return
        try:
            outcome = self.trainer.step(raw_bd, sequence_b)
        except NonFiniteLoss as error:
            self.failure = NonFiniteLoss(
                f"{error}; this is batch {self.trainer.index:,} of "
                f"{self.trainer.training.batch_size} rows of {self.activations} in the order of "
                f"seed {self.trainer.settings.seed}, for {self.out}: look for non-finite "
                "activations, or lower learning_rate"
            )
            return
        self.seconds += waited + time.monotonic() - started
        self._record(outcome)
        if self.snapshots.is_due(self.trainer):
            self.snapshots.take(self.trainer, raw_bd, self._described(outcome.step.l0))

    def save(self) -> None:
        """Write a checkpoint of the moment after the last step, if there is none yet.

        Of a training that diverged the last one before stays.
        """
        written = self.trainer.index in (0, self.saved_index)
        if self.trainer.ranks.rank or self.failure is not None or written:
            return
        tensors, numbers = self.trainer.state()
        more = {
            "log": self.log,
            "losses": self.losses,
            "seconds": self.seconds,
            "snapshots": self.snapshots.taken,
        }
        save_state(self.out / TRAINER, self.identity, tensors, {"trainer": numbers, **more})
        self.saved_index = self.trainer.index

    def finish(self, metadata: Mapping[str, Any], clock: Clock) -> None:
        """Leave the SAE with log and manifest in `out`; the checkpoint stays."""
        trainer, last = self.trainer, self.log[-1]
        if trainer.needs_calibration:
            trainer.set_threshold(self.cut, self.counted * trainer.training.batch_size)
        if trainer.ranks.rank:
            return
        described = self._described(last["l0"])
        files = save_sae(trainer.finished(), self.out, {**described, **metadata})
        with atomic_path(self.out / LOG) as temporary:
            pq.write_table(pa.Table.from_pylist(self.log), temporary)
        others = {name: self.identity[name] for name in ("base", "init") if self.identity[name]}
        write_manifest(
            self.out,
            kind="sae",
            settings=self.identity["settings"],
            files=[*files, LOG, *self.snapshots.files],
            inputs={"activations": self.activations},
            stats={
                **last,
                **others,
                **self._parts(),
                **({"snapshots": self.snapshots.taken} if self.snapshots.taken else {}),
                "site": self.identity["site"],
                "threshold": trainer.threshold,
                "scale": trainer.scales.input,
                "processes": trainer.ranks.size,
            },
            seed=trainer.settings.seed,
            device=self.identity["device"],
            code=self.identity["code"],
            clock=clock,
        )

    def _described(self, l0: float | int | None) -> dict[str, Any]:
        """Return what `cfg.json` says of the SAE as it is now."""
        site = self.identity["site"]
        return {
            **_source(self.activations),
            "hook_name": site,
            "hf_hook_name": site,
            "training_architecture": self.trainer.settings.variant.architecture,
            "l0": l0,
            "num_dead_features": int(self.trainer.dead_f.sum()),
            **self._parts(),
        }

    def _parts(self) -> dict[str, Any]:
        """Return whose the latents of an extended SAE are."""
        settings = self.trainer.settings
        if settings.variant.extend is None:
            return {}
        return {EXTENDED: extended_parts(settings, self.identity["init"]["sae"])}

    def _record(self, outcome: Outcome) -> None:
        """Add a log row about every hundredth of the training, and at its last step."""
        trainer, step = self.trainer, outcome.step
        self.losses |= outcome.losses
        last = trainer.index == trainer.steps
        if step.index % max(1, trainer.steps // _LOG_ROWS) and not last:
            return
        row: dict[str, float | int | None] = {
            "step": trainer.index,
            "tokens": trainer.index * step.tokens,
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


def forget(out: Path) -> None:
    """Remove the checkpoint of the training that has finished in `out`."""
    shutil.rmtree(out / TRAINER, ignore_errors=True)


def is_finished(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether `out` holds, whole, what the training that `identity` describes left."""
    try:
        manifest = read_manifest(out, kind="sae", deep=True)
    except ArtifactError:
        return False
    found = {
        "settings": manifest["settings"],
        "site": manifest["stats"]["site"],
        "activations": manifest["inputs"]["activations"]["sha256"],
        "base": manifest["stats"].get("base"),
        "init": manifest["stats"].get("init"),
        "device": manifest["device"],
        "code": manifest["code"],
        "torch": manifest["software"]["torch"],
    }
    return found == json.loads(json.dumps(identity))


def _source(activations: Path) -> dict[str, str]:
    """Return what the cache's manifest says of its subject and corpus, for `cfg.json`."""
    inputs = read_manifest(activations, kind="activations")["inputs"]
    keys = {"subject": "model_name", "tokens": "dataset_path"}
    return {key: Path(inputs[name]["path"]).name for name, key in keys.items() if name in inputs}
