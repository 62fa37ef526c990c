"""How far a share of few test items may lie from that of all such items.

All seeds are tested on the same items, so that the interval over seeds says nothing of the choice
of these: where every seed is right on the same 176 of 200 people it has no width at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, NamedTuple

from saeflow.claims_settings import ON_LOGS, Comparison
from saeflow.intervals import Interval

if TYPE_CHECKING:
    import pandas as pd

_PROPORTIONS = frozenset(
    {
        "profession_accuracy",
        "gender_accuracy",
        "worst_group_accuracy",
        "ambiguous_accuracy",
        "concept_recall",
    }
)
_OF_SUBGROUPS = "accuracy_"


def is_proportion(metric: str) -> bool:
    """Return whether a metric is a share of its row's `n` test items that are a sample of more.

    Shares of everything that there is, as of the latents of an SAE or of the token types of a text,
    have no sampling error.
    """
    return metric.partition("@")[0] in _PROPORTIONS or metric.startswith(_OF_SUBGROUPS)


class Share(NamedTuple):
    """A share in one term of an effect."""

    sign: int
    """1 where the effect grows with it, -1 where it falls."""
    value: float
    """Mean over seeds (and L0 targets), geometric for ratios."""
    n: int
    """Items that every one of them is of: the fewest, if they differ."""


def shares_of(part: Comparison, rows: pd.DataFrame, l0s: Iterable[int]) -> list[Share]:
    """Return the shares that a comparison at `l0s` is made of; none of other metrics."""
    return [
        _share(sign, chosen, part.compare in ON_LOGS)
        for sign, metric, variant in _terms(part)
        if is_proportion(metric)
        and not (chosen := _chosen(rows, part.split, metric, variant, l0s)).empty
    ]


def _terms(part: Comparison) -> Iterator[tuple[int, str, str]]:
    for sign, pair in zip((1, -1), part.pairs, strict=False):
        yield sign, pair.metric, pair.variant
        if pair.baseline is not None:
            yield -sign, pair.baseline_metric or pair.metric, pair.baseline


def _chosen(
    rows: pd.DataFrame, split: str, metric: str, variant: str, l0s: Iterable[int]
) -> pd.DataFrame:
    here = (rows["metric"] == metric) & (rows["split"] == split) & (rows["variant"] == variant)
    return rows[here & rows["l0_target"].isin(list(l0s))]


def _share(sign: int, rows: pd.DataFrame, on_logs: bool) -> Share:
    values = rows["value"]
    mean = math.exp(fmean(map(math.log, values))) if on_logs else fmean(values)
    return Share(sign, mean, int(rows["n"].min()))


def wilson(value: float, n: int, level: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share `value` of `n` independent items (Wilson 1927).

    (p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n); it has a width at 0 and 1, too.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = value + z * z / (2 * n)
    half = z * math.sqrt(value * (1 - value) / n + (z / (2 * n)) ** 2)
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def widened(over_seeds: Interval, shares: Sequence[Share], level: float, on_logs: bool) -> Interval:
    """Return the interval of an effect over seeds, at each end at least as far as that of sampling.

    The end of sampling below a sum of shares ±pᵢ with Wilson's intervals [lᵢ, uᵢ] is at a distance
    of √Σ dᵢ², where dᵢ is pᵢ - lᵢ for +pᵢ and uᵢ - pᵢ for -pᵢ; above, the other way round (Newcombe
    1998, method 10, for two; Zou & Donner 2008 for more). Ratios: the same of logarithms. Terms
    count as independent, though both sides are tested on the same items, which can only make the
    interval too wide where they tend to be right on the same ones. One seed has no interval.
    """
    if over_seeds.low is None or over_seeds.high is None or not shares:
        return over_seeds
    below, above = zip(*(_distances(share, level, on_logs) for share in shares), strict=True)
    return over_seeds._replace(
        low=min(over_seeds.low, over_seeds.mean - math.hypot(*below)),
        high=max(over_seeds.high, over_seeds.mean + math.hypot(*above)),
    )


def _distances(share: Share, level: float, on_logs: bool) -> tuple[float, float]:
    """How far sampling moves the effect down and up through one share."""
    low, high = wilson(share.value, share.n, level)
    if on_logs:
        down, up = math.log(share.value / low), math.log(high / share.value)
    else:
        down, up = share.value - low, high - share.value
    return (down, up) if share.sign > 0 else (up, down)
