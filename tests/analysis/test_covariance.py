"""The covariance of what streams by is numpy's, however it is cut; and what counts as a layer's dimension."""

import io

import numpy as np
import pytest
import torch
from delve.metrics import compute_intrinsic_dimensionality
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.covariance import RULES, Covariance, intrinsic_dimension

DELTAS = (1e-6, 0.3, 0.9, 0.98, 0.99, 0.999, 0.9999)


def rows(seed, n, c, mean=0.0, deviation=1.0):
    """Correlated rows (n, c) float32."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, c, generator=generator) @ torch.randn(c, c, generator=generator)
    return mean + deviation * mixed


def covariance(batches):
    found = Covariance()
    for batch in batches:
        found.add(batch)
    return found


def assert_numpys(found, whole_nc, tolerance=5e-6):
    """Mean and covariance are those that numpy finds in float64, but for a share of the largest variance."""
    values = whole_nc.double().numpy()
    expected = np.cov(values.T, bias=True).reshape(values.shape[1], values.shape[1])
    assert (found.n, found.dimension) == values.shape
    np.testing.assert_allclose(found.matrix().numpy(), expected, rtol=0, atol=tolerance * expected.diagonal().max())
    np.testing.assert_allclose(
        found.mean().numpy(), values.mean(0), rtol=1e-12, atol=tolerance * np.sqrt(expected.diagonal().max()) + 1e-30
    )
    return expected


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    c=st.integers(1, 7),
    cuts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1),
    mean=st.sampled_from([0.0, -30.0, 1e4]),
    deviation=st.sampled_from([1e-2, 1.0, 300.0]),
)
def test_it_is_numpys_however_rows_are_cut(seed, c, cuts, mean, deviation):
    whole = rows(seed, sum(cuts), c, mean, deviation)
    found = covariance(whole.split(cuts))
    expected = assert_numpys(found, whole)
    values, vectors = found.eigenbasis()
    largest = expected.diagonal().max()
    np.testing.assert_allclose(values.numpy(), np.linalg.eigvalsh(expected)[::-1], rtol=0, atol=1e-5 * largest * c)
    np.testing.assert_allclose(found.eigenvalues().numpy(), values.numpy(), rtol=0, atol=1e-12 * largest * c)
    np.testing.assert_allclose((vectors.T @ vectors).numpy(), np.eye(c), rtol=0, atol=1e-12)
    np.testing.assert_allclose((vectors * values @ vectors.T).numpy(), expected, rtol=0, atol=1e-5 * largest * c)


def test_order_does_not_matter_nor_does_a_variance_that_is_small_beside_the_mean():
    whole = rows(1, 4000, 5, mean=1e4, deviation=1e-1)
    permuted = whole[torch.randperm(len(whole), generator=torch.Generator().manual_seed(2))]
    for own in (whole.split(1), whole.split(37), permuted.split(500), [permuted]):
        assert_numpys(covariance(own), whole)
    # What sums without a shift would make of it.
    plain = whole.T @ whole / len(whole) - torch.outer(whole.mean(0), whole.mean(0))
    assert (plain.double() - covariance([whole]).matrix()).abs().max() > 0.01 * covariance([whole]).matrix().abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_type_is_taken(dtype):
    whole = rows(3, 300, 4, mean=2.0).to(dtype)
    # Each value is as it is stored: nothing is summed in half precision.
    assert_numpys(covariance(whole.split(64)), whole)


def test_double_precision_stays():
    whole = 1e6 + torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) * 1e-3
    assert_numpys(covariance(whole.split(100)), whole, 1e-9)


def test_a_state_that_went_through_a_checkpoint_goes_on_with_the_same_bits():
    batches = rows(5, 200, 6).split(50)
    whole, first = covariance(batches), covariance(batches[:2])
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    buffer.seek(0)
    second = Covariance.restore(torch.load(buffer, weights_only=True))
    for batch in batches[2:]:
        second.add(batch)
    assert second.n == whole.n
    assert torch.equal(second.matrix(), whole.matrix())
    assert torch.equal(second.mean(), whole.mean())
    # One that has seen nothing.
    fresh = Covariance.restore(Covariance().state())
    assert (fresh.n, fresh.dimension) == (0, 0)
    fresh.add(batches[0])
    assert torch.equal(fresh.matrix(), covariance(batches[:1]).matrix())


def test_what_is_not_finite_is_told_as_such():
    """A training that diverges, so that whoever runs it says so."""
    found = covariance([torch.tensor([[1.0, 2.0], [float("nan"), 1.0], [0.0, float("inf")]])])
    assert found.eigenvalues().isnan().all()


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(2, 9), data=st.data())
def test_k_equal_directions_have_k_dimensions(seed, c, data):
    """By each rule from the delta on from which it counts the last of them: delve's saturation counts it from a share of 1 alone."""
    k = data.draw(st.integers(1, c))
    directions = np.linalg.qr(np.random.default_rng(seed).normal(size=(c, c)))[0][:, :k]
    # Rows that have the same variance in each of k directions and none in others.
    whole = torch.from_numpy(np.concatenate([directions.T, -directions.T]) * 3.0)
    eigenvalues = covariance([whole]).eigenvalues()
    assert intrinsic_dimension(eigenvalues, 1 - 0.5 / k, "standard") == k
    assert intrinsic_dimension(eigenvalues, 1 - 0.5 / k, "delve rank") == k
    assert intrinsic_dimension(eigenvalues, 1 - 0.5 / k, "delve") == max(1, k - 1)
    for rule in RULES:
        assert intrinsic_dimension(eigenvalues, 1.0, rule) == c


