"""The numbers of a run as a whole, as the results table and W&B have them: parameters and costs, summed over what a system rests on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from train.entry import Experiment, Trained
from train.run import read_json

COSTS = ("image_steps", "search_trials", "train_seconds")
# All of them, in the table's order.
FACTS = ("trained_parameters", "total_parameters", "best_epoch", *COSTS)


def prerequisites(experiment: Experiment) -> dict[str, Experiment]:
    """All experiments on which one rests, by hash."""
    found: dict[str, Experiment] = {}
    for part in experiment.requires():
        found |= {part.hash: part} | prerequisites(part)
    return found


class DoneFiles:
    """The done.json of run directories, each read once; empty where there is none."""

    def __init__(self) -> None:
        self._read: dict[Path, dict[str, Any]] = {}

    def of(self, directory: Path) -> dict[str, Any]:
        if directory not in self._read:
            self._read[directory] = read_json(directory / "done.json") or {}
        return self._read[directory]


def run_facts(experiment: Experiment, directory: Path, parameters: Mapping[str, int], done: DoneFiles) -> dict[str, float]:
    """The numbers of a run in `directory` by metric: trained_parameters, total_parameters, best_epoch, and the costs.

    `parameters` are those of its evaluation, empty where it has none; a part then has the parameters that it trained. The costs of a system that
    trains nothing are the sums over its distinct prerequisites, which lie beside it; a sum is left out where the record of a part is gone.
    """
    own = done.of(directory)
    if isinstance(experiment, Trained):
        counted = parameters or ({"trained_parameters": own["parameters"]} if "parameters" in own else {})
        return {**counted, **{key: own[key] for key in ("best_epoch", *COSTS) if key in own}}
    root = directory.parent.parent
    parts = [own, *(done.of(root / part.place) for part in prerequisites(experiment).values())]
    return {**parameters, **{key: sum(part.get(key, 0) for part in parts) for key in COSTS if all(key in part for part in parts[1:])}}
