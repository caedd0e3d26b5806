"""The probe is scikit-learn's, and its certificate is what it says: a bound on how far the objective is above its minimum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from analysis.logistic import fit


def data(seed, n, d, k, spread=1.0, offset=0.0):
    """Features (n, d) float32 around class means that lie `spread` apart, and labels (n,), every class among them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(k), torch.randint(k, (n - k,), generator=generator)]) if n > k else torch.arange(n)
    means = spread * torch.randn(k, d, generator=generator)
    return offset + means[labels] + torch.randn(n, d, generator=generator), labels


def objective(weight_kd, bias_k, x_nd, labels, C):
    """F(W, b) by its definition in float64, and its gradients."""
    n = len(x_nd)
    scores = x_nd @ weight_kd.T + bias_k
    value = float((logsumexp(scores, axis=1) - scores[np.arange(n), labels]).mean()) + (weight_kd**2).sum() / (2 * C * n)
    rest = (softmax(scores, axis=1) - np.eye(len(bias_k))[labels]) / n
    return value, rest.T @ x_nd + weight_kd / (C * n), rest.sum(0)


def least(x_nd, labels, classes, C):
    """The minimum of F in float64, of the classes that are there: one that is missing adds nothing in the limit."""
    there = np.unique(labels)
    labels = np.searchsorted(there, labels)
    k, d = len(there), x_nd.shape[1]
    if k == 1:
        return 0.0
    centred = x_nd - x_nd.mean(0)

    def f(point):
        value, by_weight, by_bias = objective(point[: k * d].reshape(k, d), point[k * d :], centred, labels, C)
        return value, np.concatenate([by_weight.ravel(), by_bias])

    options = {"maxiter": 3000, "maxfun": 6000, "ftol": 0.0, "gtol": 1e-10, "maxcor": 30}
    return float(minimize(f, np.zeros(k * (d + 1)), jac=True, method="L-BFGS-B", options=options).fun)


def at(probe, x_nd, labels, C):
    """F at a probe, in float64, on features as they were given."""
    scaled = x_nd - probe.mean_d.double().numpy()
    if probe.scale_d is not None:
        scaled = scaled / probe.scale_d.double().numpy()
    return objective(probe.weight_kd.double().numpy(), probe.bias_k.double().numpy(), scaled, labels, C)[0]


def sklearns(x_nd, labels, C):
    """scikit-learn's fit. With two classes it has one vector of weights, their difference: the same penalty is that of twice the C."""
    own = 2 * C if len(np.unique(labels)) == 2 else C
    return LogisticRegression(C=own, tol=1e-9, max_iter=100_000).fit(x_nd, labels)


