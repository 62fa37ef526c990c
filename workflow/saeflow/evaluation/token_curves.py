"""From token types and latents to what the figures draw: curves, and one number a measure.

SSAE Figs. 2, 3, 5-7, 11, 14 and 20. The tail is the set of types whose frequency is at most a
quantile of the frequencies of the types seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeflow.evaluation.pair_cosines import PairCosines
from saeflow.evaluation.settings import TokenMeasureSettings
from saeflow.evaluation.token_tables import Bools, Latents, Types

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


class Mark(NamedTuple):
    """One point of a curve."""

    metric: str
    x: float
    value: float
    n: int


class Scalar(NamedTuple):
    """One measure of an SAE, over `n` items."""

    metric: str
    value: float
    n: int


def curves(
    settings: TokenMeasureSettings,
    types: Types,
    latents: Latents,
    cosines: PairCosines | None,
    text_length: int,
) -> Iterator[Mark]:
    """Yield the points of all curves; `text_length` is the sum of all types' frequencies.

    Bins follow from the text alone, so that SAEs measured on the same text have the same `x`. A
    cumulative curve of an SAE that covers no type is left out, and the density of cosines where
    there is none.
    """
    coverage = {"argmax": types.covered_argmax, "mass": types.covered_mass}
    for name, covered in coverage.items():
        yield from _coverage(settings, f"coverage_{name}", types, covered, text_length)
        yield from _cumulative(settings, f"cumulative_coverage_{name}", types, covered)
    yield from _errors_by_rank(settings, types)
    yield from _counts_by_rank(settings, latents)
    if cosines is not None:
        yield from _density(cosines)


def _coverage(
    settings: TokenMeasureSettings, metric: str, types: Types, covered: Bools, text_length: int
) -> Iterator[Mark]:
    """Share of types covered in bins of frequency; types that the text never has are left out."""
    known = types.frequency > 0
    if not known.any():
        return
    share, covered = types.frequency[known] / text_length, covered[known]
    for x, inside in _log_bins(share, share.min(), share.max(), settings.bins):
        yield Mark(metric, x, float(covered[inside].mean()), int(inside.sum()))


def _cumulative(
    settings: TokenMeasureSettings, metric: str, types: Types, covered: Bools
) -> Iterator[Mark]:
    """Share of the covered types that are among the rarest ones, up to all of them."""
    if not covered.any():
        return
    order = np.argsort(-types.rank)
    counted = types.count[order] if settings.cumulative == "tokens" else np.ones(len(order))
    x, y = np.cumsum(counted) / counted.sum(), np.cumsum(covered[order]) / covered.sum()
    for place in log_places(len(order), settings.points):
        yield Mark(metric, float(x[place - 1]), float(y[place - 1]), int(place))


def _errors_by_rank(settings: TokenMeasureSettings, types: Types) -> Iterator[Mark]:
    for x, inside in _log_bins(types.rank, 1, types.rank.max(), settings.bins):
        errors = pooled_error(types, inside)
        for name, value in zip(("mean", "std", "max"), errors, strict=True):
            yield Mark(f"error_{name}_by_rank", x, value, int(types.count[inside].sum()))


def _counts_by_rank(settings: TokenMeasureSettings, latents: Latents) -> Iterator[Mark]:
    falling = np.sort(latents.count)[::-1]
    for place in log_places(len(falling), settings.points):
        count = int(falling[place - 1])
        yield Mark("latent_count_by_rank", float(place), float(count), count)


def _density(cosines: PairCosines) -> Iterator[Mark]:
    edges = np.linspace(-1, 1, len(cosines.counts) + 1)
    width = 2 / len(cosines.counts)
    for centre, count in zip((edges[:-1] + edges[1:]) / 2, cosines.counts, strict=True):
        density = int(count) / (cosines.pairs * width)
        yield Mark("decoder_cosine_density", float(centre), density, cosines.pairs)


def _log_bins(
    values: NDArray, low: float, high: float, bins: int
) -> Iterator[tuple[float, NDArray[np.bool_]]]:
    """Yield the geometric centre of each bin that is not empty, and which values are inside."""
    edges = np.geomspace(low, high, bins + 1)
    bin_of = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, bins - 1)
    for i in range(bins):
        if (inside := bin_of == i).any():
            yield float(np.sqrt(edges[i] * edges[i + 1])), inside


def log_places(n: int, points: int) -> Indices:
    """Return up to `points` distinct places of 1..n, logarithmically spaced, both ends included."""
    return np.unique(np.geomspace(1, n, points).round().astype(np.int64))


def pooled_error(types: Types, inside: Bools) -> tuple[float, float, float]:
    """Return mean, deviation and maximum of the error over all rows of some types."""
    n, mean = types.count[inside], types.error_mean[inside]
    pooled = float(np.average(mean, weights=n))
    variance = np.average(types.error_std[inside] ** 2 + (mean - pooled) ** 2, weights=n)
    return pooled, float(np.sqrt(variance)), float(types.error_max[inside].max())


def scalars(
    settings: TokenMeasureSettings, types: Types, latents: Latents, cosines: PairCosines | None
) -> Iterator[Scalar]:
    """Yield the measures of an SAE; the mean entropy is left out where no latent ever fires, the
    mean cosine of pairs of decoder vectors where no two do.

    Means over types weigh each type the same, errors of the tail each of its tokens.
    """
    tail = types.frequency <= np.quantile(types.frequency, settings.tail)
    for name, covered in (("argmax", types.covered_argmax), ("mass", types.covered_mass)):
        yield Scalar(f"coverage_{name}", float(covered.mean()), len(covered))
        yield Scalar(f"tail_coverage_{name}", float(covered[tail].mean()), int(tail.sum()))
    for name, value in zip(("mean", "std", "max"), pooled_error(types, tail), strict=True):
        yield Scalar(f"tail_error_{name}", value, int(types.count[tail].sum()))
    if (defined := ~np.isnan(types.entropy)).any():
        yield Scalar("token_entropy", float(types.entropy[defined].mean()), int(defined.sum()))
    yield Scalar("token_max_activation", float(types.max_activation.mean()), len(types.token))
    yield Scalar("token_peak_activation", float(types.peak_activation.mean()), len(types.token))
    d_sae = len(latents.count)
    yield Scalar("median_latent_count", float(np.median(latents.count)), d_sae)
    yield Scalar("active_latents", float((latents.count > 0).mean()), d_sae)
    if cosines is not None:
        yield Scalar("mean_pair_cosine", cosines.mean, cosines.pairs)