@settings(deadline=None)
@given(
    shares=st.lists(st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=20),
    deltas=st.lists(st.floats(0.001, 1), min_size=2, max_size=4).map(sorted),
)
def test_dimensions_grow_with_delta_and_the_rules_differ_by_one(shares, deltas):
    eigenvalues = torch.tensor(sorted(shares, reverse=True), dtype=torch.float64)
    found = {own: [intrinsic_dimension(eigenvalues, delta, own) for delta in deltas] for own in RULES}
    for rule, dimensions in found.items():
        assert all(1 <= dimension <= len(shares) for dimension in dimensions)
        assert dimensions == sorted(dimensions), rule
    total = eigenvalues.sum()
    explained = eigenvalues.cumsum(0) / total
    for delta, delve, rank, standard in zip(deltas, *(found[rule] for rule in ("delve", "delve rank", "standard"))):
        assert delve <= rank <= standard <= delve + 1
        if total > 0 and delta < 1:
            # The least number that explains delta, but for rounding of the sums.
            assert explained[standard - 1] >= delta - 1e-12
            assert standard == 1 or explained[standard - 2] < delta


@pytest.mark.parametrize(
    ("shares", "delta", "delve", "rank", "standard"),
    [
        # 3 of 4 stay below and leave out 0.005.
        ([0.6, 0.3, 0.085, 0.015], 0.99, 3, 3, 4),
        # They leave out 0.03.
        ([0.6, 0.3, 0.06, 0.04], 0.99, 3, 4, 4),
        ([0.995, 0.005], 0.99, 1, 1, 1),
        ([0.98, 0.02], 0.99, 1, 1, 2),
        ([0.5, 0.5], 0.5, 1, 1, 1),
        ([0.0, 0.0, 0.0], 0.99, 1, 1, 1),
        ([0.0, 0.0, 0.0], 1.0, 3, 3, 3),
        ([1.0, 0.0, 0.0], 1.0, 3, 3, 3),
    ],
)
def test_dimensions_by_hand(shares, delta, delve, rank, standard):
    eigenvalues = torch.tensor(shares, dtype=torch.float64)
    assert intrinsic_dimension(eigenvalues, delta) == intrinsic_dimension(eigenvalues, delta, "delve") == delve
    assert intrinsic_dimension(eigenvalues, delta, "delve rank") == rank
    assert intrinsic_dimension(eigenvalues, delta, "standard") == standard
    if sum(shares) and delta < 1:
        # delve itself, which tells 0 where we tell 1.
        assert max(1, compute_intrinsic_dimensionality(torch.diag(eigenvalues), delta)) == delve


def test_constant_rows_have_one_dimension():
    found = covariance(torch.full((50, 4), 0.1).split(7))
    assert found.eigenvalues().sum() < 1e-12
    for delta in DELTAS:
        assert intrinsic_dimension(torch.zeros(4, dtype=torch.float64), delta) == 1
    assert intrinsic_dimension(found.eigenvalues(), 1.0) == 4
