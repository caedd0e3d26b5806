"""What a W&B run tells, read from the files of what it is about. Here: an experiment; a trial of a search is in train/sweep/trials.py."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.table import COLUMNS, TABLE, Row, read_table
from data.compositions import n_corruptions
from errors import COME_AGAIN
from info_dicts import METRICS
from train.analysed import analyses_of
from train.entry import Experiment
from train.evaluations import Tested, evaluation_path, read_evaluation
from train.facts import DoneFiles, run_facts
from train.lists import Entry, label
from train.lock import describe, holder
from train.run import evaluated, read_json, read_jsonl, resolved, state


@dataclass(frozen=True)
class Table:
    """A table that is logged as one step."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Subject(ABC):
    """What a W&B run is about: its id, the directory that holds its `wandb/`, and what its files say as of now."""

    id: str
    directory: Path
    label: str
    # The id of the W&B sweep that it belongs to, if any.
    sweep = ""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What wandb.init is told: group, job_type, name, tags, config."""

    @abstractmethod
    def steps(self) -> list[dict[str, Any]]:
        """The values of every step, in order."""

    def n_steps(self) -> int:
        """How many steps there are."""
        return len(self.steps())

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """The values of the run's summary."""

    @abstractmethod
    def contents(self) -> dict[str, Any]:
        """What the files hold, in a few words: a W&B record made when they held the same is complete."""

    @abstractmethod
    def exit_code(self) -> int:
        """How its W&B run ends, as the files are now: finished (0), failed (1), or to go on (COME_AGAIN)."""

    @abstractmethod
    def reason_to_leave(self) -> str:
        """Why it cannot be sent to W&B now; empty where it can. InputError where files are damaged."""


# Raised when a W&B run is to hold more: records of before count as incomplete, and `python -m train sync` sends them again.
FORM = 2
# Accuracy is the first of the metrics.
CURVES = ("train_loss", "train_accuracy", "valid_loss", *(f"valid_{name}" for name in METRICS.values()))
# Of the summary's keys that hold an analysis.
ANALYSES = "analysis/"
PLAIN = ("epoch", "iteration", "lr", "images_per_second", "layers_every", "sparsity")


def values_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl as W&B's values: training curves, or those of a level of the search; of counterfactual sets `counterfactual/<set>/<metric>`, of layers `layers/<split>/<layer>/<metric>`, of the graph of weights `graph/<metric>`."""
    curves = {key.replace("_", "/", 1): row[key] for key in CURVES if key in row}
    if row["stage"] != "train":
        curves = {f"search/{row['stage'].removeprefix('search-')}/{key}": value for key, value in curves.items()}
    counterfactual = {
        f"counterfactual/{name}/{metric}": value for name, own in row.get("counterfactual", {}).items() for metric, value in own.items()
    }
    layers = {
        f"layers/{split}/{layer}/{metric}": value
        for split, found in row.get("layers", {}).items()
        for layer, own in found.items()
        for metric, value in own.items()
    }
    graph = {f"graph/{metric}": value for metric, value in row.get("graph", {}).items()}
    return curves | counterfactual | layers | graph | {key: row[key] for key in PLAIN if key in row}


