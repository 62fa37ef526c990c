"""The claims ledger: what a paper states, what was measured, and a verdict that can go any way.

A claim is a set of comparisons, each with an expectation. A comparison's effect is computed within
each seed: variant against baseline, which share the order of the data and the initial weights and
decoder bias, though not the initial encoder bias, which a ReLU SAE fits to its L0. Its interval is
the 95% t-interval of these paired effects over seeds; ratios and relative changes are taken on the
log scale and transformed back. Shares of test items, which all seeds have in common, are at least
as uncertain as their number allows (`claims_proportions`). A comparison is reproduced if its whole
interval meets the expectation, not reproduced if its whole interval violates it, and inconclusive
otherwise; it is inconclusive, too, where the measured L0 of its two sides differs by more than a
tolerance, for then it may only show that fewer latents rebuild less.

A claim is reproduced if all its comparisons are: requiring every one keeps the error at 5% without
a correction (an intersection-union test). It is not reproduced if any comparison's interval at
level 1 - 0.05/m violates its expectation, m being their number (Bonferroni: the more chances to
fail, the stronger the evidence that one did).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import TYPE_CHECKING, Literal, NamedTuple

from saeflow.claims_effects import ClaimError, Targets, effects_of, unmeasured
from saeflow.claims_l0 import METRIC, RELATED, Sides, measured_l0, mismatch
from saeflow.claims_proportions import Share, shares_of, widened
from saeflow.claims_settings import ON_LOGS, ClaimSettings, Compare, Comparison
from saeflow.intervals import Interval, from_logs, t_interval

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
ERROR_RATE = 0.05


class Outcome(NamedTuple):
    """One comparison, measured and judged."""

    claim: str
    comparison: str
    split: str
    """Held-out part that was measured, after its corpus where there are several."""
    l0: str
    """L0 targets; empty for what is over all of them or has none."""
    l0_variant: float | None
    """Measured L0 of the variant, mean over seeds; null without rows of it, as in timings."""
    l0_baseline: float | None
    expectation: str
    seeds: int
    items: int | None
    """Test items behind the share with the fewest; null for what is no share of a sample."""
    effect: float
    low: float | None
    high: float | None
    verdict: Verdict
    corrected_low: float | None
    corrected_high: float | None
    corrected_verdict: Verdict
    reason: str
    """Why there is no verdict whatever the interval is; else empty."""
    slack: float
    """Distance of the effect inside its expectation, in half-widths of the interval; 0 where the
    sides are not comparable."""


class Judgement(NamedTuple):
    """A claim's verdict with the outcome that decides it: the one with the least slack."""

    claim: ClaimSettings
    verdict: Verdict
    reason: str
    deciding: Outcome
    outcomes: tuple[Outcome, ...]


def judge(
    claims: Iterable[ClaimSettings],
    rows: pd.DataFrame,
    *,
    reference_l0: int,
    l0s: tuple[int, ...] = (),
    window: tuple[float, float] | None = None,
) -> list[Judgement]:
    """Judge every claim against metric rows (the columns of `evaluation.rows.SCHEMA`).

    `l0s` are the targets of the experiment and `window` the range of them that `at_l0: inside` and
    `outside` divide; a target of theirs without a value is not measured, and so inconclusive.
    Raises ClaimError that names the claim and the variant, metric and L0 without rows, seeds that
    a variant and its baseline do not share, or rows of several subjects, sites or sizes at once.
    """
    targets = Targets(reference_l0, l0s, window)
    return [_judge_claim(claim, rows, targets) for claim in claims]


def _judge_claim(claim: ClaimSettings, rows: pd.DataFrame, targets: Targets) -> Judgement:
    rows = _on_text(claim, rows)
    samples = [s for part in claim.parts for s in _samples(claim, part, rows, targets)]
    outcomes = tuple(_judge_sample(sample, len(samples)) for sample in samples)
    deciding = min(outcomes, key=lambda outcome: outcome.slack)
    verdict, reason = _combine(outcomes, deciding)
    return Judgement(claim, verdict, reason, deciding, outcomes)


