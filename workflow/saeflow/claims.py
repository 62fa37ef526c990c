"""The claims ledger: what a paper states, what was measured, and a verdict that can go any way.

A claim is a set of comparisons, each with an expectation. A comparison's effect is computed within
each seed (variant against baseline, same data order and initial weights) and its interval is the
95% t-interval of these paired effects over seeds; ratios and relative changes are taken on the log
scale and transformed back. A comparison is reproduced if its whole interval meets the
expectation, not reproduced if its whole interval violates it, and inconclusive otherwise.

A claim is reproduced if all its comparisons are: requiring every one keeps the error at 5% without
a correction (an intersection-union test). It is not reproduced if any comparison's interval at
level 1 - 0.05/m violates its expectation, m being their number (Bonferroni: the more chances to
fail, the stronger the evidence that one did).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from saeflow.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Compare = Literal["value", "difference", "ratio", "relative_change"]
Levels = Literal["reference", "all"] | tuple[PositiveInt, ...]
ERROR_RATE = 0.05
_CONTEXT = ("paper", "subject", "site", "corpus", "selection", "d_sae")


class ClaimError(ValueError):
    """A claim cannot be judged from the given rows; the message names the claim and what lacks."""


class Expect(Settings):
    """Where the effect must lie: between strict bounds, or about a value within a margin."""

    above: float | None = None
    """The effect must exceed this."""
    below: float | None = None
    """The effect must stay under this."""
    about: float | None = None
    """The effect must equal this to within `margin`."""
    margin: NonNegativeFloat | None = None
    """Half-width of the band that counts as about equal."""

    @model_validator(mode="after")
    def _one_form(self) -> Expect:
        bounded = self.above is not None or self.below is not None
        if (self.about is None) != (self.margin is None):
            raise ValueError("about and margin belong together")
        if bounded == (self.about is not None):
            raise ValueError("expect needs either above and/or below, or about with margin")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"above {self.above:g} must be less than below {self.below:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper end of the accepted effects, infinite where open."""
        if self.about is not None and self.margin is not None:
            return self.about - self.margin, self.about + self.margin
        low = -math.inf if self.above is None else self.above
        return low, math.inf if self.below is None else self.below

    def __str__(self) -> str:
        if self.about is not None:
            return f"{self.about:g} ± {self.margin:g}"
        parts = [("above", self.above), ("below", self.below)]
        return " and ".join(f"{word} {bound:g}" for word, bound in parts if bound is not None)


class Comparison(Settings):
    """One measured effect and what is expected of it."""

    metric: str
    variant: str
    baseline: str | None = None
    """Variant to compare with; null judges the metric's own value."""
    baseline_metric: str | None = None
    """Metric of the baseline; null is `metric`."""
    compare: Compare = "difference"
    """variant - baseline, variant / baseline, variant / baseline - 1, or the value alone."""
    split: str = "test"
    at_l0: Levels = "all"
    """Sparsity targets: the grid's reference, all that were measured, or a list."""
    over_l0: Literal["each", "mean"] = "each"
    """Judge at each L0 (all must hold), or the mean over L0s within a seed (geometric: ratios)."""
    expect: Expect

    @model_validator(mode="after")
    def _meaningful(self) -> Comparison:
        if (self.compare == "value") != (self.baseline is None):
            raise ValueError("compare: value is for baseline: null, and the others need a baseline")
        if self.baseline is None and self.baseline_metric is not None:
            raise ValueError("baseline_metric needs a baseline")
        if (self.baseline, self.baseline_metric or self.metric) == (self.variant, self.metric):
            raise ValueError(f"variant {self.variant} is compared with itself")
        smallest = {"ratio": 0.0, "relative_change": -1.0}.get(self.compare, -math.inf)
        if any(bound <= smallest for bound in self.expect.bounds if math.isfinite(bound)):
            raise ValueError(f"expect: a {self.compare} is always above {smallest:g}")
        return self

    def __str__(self) -> str:
        if self.baseline is None:
            return f"{self.metric} of {self.variant}"
        sign = {"difference": "-", "ratio": "/", "relative_change": "relative to"}[self.compare]
        if self.baseline_metric:
            return (
                f"{self.metric} of {self.variant} {sign} {self.baseline_metric} of {self.baseline}"
            )
        return f"{self.metric}: {self.variant} {sign} {self.baseline}"