@pytest.mark.parametrize(
    ("n", "d", "k"), [(300, 5, 2), (300, 5, 10), (40, 60, 2), (60, 90, 10), (400, 1, 3)], ids=["2", "10", "N<D 2", "N<D 10", "one feature"]
)
@pytest.mark.parametrize("C", [1e-3, 0.1, 1.0, 30.0, 1e3])
def test_it_is_scikit_learns_on_raw_features(n, d, k, C):
    x, labels = data(n + k, n, d, k, spread=0.7, offset=3.0)
    raw = x.double().numpy()
    theirs = sklearns(raw, labels.numpy(), C)
    # Until single precision has no better answer.
    probe = fit(x.clone(), labels, k, C, tolerance=1e-9, max_iterations=5000)
    weight = theirs.coef_ if k > 2 else np.stack([-theirs.coef_[0], theirs.coef_[0]]) / 2
    bias = theirs.intercept_ if k > 2 else np.array([-theirs.intercept_[0], theirs.intercept_[0]]) / 2
    minimum = objective(weight, bias, raw, labels.numpy(), C)[0]
    assert -1e-6 * minimum <= probe.objective - minimum <= probe.gap + 1e-6 * minimum
    assert probe.gap < 0.2 * minimum
    probabilities = torch.softmax(probe.logits(x), 1).numpy()
    np.testing.assert_allclose(probabilities, theirs.predict_proba(raw), rtol=0, atol=1e-3)
    assert probe.accuracy(x, labels) == pytest.approx(theirs.score(raw, labels.numpy()), abs=1 / n)
    assert probe.fitted_accuracy == pytest.approx(probe.accuracy(x, labels), abs=1 / n)
    # What the certificate says of the coefficients, since the objective is convex by 1 / (C n) in them; and where it says little, that they are close.
    away = np.linalg.norm(probe.weight_kd.numpy() - weight)
    assert away <= math.sqrt(2 * C * n * (probe.gap + 1e-7 * minimum))
    assert away < (0.02 if C <= 30 else 0.2) * np.linalg.norm(weight)
    # Where the penalty says more than rounding does, a close answer is certified in few iterations.
    if C <= 1:
        close = fit(x.clone(), labels, k, C, tolerance=1e-4)
        assert close.certified
        assert close.iterations <= 60
        assert -1e-6 * minimum <= close.objective - minimum <= close.gap + 1e-6 * minimum


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(3, 60),
    d=st.integers(1, 6),
    k=st.sampled_from([2, 3, 10]),
    spread=st.sampled_from([0.0, 1.0, 10.0]),
    exponent=st.integers(-3, 3),
    constant=st.booleans(),
    missing=st.booleans(),
    standardise=st.booleans(),
    tolerance=st.sampled_from([0.3, 0.01, 1e-4]),
)
@example(seed=0, n=20, d=3, k=3, spread=10.0, exponent=3, constant=False, missing=False, standardise=False, tolerance=0.01)
@example(seed=1, n=5, d=6, k=10, spread=1.0, exponent=1, constant=True, missing=True, standardise=True, tolerance=1e-4)
def test_the_certificate_bounds_the_distance_to_the_minimum(seed, n, d, k, spread, exponent, constant, missing, standardise, tolerance):
    x, labels = data(seed, n, d, k, spread, offset=1.0)
    C = 10.0**exponent
    if constant:
        x[:, 0] = 0.1
    if missing:
        labels = labels.clamp(max=k - 2)
    raw = x.double().numpy()
    if standardise:
        raw = StandardScaler().fit_transform(raw)
    minimum = least(raw, labels.numpy(), k, C)
    probe = fit(x.clone(), labels, k, C, standardise=standardise, tolerance=tolerance)
    # Rounding: products are float32, and with a class missing the best intercept is not finite.
    rounding = 1e-6 + 1e-5 * minimum
    assert math.isfinite(probe.gap)
    assert probe.objective - minimum <= probe.gap + rounding
    assert probe.objective >= minimum - rounding
    assert probe.certified == (probe.gap <= tolerance * probe.objective)
    # The objective that is told is that of the weights that are given.
    assert at(probe, x.double().numpy(), labels.numpy(), C) == pytest.approx(probe.objective, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("iterations", [1, 2, 7])
def test_a_fit_that_is_cut_off_says_so_and_still_bounds_the_distance(iterations):
    x, labels = data(4, 300, 20, 4)
    raw = x.double().numpy()
    probe = fit(x.clone(), labels, 4, 10.0, tolerance=1e-9, max_iterations=iterations)
    assert not probe.certified
    assert probe.iterations <= iterations
    minimum = least(raw, labels.numpy(), 4, 10.0)
    assert minimum < probe.objective <= minimum + probe.gap
    assert probe.gap < math.inf
    longer = fit(x.clone(), labels, 4, 10.0, tolerance=1e-3)
    assert longer.certified
    assert longer.gap < probe.gap


def test_standardising_is_scikit_learns():
    x, labels = data(5, 200, 6, 3, offset=5.0)
    x *= torch.tensor([1e-3, 1.0, 50.0, 1.0, 1.0, 1.0])
    x[:, 4] = 0.1
    raw = x.double().numpy()
    scaler = StandardScaler().fit(raw)
    own = fit(x.clone(), labels, 3, 0.5, standardise=True, tolerance=1e-6)
    np.testing.assert_allclose(own.mean_d.numpy(), scaler.mean_, rtol=1e-6)
    np.testing.assert_allclose(own.scale_d.numpy(), scaler.scale_, rtol=1e-5)
    theirs = sklearns(scaler.transform(raw), labels.numpy(), 0.5)
    np.testing.assert_allclose(torch.softmax(own.logits(x), 1).numpy(), theirs.predict_proba(scaler.transform(raw)), rtol=0, atol=1e-3)
    # Which is another classifier than the plain one.
    plain = fit(x.clone(), labels, 3, 0.5, tolerance=1e-6)
    assert (plain.logits(x) - own.logits(x)).abs().max() > 0.1


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), repeats=st.integers(2, 16), C=st.sampled_from([0.01, 0.1, 1.0]))
def test_values_that_repeat_r_times_are_those_that_stand_once_times_the_root_of_r(seed, repeats, C):
    x, labels = data(seed, 80, 3, 4)
    repeated, once = x.repeat_interleave(repeats, 1), math.sqrt(repeats) * x
    one = fit(repeated.clone(), labels, 4, C, tolerance=1e-9)
    other = fit(once.clone(), labels, 4, C, tolerance=1e-9)
    assert abs(one.objective - other.objective) <= max(one.gap, other.gap) + 1e-6 * one.objective
    np.testing.assert_allclose(
        torch.softmax(one.logits(repeated), 1).numpy(), torch.softmax(other.logits(once), 1).numpy(), rtol=0, atol=1e-3
    )


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), shift=st.sampled_from([-100.0, 5.0, 1000.0]))
def test_where_the_features_lie_does_not_matter(seed, shift):
    """The intercepts are free of penalty."""
    x, labels = data(seed, 60, 3, 3)
    # What float32 makes of the shifted ones is what both are given.
    moved = x + shift
    x = moved - shift
    one, other = fit(x.clone(), labels, 3, 1.0, tolerance=1e-5), fit(moved.clone(), labels, 3, 1.0, tolerance=1e-5)
    assert one.objective == pytest.approx(other.objective, rel=1e-4)


def test_one_class_alone_is_told_apart_from_nothing():
    x, _ = data(6, 30, 4, 2)
    probe = fit(x.clone(), torch.ones(30, dtype=torch.int64), 3)
    assert probe.fitted_accuracy == 1
    assert probe.objective == pytest.approx(0, abs=1e-6)
    assert probe.gap == pytest.approx(0, abs=1e-6)


def test_features_are_changed_and_none_are_refused():
    x, labels = data(7, 30, 4, 2, offset=3.0)
    given_x = x.clone()
    fit(given_x, labels, 2)
    torch.testing.assert_close(given_x, x - x.mean(0))
    with pytest.raises(ValueError, match="at least one row"):
        fit(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), 2)
