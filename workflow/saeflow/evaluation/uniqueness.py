"""Which latents of an SAE have no like among the decoder vectors of another (OrtSAE Fig. 4d).

A latent is unique where its largest cosine to all decoder vectors of the other SAE is below a
threshold. Both directions are counted: of the variant's latents against the baseline, and, in
metrics that begin with `baseline_`, of the baseline's against the variant. A latent that never
fires counts like any other. Its vector is left about where it was drawn, and both SAEs of a pair
have the same seed and so the same initial decoder vectors: a latent that is dead in both is nearly
a copy and not unique, while one that is dead in only one of them mostly is, as the other has left
that place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.special import betainc
from torch import Tensor

from saeflow.artifacts import Clock, atomic_path, begin, write_manifest
from saeflow.evaluation.decoder import CHUNK_ENTRIES, unit_rows
from saeflow.evaluation.decoder_pairs import (
    Compared,
    Pair,
    check_widths,
    load_pairs,
    pair_inputs,
)
from saeflow.evaluation.origin import Key
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.evaluation.uniqueness_settings import UniquenessSettings
from saeflow.fingerprint import fingerprint

ROWS, DETAILS = "uniqueness.parquet", "uniqueness_details.parquet"
_STEPS = 20_001


class Nearest(NamedTuple):
    """Of each latent the vector of another decoder that is closest to it."""

    cosine_f: Tensor
    """Largest signed cosine (d_sae,)."""
    latent_f: Tensor
    """Whose it is, the first of equals, int64 (d_sae,)."""


def evaluate_uniqueness(
    settings: UniquenessSettings,
    pairs: Sequence[Pair],
    *,
    baseline: str,
    activations: Path,
    split: str,
    point: Point,
    out: Path,
    device: str = "cpu",
) -> None:
    """Compare the SAEs of a variant with those of the variant `baseline` at the same L0 and seed.

    `activations` is the cache that all were trained on; `split` is only written into the rows, so
    that they stand beside those of text. Writes `uniqueness.parquet` (tidy rows),
    `uniqueness_details.parquet` (a row a pair, side and latent) and the manifest into `out`. The
    point's `l0_target` is ignored: each row has its SAEs'. Raises what `load_pairs` and
    `measure_uniqueness` raise.
    """
    clock, out = Clock(), begin(out)
    loaded = load_pairs(pairs, point, baseline, activations, device)
    rows, details = measure_uniqueness(settings, loaded, point=point, split=split)
    write_rows(out / ROWS, rows)
    with atomic_path(out / DETAILS) as temporary:
        pq.write_table(details, temporary)
    write_manifest(
        out,
        kind="metrics",
        settings={
            "uniqueness": settings.model_dump(),
            "baseline": baseline,
            "point": point._asdict(),
        },
        files=[ROWS, DETAILS],
        inputs={"activations": activations, **pair_inputs(pairs)},
        device=device,
        code=fingerprint(__name__),
        clock=clock,
    )


def measure_uniqueness(
    settings: UniquenessSettings, pairs: Mapping[Key, Compared], *, point: Point, split: str
) -> tuple[list[Row], pa.Table]:
    """Return rows and details of pairs of SAEs.

    Metrics, of the variant's latents: `unique_share@<cosine>`, `unique_share` at the relative
    threshold, `nearest_cosine` (the mean over latents). `unique_random_level` and
    `unique_threshold` tell the random level and what the relative threshold comes to. The same
    with `baseline_` in front is of the baseline's latents. Raises ValueError for SAEs of different
    widths and where the relative threshold is no cosine any more.
    """
    check_widths(pairs)
    rows: list[Row] = []
    tables: list[pa.Table] = []
    for key, (variant, baseline) in pairs.items():
        vectors = {"variant": unit_rows(variant.W_dec), "baseline": unit_rows(baseline.W_dec)}
        row = partial(make_row, point._replace(l0_target=key.l0_target), split=split, seed=key.seed)
        for side, other, prefix in (
            ("variant", "baseline", ""),
            ("baseline", "variant", "baseline_"),
        ):
            found = nearest(vectors[side], vectors[other])
            level = random_level(vectors[other].shape[1], len(vectors[other]))
            for metric, value, n in _metrics(settings, found, level, len(vectors[other])):
                rows.append(row(metric=prefix + metric, value=value, n=n))
            tables.append(_table(key, side, found))
    return rows, pa.concat_tables(tables)


@torch.no_grad()
def nearest(unit_fd: Tensor, other_gd: Tensor) -> Nearest:
    """Return the largest cosine of each row to any row of `other_gd`, all of unit norm.

    Rows are compared in chunks, so that memory is linear in both.
    """
    rows = max(1, CHUNK_ENTRIES // len(other_gd))
    found = [(part @ other_gd.T).max(dim=1) for part in unit_fd.split(rows)]
    return Nearest(*(torch.cat(part) for part in zip(*found, strict=True)))


def random_level(d_in: int, vectors: int) -> float:
    """Return the expected largest cosine of a direction to so many independent random ones.

    With F the distribution of one cosine c, for which (c + 1) / 2 is Beta((d_in - 1) / 2, the
    same), it is 1 - the integral over [-1, 1] of F(c) ** vectors.
    """
    cosine = np.linspace(-1, 1, _STEPS)
    half = (d_in - 1) / 2
    return float(1 - np.trapezoid(betainc(half, half, (cosine + 1) / 2) ** vectors, cosine))


def _metrics(
    settings: UniquenessSettings, found: Nearest, level: float, others: int
) -> Iterator[tuple[str, float, int]]:
    """Yield metric, value and n of one side."""
    threshold = settings.relative_threshold * level
    if threshold >= 1:
        raise ValueError(
            f"relative_threshold {settings.relative_threshold:g} times the random level "
            f"{level:.3f} is no cosine: lower uniqueness.relative_threshold, or compare SAEs of a "
            "wider site"
        )
    latents = len(found.cosine_f)
    cosine_f = found.cosine_f.double()
    yield "unique_random_level", level, others
    yield "unique_threshold", threshold, others
    yield "nearest_cosine", cosine_f.mean().item(), latents
    yield "unique_share", (cosine_f < threshold).double().mean().item(), latents
    for cosine in settings.thresholds:
        share = (cosine_f < cosine).double().mean().item()
        yield f"unique_share@{cosine:g}", share, latents


def _table(key: Key, side: str, found: Nearest) -> pa.Table:
    latents = len(found.cosine_f)
    columns: dict[str, Any] = {
        "l0_target": np.full(latents, key.l0_target),
        "seed": np.full(latents, key.seed),
        "side": [side] * latents,
        "latent": np.arange(latents),
        "nearest": found.latent_f.cpu().numpy(),
        "cosine": found.cosine_f.cpu().numpy(),
    }
    return pa.table(columns)
