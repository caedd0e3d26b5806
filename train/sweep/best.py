"""What came out of a search: the winner as an entry, all trials as CSV, and the winner as a list with all seeds.

The winner is the trial with the best value of the search's metric among those that were done; of equals the one whose values come first in
canonical JSON, so that it does not depend on who finished first.
"""

import argparse
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from errors import InputError, RunError
from train.entry import ROOT
from train.fields import FieldError
from train.run import write_atomically
from train.sweep.entry import class_of, experiments_of
from train.sweep.metrics import Metric, metrics_of
from train.sweep.trials import read_trials, sweep_folder, sweeps_root

# How a run's state at W&B is called here, where its own record does not say so.
AT_WANDB = {"finished": "done", "preempted": "stopped", "preempting": "stopped", "killed": "stopped", "pending": "not begun"}


@dataclass(frozen=True)
class Result:
    """A trial as it ended: searched and fixed values by dotted name, its entry, and the metric (None where it was not done)."""

    id: str
    state: str
    values: dict[str, Any]
    entry: dict[str, Any]
    value: float | None
    seconds: float | None = None
    experiments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """A search and its trials."""

    name: str
    source: str
    metric: Metric
    results: list[Result]
    # The parameters that are searched, and how many trials there are to be; empty and None where that is not known.
    searched: tuple[str, ...] = ()
    expected: int | None = None

    @property
    def over(self) -> int:
        """How many trials have come to a result."""
        return sum(result.state in ("done", "diverged", "pruned") for result in self.results)

    @property
    def provisional(self) -> str:
        """What to know of a winner that was found before the end; else empty."""
        if self.expected is None or self.over >= self.expected:
            return ""
        return f"PROVISIONAL: {self.over} of {self.expected} trials have come to a result"

    def winner(self) -> Result:
        """The best trial; RunError where none was done."""
        sign = -1 if self.metric.goal == "maximize" else 1
        done = [
            (sign * result.value, json.dumps(result.values, sort_keys=True), result) for result in self.results if result.value is not None
        ]
        if not done:
            raise RunError(f"{self.source}: none of {len(self.results)} trials is done, so there is no best one")
        return min(done, key=lambda item: item[:2])[2]


def plain(values: Mapping[str, Any]) -> str:
    """Values as canonical JSON in which 1 and 1.0, as a server returns it, are the same."""
    numbers = {key: float(value) if isinstance(value, int) and not isinstance(value, bool) else value for key, value in values.items()}
    return json.dumps(numbers, sort_keys=True)


def read_outcome(source: str) -> Outcome:
    """The search that a source names: a W&B sweep (ENTITY/PROJECT/ID), or the file of a local one. InputError where there is none."""
    if Path(source).is_dir():
        raise InputError(f"{source}: is a folder; name the file of its search, or a W&B sweep as ENTITY/PROJECT/ID")
    if Path(source).exists() or source.endswith((".yaml", ".yml")):
        return local_outcome(source)
    try:
        return server_outcome(source)
    except InputError as error:
        raise InputError(f"{source}: no such file; and as a W&B sweep: {str(error).removeprefix(f'{source}: ')}") from None


def local_outcome(path: str) -> Outcome:
    from train.sweep.file import read_sweep
    from train.sweep.local import study_folder

    sweep = read_sweep(path)
    folder = study_folder(sweep)
    results = [
        Result(
            trial.id, trial.state, trial.values, trial.entry, finite(trial.metrics.get(sweep.metric.name)) if trial.state == "done" else None,
            trial.seconds, tuple(trial.experiments),
        )
        for trial in read_trials(folder)
    ]  # fmt: skip
    if not results:
        others = [other.name for other in folder.parent.glob("local-*/")]
        was = f"as it is now (but with other contents: {', '.join(others)})" if others else f"({folder} has no trials)"
        raise InputError(f"{path}: this search was not run {was}; run it with: python -m train.sweep run {path}")
    results.sort(key=lambda result: int(result.id))
    return Outcome(sweep.name, path, sweep.metric, results, tuple(sweep.searched), sweep.trials)