def _on_text(claim: ClaimSettings, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that were measured on the claim's text."""
    if claim.corpus is None:
        return rows
    here = rows[rows["corpus"] == claim.corpus]
    if here.empty:
        known = ", ".join(sorted(rows["corpus"].unique()))
        raise ClaimError(f"claim {claim.id}: no rows on corpus {claim.corpus} (there are {known})")
    return here


def _combine(outcomes: tuple[Outcome, ...], deciding: Outcome) -> tuple[Verdict, str]:
    total = len(outcomes)
    held = sum(o.verdict == "reproduced" for o in outcomes)
    against = sum(o.corrected_verdict == "not reproduced" for o in outcomes)
    alone = sum(o.seeds < 2 for o in outcomes)
    count = f"{held} of {total} comparisons hold" if total > 1 else ""
    if against:
        return "not reproduced", f"{count}, {against} fail" if count else ""
    if held == total:
        return "reproduced", count
    why_not = next((o.reason for o in (deciding, *outcomes) if o.reason), "")
    if why_not:
        return "inconclusive", "; ".join(filter(None, (count, why_not)))
    if alone:
        return "inconclusive", "fewer than 2 seeds: no interval"
    return "inconclusive", count or "the interval crosses the bound"


class _Sample(NamedTuple):
    """The paired effects of one comparison at one place, on the scale where they are averaged."""

    claim: ClaimSettings
    comparison: Comparison
    l0: str
    sides: list[Sides]
    effects: list[float]
    shares: list[Share]
    """What is sampled in them."""
    lacking: str
    """What was not measured, if anything."""

    def interval(self, level: float) -> Interval:
        """The effect over seeds with its interval, not narrower than its sampling allows."""
        on_logs = self.comparison.compare in ON_LOGS
        return widened(t_interval(self.effects, level), self.shares, level, on_logs)


def _samples(
    claim: ClaimSettings, part: Comparison, rows: pd.DataFrame, targets: Targets
) -> Iterator[_Sample]:
    by_level = effects_of(claim.id, part, rows, targets)
    sides = [
        measured_l0(rows, part.split, pair.variant, pair.baseline, by_level) for pair in part.pairs
    ]
    if part.over_l0 == "each":
        for at, (l0, effects) in enumerate(by_level.items()):
            in_order = [effects[seed] for seed in sorted(effects)]
            of_level, shares = [side[at] for side in sides], shares_of(part, rows, [l0])
            lacking = unmeasured(claim.id, part, rows, [l0])
            yield _Sample(claim, part, str(l0 or ""), of_level, in_order, shares, lacking)
        return
    seeds = set.intersection(*(set(effects) for effects in by_level.values()))
    uneven = any(set(effects) != seeds for effects in by_level.values())
    if uneven and part.metric not in RELATED:
        raise ClaimError(f"claim {claim.id}: {part} has other seeds at one L0 than at another")
    means = [fmean(effects[seed] for effects in by_level.values()) for seed in sorted(seeds)]
    every, shares = [side for pair in sides for side in pair], shares_of(part, rows, by_level)
    where, lacking = ", ".join(map(str, by_level)), unmeasured(claim.id, part, rows, by_level)
    yield _Sample(claim, part, f"mean of {where}", every, means, shares, lacking)


class _Found(NamedTuple):
    """What a comparison came to."""

    shown: Interval
    """On the scale of the claim."""
    corrected: Interval
    """The same with Bonferroni's level."""
    verdict: Verdict
    corrected_verdict: Verdict
    reason: str
    slack: float


def _judge_sample(sample: _Sample, comparisons: int) -> Outcome:
    part = sample.comparison
    defined = sample.effects and not any(map(math.isnan, sample.effects))
    found = _measured(sample, comparisons) if defined else _unmeasured(sample)
    return Outcome(
        claim=sample.claim.id,
        comparison=str(part),
        split=" ".join(filter(None, (sample.claim.corpus, part.split))),
        l0=sample.l0,
        l0_variant=_mean_l0(side.variant for side in sample.sides),
        l0_baseline=_mean_l0(side.baseline for side in sample.sides),
        expectation=str(part.expect),
        seeds=len(sample.effects),
        items=min((share.n for share in sample.shares), default=None),
        effect=found.shown.mean,
        low=found.shown.low,
        high=found.shown.high,
        verdict=found.verdict,
        corrected_low=found.corrected.low,
        corrected_high=found.corrected.high,
        corrected_verdict=found.corrected_verdict,
        reason=found.reason,
        slack=found.slack,
    )


def _measured(sample: _Sample, comparisons: int) -> _Found:
    part = sample.comparison
    plain = sample.interval(1 - ERROR_RATE)
    corrected = sample.interval(1 - ERROR_RATE / comparisons)
    shown, shown_corrected = _shown(part.compare, plain), _shown(part.compare, corrected)
    unlike = "" if part.metric == METRIC else mismatch(sample.sides, sample.claim.l0_tolerance)
    if unlike:
        return _Found(shown, shown_corrected, "inconclusive", "inconclusive", unlike, 0.0)
    lower, upper = (_to_scale(part.compare, bound) for bound in part.expect.bounds)
    verdict, corrected_verdict = (
        _verdict(interval, (lower, upper), part.expect.about is not None)
        for interval in (plain, corrected)
    )
    slack = _slack(plain, lower, upper)
    return _Found(shown, shown_corrected, verdict, corrected_verdict, "", slack)


def _unmeasured(sample: _Sample) -> _Found:
    """No seed has both sides, as no baseline is at their L0, or some seed has no value or ratio."""
    nothing = Interval(math.nan, None, None, 0)
    why = _why_unmeasured(sample)
    return _Found(nothing, nothing, "inconclusive", "inconclusive", why, 0.0)


def _why_unmeasured(sample: _Sample) -> str:
    part = sample.comparison
    if part.at_l0 in ("inside", "outside") and not sample.l0:
        return f"no L0 target is {part.at_l0} the window"
    if sample.lacking:
        return sample.lacking
    if sample.effects:
        return f"{part.metric} is not positive everywhere, so that it has no ratio"
    return f"{part.metric} is undefined: measured L0 beyond the baseline's"


def _mean_l0(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _verdict(interval: Interval, bounds: tuple[float, float], inclusive: bool) -> Verdict:
    """What an interval says of an expectation."""
    if interval.low is None or interval.high is None:
        return "inconclusive"
    lower, upper = bounds
    inside = lower < interval.low and interval.high < upper
    if inside or (inclusive and lower <= interval.low and interval.high <= upper):
        return "reproduced"
    outside = interval.high < lower or interval.low > upper
    at_bound = not inclusive and (interval.high == lower or interval.low == upper)
    return "not reproduced" if outside or at_bound else "inconclusive"


def _slack(interval: Interval, lower: float, upper: float) -> float:
    half = interval.half_width
    if half is None:
        return -math.inf
    distance = min(interval.mean - lower, upper - interval.mean)
    return distance / half if half > 0 else math.copysign(math.inf, distance)


def _to_scale(compare: Compare, bound: float) -> float:
    """A bound on the scale on which effects are averaged."""
    offset = {"ratio": 0.0, "relative_change": 1.0}.get(compare)
    if offset is None:
        return bound
    return -math.inf if bound == -math.inf else math.log(bound + offset)


def _shown(compare: Compare, interval: Interval) -> Interval:
    """The interval back on the scale of the claim."""
    if compare not in ON_LOGS:
        return interval
    ratio = from_logs(interval)
    if compare == "ratio":
        return ratio
    low = None if ratio.low is None else ratio.low - 1
    high = None if ratio.high is None else ratio.high - 1
    return Interval(ratio.mean - 1, low, high, ratio.n)
