"""The training job: one read of the cache for one SAE or several, and their SAELens folders."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saeflow.activations.stream import ActivationStream, estimate_scale, open_cache, sample
from saeflow.artifacts import MANIFEST, Clock, file_digest
from saeflow.preempt import EXIT_CODE, StopRequest, preemptible
from saeflow.progress import Progress, say
from saeflow.sae.continued import Start, load_start, start_identity
from saeflow.sae.formats import load_sae
from saeflow.sae.identity import sae_digest, training_code
from saeflow.sae.model import SAE
from saeflow.sae.optimisation import NonFiniteLoss, Trainer
from saeflow.sae.ranks import ALONE, Ranks
from saeflow.sae.run import Run, forget, is_finished
from saeflow.sae.settings import SAESettings

_SAMPLE_ROWS = 4096


class Wanted(NamedTuple):
    """An SAE to be trained, and where."""

    settings: SAESettings
    out: Path
    base: str | Path | None = None
    """The frozen SAE, in any layout that `load_sae` reads, of a variant with `error_of`."""
    init: str | Path | None = None
    """The SAE to be trained further, likewise, of a variant with `init_from`."""


_Missing = tuple[Wanted, dict[str, Any]]
"""What is to be trained, with its identity."""


def train_sae(
    settings: SAESettings,
    activations: str | Path,
    site: str,
    out: str | Path,
    *,
    device: str = "cpu",
    base: str | Path | None = None,
    init: str | Path | None = None,
    metadata: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train one SAE on the cache `activations` and leave a SAELens folder with manifest in `out`.

    `train_saes` with one SAE, which see.
    """
    wanted = [Wanted(settings, Path(out), base, init)]
    train_saes(wanted, activations, site, device=device, metadata=metadata, ranks=ranks)


