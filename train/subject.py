"""What a W&B run tells, read from the files of what it is about. Here: an experiment; a trial of a search is in train/sweep/trials.py."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.compositions import n_corruptions
from errors import COME_AGAIN
from train.entry import Experiment
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


def values_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl as W&B's values: training curves, or those of a level of the search."""
    keys = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
    curves = {key.replace("_", "/", 1): row[key] for key in keys if key in row}
    if row["stage"] != "train":
        curves = {f"search/{row['stage'].removeprefix('search-')}/{key}": value for key, value in curves.items()}
    return curves | {"epoch": row["epoch"], "lr": row["lr"], "images_per_second": row["images_per_second"]}


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
            "config": resolved(self.experiment),
        }

    def steps(self) -> list[dict[str, Any]]:
        steps = [values_of(row) for row in read_jsonl(self.directory / "metrics.jsonl")]
        if self.tested:
            values, table = accuracies(self.experiment)
            steps += [values, {"compositions": table}]
        return steps

    def n_steps(self) -> int:
        return len(read_jsonl(self.directory / "metrics.jsonl")) + (2 if self.tested else 0)

    def summary(self) -> dict[str, Any]:
        facts = read_json(self.directory / "done.json") or {}
        return facts | (accuracies(self.experiment)[0] if self.tested else {})

    @property
    def tested(self) -> bool:
        return self.experiment.is_system and evaluated(self.experiment)

    def contents(self) -> dict[str, Any]:
        return {
            "rows": len(read_jsonl(self.directory / "metrics.jsonl")),
            "done": (self.directory / "done.json").exists(),
            "evaluation": self.experiment.testing.key if self.tested else "",
        }

    def exit_code(self) -> int:
        return {"done": 0, "trained": 0, "failed": 1}.get(state(self.experiment).name, COME_AGAIN)

    def reason_to_leave(self) -> str:
        owner = holder(self.directory / "lock")
        if owner is not None:
            return f"left out, {describe(owner)} is at work on it"
        found = state(self.experiment)
        return f"left out, {found.name} {found.detail}".rstrip() if found.name in ("new", "stale") else ""


def run_id(experiment: Experiment) -> str:
    """The id of an experiment's W&B run."""
    return experiment.hash[:16]


def read_compositions(experiment: Experiment) -> list[tuple[str, int, float, float, int]]:
    """A finished evaluation: of every composition the name, the number of corruptions, accuracy, loss, and the number of images."""
    import h5py

    with h5py.File(experiment.directory / "evaluation" / f"{experiment.testing.key}.h5") as file:
        names = [name.decode() for name in file["composition"][()]]
        found, losses = file["accuracy"][()].tolist(), file["loss"][()].tolist()
        n = int(file.attrs["n"])
    return [(name, n_corruptions(tuple(name.split("-"))), *values, n) for name, *values in zip(names, found, losses)]


def accuracies(experiment: Experiment) -> tuple[dict[str, float], Table]:
    """A finished evaluation: the accuracy of every composition and the means by number of corruptions, and one table."""
    rows = read_compositions(experiment)
    values = {f"composition/{name}/accuracy": accuracy for name, _, accuracy, *_ in rows}
    for count in sorted({own for _, own, *_ in rows}):
        group = [accuracy for _, own, accuracy, *_ in rows if own == count]
        values[f"corruptions/{count}/accuracy"] = sum(group) / len(group)
    values["compositions/accuracy"] = sum(accuracy for _, _, accuracy, *_ in rows) / len(rows)
    return values, Table(["composition", "n_corruptions", "accuracy", "loss", "n"], [list(row) for row in rows])
