"""How often a series' latents fire against the baseline's same latents (SSAE Figs. 17, 18).

A fine-tuned SAE keeps the order of the latents that it starts from, so that a latent can be
compared to itself. Counts are divided by their sum in each SAE, as the paper does: a ratio above
one says that the latent takes a larger part of all activations than before. A latent that fires in
neither SAE says nothing of how often it fires, and has no ratio.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from saeflow.artifacts import (
    ArtifactError,
    Clock,
    atomic_path,
    begin,
    read_manifest,
    write_manifest,
)
from saeflow.evaluation.rows import Point, Row, make_row, write_rows
from saeflow.evaluation.settings import CountRatioSettings
from saeflow.fingerprint import fingerprint

ROWS, RATIOS = "count_ratios.parquet", "ratios.parquet"
LATENTS = "latents.parquet"

Floats = NDArray[np.float64]


def log_count_ratios(count_f: NDArray, baseline_f: NDArray, epsilon: float) -> Floats:
    """Return log of the ratio of each latent's share of all activations, (d_sae,).

    log[ (c_i + e) / sum_j (c_j + e) ] - log[ (b_i + e) / sum_j (b_j + e) ] over the latents j that
    fire in one of the SAEs or both; NaN for the others, whose ratio would be one constant, that of
    the sums. With e > 0, latents that fire in one only have a ratio too. Raises ValueError for
    counts of different latents, and where no latent fires.
    """
    if len(count_f) != len(baseline_f):
        raise ValueError(f"{len(count_f)} latents cannot be compared with {len(baseline_f)}")
    fires_f = (np.asarray(count_f) > 0) | (np.asarray(baseline_f) > 0)
    if not fires_f.any():
        raise ValueError("no latent fires, in neither of the SAEs")

    def log_share(values: NDArray) -> Floats:
        smoothed = np.asarray(values, dtype=np.float64)[fires_f] + epsilon
        return np.log(smoothed / smoothed.sum())

    ratio_f = np.full(len(fires_f), np.nan)
    ratio_f[fires_f] = log_share(count_f) - log_share(baseline_f)
    return ratio_f


def write_count_ratios(
    settings: CountRatioSettings, series: Mapping[str, Path], baseline: str, out: Path
) -> None:
    """Write the ratios of all series but the baseline, which `series` names too.

    `series` are folders of token measures, all of one text. Writes `count_ratios.parquet` (tidy:
    median and mean of the log ratio over the latents that have one, n, and the share below zero, by
    seed), `ratios.parquet` (series, seed, latent, log_ratio, which is NaN for latents that fire in
    neither SAE) and the manifest. Raises ArtifactError for folders that are unfinished or damaged,
    of other seeds, widths or texts than the baseline's, or in which no latent fires, and
    ValueError where the baseline is not among the series or nothing else is.
    """
    clock, out = Clock(), begin(out)
    if baseline not in series or len(series) < 2:
        raise ValueError(f"{', '.join(series)}: give the baseline {baseline!r} and others")
    points = {name: _point(folder) for name, folder in series.items()}
    counts = {name: _counts(folder) for name, folder in series.items()}
    tables: list[pa.Table] = []
    rows: list[Row] = []
    for name in sorted(set(series) - {baseline}):
        _check_text(series[name], points[name], series[baseline], points[baseline])
        if counts[name].keys() != counts[baseline].keys():
            raise ArtifactError(
                f"{series[name]} has seeds {sorted(counts[name])}, the baseline "
                f"{series[baseline]} has {sorted(counts[baseline])}"
            )
        point, split = points[name]
        for seed, count_f in counts[name].items():
            try:
                ratio_f = log_count_ratios(count_f, counts[baseline][seed], settings.epsilon)
            except ValueError as error:
                raise ArtifactError(f"{series[name]}, seed {seed}: {error}") from error
            known_k = ratio_f[~np.isnan(ratio_f)]
            row = partial(make_row, point, split=split, seed=seed, n=len(known_k))
            rows.extend(row(metric=m, value=v) for m, v in _summary(known_k))
            tables.append(_table(name, seed, ratio_f))
    write_rows(out / ROWS, rows)
    with atomic_path(out / RATIOS) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary)
    write_manifest(
        out,
        kind="metrics",
        settings={"counts": settings.model_dump(), "baseline": baseline},
        files=[ROWS, RATIOS],
        inputs=dict(series),
        code=fingerprint(__name__),
        clock=clock,
    )


def _point(folder: Path) -> tuple[Point, str]:
    settings = read_manifest(folder, kind="metrics")["settings"]
    return Point(**settings["point"]), settings["split"]


def _counts(folder: Path) -> dict[int, NDArray]:
    """Return the counts (d_sae,) of each seed, by rising latent."""
    columns = ["seed", "latent", "count"]
    latents: pd.DataFrame = pq.read_table(folder / LATENTS, columns=columns).to_pandas()
    ordered = latents.sort_values(["seed", "latent"])
    return {int(str(seed)): of["count"].to_numpy() for seed, of in ordered.groupby("seed")}


def _check_text(
    folder: Path, at: tuple[Point, str], baseline_folder: Path, baseline: tuple[Point, str]
) -> None:
    """Raise ArtifactError unless both are of one site and width and were measured on one text."""
    names = ("subject", "site", "corpus", "d_sae", "l0_target")
    own, other = ({**at[0]._asdict(), "split": at[1]} for at in (at, baseline))
    for name in (*names, "split"):
        if own[name] != other[name]:
            raise ArtifactError(
                f"{folder} has {name} {own[name]}, the baseline {baseline_folder} has "
                f"{other[name]}: their latents cannot be compared"
            )


def _summary(ratio_k: Floats) -> Iterator[tuple[str, float]]:
    yield "median_log_count_ratio", float(np.median(ratio_k))
    yield "mean_log_count_ratio", float(ratio_k.mean())
    yield "share_of_ratios_below_zero", float((ratio_k < 0).mean())


def _table(series: str, seed: int, ratio_f: Floats) -> pa.Table:
    n = len(ratio_f)
    return pa.table(
        {
            "series": [series] * n,
            "seed": np.full(n, seed),
            "latent": np.arange(n),
            "log_ratio": ratio_f,
        }
    )
