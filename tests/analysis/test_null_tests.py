"""Tests against null values: by hand, by scipy and statsmodels, and by how often they reject what is true; kinds of lesions by their rules."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from analysis.lesion_tests import COMPLETE, DEPENDENCIES, IMPORTANT, KINDS, SMALL, coherence, groups_of, kind_of, relabelled, verdict
from analysis.null_tests import against, cohens_d, false_discovery, fisher, rank_chi_square

FEW = st.lists(st.integers(-3, 3), min_size=1, max_size=30)
# Up to how many of 50 null values a true one is: the smallest p of so many is 1 / 51.
TRIALS, LEAST = 50, 1 / 51


def samples(seed, *sizes):
    draw = np.random.default_rng(seed)
    return [draw.normal(draw.normal(), 1 + draw.random(), size) for size in sizes]


def test_ties_count_against_a_value():
    # 1, 2, 2 are at most 2.
    assert against(2, [1, 2, 2, 3, 4]).p == pytest.approx(4 / 6)
    assert against(2, [1, 2, 2, 3, 4], right=True).p == pytest.approx(5 / 6)
    assert against(0.1 * 3, [0.1 * 3] * 7).p == 1


@pytest.mark.parametrize("right", [False, True])
def test_of_equal_values_z_is_0_and_p_is_1(right):
    # Their mean, computed, is another number than 0.1.
    assert np.mean([0.1] * 3) != 0.1
    test = against(0.1, [0.1] * 3, right)
    assert (test.z, test.p, test.deviation) == (0, 1, 0)


def test_a_value_beside_equal_other_ones_has_no_z():
    test = against(0.2, [0.1] * 10)
    assert np.isnan(test.z)
    assert (test.p, test.deviation) == (1, 0)
    assert against(0.0, [0.1] * 10).p == 1 / 11


def test_z_and_p_by_hand():
    test = against(1, [2, 4, 6])
    assert (test.n, test.mean) == (3, 4)
    assert test.deviation == pytest.approx(np.sqrt(8 / 3))
    assert test.z == pytest.approx(-3 / np.sqrt(8 / 3))
    assert test.p == pytest.approx(1 / 4)
    assert test.smallest
    other = against(1, [2, 4, 6], right=True)
    assert other.z == pytest.approx(test.z)
    assert other.p == 1
    assert not other.smallest


@settings(max_examples=25, deadline=None)
@given(value=st.integers(-3, 3), null=FEW)
def test_p_counts_null_values_and_is_never_0(value, null):
    test = against(value, null)
    assert test.p == pytest.approx((1 + sum(own <= value for own in null)) / (len(null) + 1))
    assert 0 < test.p <= 1
    assert test.smallest == (value < min(null))
    # To the right is to the left of everything with the other sign.
    mirrored = against(-value, [-own for own in null])
    assert against(value, null, right=True).p == mirrored.p


@settings(max_examples=25, deadline=None)
@given(value=st.integers(-3, 3), null=FEW)
def test_the_interval_of_p_is_that_of_statsmodels_and_contains_the_share(value, null):
    test = against(value, null)
    count = sum(own <= value for own in null)
    low, high = proportion_confint(count, len(null), method="beta")
    assert (test.p_low, test.p_high) == pytest.approx((low, high), abs=1e-9)
    assert test.p_low <= count / len(null) <= test.p_high


def test_the_interval_of_null_values_holds_95_percent_of_them():
    null = np.random.default_rng(0).exponential(size=1000)
    test = against(0.3, null)
    assert ((null >= test.low) & (null <= test.high)).mean() == pytest.approx(0.95, abs=0.003)
    assert (null < test.low).mean() == pytest.approx(0.025, abs=0.002)


@pytest.mark.parametrize("right", [False, True])
def test_p_is_uniform_where_the_value_is_one_of_the_null_values(right):
    draw = np.random.default_rng(1)
    p_values = [against(own[0], own[1:], right).p for own in draw.normal(size=(500, 10))]
    counts = np.bincount(np.round(np.array(p_values) * 10).astype(int), minlength=11)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3
    assert rank_chi_square(p_values, 9) == pytest.approx(stats.chisquare(counts[1:]).pvalue)


@settings(max_examples=25, deadline=None)
@given(ranks=st.lists(st.integers(1, 51), min_size=1, max_size=20))
def test_fishers_combination_is_a_chi_square_of_shifted_values(ranks):
    shifted = (np.array(ranks) - 0.5) / 51
    found = fisher([rank / 51 for rank in ranks], TRIALS)
    assert found == pytest.approx(stats.chi2.sf(-2 * np.log(shifted).sum(), 2 * len(ranks)), rel=1e-9)
    assert found == pytest.approx(stats.combine_pvalues(shifted, method="fisher").pvalue, rel=1e-9)


def test_fishers_combination_rejects_a_true_null_about_as_often_as_it_says():
    ranks = np.random.default_rng(2).integers(1, TRIALS + 2, (400, 25))
    rejected = np.mean([fisher(own / (TRIALS + 1), TRIALS) < 0.05 for own in ranks])
    assert 0.01 < rejected < 0.06


def test_many_small_p_values_are_significant_together():
    assert fisher([0.1] * 25, TRIALS) < 1e-6
    assert fisher([0.9] * 25, TRIALS) > 0.99


@pytest.mark.parametrize("combined", [fisher, rank_chi_square])
def test_no_p_values_have_no_combination(combined):
    assert np.isnan(combined([], TRIALS))


def test_the_ranks_chi_square_by_hand():
    # Ranks 1, 1, 2, 4 of 4: counts 2, 1, 0, 1, expected 1 each.
    assert rank_chi_square([0.25, 0.25, 0.5, 1.0], 3) == pytest.approx(stats.chi2.sf(2, 3))
    assert rank_chi_square([rank / 51 for rank in range(1, 52)], TRIALS) == 1
    # The largest ranks count, though there are none of them.
    assert rank_chi_square([0.25, 0.25, 0.5], 3) == pytest.approx(stats.chisquare([2, 1, 0, 0]).pvalue)
    # Two-sided: ranks that are all the largest are no more uniform.
    smallest, largest = (rank_chi_square([p] * 60, TRIALS) for p in (LEAST, 1.0))
    assert smallest == pytest.approx(largest)
    assert largest < 1e-6


def test_the_ranks_chi_square_is_calibrated():
    ranks = np.random.default_rng(3).integers(1, 11, (400, 100))
    rejected = np.mean([rank_chi_square(own / 10, 9) < 0.05 for own in ranks])
    assert 0.02 < rejected < 0.09


def test_cohens_d_by_hand():
    # Variances 1 and 4, pooled 2.5.
    assert cohens_d([1, 2, 3], [2, 4, 6]) == pytest.approx(-2 / np.sqrt(2.5))
    assert cohens_d([2, 4, 6], [1, 2, 3]) == pytest.approx(2 / np.sqrt(2.5))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), one=st.integers(2, 20), other=st.integers(2, 20))
def test_cohens_d_is_students_t_without_the_sizes(seed, one, other):
    a, b = samples(seed, one, other)
    t = stats.ttest_ind(a, b).statistic
    assert cohens_d(a, b) == pytest.approx(t * np.sqrt(1 / one + 1 / other), rel=1e-9)


def test_cohens_d_without_any_deviation():
    assert cohens_d([1, 1], [1, 1, 1]) == 0
    assert cohens_d([2, 2], [1, 1, 1]) == np.inf
    assert cohens_d([0, 0], [1, 1, 1]) == -np.inf


@settings(max_examples=25, deadline=None)
@given(p_values=st.lists(st.floats(1e-6, 1), min_size=1, max_size=30))
def test_corrected_p_values_are_those_of_statsmodels(p_values):
    np.testing.assert_allclose(false_discovery(p_values), multipletests(p_values, method="fdr_bh")[1], rtol=1e-9)


def test_no_p_values_are_corrected_to_none():
    assert false_discovery([]) == []


# (difference, p, share, units) -> kind, among 50 random lesions.
CASES = {
    "complete": [(-0.5, LEAST, 1.0, 40), (0.0, 1.0, 1.0, 40), (-0.5, LEAST, 1.0, 3)],
    "small": [(-0.5, LEAST, 0.5, 12), (0.0, 1.0, 0.5, 1), (-0.5, 0.5, 0.99, 5)],
    "important": [(-0.5, LEAST, 0.5, 13), (-0.01, LEAST, 0.5, 40), (-0.5, LEAST, 1.0, None), (-0.5, LEAST, 0.5, None)],
    "prunable": [(-0.009, 1.0, 0.5, 40), (0.02, 1.0, 0.5, 40), (0.0, 1.0, 1.0, None)],
    "least important": [(-0.02, 1.0, 0.5, 40), (-0.01, 1.0, 0.5, 40)],
    "significant but no difference": [(-0.009, LEAST, 0.5, 40), (0.02, LEAST, 0.5, None)],
    "difference but not significant": [(-0.02, 2 / 51, 0.5, 40), (-0.02, 0.5, 0.5, None)],
    "other": [(-0.009, 0.5, 0.5, 40), (-0.01, 2 / 51, 0.5, 40), (0.02, 50 / 51, 0.5, None)],
}


@pytest.mark.parametrize(("kind", "case"), [(kind, case) for kind, cases in CASES.items() for case in cases])
def test_the_first_rule_that_fits_names_the_kind_of_a_lesion(kind, case):
    difference, p, share, units = case
    assert KINDS[kind_of(difference, p, TRIALS, share, units)] == kind


def test_every_kind_has_a_number_that_other_analyses_may_count_on():
    assert list(KINDS) == list(range(1, 9))
    assert set(KINDS.values()) == set(CASES)
    assert [KINDS[number] for number in (COMPLETE, SMALL, IMPORTANT)] == ["complete", "small", "important"]


def test_every_combination_of_two_lesions_has_a_dependency_of_its_own():
    assert set(DEPENDENCIES) == set(itertools.product([False, True], repeat=2))
    assert sorted(DEPENDENCIES.values()) == [1, 2, 3, 4]


def test_a_verdict_by_hand():
    found = verdict(0.5, np.array([0.6, 0.7, 0.8]), 0.9, proportion=0.5, units=40)
    assert (found.accuracy, found.difference, found.mean) == pytest.approx((0.5, -0.4, 0.7))
    assert (found.deviation, found.z, found.p) == pytest.approx((0.1, -2, 1 / 4))
    assert found.kind == IMPORTANT
    assert verdict(0.5, np.array([0.6, 0.7, 0.8]), 0.9, proportion=1, units=40).kind == COMPLETE


def test_a_verdict_beside_equal_accuracies():
    same, below = (verdict(value, np.array([0.1] * 10), 0.1) for value in (0.1, 0.05))
    assert (same.deviation, same.z, same.p, KINDS[same.kind]) == (0, 0, 1, "prunable")
    assert np.isnan(below.z)
    assert (below.p, below.kind) == (1 / 11, IMPORTANT)


def test_groups_are_the_clusters_of_a_layer_with_their_share_of_its_units():
    labels = {"one": np.array([2, 0, -1, 2, 2]), "two": np.array([1, 1]), "three": np.array([0])}
    found = [(own.name, own.units.tolist(), own.proportion) for own in groups_of(labels, ["two", "one"])]
    assert found == [("two/1", [0, 1], 1), ("one/0", [1], 0.25), ("one/2", [0, 3, 4], 0.75)]


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 3), min_size=1, max_size=30), seed=st.integers(0, 10**6), share=st.sampled_from([None, 0.0, 0.3, 1.0])
)
def test_labels_in_another_order_are_as_many_and_those_that_are_fixed_stay(labels, seed, share):
    draw = np.random.default_rng(seed)
    labels = np.array(labels)
    fixed = None if share is None else np.flatnonzero(draw.random(len(labels)) < share)
    before = labels.copy()
    found = relabelled(labels, draw, fixed)
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(np.sort(found), np.sort(labels))
    np.testing.assert_array_equal(found == -1, labels == -1)
    if fixed is not None:
        np.testing.assert_array_equal(found[fixed], labels[fixed])


def test_every_free_unit_gets_every_label_as_often():
    labels, draw = np.array([0, 0, 1, 2, -1, 1]), np.random.default_rng(0)
    drawn = np.array([relabelled(labels, draw, np.array([2])) for _ in range(2000)])
    for unit in (0, 1, 3, 5):
        # Free are 0, 0, 2, 1.
        counts = np.bincount(drawn[:, unit], minlength=3)
        assert stats.chisquare(counts, [1000, 500, 500]).pvalue > 1e-3


def test_coherence_by_hand():
    # In steps that are exact: changes of -3/4, -1/4 and 0 have a range of 3/4, those of the random lesions 1/4, 3/4 and 1.
    intact = np.array([1, 0.75, 0.5])
    null = intact + np.array([[-0.25, 0, 0], [0, -0.75, 0], [0.25, -0.75, -0.25]])
    assert coherence(intact + np.array([-0.75, -0.25, 0]), null, intact) == (0.75, 3 / 4)
    assert coherence(intact + np.array([-0.875, -0.25, 0]), null, intact) == (0.875, 2 / 4)
    assert coherence(intact + np.array([-1.25, -0.25, 0]), null, intact) == (1.25, 1 / 4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), shift=st.floats(-0.5, 0.5))
def test_what_a_lesion_takes_from_all_classes_alike_is_not_coherent(seed, shift):
    draw = np.random.default_rng(seed)
    intact, own, null = draw.random(10), draw.random(10), draw.random((20, 10))
    spread, p = coherence(own, null, intact)
    assert coherence(own + shift, null + shift, intact) == pytest.approx((spread, p))
    assert coherence(intact + shift, null, intact) == pytest.approx((0, 1))
