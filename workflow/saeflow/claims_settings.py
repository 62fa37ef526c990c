"""What a paper states, as comparisons of measured numbers with what is expected of them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from saeflow.settings import Settings

Compare = Literal["value", "difference", "ratio", "relative_change"]
ON_LOGS: tuple[Compare, ...] = ("ratio", "relative_change")
"""What is averaged as a logarithm."""
Levels = Literal["reference", "all", "inside", "outside"] | tuple[PositiveInt, ...]


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


class Pair(Settings):
    """Two variants that are compared as those of the comparison are."""

    variant: str
    baseline: str


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
    than: Pair | None = None
    """Another pair whose effect is taken off (for ratios: divided out), so that one effect is
    judged against another: did A lose more than B?"""
    split: str = "test"
    at_l0: Levels = "all"
    """Sparsity targets: the reference, all that were measured, those inside or outside the sweep's
    window, or a list."""
    over_l0: Literal["each", "mean"] = "each"
    """Judge at each L0 (all must hold), or the mean over L0s within a seed (geometric: ratios)."""
    expect: Expect

    @model_validator(mode="after")
    def _meaningful(self) -> Comparison:
        if (self.compare == "value") != (self.baseline is None):
            raise ValueError("compare: value is for baseline: null, and the others need a baseline")
        if self.baseline is None and self.baseline_metric is not None:
            raise ValueError("baseline_metric needs a baseline")
        if self.than is not None and self.compare not in ("difference", "ratio"):
            raise ValueError("than is for compare: difference or ratio")
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
        if self.than:
            other = f"({self.than.variant} {sign} {self.than.baseline})"
            return f"{self.metric}: ({self.variant} {sign} {self.baseline}) {sign} {other}"
        if self.baseline_metric:
            return (
                f"{self.metric} of {self.variant} {sign} {self.baseline_metric} of {self.baseline}"
            )
        return f"{self.metric}: {self.variant} {sign} {self.baseline}"

    @property
    def pairs(self) -> tuple[Comparison, ...]:
        """The comparison itself, and that of the pair that it is judged against."""
        plain = self.model_copy(update={"than": None})
        if self.than is None:
            return (plain,)
        return plain, plain.model_copy(update=self.than.model_dump())

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants that must have been measured."""
        named = (name for part in self.pairs for name in (part.variant, part.baseline))
        return tuple(name for name in named if name is not None)


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
    grid: str | None = None
    """Grid of the paper whose rows (its points' and its timings') are judged."""
    sweep: str | None = None
    """Sweep of the paper whose rows are judged; its variants are the series."""
    debias: bool = False
    """Judge the rows of the paper's debiasing experiment; its variants are the methods."""
    corpus: str | None = None
    """Text on which the judged rows were measured; null where there is one."""
    statement: str
    source: str
    """Section, figure or table of the paper."""
    paper_value: float | None = None
    """The paper's number, where it prints one."""
    paper_note: str = ""
    """What that number is, and what the expectation makes of it."""
    l0_tolerance: float | None = Field(default=0.10, gt=0, lt=1)
    """Largest relative difference in measured L0 between the sides of a comparison that is judged;
    null judges all."""
    comparisons: tuple[Comparison, ...] = ()
    chain: Chain | None = None

    @model_validator(mode="after")
    def _has_one_experiment(self) -> ClaimSettings:
        if sum((self.grid is not None, self.sweep is not None, self.debias)) != 1:
            raise ValueError(f"claim {self.id}: give one of grid, sweep and debias: true")
        return self

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
        return sorted({name for part in self.parts for name in part.variants})
