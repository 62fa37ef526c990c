"""SAEs that are kept from the middle of a training, in the layout of the finished one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from saeflow.sae.formats import CONFIG, WEIGHTS, save_sae
from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import SAESettings

FOLDER = "snapshots"


class Snapshots:
    """The snapshots of a training in `out`, each in `snapshots/step{number}`.

    A training that goes on from a checkpoint repeats the steps since, and writes the snapshots
    among them again with the same bytes.
    """

    def __init__(self, out: Path, settings: SAESettings) -> None:
        self.out, self.shares = out, settings.snapshot_steps
        self.taken: list[dict[str, Any]] = []
        """Step, share, learning rate and L1 coefficient of each; part of a checkpoint."""

    @property
    def files(self) -> list[str]:
        """The files of all that were taken, relative to `out`."""
        folders = [_folder(entry["step"]) for entry in self.taken]
        return [f"{folder}/{name}" for folder in folders for name in (CONFIG, WEIGHTS)]

    def is_due(self, trainer: Trainer) -> bool:
        """Whether a snapshot belongs after the step that the trainer has just taken."""
        return trainer.index in self.shares

    def take(self, trainer: Trainer, raw_bd: Tensor, metadata: Mapping[str, Any]) -> None:
        """Write the SAE of this moment; `raw_bd` is the batch of the step, on all ranks."""
        step = trainer.index
        if trainer.needs_calibration:
            trainer.calibrate([raw_bd])
        if not trainer.ranks.rank:
            save_sae(trainer.finished(), self.out / _folder(step), {**metadata, "step": step})
        self.taken.append(
            {
                "step": step,
                "share": self.shares[step],
                "learning_rate": trainer.optimiser.param_groups[0]["lr"],
                "l1_coefficient": trainer.weights.get("l1"),
            }
        )

    def clear(self) -> None:
        """Remove the snapshots of an earlier training in `out`."""
        shutil.rmtree(self.out / FOLDER, ignore_errors=True)


def _folder(step: int) -> str:
    return f"{FOLDER}/step{step:08d}"
