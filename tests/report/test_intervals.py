"""Intervals and tests against SciPy's own."""

import math

import pytest
from scipy import stats

from alexnet.report.intervals import paired_difference, wilson


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (1, 3), (35, 359), (7840, 10000), (1, 1)])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_wilson_is_scipys(right: int, count: int, level: float) -> None:
    known = stats.binomtest(right, count).proportion_ci(level, method="wilson")
    assert wilson(right, count, level) == pytest.approx((100 * known.low, 100 * known.high), abs=1e-9)


def test_wilson_holds_the_ends_exactly() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 100.0


@pytest.mark.parametrize(("right", "count"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(right: int, count: int) -> None:
    with pytest.raises(ValueError, match="allowed is 0 to all"):
        wilson(right, count)


def test_the_paired_test_is_scipys() -> None:
    first, second = [70.1, 71.3, 69.8, 70.9], [71.0, 71.9, 71.2, 70.8]
    known = stats.ttest_rel(second, first)
    found = paired_difference(first, second)
    interval = known.confidence_interval(0.95)
    assert (found.count, found.p) == (4, pytest.approx(known.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(sum(b - a for a, b in zip(first, second, strict=True)) / 4)


def test_differences_without_spread() -> None:
    same = paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    more = paired_difference([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (more.mean, more.low, more.high, more.p) == (1, 1, 1, 0)
    assert not math.isnan(more.p)


@pytest.mark.parametrize(("first", "second"), [([1.0, 2.0], [2.0, 3.0]), ([1.0, 2.0, 3.0], [1.0, 2.0])])
def test_fewer_than_three_pairs_are_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="3 or more seeds"):
        paired_difference(first, second)
