"""The search space: W&B's distributions against scipy's and numpy's, what is refused, and optuna's counterparts."""

import math
import random

import numpy as np
import optuna.distributions as optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.sweep.samples import PARAMETERS, SAMPLES
from train.fields import FieldError
from train.sweep.space import DISTRIBUTIONS, Quantised, read_parameter

DRAWS = 3_000

# scipy's distribution of the unrounded values of a parameter.
SCIPY = {
    "uniform": lambda p: stats.uniform(p.min, p.max - p.min),
    "log_uniform": lambda p: stats.loguniform(math.exp(p.min), math.exp(p.max)),
    "log_uniform_values": lambda p: stats.loguniform(p.min, p.max),
    "inv_log_uniform": lambda p: stats.loguniform(math.exp(-p.max), math.exp(-p.min)),
    "inv_log_uniform_values": lambda p: stats.loguniform(p.min, p.max),
    "normal": lambda p: stats.norm(p.mu, p.sigma),
    "log_normal": lambda p: stats.lognorm(p.sigma, scale=math.exp(p.mu)),
    "beta": lambda p: stats.beta(p.a, p.b),
}
CONTINUOUS = [(name, raw) for name, raw in SAMPLES if name.removeprefix("q_") in SCIPY]
positive = st.floats(1e-6, 1e6)


def draws(raw, count=DRAWS, seed=0):
    parameter, generator = read_parameter(raw), random.Random(seed)
    return [parameter.draw(generator) for _ in range(count)]


def interval(low, high):
    """Two different numbers, in order."""
    return st.tuples(st.floats(low, high), st.floats(low, high)).filter(lambda ends: ends[0] < ends[1])


def test_every_distribution_has_samples():
    assert set(PARAMETERS) == set(DISTRIBUTIONS)


@pytest.mark.parametrize(("name", "raw"), SAMPLES)
def test_distributions_are_told_apart_as_wandb_does(name, raw):
    parameter = read_parameter(raw)
    assert parameter.distribution == name
    assert read_parameter(parameter.model_dump()) == parameter
    with pytest.raises(ValueError, match="frozen"):
        parameter.distribution = "other"


@pytest.mark.parametrize(("name", "raw"), CONTINUOUS)
def test_draws_have_the_distribution_of_scipy(name, raw):
    parameter = read_parameter(raw)
    expected = SCIPY[name.removeprefix("q_")](parameter)
    if not isinstance(parameter, Quantised):
        assert stats.kstest(draws(raw), expected.cdf).pvalue > 1e-3
        return
    values = expected.rvs(DRAWS, random_state=np.random.default_rng(1))
    numbers = np.round(values / parameter.q)
    ours = np.array(draws(raw)) / parameter.q
    assert np.allclose(ours, np.round(ours))
    assert stats.ks_2samp(np.round(ours), numbers).pvalue > 1e-3


@pytest.mark.parametrize(
    ("name", "raw"), [(name, raw) for name, raw in SAMPLES if name in ("categorical", "categorical_w_probabilities", "int_uniform")]
)
def test_discrete_draws_have_their_probabilities(name, raw):
    parameter = read_parameter(raw)
    values = parameter.extremes() if name != "int_uniform" else parameter.points()
    found = draws(raw)
    counts = [sum(value is drawn or value == drawn for drawn in found) for value in values]
    probabilities = np.array(getattr(parameter, "probabilities", [1 / len(values)] * len(values)))
    assert sum(counts) == DRAWS
    assert stats.chisquare(counts, probabilities * DRAWS).pvalue > 1e-3


@pytest.mark.parametrize(("name", "raw"), SAMPLES)
def test_draws_are_plain_and_repeatable(name, raw):
    parameter = read_parameter(raw)
    values = draws(raw, 20)
    assert values == draws(raw, 20)
    whole = isinstance(getattr(parameter, "q", None), int) or name == "int_uniform"
    if name not in ("constant", "categorical", "categorical_w_probabilities"):
        assert {type(value) for value in values} == {int if whole else float}
        assert len(set(values)) > 1
        assert values != draws(raw, 20, seed=1)


@given(interval(-1e6, 1e6), st.integers(), st.one_of(st.integers(1, 100), st.floats(0.01, 100)))
def test_uniform_draws_stay_inside_and_on_the_grid_from_zero(ends, seed, q):
    low, high = ends
    plain = draws({"distribution": "uniform", "min": low, "max": high}, 5, seed)
    assert all(low <= value <= high for value in plain)
    for value in draws({"distribution": "q_uniform", "min": low, "max": high, "q": q}, 5, seed):
        assert low - q * 0.51 <= value <= high + q * 0.51
        assert value == round(value / q) * q
        assert type(value) is type(q)


@pytest.mark.parametrize("name", ["log_uniform_values", "inv_log_uniform_values"])
@given(ends=interval(1e-6, 1e6), seed=st.integers())
def test_log_uniform_draws_stay_inside(name, ends, seed):
    assert all(ends[0] <= value <= ends[1] for value in draws({"distribution": name, "min": ends[0], "max": ends[1]}, 5, seed))


