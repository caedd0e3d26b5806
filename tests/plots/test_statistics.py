import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar as theirs_mcnemar
from statsmodels.stats.multitest import multipletests

from plots.statistics import bootstrap_intervals, holm, mcnemar, reach, t_interval


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.sampled_from([0.8, 0.95, 0.99]))
def test_t_interval_is_scipys(values: list[float], confidence: float) -> None:
    interval = t_interval(values, confidence)
    scale = np.std(values, ddof=1) / np.sqrt(len(values))
    assert interval.mean == pytest.approx(np.mean(values))
    if scale > 1e-9:
        expected = scipy.stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=scale)
        assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_t_interval_of_two_values_has_the_closed_form_of_the_cauchy_distribution() -> None:
    interval = t_interval([0.4, 0.6])
    assert interval.high - interval.mean == pytest.approx(0.1 * np.tan(np.pi * 0.475))
    assert interval.mean - interval.low == pytest.approx(interval.high - interval.mean)


@pytest.mark.parametrize("values", [[], [0.5], [[0.1, 0.2]]])
def test_t_interval_needs_two_values(values: list) -> None:
    with pytest.raises(ValueError, match="two values"):
        t_interval(values)


def test_bootstrap_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).gamma(1.0, size=(200, 2))
    for column, ours in enumerate(bootstrap_intervals(values, resamples=20_000)):
        theirs = scipy.stats.bootstrap((values[:, column],), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
        width = theirs.high - theirs.low
        assert ours.mean == pytest.approx(values[:, column].mean())
        assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
        assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


def test_bootstrap_of_bits_has_binomial_quantiles() -> None:
    """Resampled means of k ones among n are Binomial(n, k / n) / n."""
    n, k = 400, 100
    values = (np.arange(n) < k)[:, None]
    interval = bootstrap_intervals(values, resamples=20_000)[0]
    low, high = scipy.stats.binom.ppf([0.025, 0.975], n, k / n) / n
    assert interval.low == pytest.approx(low, abs=1.5 / n)
    assert interval.high == pytest.approx(high, abs=1.5 / n)


def test_bootstrap_draws_the_same_rows_for_every_column_and_again() -> None:
    x = np.random.default_rng(3).random(50)
    first = bootstrap_intervals(np.stack([x, 2 * x, x], axis=1))
    # A product with one column is another one than that with three: on some processors their last bits differ.
    for other in (first[2], bootstrap_intervals(x[:, None])[0]):
        assert first[0] == pytest.approx(tuple(other), rel=1e-12)
    assert first[1] == pytest.approx(tuple(2 * bound for bound in first[0]))
    assert bootstrap_intervals(x[:, None], seed=1)[0].low != first[0].low


def test_bootstrap_of_a_constant_has_no_width_and_of_nothing_is_an_error() -> None:
    assert bootstrap_intervals(np.full((7, 1), 0.25))[0] == pytest.approx((0.25, 0.25, 0.25))
    with pytest.raises(ValueError, match="n > 0"):
        bootstrap_intervals(np.empty((0, 2)))


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2000)), min_size=1, max_size=10))
def test_mcnemar_is_statsmodels_exact_test(counts: list[tuple[int, int]]) -> None:
    n10, n01 = np.array(counts).T
    expected = [theirs_mcnemar([[3, a], [b, 5]], exact=True).pvalue if a + b else 1.0 for a, b in counts]
    assert mcnemar(n10, n01) == pytest.approx(expected, rel=1e-9, abs=1e-250)
    assert np.array_equal(mcnemar(n10, n01), mcnemar(n01, n10))


def test_mcnemar_in_closed_form() -> None:
    """Of n disagreements all on one side: 2 / 2**n."""
    n = np.arange(1, 20)
    assert mcnemar(n, np.zeros_like(n)) == pytest.approx(2.0 ** (1 - n))
    assert mcnemar([0, 7], [0, 7]).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="negative"):
        mcnemar([-1], [2])


# statsmodels' part takes longer than ours.
@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-12, abs=1e-300)


def test_holm_by_hand_and_of_nothing() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert len(holm([])) == 0


def test_reach_is_never_negative_and_nothing_where_there_is_no_interval() -> None:
    assert reach([0.5, 0.1, 0.3], [0.4, np.nextafter(0.1, 1), np.nan], [0.7, 0.1, np.nan]).tolist() == pytest.approx(
        np.array([[0.1, 0, 0], [0.2, 0, 0]])
    )
