"""Composition rate: how much of an SAE's decoder a few directions, four at a time, make up.

A meta-SAE, much smaller than the SAE, is trained to reconstruct its decoder vectors (Leask et al.
2025; OrtSAE Fig. 4a). Of the share that it explains,

    1 - sum ||w - w_hat||^2 / sum ||w - mean(w)||^2 over all decoder vectors w,

more means that latents are composed of what they share with others. A latent that never fires
counts like any other. The level of random vectors of the same shape is measured beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from saeflow.artifacts import Clock, begin, write_manifest
from saeflow.evaluation.composition_settings import CompositionSettings
from saeflow.evaluation.decoder import random_decoder, unit_rows
from saeflow.evaluation.origin import Key, Member, check_members, inputs_of, load_members
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.fingerprint import fingerprint
from saeflow.progress import Progress
from saeflow.sae.boosted import Boosted
from saeflow.sae.model import SAE
from saeflow.sae.optimisation import Trainer
from saeflow.sae.seeding import generator
from saeflow.sae.settings import SAESettings, Training, Variant
from saeflow.sae.step import total

ROWS = "composition.parquet"
_SAMPLE_ROWS = 4096


class Composition(NamedTuple):
    """What a meta-SAE makes of decoder vectors."""

    rate: float
    """Share of the vectors' variance that it explains."""
    dead: float
    """Share of its own latents that no decoder vector activates."""
    width: int
    """Number of its latents."""


def evaluate_composition(
    settings: CompositionSettings,
    saes: Sequence[Member],
    *,
    activations: Path,
    split: str,
    point: Point,
    out: Path,
    device: str = "cpu",
) -> None:
    """Measure the SAEs of one variant, all L0 targets and seeds.

    `activations` is the cache that they were trained on; `split` is only written into the rows, so
    that they stand beside those of text. Writes `composition.parquet` (tidy rows) and the manifest
    into `out`. The point's `l0_target` is ignored: each row has its SAE's. Raises what
    `check_members` and `measure_composition` raise.
    """
    clock, out = Clock(), begin(out)
    check_members(saes, point, activations)
    loaded = load_members(saes, device)
    write_rows(out / ROWS, measure_composition(settings, loaded, point=point, split=split))
    write_manifest(
        out,
        kind="metrics",
        settings={"composition": settings.model_dump(), "point": point._asdict()},
        files=[ROWS],
        inputs={
            "activations": activations,
            **inputs_of(saes),
        },
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def measure_composition(
    settings: CompositionSettings,
    saes: Mapping[Key, SAE | Boosted],
    *,
    point: Point,
    split: str,
) -> list[Row]:
    """Return the rows of all SAEs.

    `composition_rate` and, where settings ask for it, `composition_rate_random`, the rate of random
    vectors of the decoder's shape (n decoder vectors); `dead_meta_latents`, the share of
    meta-latents that no decoder vector activates (n meta-latents). Meta-SAE and random vectors have
    the seed of the SAE. Raises ValueError for a decoder whose vectors are all the same.
    """
    shapes = {key: (*sae.W_dec.shape, key.seed, str(sae.W_dec.device)) for key, sae in saes.items()}
    references = sorted(set(shapes.values())) if settings.random_reference else []
    rows: list[Row] = []
    with Progress(
        settings.steps * (len(saes) + len(references)), "steps", "training meta-SAEs"
    ) as progress:
        random = {}
        for shape in references:
            random[shape] = _random_rate(settings, *shape)
            progress.update(settings.steps)
        for key, sae in saes.items():
            row = partial(
                make_row, point._replace(l0_target=key.l0_target), split=split, seed=key.seed
            )
            found, vectors = composition(settings, sae.W_dec, key.seed, progress), len(sae.W_dec)
            rows.append(row(metric="composition_rate", value=found.rate, n=vectors))
            rows.append(row(metric="dead_meta_latents", value=found.dead, n=found.width))
            if settings.random_reference:
                level = random[shapes[key]]
                rows.append(row(metric="composition_rate_random", value=level, n=vectors))
    return rows


@lru_cache
def _random_rate(
    settings: CompositionSettings, d_sae: int, d_in: int, seed: int, device: str
) -> float:
    """Return the rate of random vectors; once for all SAEs of a shape that a process measures."""
    return composition(settings, random_decoder(d_sae, d_in, seed, device), seed).rate


def composition(
    settings: CompositionSettings, w_dec_fd: Tensor, seed: int, progress: Progress | None = None
) -> Composition:
    """Train a meta-SAE on decoder vectors (d_sae, d_in), put to unit norm, and judge it on all.

    Training and judgement are the same numbers for the same seed. Where it is judged, the meta-SAE
    has the threshold with which k latents are active for a vector on average over all of them.
    """
    unit_fd = unit_rows(w_dec_fd)
    if not (unit_fd - unit_fd[0]).any():
        raise ValueError("the SAE's decoder vectors are all the same: there is nothing to compose")
    rows = generator(seed, "rows of a meta-SAE")

    def drawn(n: int) -> Tensor:
        return unit_fd[torch.randint(len(unit_fd), (n,), generator=rows).to(unit_fd.device)]

    own = meta_settings(settings, len(unit_fd), seed)
    mean_square = total(unit_fd.square()).item() / unit_fd.numel()
    trainer = Trainer(own, drawn(_SAMPLE_ROWS).cpu(), mean_square, str(unit_fd.device))
    for _ in range(settings.steps):
        trainer.step(drawn(settings.batch_size))
        if progress is not None:
            progress.update(1)
    trainer.calibrate(unit_fd.split(settings.batch_size))
    return judged(trainer.finished(), unit_fd)


def meta_settings(settings: CompositionSettings, d_sae: int, seed: int) -> SAESettings:
    """Return how the meta-SAE of an SAE with `d_sae` latents is trained.

    Its seed is drawn from the SAE's: from the very same one its vectors would start as those from
    which the SAE's started, and whatever of these has not moved would count as composed.
    """
    drawn = torch.randint(2**62, (), generator=generator(seed, "meta-SAE"))
    return SAESettings(
        variant=Variant(activation="batchtopk"),
        training=Training(
            tokens=settings.steps * settings.batch_size,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            betas=settings.betas,
            warmup=0,
            decay=0,
            clip_norm=None,
            input_scaling="unit_norm",
        ),
        d_sae=max(math.ceil(settings.width_ratio * d_sae), settings.k),
        l0=settings.k,
        seed=int(drawn),
    )


@torch.no_grad()
def judged(meta: SAE, unit_fd: Tensor) -> Composition:
    """Return how well a meta-SAE reconstructs vectors (d_sae, d_in) about their mean."""
    error = variance = 0.0
    fired = torch.zeros(meta.d_sae, dtype=torch.bool, device=unit_fd.device)
    mean_d = unit_fd.mean(0)
    for part_bd in unit_fd.split(_SAMPLE_ROWS):
        acts_bf = meta.encode(part_bd)
        fired |= (acts_bf > 0).any(0)
        error += total((part_bd - meta.decode(acts_bf)).double().square()).item()
        variance += total((part_bd - mean_d).double().square()).item()
    return Composition(1 - error / variance, 1 - fired.double().mean().item(), meta.d_sae)
