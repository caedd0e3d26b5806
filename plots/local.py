"""Finished runs as run directories hold them: those of a list, or all in a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.table import read_table
from errors import InputError
from plots.records import Found, Record, identify
from train.analysed import analyses_of
from train.entry import Experiment
from train.evaluations import Tested, evaluation_path, read_evaluation
from train.facts import DoneFiles, run_facts
from train.lists import read
from train.run import read_json, read_jsonl, state


def find_in_list(path: Path, overrides: Mapping[str, Any]) -> Found:
    """The runs of a YAML list, whose entries take the overrides, where the suite keeps them."""
    runs, missing = [], []
    asked = {entry.experiment.hash: entry.experiment for entry in read(path, overrides)}
    done = DoneFiles()
    for experiment in asked.values():
        found = state(experiment)
        if found.name != "done":
            missing.append(f"{experiment.dataset}/{experiment.name} ({found.name}{': ' if found.detail else ''}{found.detail})")
        if found.name in ("done", "trained"):
            file = evaluation_path(experiment)
            tested = (read_evaluation(file),) if experiment.is_system and file.exists() else ()
            runs.append(record(experiment, experiment.directory, tested, done))
    return Found(str(path), tuple(runs), tuple(missing), asked=frozenset(asked))


def run_directories(path: Path) -> list[Path]:
    """The run directory that a folder is, or those one or two folders down."""
    if (path / "experiment.json").exists():
        return [path]
    return sorted({p.parent for depth in ("*", "*/*") for p in path.glob(f"{depth}/experiment.json")})


def find_in_folder(path: Path) -> Found:
    """The runs in a folder, built again from their experiment.json.

    Of several evaluations on one split at the same severities the largest counts, of equals the newest. InputError where there is no run.
    """
    directories = run_directories(path)
    if not directories:
        raise InputError(f"{path}: holds no run (no experiment.json in it, one or two folders down, and no W&B file)")
    runs, missing, asked = [], [], set()
    smaller: list[Path] = []
    done = DoneFiles()
    for directory in directories:
        try:
            experiment = read_experiment(directory)
        except InputError as error:
            missing.append(str(error))
            asked.add(str(directory))
            continue
        asked.add(experiment.hash)
        if not (directory / "done.json").exists():
            failure = read_json(directory / "failed.json")
            missing.append(f"{directory} ({failure['error'].removeprefix(f'{experiment.name}: ') if failure else 'not finished'})")
            continue
        files = sorted((directory / "evaluation").glob("*.h5"), key=lambda file: (file.stat().st_mtime_ns, file.name))
        largest, passed, unread = choose(files)
        smaller += passed
        missing += unread
        if experiment.is_system and not files:
            missing.append(f"{directory} (trained: evaluation missing)")
        runs.append(record(experiment, directory, largest, done))
    return Found(str(path), tuple(runs), tuple(missing), frozenset(smaller), frozenset(asked))


def choose(files: list[Path]) -> tuple[tuple[Tested, ...], list[Path], list[str]]:
    """Of evaluation files, the oldest first, the largest on each split at each severities; the others; and what cannot be read, in words."""
    largest: dict[tuple[str, str], Tested] = {}
    passed: list[Path] = []
    unread: list[str] = []
    for file in files:
        try:
            tested = read_evaluation(file)
        except InputError as error:
            unread.append(str(error))
            continue
        key = tested.split, str(tested.severities)
        known = largest.get(key)
        if known is not None and known.size > tested.size:
            passed.append(file)
            continue
        passed += [known.path] if known is not None and known.path is not None else []
        largest[key] = tested
    return tuple(largest.values()), passed, unread


def record(experiment: Experiment, directory: Path, tested: tuple[Tested, ...], done: DoneFiles) -> Record:
    """The record of a finished run."""
    parameters: dict[str, int] = {}
    for found in tested:
        parameters = {"trained_parameters": found.trained_parameters, "total_parameters": found.total_parameters}
    facts = run_facts(experiment, directory, parameters, done)
    analyses = {name: read_table(path) for name, path in analyses_of(experiment, directory).items()}
    return Record(experiment, tuple(read_jsonl(directory / "metrics.jsonl")), facts, tested, directory, analyses)


def read_experiment(directory: Path) -> Experiment:
    """The experiment that a run directory holds; InputError where its file is damaged, or not of this version or of present recipes."""
    path = directory / "experiment.json"
    written = read_json(path)
    study = written.get("experiment", {}).get("study", "") if isinstance(written, dict) else ""
    return identify(written if isinstance(written, dict) else {}, str(directory), study=study)