def train_saes(
    wanted: Sequence[Wanted],
    activations: str | Path,
    site: str,
    *,
    device: str = "cpu",
    metadata: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Train SAEs from one read of the cache `activations`, each as if it were trained alone.

    Each leaves a SAELens folder with log and manifest in its `out`. They must agree in what
    decides the batches: batch size, seed, and whether a tilt needs whole documents.

    Killed at any moment and called again, it goes on from the last checkpoints in `out/trainer` and
    ends with the same weights, bit for bit on the CPU (CUDA adds some gradients in no fixed order);
    an SAE that is finished already is left alone. On SIGTERM it saves and raises SystemExit(143).
    `metadata` (model name, context size, ...) goes into `cfg.json`. Of several `ranks` each calls
    this with the same arguments but its own `device`, reads all batches and takes its slices; with
    another number of them the weights differ by rounding.

    Raises NonFiniteLoss for SAEs that diverge, after the others are finished; those keep their
    checkpoints, from which their folders are quickly made again. Raises ValueError for SAEs that
    cannot share a read, for a batch size that the ranks do not divide, and for ranks that do not
    see the same folders. Raises what the reader raises.
    """
    clock, activations = Clock(), Path(activations)
    identities = [_identity(w, activations, site, device) for w in wanted]
    missing = [
        (w, identity)
        for w, identity in zip(wanted, identities, strict=True)
        if not is_finished(w.out, identity)
    ]
    unfinished = {w.out for w, _ in missing}
    _check_agreement(ranks, "finished SAEs", {w.out: w.out not in unfinished for w in wanted})
    if missing:
        _train(missing, activations, site, device, metadata or {}, ranks, clock)
    else:
        say("every SAE of this job is finished already")
    if ranks.rank == 0:
        for w in wanted:
            forget(w.out)


def _train(
    missing: Sequence[_Missing],
    activations: Path,
    site: str,
    device: str,
    metadata: Mapping[str, Any],
    ranks: Ranks,
    clock: Clock,
) -> None:
    """Train what is missing; raise NonFiniteLoss for what diverged once the rest is finished."""
    order = _order({w.out: w.settings for w, _ in missing})
    runs = _runs(missing, activations, site, device, ranks)
    with preemptible() as stop:
        stream = ActivationStream(
            activations,
            site,
            **order._asdict(),
            position=min(run.position for run in runs),
            device=device,
        )
        with stream:
            _read(stream, order.by_document, runs, ranks, stop)
    if len(runs) > 1:  # who ends while one of them is finished loses none of the others
        for run in runs:
            run.save()
    for run in runs:
        if run.failure is None:
            run.finish(metadata, clock)
    if failures := [run.failure for run in runs if run.failure is not None]:
        raise NonFiniteLoss("\n".join(map(str, failures))) from failures[0]


def _identity(wanted: Wanted, activations: Path, site: str, device: str) -> dict[str, Any]:
    """Return what a finished SAE and a checkpoint must have been made from to count."""
    return {
        "settings": wanted.settings.identity(),
        "site": site,
        "activations": file_digest(activations / MANIFEST),
        "base": None if wanted.base is None else sae_digest(wanted.base),
        "init": None if wanted.init is None else start_identity(wanted.init),
        "device": torch.device(device).type,
        "code": training_code(wanted.settings.variant),
        "torch": version("torch"),  # as in a manifest, where it may lack the build of the wheel
    }


def _runs(
    missing: Sequence[_Missing], activations: Path, site: str, device: str, ranks: Ranks
) -> list[Run]:
    """Return a run of each SAE, as far as it has come."""
    start = _start(activations, site, missing[0][0].settings.seed)
    rows = open_cache(activations, site).rows
    runs = []
    for w, identity in missing:
        trainer = Trainer(w.settings, *start, device, _loaded(w.base), ranks, _loaded_start(w.init))
        runs.append(Run(trainer, w.out, identity, activations, rows))
    # The first rank writes once all have read, which this waits for.
    _check_agreement(ranks, "steps", {run.out: run.trainer.index for run in runs})
    if ranks.rank == 0:
        for run in runs:
            run.begin()
    return runs


def _check_agreement(ranks: Ranks, what: str, found: Mapping[Path, int]) -> None:
    """Raise ValueError, on all ranks, where they did not find the same number in some folder."""
    own_n = torch.tensor([int(number) for number in found.values()])
    found_rn = ranks.gather(own_n)[0].view(ranks.size, -1)
    for out, found_r in zip(found, found_rn.T.tolist(), strict=True):
        if len(set(found_r)) > 1:
            numbers = ", ".join(map(str, found_r))
            raise ValueError(
                f"the {ranks.size} processes find different states in {out} ({numbers} {what}): "
                "all their machines must see the same folders, so put them on a shared file system"
            )


class _Order(NamedTuple):
    """What decides the batches of a training, as a stream of a cache takes it."""

    batch_size: int
    seed: int
    by_document: bool


def _order(settings: Mapping[Path, SAESettings]) -> _Order:
    """Return what decides the batches of all `settings`; raise ValueError where they differ."""
    orders = {
        out: _Order(s.training.batch_size, s.seed, s.variant.by_document)
        for out, s in settings.items()
    }
    first, common = next(iter(orders.items()))
    for out, order in orders.items():
        for name, value, other in zip(_Order._fields, common, order, strict=True):
            if value != other:
                raise ValueError(
                    f"SAEs that are trained together need one {name}: it is {value} for {first} "
                    f"and {other} for {out}"
                )
    return common


def _read(
    stream: ActivationStream,
    with_documents: bool,
    runs: Sequence[Run],
    ranks: Ranks,
    stop: StopRequest,
) -> None:
    """Give every run the batches it still needs; save now and then, and when asked to stop."""
    position, end = stream.position, max(run.end for run in runs)
    going_on = any(run.is_active for run in runs)
    minutes = min(run.trainer.training.checkpoint_minutes for run in runs)
    batches, saved = _batches(stream, with_documents, ranks), time.monotonic()
    with Progress(end, "batches", _what(runs), done=position) as progress:
        while going_on:
            asked = time.monotonic()
            raw_bd, sequence_b = next(batches)
            _share_out(runs, position, raw_bd, sequence_b, time.monotonic() - asked)
            position += 1
            progress.update(1)
            going_on = any(run.is_active for run in runs)
            due = time.monotonic() - saved >= 60 * minutes
            stopping, due = ranks.any(stop.requested, due and going_on)
            if stopping or due:
                for run in runs:
                    run.save()
                saved = time.monotonic()
            if stopping:
                for run in (run for run in runs if run.failure is None):
                    say(f"stopped on SIGTERM after step {run.trainer.index:,}, saved in {run.out}")
                raise SystemExit(EXIT_CODE)


def _share_out(
    runs: Sequence[Run], position: int, raw_bd: Tensor, sequence_b: Tensor | None, waited: float
) -> None:
    """Give a batch to the runs whose turn it is; those that are further wait for theirs."""
    due = [run for run in runs if run.is_active and run.position == position]
    for run in due:
        run.take(raw_bd, sequence_b, waited / len(due))
        if run.failure is not None and len(runs) > 1:
            say(f"{run.failure}; the other SAEs of this job go on")


def _batches(
    stream: ActivationStream, with_documents: bool, ranks: Ranks
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield this rank's slices of activations and, if asked for, of their documents' numbers."""
    if with_documents:
        for batch in stream.batches_with_ids():
            yield ranks.share(batch.acts_bd), ranks.share(batch.document)
    for raw_bd in stream:
        yield ranks.share(raw_bd), None


def _what(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f"training {len(runs)} SAEs"
    settings = runs[0].trainer.settings
    return f"training {settings.variant.architecture} d{settings.d_sae} l0 {settings.l0}"


def new_trainer(
    settings: SAESettings,
    activations: Path,
    site: str,
    device: str = "cpu",
    base: str | Path | None = None,
) -> Trainer:
    """Return a trainer at step 0, initialised on a sample of the cache."""
    return Trainer(settings, *_start(activations, site, settings.seed), device, _loaded(base))


def _start(activations: Path, site: str, seed: int) -> tuple[Tensor, float]:
    """Return what a training must know of the cache before its first batch."""
    return sample(activations, site, _SAMPLE_ROWS, seed), estimate_scale(activations, site)


def _loaded(base: str | Path | None) -> SAE | None:
    return None if base is None else load_sae(base)


def _loaded_start(init: str | Path | None) -> Start | None:
    return None if init is None else load_start(init)
