"""Spliced perplexity of series against a baseline at the same measured L0 (SSAE Figs. 1, 9-13).

The paper draws perplexity "relative to the GSAE baseline" without a definition. Here a series' SAE
is compared to the baseline's curve of the same seed and the same text: log perplexity, linear in
log L0 between the baseline's SAEs, at the L0 that the SAE was measured to have. One number a
series is the mean over a range of L0 that is the same for all series of a seed, for a curve's
distance to the baseline changes with L0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from saeflow.artifacts import ArtifactError, Clock, begin, write_manifest
from saeflow.evaluation.rows import Row, read_rows, write_rows
from saeflow.evaluation.settings import ParetoSettings
from saeflow.fingerprint import fingerprint
from saeflow.progress import say

PARETO = "pareto.parquet"
COPIED = ("l0", "perplexity_clean", "perplexity_sae")
OVERLAP = "perplexity_ratio_overlap"
ALL_LEVELS = 0
"""`l0_target` of what is said of all levels of a series together."""

Floats = NDArray[np.float64]
TEXT = ["subject", "site", "corpus", "split", "d_sae", "seed"]
"""What two curves that are compared have in common."""


class Line(NamedTuple):
    """A Pareto curve: log perplexity at rising, distinct log L0."""

    x: Floats
    y: Floats

    def at(self, x: float, margin: float) -> float | None:
        """Return y at `x`, or None further than `margin` beyond the ends.

        Beyond an end the line goes on along its last segment; a single point goes on level.
        """
        if not self.x[0] - margin <= x <= self.x[-1] + margin:
            return None
        if len(self.x) == 1:
            return float(self.y[0])
        i = int(np.clip(np.searchsorted(self.x, x), 1, len(self.x) - 1))
        slope = (self.y[i] - self.y[i - 1]) / (self.x[i] - self.x[i - 1])
        return float(self.y[i - 1] + slope * (x - self.x[i - 1]))


def line(l0: pd.Series, perplexity: pd.Series) -> Line:
    """Return the curve through points in any order; points of equal L0 become their mean.

    A point whose L0 is zero has no logarithm and is left out; raises ValueError if none is left.
    """
    points = pd.DataFrame({"l0": l0, "y": np.log(perplexity)})
    means = points[points["l0"] > 0].groupby("l0")["y"].mean()
    if means.empty:
        raise ValueError("no SAE of the curve has a measured L0 above zero")
    return Line(np.log(means.index.to_numpy(float)), means.to_numpy(float))


def compared_range(baseline: Line, settings: ParetoSettings) -> tuple[float, float]:
    """Return the ends of log L0 between which every series is averaged; empty if low >= high."""
    share = math.log1p(settings.overlap_margin)
    return float(baseline.x[0]) + share, float(baseline.x[-1]) - share


def mean_gap(curve: Line, baseline: Line, low: float, high: float, margin: float) -> float | None:
    """Return the mean over log L0 from `low` to `high` of `curve` minus `baseline`.

    Exact for two broken lines: the integral of their difference between all corners, over the
    range's length. None for an empty range, and where a line ends more than `margin` inside it.
    """
    if not low < high:
        return None
    corners = np.unique(np.concatenate([[low, high], curve.x, baseline.x]))
    corners = corners[(corners >= low) & (corners <= high)]
    levels = [[side.at(corner, margin) for corner in corners] for side in (curve, baseline)]
    ours, theirs = (np.array(level, dtype=np.float64) for level in levels)
    if np.isnan(ours).any() or np.isnan(theirs).any():
        return None
    return float(np.trapezoid(ours - theirs, corners) / (high - low))


def relate_series(
    rows: pd.DataFrame, baseline: str, settings: ParetoSettings
) -> tuple[list[Row], Counter[str]]:
    """Return the rows of all series against the series `baseline`, and what is absent, counted.

    `rows` are core rows, `variant` naming the series. For each SAE: its `l0`, `perplexity_sae` and
    `perplexity_clean`, and, within the baseline's range, `perplexity_ratio` and
    `perplexity_difference`. For each series, text and seed, at `l0_target` 0:
    `perplexity_ratio_overlap`, exp of the `mean_gap` over the `compared_range`, which depends on
    the baseline alone; its n counts the SAEs inside. What cannot be told has no row. Raises
    ValueError for a baseline or a metric that is not there, and for series that were measured on
    other predictions than the baseline.
    """
    points = _points(rows)
    known = sorted(points["variant"].unique())
    if baseline not in known:
        raise ValueError(f"the baseline {baseline!r} is none of the series {', '.join(known)}")
    found: list[Row] = []
    absent: Counter[str] = Counter()
    for text, group in points.groupby(TEXT, sort=True):
        own = group[group["variant"] == baseline]
        where = ", ".join(f"{k}={v}" for k, v in zip(TEXT, text, strict=True))
        if own.empty:
            raise ValueError(f"the baseline {baseline!r} was not measured at {where}")
        if len(counts := sorted(group["n"].unique())) > 1:
            raise ValueError(
                f"series were measured on different numbers of predictions "
                f"({', '.join(map(str, counts))}) at {where}: measure them with the exclusion rule "
                "of one activation cache"
            )
        reference = line(own["l0"], own["perplexity_sae"])
        for _, series in group.groupby("variant", sort=True):
            found.extend(_relate(series, reference, settings, absent))
    return found, absent


def _points(rows: pd.DataFrame) -> pd.DataFrame:
    """One line an SAE and text, with its three metrics and the number of predictions `n`."""
    kept = rows[rows["metric"].isin(COPIED)]
    index = [name for name in Row._fields if name not in ("metric", "value", "n")]
    wide = kept.pivot(index=index, columns="metric", values="value").reset_index()
    for metric in COPIED:
        if metric not in wide or wide[metric].isna().any():
            raise ValueError(f"the core rows lack {metric} for some SAE: measure it anew")
    n = kept[kept["metric"] == "perplexity_sae"].set_index(index)["n"]
    return wide.merge(n.reset_index(), on=index)


def _relate(
    series: pd.DataFrame, reference: Line, settings: ParetoSettings, absent: Counter[str]
) -> Iterator[Row]:
    """Yield the rows of one series on one text with one seed."""
    margin = math.log1p(settings.extrapolate)
    for point in series.to_dict("records"):
        for metric in COPIED:
            yield _row(point, metric, point[metric])
        level = None
        if point["l0"] > 0:
            level = reference.at(math.log(point["l0"]), margin)
        if level is None:
            absent[f"{point['variant']} on {point['corpus']}"] += 1
            continue
        yield _row(point, "perplexity_ratio", point["perplexity_sae"] / math.exp(level))
        yield _row(point, "perplexity_difference", point["perplexity_sae"] - math.exp(level))
    first = series.iloc[0].to_dict()
    if not (series["l0"] > 0).any():
        return
    curve = line(series["l0"], series["perplexity_sae"])
    low, high = compared_range(reference, settings)
    gap = mean_gap(curve, reference, low, high, margin)
    if gap is None:
        absent[f"{OVERLAP} of {first['variant']} on {first['corpus']}"] += 1
        return
    inside = series["l0"].between(math.exp(low), math.exp(high))
    levels = {"l0_target": ALL_LEVELS, "n": int(inside.sum())}
    yield _row({**first, **levels}, OVERLAP, math.exp(gap))


def _row(point: dict[Any, Any], metric: str, value: float) -> Row:
    names = [name for name in Row._fields if name not in ("metric", "value")]
    return Row(**{name: point[name] for name in names}, metric=metric, value=float(value))


def write_pareto(
    paths: Mapping[str, Path], series: str, baseline: str, settings: ParetoSettings, out: Path
) -> None:
    """Relate a series to the baseline, and write `pareto.parquet` and the manifest.

    `paths` are the `core.parquet` files of both, on one text, by name; a baseline is related to
    itself as well. What cannot be told is counted in the manifest's `stats.absent`. Raises
    ArtifactError for files that cannot be read or do not fit together.
    """
    clock, out = Clock(), begin(out)
    rows = read_rows(paths.values())
    try:
        found, absent = relate_series(rows, baseline, settings)
    except ValueError as error:
        raise ArtifactError(f"{out}: {error}") from error
    for what, times in sorted(absent.items()):
        say(f"{what}: {times} times not within the L0 of {baseline}, without a ratio")
    write_rows(out / PARETO, [row for row in found if row.variant == series])
    write_manifest(
        out,
        kind="metrics",
        settings={"pareto": settings.model_dump(), "series": series, "baseline": baseline},
        files=[PARETO],
        inputs={name: path.parent for name, path in paths.items()},
        stats={"absent": dict(sorted(absent.items()))},
        code=fingerprint(__name__),
        clock=clock,
    )