@given(interval(-50, 50), st.integers())
def test_exponents_are_of_base_e_and_inverted(ends, seed):
    low, high = math.exp(ends[0]) * (1 - 1e-12), math.exp(ends[1]) * (1 + 1e-12)
    for value in draws({"distribution": "log_uniform", "min": ends[0], "max": ends[1]}, 5, seed):
        assert low <= value <= high
    for value in draws({"distribution": "inv_log_uniform", "min": ends[0], "max": ends[1]}, 5, seed):
        assert low <= 1 / value * (1 + 1e-12)
        assert 1 / value <= high * (1 + 1e-12)


@given(positive, positive, st.integers())
def test_beta_draws_are_fractions_and_its_extremes_lie_inside(a, b, seed):
    raw = {"distribution": "beta", "a": a, "b": b}
    assert all(0 <= value <= 1 for value in draws(raw, 5, seed))
    low, high = read_parameter(raw).extremes()
    assert 0 < low <= a / (a + b) <= high <= 1


@pytest.mark.parametrize(("name", "raw"), [sample for sample in SAMPLES if "normal" not in sample[0] and "beta" not in sample[0]])
def test_extremes_enclose_every_draw(name, raw):
    extremes, values = read_parameter(raw).extremes(), draws(raw, 500)
    if name in ("constant", "categorical", "categorical_w_probabilities"):
        assert all(value in extremes for value in values)
    else:
        assert len(extremes) == 2
        assert extremes[0] <= min(values) <= max(values) <= extremes[1]


@pytest.mark.parametrize(("name", "raw"), [sample for sample in SAMPLES if "normal" in sample[0]])
def test_extremes_of_a_normal_are_far_out(name, raw):
    low, high = read_parameter(raw).extremes()
    outside = sum(not low <= value <= high for value in draws(raw, 5_000))
    assert outside / 5_000 < 0.01
    assert low < high


@given(st.integers(-100, 100), st.integers(1, 50))
def test_a_grid_of_whole_numbers_has_both_ends(low, count):
    assert read_parameter({"min": low, "max": low + count}).points() == list(np.arange(low, low + count + 1))


@given(interval(-100, 100), st.floats(0.5, 50))
def test_a_quantised_grid_is_numpys_arange(ends, q):
    points = read_parameter({"distribution": "q_uniform", "min": ends[0], "max": ends[1], "q": q}).points()
    assert points == np.arange(ends[0], ends[1], q).tolist()


@pytest.mark.parametrize("raw", PARAMETERS["q_uniform"])
def test_points_have_the_types_of_numpys_arange(raw):
    points, expected = read_parameter(raw).points(), np.arange(raw["min"], raw["max"], raw.get("q", 1.0)).tolist()
    assert points == expected
    assert [type(point) for point in points] == [type(point) for point in expected]


@pytest.mark.parametrize(("name", "raw"), SAMPLES)
def test_a_grid_takes_what_is_finite(name, raw):
    points = read_parameter(raw).points()
    assert (points is not None) == (name in ("constant", "categorical", "int_uniform", "q_uniform"))
    if name == "categorical":
        assert points == raw["values"]


OPTUNA = [
    ({"value": 0.1}, optuna.CategoricalDistribution((0.1,))),
    ({"values": [3, "auto", None]}, optuna.CategoricalDistribution((3, "auto", None))),
    ({"min": 1, "max": 4}, optuna.IntDistribution(1, 4)),
    ({"min": 1, "max": 2.5}, optuna.FloatDistribution(1.0, 2.5)),
    ({"distribution": "log_uniform", "min": -2, "max": 3}, optuna.FloatDistribution(math.exp(-2), math.exp(3), log=True)),
    ({"distribution": "log_uniform_values", "min": 0.1, "max": 3}, optuna.FloatDistribution(0.1, 3.0, log=True)),
    ({"distribution": "q_uniform", "min": 3, "max": 10, "q": 3}, optuna.IntDistribution(3, 9, step=3)),
    ({"distribution": "q_uniform", "min": 3, "max": 11, "q": 3}, optuna.IntDistribution(3, 12, step=3)),
    ({"distribution": "q_uniform", "min": 0.1, "max": 0.7, "q": 0.1}, optuna.FloatDistribution(0.1, 0.7, step=0.1)),
    ({"distribution": "q_uniform", "min": 0, "max": 0.04, "q": 0.1}, optuna.FloatDistribution(0.0, 0.0, step=0.1)),
    ({"distribution": "q_log_uniform_values", "min": 1, "max": 64, "q": 1}, optuna.IntDistribution(1, 64, log=True)),
]


@pytest.mark.parametrize(("raw", "expected"), OPTUNA)
def test_optunas_counterparts(raw, expected):
    assert read_parameter(raw).optuna() == expected


