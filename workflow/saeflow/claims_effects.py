"""Effects of a comparison by L0 target and seed: variant against baseline, within each seed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from saeflow.claims_l0 import RELATED
from saeflow.claims_settings import Comparison
from saeflow.intervals import log_ratio
from saeflow.measures import measure_of_grid

if TYPE_CHECKING:
    import pandas as pd

_CONTEXT = ("paper", "subject", "site", "corpus", "selection", "d_sae")

Effects = dict[int, dict[int, float]]
"""Effects by L0 target and seed."""


class ClaimError(ValueError):
    """A claim cannot be judged from the given rows; the message names the claim and what lacks."""


class Targets(NamedTuple):
    """The L0 targets of the experiment that a claim is about."""

    reference: int
    l0s: tuple[int, ...]
    window: tuple[float, float] | None


def effects_of(claim: str, part: Comparison, rows: pd.DataFrame, targets: Targets) -> Effects:
    """Return the effects of a comparison, those of ratios on the log scale.

    Of what is related to a baseline, seeds are left out that have no value; an effect is NaN where
    a value could not be measured (`unmeasured`) or has no ratio. Raises ClaimError for what else is
    missing or cannot be paired.
    """
    of_pairs = [_of_pair(claim, pair, rows, targets) for pair in part.pairs]
    return of_pairs[0] if part.than is None else _less(claim, part, *of_pairs)


def unmeasured(claim: str, part: Comparison, rows: pd.DataFrame, l0s: Iterable[int]) -> str:
    """Return which metric of which variant was not measured at all of `l0s`, or nothing."""
    at = set(l0s)
    for pair in part.pairs:
        sides = [(pair.metric, pair.variant), (pair.baseline_metric or pair.metric, pair.baseline)]
        for metric, variant in sides:
            if variant is None:
                continue
            values = _values(claim, rows, metric, variant, pair.split)
            if any(l0 in at and math.isnan(value) for (l0, _), value in values.items()):
                return f"{metric} of {variant} was not measured"
    return ""


def _of_pair(claim: str, pair: Comparison, rows: pd.DataFrame, targets: Targets) -> Effects:
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


def _less(claim: str, part: Comparison, ours: Effects, other: Effects) -> Effects:
    """Effects of a pair less those of another."""
    places = {(l0, seed) for l0, effects in ours.items() for seed in effects}
    if places != {(l0, seed) for l0, effects in other.items() for seed in effects}:
        raise ClaimError(f"claim {claim}: {part}: the two pairs have other seeds or L0 targets")
    return {
        l0: {seed: effect - other[l0][seed] for seed, effect in effects.items()}
        for l0, effects in ours.items()
    }


def _levels(claim: str, part: Comparison, measured: set[int], targets: Targets) -> list[int]:
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
    """Values of a metric of a variant by (L0 target, seed); NaN where its measure has others."""
    at_split = rows[(rows["metric"] == metric) & (rows["split"] == split)]
    chosen = at_split[at_split["variant"] == variant]
    known_to_lack = metric not in RELATED and not at_split.empty
    lacking = _places(rows, metric, variant, split) if known_to_lack else set()
    if chosen.empty and not lacking and metric not in RELATED:
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
    values = {(int(l0), int(seed)): v for (l0, seed), v in zip(keys, chosen["value"], strict=True)}
    return dict.fromkeys(lacking, math.nan) | values


def _places(rows: pd.DataFrame, metric: str, variant: str, split: str) -> set[tuple[int, int]]:
    """The (L0 target, seed) at which a variant has rows of the measure that a metric is of."""
    here = rows[(rows["variant"] == variant) & (rows["split"] == split)]
    if (measure := _measure(metric)) is None:
        return set()
    alike = here[here["metric"].isin({m for m in here["metric"] if _measure(m) == measure})]
    return {(int(l0), int(s)) for l0, s in zip(alike["l0_target"], alike["seed"], strict=True)}


def _measure(metric: str) -> str | None:
    """The measure of a grid or sweep that has the metric; None of others, as of timings."""
    try:
        return measure_of_grid(metric)
    except ValueError:
        return None


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
    return {s: _effect(part, ours[l0, s], theirs[l0, s]) for s in seeds}


def _effect(part: Comparison, ours: float, theirs: float) -> float:
    """The effect, or NaN: a ratio has no logarithm unless both are positive."""
    if part.compare == "difference":
        return ours - theirs
    return log_ratio(ours, theirs) if ours > 0 and theirs > 0 else math.nan
