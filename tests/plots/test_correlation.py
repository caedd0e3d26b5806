"""Pearson's r, its interval and p against scipy; the line against numpy."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from plots.correlation import correlate, regress

values = st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=4, max_size=40)


@settings(max_examples=200, deadline=None)
@given(values, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_r_interval_and_p_are_scipys(pairs, confidence):
    x, y = np.array(pairs).T
    assume(np.ptp(x) > 1e-6)
    assume(np.ptp(y) > 1e-6)
    found, expected = correlate(x, y, confidence), stats.pearsonr(x, y)
    assume(abs(expected.statistic) < 1 - 1e-9)
    interval = expected.confidence_interval(confidence)
    assert found.n == len(pairs)
    assert found.r == pytest.approx(expected.statistic, abs=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-4, abs=1e-9)
    slope, intercept = regress(x, y)
    line = stats.linregress(x, y)
    assert (slope, intercept) == pytest.approx((line.slope, line.intercept), rel=1e-6, abs=1e-6)


def test_points_on_a_line_have_r_one_without_a_warning():
    x = np.arange(10.0)
    assert correlate(x, 2 * x + 1) == (10, 1, 1, 1, 0)
    assert correlate(x, -3 * x) == (10, -1, -1, -1, 0)
    assert regress(x, 2 * x + 1) == pytest.approx((2, 1))


@pytest.mark.parametrize(("x", "y"), [([1.0] * 5, range(5)), (range(5), [0.1 + 0.2] * 5), ([1, 2, 3], [3, 1, 2]), ([], [])])
def test_where_there_is_no_correlation_there_is_no_number(x, y):
    found = correlate(list(x), list(y))
    assert found.n == len(list(x))
    assert all(math.isnan(value) for value in found[1:])


def test_sides_of_different_length_are_refused():
    with pytest.raises(ValueError, match="equal length"):
        correlate([1.0, 2.0], [1.0])
    assert regress([2.0, 2.0], [1.0, 3.0]) is None
