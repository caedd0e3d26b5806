"""Parameters of every distribution and sweep files that are valid, for the tests and for W&B's own engine."""

import copy
from typing import Any

import yaml

# For each distribution parameters of it, with whole and with broken q.
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "constant": [{"value": 0.1}, {"value": [1, 2]}, {"distribution": "constant", "value": "auto"}],
    "categorical": [{"values": [3, 1, 2]}, {"values": ["auto", 2, 0.5]}, {"distribution": "categorical", "values": [True, False]}],
    "categorical_w_probabilities": [
        {"values": [1, 2, 4], "probabilities": [0.5, 0.3, 0.2]},
        {"distribution": "categorical_w_probabilities", "values": [7, 8], "probabilities": [0.9, 0.1]},
    ],
    "int_uniform": [{"min": -3, "max": 4}, {"distribution": "int_uniform", "min": 0, "max": 1}],
    "uniform": [{"min": 0.0, "max": 0.5}, {"min": 1, "max": 2.5}, {"distribution": "uniform", "min": 1, "max": 3}],
    "q_uniform": [
        {"distribution": "q_uniform", "min": 1, "max": 10, "q": 3},
        {"distribution": "q_uniform", "min": 0.1, "max": 0.95, "q": 0.1},
        {"distribution": "q_uniform", "min": 0, "max": 5},
    ],
    "log_uniform": [{"distribution": "log_uniform", "min": -7, "max": 0.5}],
    "log_uniform_values": [{"distribution": "log_uniform_values", "min": 0.0001, "max": 1}],
    "q_log_uniform": [{"distribution": "q_log_uniform", "min": 0, "max": 5, "q": 2}],
    "q_log_uniform_values": [
        {"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 1},
        {"distribution": "q_log_uniform_values", "min": 0.5, "max": 3, "q": 0.25},
    ],
    "inv_log_uniform": [{"distribution": "inv_log_uniform", "min": 0, "max": 5}],
    "inv_log_uniform_values": [{"distribution": "inv_log_uniform_values", "min": 0.01, "max": 0.1}],
    "normal": [{"distribution": "normal"}, {"distribution": "normal", "mu": 3, "sigma": 0.5}],
    "q_normal": [
        {"distribution": "q_normal", "mu": 5, "sigma": 3, "q": 1},
        {"distribution": "q_normal", "mu": 0.2, "sigma": 0.4, "q": 0.1},
    ],
    "log_normal": [{"distribution": "log_normal", "mu": -3, "sigma": 0.7}],
    "q_log_normal": [{"distribution": "q_log_normal", "mu": 2, "sigma": 0.5, "q": 1}],
    "beta": [{"distribution": "beta"}, {"distribution": "beta", "a": 2, "b": 5}],
    "q_beta": [{"distribution": "q_beta", "a": 2, "b": 3, "q": 0.05}],
}
SAMPLES = [(name, raw) for name, samples in PARAMETERS.items() for raw in samples]

COMMAND = ["python", "-m", "train.sweep", "trial", "${args}"]


def sweep(parameters: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A sweep file over these parameters; a change to None drops the key."""
    raw = {
        "name": "a_search",
        "project": "palimpsest",
        "method": "grid",
        "metric": {"name": "selection/clean_accuracy", "goal": "maximize"},
        "command": COMMAND,
        "parameters": parameters,
    } | changes
    return {key: value for key, value in raw.items() if value is not None}


CONTRASTIVE = {
    "dataset": {"value": "FashionMNIST-mini"},
    "method": {"value": "Contrastive"},
    "lr": {"values": [0.1, 0.01]},
    "weight": {"values": [1, 0.1, 10]},
}
MODULAR = {
    "dataset": {"value": 0},
    "method": {"value": "ModularSystem"},
    "backbone": {"value": "runs/sweeps/backbone/best.yaml"},
    "module": {"parameters": {"weight": {"values": [1, 0.1]}, "lr": {"values": [0.01, 0.1]}, "level": {"value": "auto"}}},
    "epochs": {"distribution": "q_uniform", "min": 1, "max": 10, "q": 3},
    "seed": {"min": 0, "max": 2},
}
PART = {"dataset": {"value": 0}, "method": {"value": "Autoencoder"}, "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1}}
LIVE = {"name": "valid/accuracy", "goal": "maximize"}

# Valid searches of every kind.
SWEEPS = {
    "grid": sweep(CONTRASTIVE),
    "nested": sweep(MODULAR, metric={"name": "selection/elementals_accuracy", "goal": "maximize"}, run_cap=5),
    "dotted": sweep(
        {"module.lr": {"values": [1, 2]}, "module": {"value": {"level": 1, "weight": 1}}, "dataset": {"value": 0}, "backbone.lr": {"values": [3, 1]},
         "method": {"value": 4}}, description="keys before and inside of one another"),
    "methods": sweep(
        {"dataset": {"values": [0, 2]}, "method": {"values": ["Identity", "CrossEntropy"]}, "lr": {"value": 0.1}, "evaluation.images": {"value": 100}}
    ),
    "random": sweep(PART, method="random", run_cap=20, metric={"name": "selection/mse"}),
    "bayes": sweep(PART, method="bayes", run_cap=20, metric={"name": "selection/mse", "goal": "minimize"}, kind="sweep"),
    "hyperband": sweep(
        CONTRASTIVE, method="random", run_cap=4, metric=LIVE, early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2, "strict": False}
    ),
    "hyperband_s": sweep(CONTRASTIVE, metric=LIVE, early_terminate={"type": "hyperband", "max_iter": 27, "s": 2}),
}  # fmt: skip


def write(tmp_path, raw):
    path = tmp_path / "sweep.yaml"
    path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False))
    return path


def edited(raw, path, value):
    """A copy of a sweep with the value at a path of keys replaced; None drops the key."""
    copied = copy.deepcopy(raw)
    *inner, last = path
    where = copied
    for key in inner:
        where = where[key]
    if value is None:
        del where[last]
    else:
        where[last] = value
    return copied
