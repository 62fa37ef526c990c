from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from test_claims import claim, planted

from saeflow.claims import Judgement, judge
from saeflow.claims_proportions import Share, is_proportion, widened, wilson
from saeflow.intervals import Interval, t_interval
from saeflow.measures import CONCEPT_METRICS, DEBIAS_METRICS, SWEEP_METRICS

ACCURACY = "worst_group_accuracy"


def of_items(values: dict[str, list[float]], n: int, metric: str = ACCURACY) -> pd.DataFrame:
    return planted({(name, 0): by_seed for name, by_seed in values.items()}, metric).assign(n=n)


def judged(values: dict[str, list[float]], n: int, **comparison: object) -> Judgement:
    metric = str(comparison.get("metric", ACCURACY))
    part = {"metric": metric, "expect": {"above": 0}} | comparison
    return judge([claim(part)], of_items(values, n, metric), reference_l0=8)[0]


@pytest.mark.parametrize(("right", "n"), [(0, 10), (7, 10), (10, 10), (176, 200)])
def test_wilsons_interval_is_that_of_scipy(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right / n, n, 0.95) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_difference_of_two_shares_is_newcombes() -> None:
    """Newcombe 1998, table II, method 10: 56/70 - 48/80 is 0.2, from 0.0524 to 0.3339."""
    equal = Interval(56 / 70 - 48 / 80, 0.2, 0.2, 3)
    shares = [Share(1, 56 / 70, 70), Share(-1, 48 / 80, 80)]
    found = widened(equal, shares, 0.95, on_logs=False)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert (found.mean, found.n) == (pytest.approx(0.2), 3)


def test_the_wider_of_both_counts_at_each_end() -> None:
    shares = [Share(1, 0.9, 10**6), Share(-1, 0.5, 10**6)]
    seeds = Interval(0.4, 0.1, 0.7, 3)
    assert widened(seeds, shares, 0.95, on_logs=False) == seeds
    one_end = Interval(0.4, 0.4, 0.7, 3)
    found = widened(one_end, shares, 0.95, on_logs=False)
    assert found.low is not None and 0.39 < found.low < 0.4 and found.high == 0.7
    alone = Interval(0.4, None, None, 1)
    assert widened(alone, shares, 0.95, on_logs=False) == alone


def test_equal_accuracies_of_all_seeds_are_not_certain() -> None:
    """17 of 20 against 14 of 20, in each seed: what seeds alone would call beyond doubt."""
    few = judged({"a": [0.85] * 3, "b": [0.7] * 3}, 20)
    assert few.verdict == "inconclusive" and few.deciding.items == 20
    many = judged({"a": [0.85] * 3, "b": [0.7] * 3}, 2000)
    assert many.verdict == "reproduced" and many.deciding.items == 2000
    (l1, u1), (l2, u2) = wilson(0.85, 20, 0.95), wilson(0.7, 20, 0.95)
    low, high = 0.15 - math.hypot(0.85 - l1, u2 - 0.7), 0.15 + math.hypot(u1 - 0.85, 0.7 - l2)
    assert (few.deciding.low, few.deciding.high) == pytest.approx((low, high))


def test_other_metrics_have_the_interval_over_seeds_alone() -> None:
    found = judged({"a": [0.85] * 3, "b": [0.7] * 3}, 20, metric="ablated_latents")
    assert found.verdict == "reproduced" and found.deciding.items is None
    assert found.deciding.low == found.deciding.high == pytest.approx(0.15)


def test_one_loss_against_another_has_four_shares() -> None:
    values = {"a": [0.9] * 2, "b": [0.5] * 2, "c": [0.8] * 2, "d": [0.7] * 2}
    found = judged(values, 50, than={"variant": "c", "baseline": "d"}).deciding
    (al, _), (_, bu), (_, cu), (dl, _) = (wilson(values[v][0], 50, 0.95) for v in "abcd")
    down = math.sqrt((0.9 - al) ** 2 + (bu - 0.5) ** 2 + (cu - 0.8) ** 2 + (0.7 - dl) ** 2)
    assert (found.effect, found.low) == pytest.approx((0.3, 0.3 - down))


def test_ratios_of_shares_are_sampled_on_the_log_scale() -> None:
    values = {"a": [0.9, 0.8], "b": [0.5, 0.5]}
    found = judged(values, 20, compare="ratio", expect={"above": 1}).deciding
    mean = math.sqrt(0.9 * 0.8)
    (low, _), (_, high) = wilson(mean, 20, 0.95), wilson(0.5, 20, 0.95)
    sampled = mean / 0.5 * math.exp(-math.hypot(math.log(mean / low), math.log(high / 0.5)))
    over_seeds = t_interval([math.log(1.8), math.log(1.6)]).low
    assert over_seeds is not None
    assert found.low == pytest.approx(min(sampled, math.exp(over_seeds)))


def test_the_fewest_items_count_and_means_over_l0_do_not_add_any() -> None:
    values = {(name, l0): [at] * 2 for name, at in (("a", 0.9), ("b", 0.5)) for l0 in (4, 8)}
    rows = planted(values, "concept_recall@0.001").assign(n=30)
    rows.loc[(rows["variant"] == "a") & (rows["l0_target"] == 8), "n"] = 10
    part = {"metric": "concept_recall@0.001", "expect": {"above": 0}, "over_l0": "mean"}
    found = judge([claim(part)], rows, reference_l0=8)[0].deciding
    (al, _), (_, bu) = wilson(0.9, 10, 0.95), wilson(0.5, 30, 0.95)
    assert found.low == pytest.approx(0.4 - math.hypot(0.9 - al, bu - 0.5)) and found.items == 10


def test_an_interval_covers_the_difference_of_what_is_sampled() -> None:
    """Seeds that answer alike, on items that are drawn anew each time."""
    rng, n, a, b = np.random.default_rng(0), 40, 0.9, 0.75
    covered = 0
    for _ in range(1000):
        first, second = rng.binomial(n, a) / n, rng.binomial(n, b) / n
        seeds = Interval(first - second, first - second, first - second, 3)
        found = widened(seeds, [Share(1, first, n), Share(-1, second, n)], 0.95, on_logs=False)
        assert found.low is not None and found.high is not None
        covered += found.low <= a - b <= found.high
    assert 0.93 < covered / 1000 < 0.98


def test_accuracies_and_recall_are_the_shares_of_samples() -> None:
    known = {metric for metric in (*DEBIAS_METRICS, *SWEEP_METRICS) if is_proportion(metric)}
    accuracies = {metric for metric in DEBIAS_METRICS if metric.endswith("_accuracy")}
    assert known == {*accuracies, CONCEPT_METRICS[0]}
    assert is_proportion("accuracy_female_nurse") and is_proportion("concept_recall@0.001")