class Chain(Settings):
    """An order of variants, each neighbouring pair of which is one comparison."""

    metric: str
    ascending: tuple[str, ...] = Field(min_length=2)
    """Variants from the smallest to the largest value."""
    split: str = "test"
    at_l0: Levels = "all"

    def comparisons(self) -> tuple[Comparison, ...]:
        """Return `larger - smaller above 0` for each neighbouring pair."""
        pairs = zip(self.ascending, self.ascending[1:], strict=False)
        return tuple(
            Comparison(
                metric=self.metric,
                variant=larger,
                baseline=smaller,
                split=self.split,
                at_l0=self.at_l0,
                expect=Expect(above=0),
            )
            for smaller, larger in pairs
        )


class ClaimSettings(Settings):
    """One entry of the ledger."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")
    grid: str
    """Grid of the paper whose rows (its points' and its timings') are judged."""
    statement: str
    source: str
    """Section, figure or table of the paper."""
    paper_value: float | None = None
    """The paper's number, where it prints one."""
    paper_note: str = ""
    """What that number is, and what the expectation makes of it."""
    comparisons: tuple[Comparison, ...] = ()
    chain: Chain | None = None

    @model_validator(mode="after")
    def _measures_something(self) -> ClaimSettings:
        if not self.parts:
            raise ValueError(f"claim {self.id}: give comparisons, a chain, or both")
        return self

    @property
    def parts(self) -> tuple[Comparison, ...]:
        """All comparisons of the claim, those of its chain last."""
        return self.comparisons + (self.chain.comparisons() if self.chain else ())

    @property
    def variants(self) -> list[str]:
        """Variants that must have been measured to judge the claim, sorted."""
        named = {name for part in self.parts for name in (part.variant, part.baseline)}
        return sorted(name for name in named if name is not None)


class Interval(NamedTuple):
    """Mean and t-interval over seeds; without bounds where there are fewer than two."""

    effect: float
    low: float | None
    high: float | None

    def verdict(self, bounds: tuple[float, float], inclusive: bool) -> Verdict:
        """Return what this interval says of an expectation."""
        if self.low is None or self.high is None:
            return "inconclusive"
        lower, upper = bounds
        inside = lower < self.low and self.high < upper
        if inside or (inclusive and lower <= self.low and self.high <= upper):
            return "reproduced"
        outside = self.high < lower or self.low > upper
        at_bound = not inclusive and (self.high == lower or self.low == upper)
        return "not reproduced" if outside or at_bound else "inconclusive"


class Outcome(NamedTuple):
    """One comparison, measured and judged."""

    claim: str
    comparison: str
    split: str
    l0: str
    expectation: str
    seeds: int
    effect: float
    low: float | None
    high: float | None
    verdict: Verdict
    corrected_low: float | None
    corrected_high: float | None
    corrected_verdict: Verdict
    slack: float
    """Distance of the effect inside its expectation, in half-widths of the interval."""


class Judgement(NamedTuple):
    """A claim's verdict with the outcome that decides it: the one with the least slack."""

    claim: ClaimSettings
    verdict: Verdict
    reason: str
    deciding: Outcome
    outcomes: tuple[Outcome, ...]


def judge(
    claims: Iterable[ClaimSettings], rows: pd.DataFrame, *, reference_l0: int
) -> list[Judgement]:
    """Judge every claim against metric rows (the columns of `evaluation.rows.SCHEMA`).

    Raises ClaimError that names the claim and the variant, metric and L0 without rows, seeds that
    a variant and its baseline do not share, or rows of several subjects, sites or sizes at once.
    """
    return [_judge_claim(claim, rows, reference_l0) for claim in claims]


def _judge_claim(claim: ClaimSettings, rows: pd.DataFrame, reference_l0: int) -> Judgement:
    samples = [s for part in claim.parts for s in _samples(claim.id, part, rows, reference_l0)]
    outcomes = tuple(_judge_sample(sample, len(samples)) for sample in samples)
    deciding = min(outcomes, key=lambda outcome: outcome.slack)
    verdict, reason = _combine(outcomes)
    return Judgement(claim, verdict, reason, deciding, outcomes)


def _combine(outcomes: tuple[Outcome, ...]) -> tuple[Verdict, str]:
    total = len(outcomes)
    held = sum(o.verdict == "reproduced" for o in outcomes)
    against = sum(o.corrected_verdict == "not reproduced" for o in outcomes)
    alone = sum(o.seeds < 2 for o in outcomes)
    count = f"{held} of {total} comparisons hold" if total > 1 else ""
    if against:
        return "not reproduced", f"{count}, {against} fail" if count else ""
    if held == total:
        return "reproduced", count
    if alone:
        return "inconclusive", "fewer than 2 seeds: no interval"
    return "inconclusive", count or "the interval crosses the bound"