def server_outcome(path: str) -> Outcome:
    from train.sweep.file import validated
    from train.sweep.server import read_server_sweep

    sweep = read_server_sweep(path)
    metric, entries = sweep.config.get("metric", {}).get("name"), [run["config"].get("entry") for run in sweep.runs]
    methods = {entry["method"] for entry in entries if entry}
    if not methods:
        here = [trial for trial in read_trials(sweep_folder(path.rpartition("/")[2])) if trial.state == "done"]
        sync = f"; {len(here)} ran offline: send them with: python -m train sync {path}" if here else ""
        raise RunError(f"{path}: none of its {len(sweep.runs)} runs is a trial that began{sync}")
    allowed = metrics_of(class_of(min(methods)))
    if metric not in allowed:
        raise InputError(f"{path}: its metric is {metric!r}; a search selects by {', '.join(allowed)}")
    results = []
    for run, entry in zip(sweep.runs, entries):
        values = {key: value for key, value in run["config"].items() if key not in ("entry", "experiments")}
        state = run["summary"].get("state") if run["state"] in ("finished", "failed") else None
        state = state or AT_WANDB.get(run["state"], run["state"])
        value = finite(run["summary"].get(metric)) if run["state"] == "finished" and entry else None
        results.append(
            Result(run["id"], state, values, entry or {}, value, run["summary"].get("seconds"), tuple(run["config"].get("experiments", ())))
        )
    outcome = Outcome(str(sweep.config.get("name") or path.rpartition("/")[2]), path, allowed[metric], results)
    with suppress(FieldError):
        # Of a file of ours; a user may have registered another.
        file = validated(Path(path), sweep.config)
        outcome = replace(outcome, searched=tuple(file.searched), expected=file.trials)
    return outcome


def finite(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def write_best(sources: Sequence[str], out: str | None, seeds: Sequence[int]) -> None:
    """Writes best.yaml for every source, and for the last one (which may rest on the others) list.yaml, and trials.csv of all."""
    outcomes = [read_outcome(source) for source in sources]
    if out and len(sources) > 1:
        raise InputError("--out: goes with one source")
    for number, outcome in enumerate(outcomes[:-1], 1):
        path = f"runs/sweeps/{outcome.name}/best.yaml"
        if not any(path in result.values.values() for later in outcomes[number:] for result in later.results):
            raise InputError(
                f"{outcomes[-1].source}: does not rest on {outcome.source}: no trial names {path}; give first what the last one rests on"
            )
    folders = [Path(out) if out else sweeps_root() / outcome.name for outcome in outcomes]
    for outcome, folder in zip(outcomes, folders):
        winner = outcome.winner()
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "best.yaml", best_text(outcome, winner))
        counts = ", ".join(
            f"{sum(r.state == state for r in outcome.results)} {state}" for state in dict.fromkeys(r.state for r in outcome.results)
        )
        point = ", ".join(f"{key}={winner.values[key]}" for key in varied(outcome))
        print(f"{outcome.name}: {len(outcome.results)} trials ({counts}); best: {point}: {outcome.metric.name} {winner.value:.6g}")
        if outcome.provisional:
            print(f"  {outcome.provisional}; the same command again, when the search is over, finds the winner of all")
        print(f"  {shown(folder / 'best.yaml')}")
    write_text(folders[-1] / "list.yaml", list_text(outcomes[-1], folders[-1] / "list.yaml", seeds))
    write_text(folders[-1] / "trials.csv", csv_text(outcomes))
    print(f"  {shown(folders[-1] / 'trials.csv')}: all trials")
    print(
        f"  {shown(folders[-1] / 'list.yaml')}: with {len(seeds)} seeds; run it with: bash submit_array.sh {shown(folders[-1] / 'list.yaml')}"
    )


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds from a command line, with commas between them; ArgumentTypeError where they are none."""
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be whole numbers with commas between them") from None
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} must be different whole numbers from 0")
    return seeds


def shown(path: Path) -> Path:
    """A path as a user at the project's root types it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def write_text(path: Path, text: str) -> None:
    write_atomically(path, text.encode())


