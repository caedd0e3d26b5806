"""What the tests' own W&B server proposes: grids, draws, and what it refuses."""

import math
from collections import Counter
from typing import Any

import pytest
from scipy import stats

from tests.wandb_server import search
from tests.wandb_server.calls import GRID, POINTS


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # Literally what sweeps.next_runs of the package `sweeps` 0.3.0 gave.
        (GRID["parameters"] | {"c": {"value": 7}}, [{"a": a, "b": b, "c": 7} for a, b in POINTS]),
        ({"z": {"min": 1, "max": 3}, "A": {"values": [0.1, 1e-5]}}, [{"A": a, "z": z} for a in (0.1, 1e-5) for z in (1, 2, 3)]),
        (
            {"n": {"parameters": {"w": {"values": [1, 2]}, "d": {"parameters": {"k": {"values": [True, False]}}}}}, "z": {"values": [5]}},
            [{"n": {"d": {"k": k}, "w": w}, "z": 5} for k in (True, False) for w in (1, 2)],
        ),
        (
            {"q": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.5}, "r": {"values": [1, 1, 2]}},
            [{"q": q, "r": r} for q in (0.0, 0.5) for r in (1, 2)],
        ),
        ({"q": {"distribution": "q_uniform", "min": 1, "max": 6, "q": 2}}, [{"q": q} for q in (1, 3, 5)]),
    ],
)
def test_a_grid_has_the_points_and_the_order_of_wandb(parameters, expected):
    config = {"method": "grid", "parameters": parameters}
    seen: list[search.Point] = []
    while (point := search.suggest(config, "", 0, [search.key(p) for p in seen])) is not None:
        seen.append(point)
    assert [{name: value["value"] for name, value in point.items()} for point in seen] == expected
    assert search.size(config) == len(expected)
    assert search.size(config | {"run_cap": 2}) == 2


CONTINUOUS: dict[str, tuple[dict[str, float], Any]] = {
    "uniform": ({"min": -1.0, "max": 3.0}, stats.uniform(-1, 4)),
    "log_uniform": ({"min": -3, "max": 1}, stats.loguniform(math.exp(-3), math.exp(1))),
    "log_uniform_values": ({"min": 1e-4, "max": 0.1}, stats.loguniform(1e-4, 0.1)),
    "inv_log_uniform": ({"min": -1, "max": 2}, stats.loguniform(math.exp(-2), math.exp(1))),
    "inv_log_uniform_values": ({"min": 1e-3, "max": 1.0}, stats.loguniform(1e-3, 1)),
    "normal": ({"mu": 1, "sigma": 2}, stats.norm(1, 2)),
    "log_normal": ({"mu": 0.5, "sigma": 0.25}, stats.lognorm(0.25, scale=math.exp(0.5))),
    "beta": ({"a": 2, "b": 3}, stats.beta(2, 3)),
}


def draws(parameter, count=1000):
    config = {"method": "random", "parameters": {"x": parameter}}
    points = (search.suggest(config, "seed", number, ()) for number in range(count))
    return [point["x"]["value"] for point in points if point]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_random_values_follow_their_distribution(name):
    limits, expected = CONTINUOUS[name]
    values = draws(limits | {"distribution": name})
    assert stats.kstest(values, expected.cdf).pvalue > 1e-3
    if name in search.QUANTISED:
        coarse = draws(limits | {"distribution": f"q_{name}", "q": 0.25})
        assert coarse == [round(value / 0.25) * 0.25 for value in values]
        assert {type(value) for value in draws(limits | {"distribution": f"q_{name}", "q": 2}, 10)} == {int}


def test_random_choices_have_their_frequencies():
    counts = Counter(draws({"values": ["a", "b", "c"], "probabilities": [0.1, 0.2, 0.7]}))
    assert stats.chisquare([counts["a"], counts["b"], counts["c"]], [100, 200, 700]).pvalue > 1e-3
    assert stats.chisquare(sorted(Counter(draws({"min": 1, "max": 5})).values())).pvalue > 1e-3
    assert draws({"value": [1, 2]}, 3) == [[1, 2]] * 3


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"method": "grid", "parameters": {"x": {"min": 0.0, "max": 1.0}}}, "parameter x: a grid takes"),
        ({"method": "random", "parameters": {"n": {"parameters": {"x": {"min": 0, "max": 1.0}}}}}, "parameter n.x: .* no distribution"),
        ({"method": "random", "parameters": {"x": {"distribution": "q_constant", "value": 1}}}, "no distribution"),
        ({"method": "guess", "parameters": {"x": {"value": 1}}}, "method guess"),
    ],
)
def test_what_cannot_be_searched_is_refused(config, word):
    with pytest.raises(ValueError, match=word):
        search.suggest(config, "", 0, ())
