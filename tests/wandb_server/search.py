"""The points of a sweep, in W&B's order and with W&B's defaults: what its own engine (the `sweeps` package) proposes for grid and random.

A point is what an agent is given: the values by parameter as {name: {"value": value}}; nested parameters are nested in the value.
"""

import itertools
import json
import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

Parameter = dict[str, Any]
Point = dict[str, dict[str, Any]]

# How one value is drawn; min, max, q, mu, sigma, a and b are the parameter's. Those without `_values` take exponents of e as limits.
DISTRIBUTIONS: dict[str, Callable[[random.Random, Parameter], Any]] = {
    "constant": lambda rng, p: p["value"],
    "categorical": lambda rng, p: rng.choice(p["values"]),
    "categorical_w_probabilities": lambda rng, p: rng.choices(p["values"], p["probabilities"])[0],
    "int_uniform": lambda rng, p: rng.randint(p["min"], p["max"]),
    "uniform": lambda rng, p: rng.uniform(p["min"], p["max"]),
    "log_uniform": lambda rng, p: math.exp(rng.uniform(p["min"], p["max"])),
    "log_uniform_values": lambda rng, p: math.exp(rng.uniform(math.log(p["min"]), math.log(p["max"]))),
    "inv_log_uniform": lambda rng, p: math.exp(-rng.uniform(p["min"], p["max"])),
    "inv_log_uniform_values": lambda rng, p: math.exp(-rng.uniform(-math.log(p["max"]), -math.log(p["min"]))),
    "normal": lambda rng, p: rng.gauss(p.get("mu", 0), p.get("sigma", 1)),
    "log_normal": lambda rng, p: math.exp(rng.gauss(p.get("mu", 0), p.get("sigma", 1))),
    "beta": lambda rng, p: rng.betavariate(p.get("a", 1), p.get("b", 1)),
}
QUANTISED = ("uniform", "log_uniform", "log_uniform_values", "normal", "log_normal", "beta")


def distribution(name: str, parameter: Parameter) -> str:
    """The name of a parameter's distribution, given or told from its keys; ValueError where there is none."""
    named = parameter.get("distribution")
    if named is None and "value" in parameter:
        named = "constant"
    elif named is None and "values" in parameter:
        named = "categorical_w_probabilities" if "probabilities" in parameter else "categorical"
    elif named is None:
        ends = [type(parameter.get(end)) for end in ("min", "max")]
        named = "int_uniform" if ends == [int, int] else "uniform" if ends == [float, float] else ""
    if named not in DISTRIBUTIONS and named not in [f"q_{known}" for known in QUANTISED]:
        raise ValueError(f"parameter {name}: {parameter} has no distribution that is known here")
    return str(named)


def draw(name: str, parameter: Parameter, rng: random.Random) -> Any:
    """A random value of a parameter; with `q_...` a multiple of q (default 1.0), an integer where q is one."""
    kind = distribution(name, parameter)
    if kind in DISTRIBUTIONS:
        return DISTRIBUTIONS[kind](rng, parameter)
    q = parameter.get("q", 1.0)
    return round(DISTRIBUTIONS[kind.removeprefix("q_")](rng, parameter) / q) * q


def choices(name: str, parameter: Parameter) -> Sequence[Any]:
    """The values of a parameter in a grid; ValueError where they cannot be listed."""
    kind = distribution(name, parameter)
    if kind == "constant":
        return [parameter["value"]]
    if kind == "categorical":
        return parameter["values"]
    if kind == "int_uniform":
        return range(parameter["min"], parameter["max"] + 1)
    if kind == "q_uniform":
        return np.arange(parameter["min"], parameter["max"], parameter.get("q", 1.0)).tolist()
    raise ValueError(f"parameter {name}: a grid takes value, values, int_uniform and q_uniform, not {kind}")


def flat(parameters: dict[str, Parameter], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Parameter]]:
    """Paths and parameters, sorted by name on every level."""
    for name, parameter in sorted(parameters.items()):
        if "parameters" in parameter:
            yield from flat(parameter["parameters"], (*above, name))
        else:
            yield (*above, name), parameter


def nested(values: dict[tuple[str, ...], Any]) -> Point:
    """The point with these values by path."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = value
    return {name: {"value": value} for name, value in tree.items()}


def key(point: Point) -> str:
    """Equal for equal points."""
    return json.dumps(point, sort_keys=True)


def grid(parameters: dict[str, Parameter]) -> list[Point]:
    """All points once; the parameter whose name comes last changes fastest."""
    found = dict(flat(parameters))
    axes = [choices(".".join(path), parameter) for path, parameter in found.items()]
    points = (nested(dict(zip(found, values, strict=True))) for values in itertools.product(*axes))
    return list({key(point): point for point in reversed(list(points))}.values())[::-1]


def size(config: dict[str, Any]) -> int | None:
    """How many runs a sweep is to have; None where there is no end."""
    cap = config.get("run_cap")
    if config["method"] != "grid":
        return cap
    points = len(grid(config["parameters"]))
    return points if cap is None else min(points, cap)


def suggest(config: dict[str, Any], seed: str, issued: int, seen: Collection[str]) -> Point | None:
    """The next point of a sweep, None where there are no more.

    `issued` counts the points given so far, `seen` holds the `key` of each that still has a run. A grid gives its first unseen point; random
    draws depend on `seed` and `issued` alone. Bayes draws like random here: no test needs its model. ValueError for other methods.
    """
    if config.get("run_cap") is not None and len(seen) >= config["run_cap"]:
        return None
    if config["method"] == "grid":
        return next((point for point in grid(config["parameters"]) if key(point) not in seen), None)
    if config["method"] not in ("random", "bayes"):
        raise ValueError(f"method {config['method']}: this server knows grid, random and bayes")
    rng = random.Random(f"{seed}-{issued}")
    return nested({path: draw(".".join(path), parameter, rng) for path, parameter in flat(config["parameters"])})