def varied(outcome: Outcome) -> list[str]:
    """The values in which trials differ."""
    keys = dict.fromkeys(key for result in outcome.results for key in result.values)
    found = [key for key in keys if len({json.dumps(result.values.get(key), sort_keys=True) for result in outcome.results}) > 1]
    return list(outcome.searched) or found or ["method"]


def best_text(outcome: Outcome, winner: Result) -> str:
    """The winner as a file of one entry."""
    entry = lean(winner.entry)
    several = "; it stands for the parts of all corruptions, as list.yaml has them" if len(experiments_of(winner.entry)) > 1 else ""
    lines = [
        f"# The winner of {outcome.name} ({outcome.source}): trial {winner.id} of {outcome.expected or len(outcome.results)}{several}.{note(outcome)}",
        f"# {outcome.metric.name} {winner.value:.6g}, on validation images.",
        f"# Another search names it as a prerequisite: KEY: {{value: runs/sweeps/{outcome.name}/best.yaml}}",
        in_a_line(entry),
    ]
    return "\n".join(lines) + "\n"


def note(outcome: Outcome) -> str:
    return f" {outcome.provisional}." if outcome.provisional else ""


def list_text(outcome: Outcome, path: Path, seeds: Sequence[int]) -> str:
    """The winner as a list: its experiments with every seed, ready to be submitted."""
    winner = outcome.winner()
    lines = [
        f"# bash submit_array.sh {shown(path)}",
        f"# The winner of {outcome.name} ({outcome.source}) with {len(seeds)} seeds; prerequisites come by themselves.{note(outcome)}",
        f"# It was selected by {outcome.metric.name} {winner.value:.6g}, on validation images, with seed {winner.entry.get('seed', 0)}.",
    ]
    for seed in seeds:
        for experiment in experiments_of(unseeded(winner.entry) | {"seed": seed}):
            one = {"corruption": experiment.corruption} if hasattr(experiment, "corruption") else {}
            lines.append(in_a_line(lean(unseeded(winner.entry) | one | {"seed": seed})))
    return "\n".join(lines) + "\n"


def in_a_line(entry: Mapping[str, Any]) -> str:
    return f"- {yaml.safe_dump(dict(entry), default_flow_style=True, sort_keys=False, width=10_000).strip()}"


def unseeded(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry whose seed, and its prerequisites', is not said."""
    return {key: unseeded(value) if isinstance(value, Mapping) else value for key, value in entry.items() if key != "seed"}


def lean(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same experiment without the trial's evaluation and without what its prerequisites would inherit anyway."""
    slim = {key: value for key, value in entry.items() if key != "evaluation"}
    order = ("dataset", "method", "seed")
    slim = {key: slim[key] for key in (*(k for k in order if k in slim), *(k for k in slim if k not in order))}
    wanted = hashes(slim)
    for key, part in list(slim.items()):
        if isinstance(part, Mapping):
            for name in list(part):
                candidate = slim | {key: {k: v for k, v in slim[key].items() if k != name}}
                if hashes(candidate) == wanted:
                    slim = candidate
    return slim


def hashes(entry: Mapping[str, Any]) -> list[str] | None:
    """The hashes of an entry's experiments; None where it is no experiment."""
    try:
        return [experiment.hash for experiment in experiments_of(entry)]
    except FieldError:
        return None


def csv_text(outcomes: Sequence[Outcome]) -> str:
    """All trials: search, trial, state, every value, metric, its value, seconds, run directories."""
    keys = list(dict.fromkeys(key for outcome in outcomes for result in outcome.results for key in result.values))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["search", "trial", "state", *keys, "metric", "value", "seconds", "experiments"])
    for outcome in outcomes:
        for result in outcome.results:
            value = "" if result.value is None else repr(result.value)
            seconds = "" if result.seconds is None else f"{result.seconds:.1f}"
            given = [cell(result.values.get(key, "")) for key in keys]
            writer.writerow(
                [outcome.name, result.id, result.state, *given, outcome.metric.name, value, seconds, " ".join(result.experiments)]
            )
    return out.getvalue()


def cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
