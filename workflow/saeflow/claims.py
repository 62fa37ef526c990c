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

from saeflow.claims_l0 import METRIC, RELATED, Sides, measured_l0, mismatch
from saeflow.claims_proportions import Share, shares_of, widened
from saeflow.claims_settings import ON_LOGS, ClaimSettings, Compare, Comparison
from saeflow.intervals import Interval, from_logs, log_ratio, t_interval

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
ERROR_RATE = 0.05
_CONTEXT = ("paper", "subject", "site", "corpus", "selection", "d_sae")


class ClaimError(ValueError):
    """A claim cannot be judged from the given rows; the message names the claim and what lacks."""


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


class _Targets(NamedTuple):
    """The L0 targets of the experiment that a claim is about."""

    reference: int
    l0s: tuple[int, ...]
    window: tuple[float, float] | None


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
    targets = _Targets(reference_l0, l0s, window)
    return [_judge_claim(claim, rows, targets) for claim in claims]


def _judge_claim(claim: ClaimSettings, rows: pd.DataFrame, targets: _Targets) -> Judgement:
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

    def interval(self, level: float) -> Interval:
        """The effect over seeds with its interval, not narrower than its sampling allows."""
        on_logs = self.comparison.compare in ON_LOGS
        return widened(t_interval(self.effects, level), self.shares, level, on_logs)


def _samples(
    claim: ClaimSettings, part: Comparison, rows: pd.DataFrame, targets: _Targets
) -> Iterator[_Sample]:
    of_pairs = [_effects(claim.id, pair, rows, targets) for pair in part.pairs]
    by_level = of_pairs[0] if part.than is None else _less(claim.id, part, *of_pairs)
    sides = [
        measured_l0(rows, part.split, pair.variant, pair.baseline, by_level) for pair in part.pairs
    ]
    if part.over_l0 == "each":
        for at, (l0, effects) in enumerate(by_level.items()):
            in_order = [effects[seed] for seed in sorted(effects)]
            of_level, shares = [side[at] for side in sides], shares_of(part, rows, [l0])
            yield _Sample(claim, part, str(l0 or ""), of_level, in_order, shares)
        return
    seeds = set.intersection(*(set(effects) for effects in by_level.values()))
    uneven = any(set(effects) != seeds for effects in by_level.values())
    if uneven and part.metric not in RELATED:
        raise ClaimError(f"claim {claim.id}: {part} has other seeds at one L0 than at another")
    means = [fmean(effects[seed] for effects in by_level.values()) for seed in sorted(seeds)]
    every, shares = [side for pair in sides for side in pair], shares_of(part, rows, by_level)
    yield _Sample(claim, part, "mean of " + ", ".join(map(str, by_level)), every, means, shares)


def _effects(
    claim: str, pair: Comparison, rows: pd.DataFrame, targets: _Targets
) -> dict[int, dict[int, float]]:
    """Effects of one pair by L0 target and seed."""
    ours = _values(claim, rows, pair.metric, pair.variant, pair.split)
    theirs = None
    if pair.baseline is not None:
        metric = pair.baseline_metric or pair.metric
        theirs = _values(claim, rows, metric, pair.baseline, pair.split)
    measured = {l0 for l0, _ in ours} | {l0 for l0, _ in theirs or ours}
    levels = _levels(claim, pair, measured, targets)
    if pair.metric in RELATED and theirs is not None:
        common = ours.keys() & theirs.keys()
        ours, theirs = ({key: side[key] for key in common} for side in (ours, theirs))
    return {l0: _paired(claim, pair, ours, theirs, l0) for l0 in levels}


def _less(
    claim: str,
    part: Comparison,
    ours: dict[int, dict[int, float]],
    other: dict[int, dict[int, float]],
) -> dict[int, dict[int, float]]:
    """Effects of a pair less those of another."""
    places = {(l0, seed) for l0, effects in ours.items() for seed in effects}
    if places != {(l0, seed) for l0, effects in other.items() for seed in effects}:
        raise ClaimError(f"claim {claim}: {part}: the two pairs have other seeds or L0 targets")
    return {
        l0: {seed: effect - other[l0][seed] for seed, effect in effects.items()}
        for l0, effects in ours.items()
    }


def _levels(claim: str, part: Comparison, measured: set[int], targets: _Targets) -> list[int]:
    """The L0 targets that are judged; 0 stands for none and for all at once."""
    if not isinstance(part.at_l0, str):
        return list(part.at_l0)
    if part.at_l0 == "reference":
        return [targets.reference]
    if part.at_l0 == "all":
        return sorted(measured) or [0]
    if targets.window is None:
        raise ClaimError(f"claim {claim}: at_l0 {part.at_l0} needs the window of its sweep")
    low, high = targets.window
    inside = part.at_l0 == "inside"
    among = targets.l0s or sorted(measured)
    return [l0 for l0 in among if (low <= l0 <= high) == inside] or [0]


