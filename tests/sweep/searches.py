"""Sweep files on tiny data, and the commands that a user gives, for the tests of searches."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from train.entry import ROOT

LRS = [0.0001, 0.001, 0.01, 0.1, 1.0, 0.3]


def one_step(folder: Path, name: str = "one", **more: Any) -> Path:
    """A search for the learning rate of a network that is trained for 3 epochs; `more` are parameters, None leaves one out."""
    fixed = {"dataset": "FashionMNIST-mini", "method": "Identity", "seed": 3, "epochs": 3, "evaluation.images": 50}
    return write(
        folder, name, "selection/clean_accuracy", {key: {"value": value} for key, value in fixed.items()} | {"lr": {"values": LRS}} | more
    )


def two_step(folder: Path, name: str = "two", first: str = "one", **more: Any) -> Path:
    """A search for the modules of the winner of another."""
    fixed = {"dataset": "FashionMNIST-mini", "method": "ModularSystem", "seed": 3, "epochs": 2, "evaluation.images": 50}
    fixed |= {"backbone": f"runs/sweeps/{first}/best.yaml", "module.level": 3}
    searched = {"module.lr": {"values": [0.0001, 0.01, 0.1]}, "module.weight": {"values": [0, 1]}}
    return write(folder, name, "selection/elementals_accuracy", {key: {"value": value} for key, value in fixed.items()} | searched | more)


def write(folder: Path, name: str, metric: str, parameters: dict[str, Any], command: tuple[str, ...] = ("python",), **more: Any) -> Path:
    goal = "maximize" if "accuracy" in metric else "minimize"
    sweep = {"name": name, "project": "palimpsest", "method": "grid", "metric": {"name": metric, "goal": goal}}
    sweep |= {"command": [*command, "-m", "tests.sweep.tiny", "trial", "${args}"], "parameters": parameters, **more}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def environment(runs: Path, **more: str) -> dict[str, str]:
    """The environment of a command: python from PATH is this one, on one thread."""
    folder = runs.parent / "client"
    folder.mkdir(exist_ok=True)
    surroundings = (
        os.environ
        | {"WANDB_DIR": str(folder)}
        | {"PALIMPSEST_RUNS": str(runs), "OMP_NUM_THREADS": "1", "TINY_TRAIN": "60", "OMP_WAIT_POLICY": "passive"}
    )
    return surroundings | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), **more}


def command(*words: object) -> list[str]:
    """`python -m train.sweep WORDS` on tiny data."""
    return [sys.executable, "-m", "tests.sweep.tiny", *map(str, words)]


def call(runs: Path, *words: object, code: int = 0, **more: str) -> str:
    """Runs `python -m train.sweep WORDS` and returns all that it says."""
    done = subprocess.run(
        command(*words), cwd=ROOT, env=environment(runs, **more), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == code, done.stdout
    return done.stdout