@given(st.integers(-20, 20), st.integers(1, 20), st.sampled_from([0.1, 0.25, 0.3, 2.0, 1e-3]))
def test_optuna_counts_q_as_wandb_does(low, count, q):
    """Optuna warns, and warnings are errors here, where its grid does not end at max."""
    found = read_parameter({"distribution": "q_uniform", "min": round(low * q, 6), "max": round((low + count) * q, 6), "q": q}).optuna()
    assert math.isclose(found.low, low * q, abs_tol=1e-9)
    assert math.isclose(found.high, (low + count) * q, abs_tol=1e-9)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        *[(PARAMETERS[name][0], f"{name} cannot be searched by method bayes") for name in PARAMETERS
          if "normal" in name or "beta" in name or "inv" in name or name in ("categorical_w_probabilities", "q_log_uniform")],
        ({"distribution": "q_uniform", "min": 1, "max": 10, "q": 3}, "min: .* must be a multiple of 3, got 1"),
        ({"distribution": "q_uniform", "min": 0.15, "max": 1, "q": 0.1}, "multiple of 0.1, got 0.15"),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 10, "q": 2}, "q_log_uniform_values only where q is 1"),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 10}, "q_log_uniform_values only where q is 1"),
        ({"distribution": "q_log_uniform_values", "min": 0.5, "max": 10, "q": 1}, "min and max are whole numbers"),
        ({"values": [[1, 2], [3, 4]]}, r"takes no list or mapping as a value, got \[1, 2\]"),
    ],
)  # fmt: skip
def test_what_optuna_has_not_is_refused(raw, words):
    with pytest.raises(ValueError, match=words):
        read_parameter(raw).optuna()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (0.1, r"^must be a mapping such as \{value: 0.1\}.*, got 0.1"),
        ([0.1], "must be a mapping"),
        ({}, "has no values; needs value, values, min and max, or a distribution: constant, "),
        ({"min": 1}, "has no values"),
        ({"mu": 1, "sigma": 1}, "has no values"),
        ({"value": 1, "values": [1]}, "^values: unknown key for constant; did you mean 'value'.*allowed: distribution, value$"),
        ({"min": 0, "max": 1, "q": 0.1}, "^q: unknown key for int_uniform; allowed: distribution, min, max"),
        ({"distribution": "log_uniform_value", "min": 1, "max": 2}, "^distribution: 'log_uniform_value' is unknown; did you mean 'log_uniform_values'"),
        ({"distribution": ["uniform"], "min": 1, "max": 2}, "^distribution: .* is unknown"),
        ({"distribution": "categorical", "values": [1], "probabilities": [1]}, "^probabilities: go with .*categorical_w_probabilities"),
        ({"distribution": "uniform", "max": 1}, "^min: missing; uniform needs it"),
        ({"distribution": "constant"}, "^value: missing"),
        ({"values": []}, "^values: list should have at least 1 item.*got "),
        ({"values": 3}, "^values: .*valid list, got 3"),
        ({"values": [0.1, 1, 0.1]}, "^values: 0.1 appears twice"),
        ({"values": [float("nan")]}, "^values: must be finite, got nan"),
        ({"values": [{1, 2}]}, "^values: must be a number, a word, a list"),
        ({"value": 1e999}, "^value: must be finite, got inf"),
        ({"values": [1, 2], "probabilities": [0.5, 0.4]}, "^probabilities: must sum to 1, got 0.9"),
        ({"values": [1, 2], "probabilities": [1]}, "^probabilities: must be one for each of the 2 values, got 1"),
        ({"values": [1, 2], "probabilities": [1.5, -0.5]}, "^probabilities: .*greater than or equal to 0, got -0.5"),
        ({"min": 2, "max": 1}, "^min: must be less than max, got 2 and 1"),
        ({"min": 1.0, "max": 1.0}, "^min: must be less than max"),
        ({"min": True, "max": 3}, "^min: must be a whole number, got True"),
        ({"min": "0", "max": 3}, "^min: must be a number, got '0'"),
        ({"min": 0.0, "max": float("inf")}, "^max: must be finite, got inf"),
        ({"distribution": "int_uniform", "min": 0, "max": 1.5}, "^max: must be a whole number, got 1.5"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "^min: input should be greater than 0, got 0"),
        ({"distribution": "inv_log_uniform_values", "min": -1, "max": 1}, "^min: input should be greater than 0, got -1"),
        ({"distribution": "q_log_uniform_values", "min": 0, "max": 1, "q": 1}, "^min: input should be greater than 0"),
        ({"distribution": "log_uniform", "min": 0, "max": 1000}, "^max: min and max are exponents of base e"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "^q: input should be greater than 0, got 0"),
        ({"distribution": "normal", "sigma": 0}, "^sigma: input should be greater than 0, got 0"),
        ({"distribution": "normal", "mu": "0"}, "^mu: must be a number"),
        ({"distribution": "log_normal", "mu": 1000}, "^mu: .* at most 700"),
        ({"distribution": "beta", "a": 0}, "^a: input should be greater than 0"),
        ({"distribution": "q_beta", "b": -1, "q": 1}, "^b: input should be greater than 0"),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_refused_in_one_line(raw, words):
    with pytest.raises(FieldError, match=words) as caught:
        read_parameter(raw)
    assert "\n" not in str(caught.value)