class _Sample(NamedTuple):
    """The paired effects of one comparison at one place, on the scale where they are averaged."""

    claim: str
    comparison: Comparison
    l0: str
    effects: list[float]


def _samples(
    claim: str, part: Comparison, rows: pd.DataFrame, reference_l0: int
) -> Iterator[_Sample]:
    ours = _values(claim, rows, part.metric, part.variant, part.split)
    theirs = None
    if part.baseline is not None:
        metric = part.baseline_metric or part.metric
        theirs = _values(claim, rows, metric, part.baseline, part.split)
    measured = sorted({l0 for l0, _ in ours} | {l0 for l0, _ in theirs or ours})
    named = {"all": measured, "reference": [reference_l0]}
    levels = named[part.at_l0] if isinstance(part.at_l0, str) else list(part.at_l0)
    by_level = {l0: _paired(claim, part, ours, theirs, l0) for l0 in levels}
    if part.over_l0 == "each":
        for l0, effects in by_level.items():
            yield _Sample(claim, part, str(l0), [effects[seed] for seed in sorted(effects)])
        return
    seeds = set.intersection(*(set(effects) for effects in by_level.values()))
    if any(set(effects) != seeds for effects in by_level.values()):
        raise ClaimError(f"claim {claim}: {part} has other seeds at one L0 than at another")
    means = [fmean(effects[seed] for effects in by_level.values()) for seed in sorted(seeds)]
    yield _Sample(claim, part, "mean of " + ", ".join(map(str, levels)), means)


def _values(
    claim: str, rows: pd.DataFrame, metric: str, variant: str, split: str
) -> dict[tuple[int, int], float]:
    """Values of a metric of a variant by (L0 target, seed)."""
    at_split = rows[(rows["metric"] == metric) & (rows["split"] == split)]
    chosen = at_split[at_split["variant"] == variant]
    if chosen.empty:
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
    if not seeds:
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
    if ours <= 0 or theirs <= 0:
        raise ClaimError(f"claim {claim}: {part} has no logarithm: values {ours:g} and {theirs:g}")
    return math.log(ours / theirs)


def _judge_sample(sample: _Sample, comparisons: int) -> Outcome:
    part = sample.comparison
    plain = t_interval(sample.effects, ERROR_RATE)
    corrected = t_interval(sample.effects, ERROR_RATE / comparisons)
    lower, upper = (_to_scale(part.compare, bound) for bound in part.expect.bounds)
    inclusive = part.expect.about is not None
    shown, shown_corrected = _shown(part.compare, plain), _shown(part.compare, corrected)
    return Outcome(
        claim=sample.claim,
        comparison=str(part),
        split=part.split,
        l0=sample.l0,
        expectation=str(part.expect),
        seeds=len(sample.effects),
        effect=shown.effect,
        low=shown.low,
        high=shown.high,
        verdict=plain.verdict((lower, upper), inclusive),
        corrected_low=shown_corrected.low,
        corrected_high=shown_corrected.high,
        corrected_verdict=corrected.verdict((lower, upper), inclusive),
        slack=_slack(plain, lower, upper),
    )


def t_interval(effects: list[float], error_rate: float) -> Interval:
    """Return the mean and its Student t-interval at level 1 - error_rate."""
    mean = fmean(effects)
    if len(effects) < 2:
        return Interval(mean, None, None)
    from scipy.stats import t  # takes 0.5 s, and the settings above are read by every job

    quantile = float(t.ppf(1 - error_rate / 2, len(effects) - 1))
    half = quantile * stdev(effects) / math.sqrt(len(effects))
    return Interval(mean, mean - half, mean + half)


def _slack(interval: Interval, lower: float, upper: float) -> float:
    if interval.high is None:
        return -math.inf
    distance = min(interval.effect - lower, upper - interval.effect)
    half = interval.high - interval.effect
    return distance / half if half > 0 else math.copysign(math.inf, distance)


def _to_scale(compare: Compare, bound: float) -> float:
    """A bound on the scale on which effects are averaged."""
    offset = {"ratio": 0.0, "relative_change": 1.0}.get(compare)
    if offset is None:
        return bound
    return -math.inf if bound == -math.inf else math.log(bound + offset)


def _shown(compare: Compare, interval: Interval) -> Interval:
    """The interval back on the scale of the claim."""
    if compare not in ("ratio", "relative_change"):
        return interval
    offset = 1.0 if compare == "relative_change" else 0.0
    back = [None if x is None else math.exp(x) - offset for x in interval]
    return Interval(*back)  # type: ignore[arg-type]
