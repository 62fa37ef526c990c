"""What a training step of each variant costs, measured side by side (OrtSAE's Table 3)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice, product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from saeflow.activations.stream import ActivationStream
from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress
from saeflow.sae.optimisation import Trainer
from saeflow.sae.settings import SAESettings
from saeflow.sae.trainer import new_trainer

TIMING = "timing.parquet"
_TEXTS = ("paper", "subject", "corpus", "split", "selection")


def time_variants(
    variants: Mapping[str, SAESettings],
    activations: str | Path,
    site: str,
    out: str | Path,
    *,
    rounds: int,
    steps: int,
    origin: Mapping[str, str],
    d_sae: Sequence[int] | None = None,
    device: str = "cpu",
) -> None:
    """Time `steps` training steps of every variant in each of `rounds` rounds.

    With `d_sae` every variant is timed at each of these dictionary sizes instead of its own, the
    sizes one after another within a round.

    All variants live in this process, on one `device`, and take the same batches one variant after
    another within a round, so that a busy machine hits all alike; the order rotates, so that each
    is first, second, ... equally often. A round's batches are read, and the reader is closed,
    before its clock starts. A first round warms up and is not recorded. Give the process as many
    threads as a training has. Rows of `timing.parquet` have metric `step_seconds` (mean
    over the round's steps), `seed` the round and `n` the steps; `origin` fills the columns paper,
    subject, corpus, split and selection. No latent is dead in so short a run, so that AuxK costs
    nothing here.

    Raises ValueError where `rounds` is no multiple of the number of variants, where `steps` is no
    multiple of a variant's `orthogonality.every`, for then rounds would differ in work, and where
    batch sizes differ.
    """
    clock, activations, out = Clock(), Path(activations), begin(out)
    if rounds % len(variants):
        raise ValueError(
            f"timing.rounds {rounds} is no multiple of the {len(variants)} variants timed together"
        )
    batch_size = _common_batch_size(variants, steps)
    longest = {
        name: _at_least(v, batch_size * steps * (rounds + 1)) for name, v in variants.items()
    }
    sizes = [None] if d_sae is None else list(d_sae)
    trainers = {
        size: {
            name: new_trainer(_of_size(v, size), activations, site, device)
            for name, v in longest.items()
        }
        for size in sizes
    }
    rows = []
    turns = (rounds + 1) * len(sizes) * len(variants)
    with Progress(turns, "timings", "timing variants") as progress:
        for number in range(-1, rounds):
            position = (number + 1) * steps
            with ActivationStream(
                activations, site, batch_size=batch_size, seed=0, position=position, device=device
            ) as stream:
                batches = list(islice(stream, steps))
            for size, name in product(sizes, _rotated(list(variants), number)):
                trainer = trainers[size][name]
                seconds = _seconds(trainer, batches) / steps
                progress.update(1)
                if number >= 0:
                    timed = trainer.settings
                    at = {"variant": name, "d_sae": timed.d_sae, "l0": timed.l0}
                    rows.append({**at, "seed": number, "value": seconds})
    with atomic_path(out / TIMING) as temporary:
        pq.write_table(_tidy(rows, {**origin, "site": site}, steps), temporary)
    write_manifest(
        out,
        kind="timing",
        settings={
            "d_sae": d_sae,
            "variants": {name: v.identity() for name, v in variants.items()},
        },
        files=[TIMING],
        inputs={"activations": activations},
        stats={"rounds": rounds, "steps": steps},
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def _common_batch_size(variants: Mapping[str, SAESettings], steps: int) -> int:
    sizes = {v.training.batch_size for v in variants.values()}
    if len(sizes) != 1:
        raise ValueError(f"variants timed together need one batch_size, they have {sorted(sizes)}")
    for name, settings in variants.items():
        term = settings.variant.orthogonality
        if term is not None and steps % term.every:
            raise ValueError(
                f"timing.steps {steps} is no multiple of orthogonality.every {term.every} of {name}"
            )
    return sizes.pop()


def _at_least(settings: SAESettings, tokens: int) -> SAESettings:
    """Lengthen a training that is shorter than its timing; the length does not change a step."""
    training = settings.training
    longer = training.model_copy(update={"tokens": max(tokens, training.tokens)})
    return settings.model_copy(update={"training": longer})


def _of_size(settings: SAESettings, d_sae: int | None) -> SAESettings:
    """Return the settings with another dictionary size, which is checked with the rest."""
    if d_sae is None:
        return settings
    return SAESettings.model_validate({**settings.model_dump(), "d_sae": d_sae})


def _rotated(names: Sequence[str], by: int) -> list[str]:
    by %= len(names)
    return [*names[by:], *names[:by]]


def _seconds(trainer: Trainer, batches: Sequence[Tensor]) -> float:
    _finish_queued(batches[0])
    started = time.perf_counter()
    for raw_bd in batches:
        trainer.step(raw_bd)
    _finish_queued(batches[0])
    return time.perf_counter() - started


def _finish_queued(tensor: Tensor) -> None:
    """Wait for what CUDA runs behind Python's back."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _tidy(rows: Sequence[Mapping[str, object]], origin: Mapping[str, str], steps: int) -> pa.Table:
    """Return the rows in the schema of all measurements."""
    text = {name: [origin[name]] * len(rows) for name in (*_TEXTS, "site")}
    columns = {name: [row[name] for row in rows] for name in ("variant", "d_sae", "l0", "seed")}
    return pa.table(
        {
            "paper": text["paper"],
            "subject": text["subject"],
            "site": text["site"],
            "corpus": text["corpus"],
            "split": text["split"],
            "selection": text["selection"],
            "variant": columns["variant"],
            "d_sae": columns["d_sae"],
            "l0_target": columns["l0"],
            "seed": columns["seed"],
            "metric": ["step_seconds"] * len(rows),
            "value": [row["value"] for row in rows],
            "n": [steps] * len(rows),
        }
    )
