"""Runs as W&B logged them, from its offline files or from a server, and the records that they tell."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.compositions import compositions
from errors import InputError
from plots.records import Found, Record, identify
from train.evaluations import Tested, full_names
from train.subject import ANALYSES, row_of, unpack


@dataclass(frozen=True)
class LoggedRun:
    """A W&B run: what the client was told of it. `stamp` changes whenever the server's side of it does."""

    id: str
    name: str = ""
    state: str = ""
    group: str = ""
    sweep: str = ""
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    stamp: str = ""


@dataclass(frozen=True)
class Wanted:
    """Which of W&B's runs are meant: those of a sweep, of a group, with all of these tags; empty: whatever."""

    sweep: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()

    def takes(self, run: LoggedRun) -> bool:
        return self.sweep in ("", run.sweep) and self.group in ("", run.group) and {*self.tags} <= {*run.tags}


def find_in_logged(source: str, runs: Iterable[LoggedRun]) -> Found:
    """The records that W&B runs tell; of several of one experiment the last."""
    records: dict[str, Record] = {}
    missing, asked = [], set()
    for run in runs:
        if is_trial_of_parts(run):
            continue
        try:
            record = record_of(run)
        except InputError as error:
            missing.append(str(error))
            asked.add(run.id)
            continue
        key = record.experiment.hash
        asked.add(key)
        if run.state != "finished":
            missing.append(f"{record.experiment.name} ({run.state or 'not ended'} in W&B)")
            continue
        if record.experiment.is_system and not record.tested and not is_trial(run):
            missing.append(f"{record.experiment.name} (trained: evaluation missing in W&B)")
        if record.tested or not (key in records and records[key].tested):
            records[key] = record
    return Found(source, tuple(records.values()), tuple(missing), asked=frozenset(asked))


def is_trial(run: LoggedRun) -> bool:
    """Whether a W&B run is a trial of a search, which is never tested on compositions."""
    return "experiments" in run.config


def is_trial_of_parts(run: LoggedRun) -> bool:
    """Whether a W&B run is a trial that trains no network of its own, so that it tells of no experiment."""
    return is_trial(run) and not run.config.get("identity")


def record_of(run: LoggedRun) -> Record:
    """The record that a W&B run tells; InputError where it is no run of this suite, or lacks something."""
    identity = run.config.get("identity")
    if not identity:
        raise InputError(
            f"{run.name or run.id} (recorded by an older version, which named no experiment; from its run directory it is sent anew by: python -m train sync CONFIG)"
        )
    fields = {key: run.config[key] for key in ("study", "evaluation") if key in run.config}
    experiment = identify(identity, run.name or run.id, **fields)
    epochs = [row for values in run.history if (row := row_of(values))]
    facts = {key.removeprefix("facts/"): value for key, value in run.summary.items() if key.startswith("facts/")}
    tested = (read_tested(run, experiment.testing.compositions, facts),) if "evaluation/ids" in run.summary else ()
    analyses = {key.removeprefix(ANALYSES): unpack(str(value)) for key, value in run.summary.items() if key.startswith(ANALYSES)}
    return Record(experiment, tuple(epochs), facts, tested, analyses=analyses)


def read_tested(run: LoggedRun, spec: Any, facts: Mapping[str, float]) -> Tested:
    """The evaluation in a W&B run's summary; InputError where compositions are missing there."""
    names = full_names(tuple("-".join(names) for names in compositions(spec)))
    keys = [f"composition/{name}" for name in names]
    lacking = sum(f"{key}/{metric}" not in run.summary for key in keys for metric in ("accuracy", "loss"))
    if lacking:
        raise InputError(f"{run.name} ({lacking} of {2 * len(names)} values of compositions missing in W&B)")
    accuracy, loss = (np.array([run.summary[f"{key}/{metric}"] for key in keys], np.float64) for metric in ("accuracy", "loss"))
    facts_of = {key.removeprefix("evaluation/"): value for key, value in run.summary.items() if key.startswith("evaluation/")}
    return Tested(
        names, accuracy, loss, str(facts_of["split"]), json.loads(facts_of["severities"]),
        int(facts["trained_parameters"]), int(facts["total_parameters"]), int(facts_of["images"]), str(facts_of["ids"]),
    )  # fmt: skip