def row_of(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of metrics.jsonl that W&B's values of a step tell, as far as `values_of` tells it; None where they are no epoch's."""
    stage = "train"
    found: dict[str, Any] = {}
    counterfactual: dict[str, dict[str, Any]] = {}
    layers: dict[str, dict[str, dict[str, Any]]] = {}
    graph: dict[str, Any] = {}
    for key, value in values.items():
        words = key.split("/")
        if words[0] == "counterfactual" and len(words) == 3:
            counterfactual.setdefault(words[1], {})[words[2]] = value
        elif words[0] == "layers" and len(words) == 4:
            layers.setdefault(words[1], {}).setdefault(words[2], {})[words[3]] = value
        elif words[0] == "graph" and len(words) == 2:
            graph[words[1]] = value
        elif "_".join(words[-2:]) in CURVES:
            found["_".join(words[-2:])] = value
            stage = f"search-{words[1]}" if words[0] == "search" else stage
    if not found and not counterfactual:
        return None
    found |= (
        ({"counterfactual": counterfactual} if counterfactual else {})
        | ({"layers": layers} if layers else {})
        | ({"graph": graph} if graph else {})
    )
    return {"stage": stage} | found | {key: values[key] for key in PLAIN if key in values}


class ExperimentSubject(Subject):
    """An experiment: a step for each epoch, then the accuracies of its evaluation and their table. The run's id comes from its hash."""

    def __init__(self, experiment: Experiment, tags: Sequence[str] = (), index: int | None = None):
        self.experiment, self.tags = experiment, tags
        self.id, self.directory = run_id(experiment), experiment.directory
        self.label = label(Entry(index, experiment))

    def arguments(self) -> dict[str, Any]:
        return {
            "group": " ".join(filter(None, [self.experiment.dataset, self.experiment.study])),
            "job_type": self.experiment.method,
            "name": self.experiment.name,
            "tags": sorted({*self.experiment.tags, *self.tags}),
            "config": resolved(self.experiment) | {"identity": read_identity(self.directory)},
        }

    def steps(self) -> list[dict[str, Any]]:
        steps = [values_of(row) for row in read_jsonl(self.directory / "metrics.jsonl")]
        if self.tested:
            values, table = accuracies(read_evaluation(evaluation_path(self.experiment)))
            steps += [values, {"compositions": table}]
        return steps + [{f"analyses/{name}": Table(COLUMNS, [[*row] for row in read_table(path)])} for name, path in self.analyses()]

    def analyses(self) -> list[tuple[str, Path]]:
        """The finished analyses of layers, the first finished first, so that a later one is a later step."""
        found = analyses_of(self.experiment).items()
        return sorted(found, key=lambda own: ((own[1] / TABLE).stat().st_mtime_ns, own[0]))

    def n_steps(self) -> int:
        return len(read_jsonl(self.directory / "metrics.jsonl")) + (2 if self.tested else 0) + len(self.analyses())

    def summary(self) -> dict[str, Any]:
        done = read_json(self.directory / "done.json")
        if done is None:
            return {}
        tested = read_evaluation(evaluation_path(self.experiment)) if self.tested else None
        facts = facts_of(self.experiment, self.directory, tested)
        analyses = {f"{ANALYSES}{name}": pack(read_table(path)) for name, path in self.analyses()}
        return done | facts | (accuracies(tested)[0] | setting_of(tested) if tested else {}) | analyses

    @property
    def tested(self) -> bool:
        return self.experiment.is_system and evaluated(self.experiment)

    def contents(self) -> dict[str, Any]:
        return {
            "form": FORM,
            "rows": len(read_jsonl(self.directory / "metrics.jsonl")),
            "done": (self.directory / "done.json").exists(),
            "evaluation": self.experiment.testing.key if self.tested else "",
            # Left out where there are none, so that records of before stay complete.
            **({"analyses": [f"{name}/{path.name}" for name, path in self.analyses()]} if self.analyses() else {}),
        }

    def exit_code(self) -> int:
        return {"done": 0, "trained": 0, "failed": 1}.get(state(self.experiment).name, COME_AGAIN)

    def reason_to_leave(self) -> str:
        owner = holder(self.directory / "lock")
        if owner is not None:
            return f"left out, {describe(owner)} is at work on it"
        found = state(self.experiment)
        return f"left out, {found.name} {found.detail}".rstrip() if found.name in ("new", "stale") else ""


def pack(rows: Sequence[Row]) -> str:
    """A table of an analysis as one value of the summary: JSON of its columns, in which words stand as numbers into a list of them."""
    packed: dict[str, Any] = {}
    for column, own in zip(COLUMNS, zip(*rows)):
        places = {word: place for place, word in enumerate(dict.fromkeys(own))}
        packed[column] = own if column == "value" else [list(places), [places[word] for word in own]]
    return json.dumps(packed, separators=(",", ":"))


def unpack(packed: str) -> list[Row]:
    """The rows of `pack`."""
    columns = json.loads(packed)
    values = [
        columns[name] if name == "value" else [columns[name][0][place] for place in columns[name][1]] for name in COLUMNS if name in columns
    ]
    return [Row(*row) for row in zip(*values)]


def run_id(experiment: Experiment) -> str:
    """The id of an experiment's W&B run."""
    return experiment.hash[:16]


def read_identity(directory: Path) -> dict[str, Any]:
    """What names the experiment of a run directory, and on what its results rest, from its experiment.json; empty where there is none."""
    written = read_json(directory / "experiment.json") or {}
    return {key: written[key] for key in ("canonical", "hash", "recipes", "data") if key in written}


def facts_of(experiment: Experiment, directory: Path, tested: Tested | None) -> dict[str, float]:
    """The numbers of a run as a whole, as its summary has them."""
    parameters = {"trained_parameters": tested.trained_parameters, "total_parameters": tested.total_parameters} if tested else {}
    return {f"facts/{key}": value for key, value in run_facts(experiment, directory, parameters, DoneFiles()).items()}


def setting_of(tested: Tested) -> dict[str, Any]:
    """What an evaluation was made on, as the summary has it."""
    facts = {"split": tested.split, "images": tested.images, "ids": tested.ids, "severities": json.dumps(tested.severities)}
    return {f"evaluation/{key}": value for key, value in facts.items()}


def accuracies(tested: Tested) -> tuple[dict[str, float], Table]:
    """A finished evaluation: accuracy and loss of every composition and the mean accuracies by number of corruptions, and one table."""
    found = list(zip(tested.names, map(n_corruptions_of, tested.names), tested.accuracy_c.tolist(), tested.loss_c.tolist()))
    values = {f"composition/{name}/accuracy": accuracy for name, _, accuracy, _ in found}
    values |= {f"composition/{name}/loss": loss for name, *_, loss in found}
    for count in sorted({own for _, own, *_ in found}):
        group = [accuracy for _, own, accuracy, _ in found if own == count]
        values[f"corruptions/{count}/accuracy"] = sum(group) / len(group)
    values["compositions/accuracy"] = sum(accuracy for _, _, accuracy, _ in found) / len(found)
    return values, Table(["composition", "n_corruptions", "accuracy", "loss", "n"], [[*row, tested.images] for row in found])


def n_corruptions_of(name: str) -> int:
    """The number of corruptions of a composition in full names (Identity has 0)."""
    return n_corruptions(tuple(name.split("-")))