def _values(
    claim: str, rows: pd.DataFrame, metric: str, variant: str, split: str
) -> dict[tuple[int, int], float]:
    """Values of a metric of a variant by (L0 target, seed)."""
    at_split = rows[(rows["metric"] == metric) & (rows["split"] == split)]
    chosen = at_split[at_split["variant"] == variant]
    if chosen.empty and metric not in RELATED:
        known = ", ".join(sorted(at_split["variant"].unique())) or "none"
        raise ClaimError(
            f"claim {claim}: no rows of metric {metric} on split {split} for variant {variant} "
            f"(variants with such rows: {known})"
        )
    for column in _CONTEXT:
        if chosen[column].nunique() > 1:
            found = ", ".join(map(str, sorted(chosen[column].unique())))
            raise ClaimError(
                f"claim {claim}: metric {metric} of {variant} has rows of several values of "
                f"{column} ({found}); judge them apart"
            )
    keys = zip(chosen["l0_target"], chosen["seed"], strict=True)
    return {(int(l0), int(seed)): v for (l0, seed), v in zip(keys, chosen["value"], strict=True)}


def _paired(
    claim: str,
    part: Comparison,
    ours: dict[tuple[int, int], float],
    theirs: dict[tuple[int, int], float] | None,
    l0: int,
) -> dict[int, float]:
    """Effects by seed at one L0, on the log scale for ratios."""
    seeds = {seed for level, seed in ours if level == l0}
    if not seeds and part.metric not in RELATED:
        raise ClaimError(f"claim {claim}: no rows of {part.metric} of {part.variant} at L0 {l0}")
    if theirs is None:
        return {seed: ours[l0, seed] for seed in seeds}
    partners = {seed for level, seed in theirs if level == l0}
    if seeds != partners:
        raise ClaimError(
            f"claim {claim}: {part} at L0 {l0} cannot be paired: seeds {sorted(seeds)} of "
            f"{part.variant}, {sorted(partners) or 'none'} of {part.baseline}"
        )
    return {s: _effect(claim, part, ours[l0, s], theirs[l0, s]) for s in seeds}


def _effect(claim: str, part: Comparison, ours: float, theirs: float) -> float:
    if part.compare == "difference":
        return ours - theirs
    try:
        return log_ratio(ours, theirs)
    except ValueError as error:
        raise ClaimError(f"claim {claim}: {part}: {error}") from error


def _judge_sample(sample: _Sample, comparisons: int) -> Outcome:
    part = sample.comparison
    if not sample.effects:
        return _unmeasured(sample)
    plain = sample.interval(1 - ERROR_RATE)
    corrected = sample.interval(1 - ERROR_RATE / comparisons)
    lower, upper = (_to_scale(part.compare, bound) for bound in part.expect.bounds)
    inclusive = part.expect.about is not None
    unlike = "" if part.metric == METRIC else mismatch(sample.sides, sample.claim.l0_tolerance)
    shown, shown_corrected = _shown(part.compare, plain), _shown(part.compare, corrected)
    return Outcome(
        claim=sample.claim.id,
        comparison=str(part),
        split=_text(sample),
        l0=sample.l0,
        l0_variant=_mean_l0(side.variant for side in sample.sides),
        l0_baseline=_mean_l0(side.baseline for side in sample.sides),
        expectation=str(part.expect),
        seeds=len(sample.effects),
        items=min((share.n for share in sample.shares), default=None),
        effect=shown.mean,
        low=shown.low,
        high=shown.high,
        verdict="inconclusive" if unlike else _verdict(plain, (lower, upper), inclusive),
        corrected_low=shown_corrected.low,
        corrected_high=shown_corrected.high,
        corrected_verdict=(
            "inconclusive" if unlike else _verdict(corrected, (lower, upper), inclusive)
        ),
        reason=unlike,
        slack=0.0 if unlike else _slack(plain, lower, upper),
    )


def _unmeasured(sample: _Sample) -> Outcome:
    """No seed has both sides, because there is no baseline at their L0."""
    part = sample.comparison
    return Outcome(
        claim=sample.claim.id,
        comparison=str(part),
        split=_text(sample),
        l0=sample.l0,
        l0_variant=_mean_l0(side.variant for side in sample.sides),
        l0_baseline=_mean_l0(side.baseline for side in sample.sides),
        expectation=str(part.expect),
        seeds=0,
        items=None,
        effect=math.nan,
        low=None,
        high=None,
        verdict="inconclusive",
        corrected_low=None,
        corrected_high=None,
        corrected_verdict="inconclusive",
        reason=_why_unmeasured(sample),
        slack=0.0,
    )


def _why_unmeasured(sample: _Sample) -> str:
    part = sample.comparison
    if part.at_l0 in ("inside", "outside") and not sample.l0:
        return f"no L0 target is {part.at_l0} the window"
    return f"{part.metric} is undefined: measured L0 beyond the baseline's"


def _text(sample: _Sample) -> str:
    return " ".join(filter(None, (sample.claim.corpus, sample.comparison.split)))


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
