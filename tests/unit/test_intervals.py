from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from saeflow.intervals import ratio_interval, t_interval


def test_interval_of_three_values_is_the_textbook_one() -> None:
    found = t_interval([1.0, 2.0, 3.0])
    half = 4.302652729696142 / np.sqrt(3)  # t(0.975, 2 degrees of freedom), standard deviation 1
    assert found.mean == 2
    assert found.low == pytest.approx(2 - half)
    assert found.high == pytest.approx(2 + half)
    assert found.half_width == pytest.approx(half)
    assert found.n == 3


def test_the_level_is_the_callers() -> None:
    found = t_interval([1.0, 2.0, 6.0], 0.99)
    expected = stats.t.interval(0.99, 2, loc=3, scale=stats.sem([1.0, 2.0, 6.0]))
    assert (found.low, found.high) == pytest.approx(expected)


def test_one_value_has_no_interval() -> None:
    assert t_interval([0.7]) == (0.7, None, None, 1)
    assert t_interval([0.7]).half_width is None


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_and_non_finite_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        t_interval(values)


def test_interval_covers_the_mean_in_95_of_100_draws() -> None:
    rng = np.random.default_rng(0)
    found = [t_interval(list(sample)) for sample in rng.normal(5, 2, (2000, 3))]
    share = np.mean([x.low <= 5 <= x.high for x in found])  # type: ignore[operator]
    assert stats.binomtest(round(share * 2000), 2000, 0.95).pvalue > 1e-3


def test_paired_ratio_cancels_what_a_pair_shares() -> None:
    busy = np.array([1.0, 3.0, 0.5, 2.0])
    found = ratio_interval(list(1.1 * busy), list(busy))
    assert found.mean == pytest.approx(1.1)
    assert found.low == pytest.approx(1.1)
    assert found.high == pytest.approx(1.1)


def test_ratio_is_the_geometric_mean() -> None:
    assert ratio_interval([2.0, 8.0], [1.0, 1.0]).mean == pytest.approx(4.0)


def test_ratio_refuses_unpaired_and_non_positive_values() -> None:
    with pytest.raises(ValueError, match="paired"):
        ratio_interval([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="positive"):
        ratio_interval([0.0], [1.0])
