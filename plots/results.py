"""Results as one tidy table: one row per value, whatever list or folder of runs they come from.

python -m plots.results configs/demo.yaml > results.csv              the runs of a list
python -m plots.results configs/demo.yaml --epochs=1 > results.csv   with the overrides that they were run with
python -m plots.results runs > results.csv                           every run in a folder, or one run directory
python -m plots.results configs/*.yaml > results.csv                 several lists or folders; equal runs once
"""

import ast
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.compositions import n_corruptions, parse
from errors import Arguments, InputError, report_errors
from train.build import build, experiment_class
from train.entry import Experiment, Trained
from train.lists import read, read_overrides
from train.run import read_json, read_jsonl, state

COLUMNS: dict[str, Any] = {
    "study": "str",
    "dataset": "str",
    "method": "str",
    "model": "str",
    "seed": "Int64",
    "run": "str",
    "split": "str",
    "epoch": "Int64",
    "step": "Int64",
    "layer": "str",
    "composition": "str",
    "condition": "str",
    "n_corruptions": "Int64",
    "metric": "str",
    "value": "float64",
}

# How columns are held while they are put together: whole numbers as floats, where NaN stands for none, but for seeds, which may exceed 2**53.
DTYPES: dict[str, Any] = {name: object if kind == "str" else np.float64 for name, kind in COLUMNS.items()} | {"seed": np.int64}

NAMED = 5  # missing runs: of more, the others are counted
COSTS = ("image_steps", "search_trials", "train_seconds")
# Keys of a row of metrics.jsonl -> (split, metric).
CURVES = {
    "train_loss": ("train", "loss"),
    "train_accuracy": ("train", "accuracy"),
    "valid_loss": ("valid", "loss"),
    "valid_accuracy": ("valid", "accuracy"),
    "lr": ("train", "lr"),
}


@dataclass(frozen=True)
class Record:
    """A finished run: its experiment, the directory it lies in, and the files of its evaluations."""

    experiment: Experiment
    directory: Path
    evaluations: tuple[Path, ...]


class Tested(NamedTuple):
    """An evaluation of a system on C compositions of N images: full names joined by '-', accuracies (C,) as fractions, mean losses (C,), ids (N,)."""

    names: tuple[str, ...]
    accuracy_c: NDArray[np.float64]
    loss_c: NDArray[np.float64]
    split: str
    severities: dict[str, int]
    trained_parameters: int
    total_parameters: int
    ids: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Compositions x images."""
        return len(self.names) * len(self.ids)

    @property
    def setting(self) -> tuple[Any, ...]:
        """What two evaluations on one data set must share to be comparable: split, severities, compositions and images."""
        return self.split, tuple(sorted(self.severities.items())), self.names, self.ids.tobytes()


@dataclass(frozen=True)
class Results:
    """The finished runs of a source, or of several, and what is missing there, in words.

    `smaller` are evaluations of a folder's runs that give way to larger ones; `asked` has a key for every run of the source.
    """

    source: str
    runs: tuple[Record, ...]
    missing: tuple[str, ...]
    smaller: frozenset[Path] = frozenset()
    asked: frozenset[str] = frozenset()

    @cached_property
    def table(self) -> pd.DataFrame:
        """The tidy table of all runs."""
        return tabulate(self.runs)

    @property
    def gaps(self) -> str:
        """What is missing, by name as far as a line holds it, and how many evaluations count for nothing; empty where nothing is missing."""
        named = [*self.missing[:NAMED], *([f"and {len(self.missing) - NAMED:,} more"] if len(self.missing) > NAMED else [])]
        n = len(self.smaller)
        return "; ".join([*named, *([f"{n:,} smaller evaluation{'' if n == 1 else 's'} left out"] if n else [])])

    @property
    def note(self) -> str:
        """The gaps with their source, in one line; empty where there are none."""
        return f"{self.source}: {'left out: ' if self.missing else ''}{self.gaps}" if self.gaps else ""

    def unfinished(self, figure: str) -> InputError:
        """The error of a figure that needs evaluations, where there are none."""
        n = len(self.asked)
        return InputError(
            f"{figure}: no finished run: none of the {n:,} run{'' if n == 1 else 's'} in {self.source} is trained and evaluated; run the list first with: "
            "python -m train CONFIG (a run with overrides is another experiment: repeat them here, e.g. --epochs=1, or plot runs/)"
        )


def load(*sources: str | Path, overrides: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The results of sources as one table with the columns of COLUMNS, empty (NA or '') where a column means nothing.

    A source is a YAML list, whose entries take `overrides`, or a run directory, or a folder of run directories. Accuracies are
    fractions. Rows per epoch: loss and accuracy (split train and valid) and lr; those of a level search have the level as `layer` and metrics
    that start with `search_`. Rows per composition: accuracy and loss. Rows per run: trained_parameters, total_parameters, image_steps, search_trials,
    best_epoch, train_seconds; a system that trains nothing itself has the sums of image_steps, search_trials and train_seconds over its distinct prerequisites.
    What is not finished, and how many smaller evaluations of a folder's runs are left out, stands on stderr in one line. InputError where a source cannot be read.
    """
    results = find(*sources, overrides=overrides)
    if results.note:
        print(results.note, file=sys.stderr)
    return results.table


def find(*sources: str | Path, overrides: Mapping[str, Any] | None = None) -> Results:
    """The finished runs of YAML lists, run directories and folders of run directories, equal ones once.

    A run that several sources evaluate differently has all of these evaluations, but one for each split and severities: the last source's.
    """
    found = [_find_in(Path(source), overrides or {}) for source in sources]
    runs: dict[str, Record] = {}
    for record in (record for results in found for record in results.runs):
        key = record.experiment.hash
        runs[key] = _join(runs[key], record) if key in runs else record
    missing = dict.fromkeys(words for results in found for words in results.missing)
    taken = {path for record in runs.values() for path in record.evaluations}
    return Results(
        ", ".join(results.source for results in found),
        tuple(runs.values()),
        tuple(missing),
        frozenset().union(*(results.smaller for results in found)) - taken,
        frozenset().union(*(results.asked for results in found)),
    )


def _join(first: Record, second: Record) -> Record:
    """One record of the same run from two sources."""
    if first.evaluations == second.evaluations:
        return first
    last = {}
    for path in first.evaluations + second.evaluations:
        tested = read_evaluation(path)
        last[tested.split, str(tested.severities)] = path
    return Record(first.experiment, first.directory, tuple(last.values()))


def _find_in(path: Path, overrides: Mapping[str, Any]) -> Results:
    if not path.is_dir():
        return _find_in_list(path, overrides)
    if overrides:
        raise InputError(f"{path}: overrides go with a list of experiments, not with a folder of runs")
    return _find_in_folder(path)


def _find_in_list(path: Path, overrides: Mapping[str, Any]) -> Results:
    runs, missing = [], []
    asked = {entry.experiment.hash: entry.experiment for entry in read(path, overrides)}
    for experiment in asked.values():
        found = state(experiment)
        if found.name != "done":
            missing.append(f"{experiment.dataset}/{experiment.name} ({found.name}{': ' if found.detail else ''}{found.detail})")
        if found.name in ("done", "trained"):
            evaluation = experiment.directory / "evaluation" / f"{experiment.testing.key}.h5"
            runs.append(Record(experiment, experiment.directory, (evaluation,) if evaluation.exists() and experiment.is_system else ()))
    return Results(str(path), tuple(runs), tuple(missing), asked=frozenset(asked))


def _find_in_folder(path: Path) -> Results:
    """Runs are built again from their experiment.json; of several evaluations on one split at the same severities the largest counts, of equals the newest."""
    directories = (
        [path]
        if (path / "experiment.json").exists()
        else sorted({p.parent for depth in ("*", "*/*") for p in path.glob(f"{depth}/experiment.json")})
    )
    if not directories:
        raise InputError(f"{path}: holds no run (no experiment.json in it, one or two folders down)")
    runs, missing, asked = [], [], set()
    smaller: list[Path] = []
    for directory in directories:
        try:
            experiment = _read_experiment(directory)
        except InputError as error:
            missing.append(str(error))
            asked.add(str(directory))
            continue
        asked.add(experiment.hash)
        if not (directory / "done.json").exists():
            missing.append(f"{directory} (not finished)")
            continue
        largest: dict[tuple[str, str], tuple[int, Path]] = {}
        evaluations = sorted((directory / "evaluation").glob("*.h5"), key=lambda file: (file.stat().st_mtime_ns, file.name))
        for file in evaluations:
            try:
                tested = read_evaluation(file)
            except InputError as error:
                missing.append(str(error))
                continue
            key = tested.split, str(tested.severities)
            files = sorted([*([largest[key]] if key in largest else []), (tested.size, file)], key=lambda known: known[0])
            largest[key] = files.pop()
            smaller += [file for _, file in files]
        if experiment.is_system and not evaluations:
            missing.append(f"{directory} (trained: evaluation missing)")
        runs.append(Record(experiment, directory, tuple(file for _, file in largest.values())))
    return Results(str(path), tuple(runs), tuple(missing), frozenset(smaller), frozenset(asked))


def _read_experiment(directory: Path) -> Experiment:
    """The experiment that a run directory holds; InputError where its file is damaged, or not of this version or of present recipes."""
    path = directory / "experiment.json"
    written = read_json(path)
    try:
        experiment = rebuild(written["canonical"], study=written["experiment"].get("study", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} (not readable by this version)") from None
    if experiment.hash != written.get("hash"):
        raise InputError(f"{path} (not readable by this version: its hash is {written.get('hash')}, here {experiment.hash})")
    if experiment.recipes() != written.get("recipes"):
        raise InputError(f"{directory} (stale: made by recipe {written.get('recipes')}, now {experiment.recipes()})")
    return experiment


def rebuild(canonical: Mapping[str, Any], **more: Any) -> Experiment:
    """The experiment of a canonical form. `more` are fields that are not part of the form, such as study.

    What a canonical form leaves out is the default, so a nested prerequisite is built from its own fields and inherits nothing.
    """
    fields = {**canonical, **more}
    if "severities" in fields:
        fields["severities"] = {int(number): severity for number, severity in fields["severities"].items()}
    cls = experiment_class(canonical["method"])
    for key, method in cls.nested.items():
        if fields.get(key) is not None:
            fields[key] = rebuild({"method": method} | cls.part(key, canonical) | fields[key])
    return build(fields)


def read_evaluation(path: Path) -> Tested:
    """What an evaluation file says of every composition; InputError where it is damaged."""
    try:
        with h5py.File(path) as file:
            names = tuple(file["composition"].asstr()[()])
            accuracy, loss, ids = file["accuracy"][()], file["loss"][()], file["ids"][()]
            facts = dict(file.attrs)
        severities = ast.literal_eval(str(facts["severities"]))
        return Tested(
            _full_names(names),
            accuracy,
            loss,
            str(facts["split"]),
            severities,
            int(facts["trained_parameters"]),
            int(facts["total_parameters"]),
            ids,
        )
    except (OSError, KeyError, ValueError, SyntaxError) as error:
        raise damaged(path, error) from None


def unpack(path: Path) -> tuple[tuple[str, ...], NDArray[np.bool_], NDArray[np.int64]]:
    """The names of C compositions, which of N images were classified correctly (C, N), and the images' ids (N,), of an evaluation file."""
    try:
        with h5py.File(path) as file:
            names, ids = tuple(file["composition"].asstr()[()]), file["ids"][()]
            correct = np.unpackbits(file["correct"][()], axis=1, count=len(ids)).astype(bool)
    except (OSError, KeyError, ValueError) as error:
        raise damaged(path, error) from None
    return _full_names(names), correct, ids


def correctness(experiment: Experiment) -> tuple[tuple[str, ...], NDArray[np.bool_], NDArray[np.int64]]:
    """`unpack` of the evaluation that an experiment asks for; InputError where it is not there."""
    return unpack(experiment.directory / "evaluation" / f"{experiment.testing.key}.h5")


def damaged(path: Path, error: Exception) -> InputError:
    problem = "missing" if isinstance(error, FileNotFoundError) else "damaged"
    return InputError(f"{path}: {problem}; delete it and make it again with: python -m train.evaluate CONFIG")


@lru_cache(maxsize=8)
def _full_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("-".join(parse(name)) for name in names)


@lru_cache(maxsize=8)
def counts(names: tuple[str, ...]) -> NDArray[np.int64]:
    """The numbers of corruptions of compositions in full names (Identity has 0)."""
    return np.array([n_corruptions(tuple(name.split("-"))) for name in names], dtype=np.int64)


def describe_condition(experiment: Experiment, severities: Mapping[str, int]) -> str:
    """What tells a run from the plain form of its method, tested at the published severities; empty for the plain form."""
    return ", ".join(filter(None, [experiment.condition, *(f"{name} severity {severity}" for name, severity in severities.items())]))


def prerequisites(experiment: Experiment) -> dict[str, Experiment]:
    """All experiments on which one rests, by hash."""
    found: dict[str, Experiment] = {}
    for part in experiment.requires():
        found |= {part.hash: part} | prerequisites(part)
    return found


class Rows:
    """Columns of the table in the making."""

    def __init__(self) -> None:
        self.chunks: dict[str, list[NDArray[Any]]] = {name: [] for name in COLUMNS}

    def add(self, constant: Mapping[str, Any], values: Sequence[float] | NDArray[np.float64], **columns: Any) -> None:
        """Appends one row per value; what is a sequence in `columns` varies by row."""
        n = len(values)
        cells = {**constant, **columns, "value": values}
        for name, kind in COLUMNS.items():
            cell, dtype = cells.get(name, "" if kind == "str" else np.nan), DTYPES[name]
            self.chunks[name].append(np.asarray(cell, dtype) if isinstance(cell, tuple | list | np.ndarray) else np.full(n, cell, dtype))

    def table(self) -> pd.DataFrame:
        columns = {name: np.concatenate([np.empty(0, DTYPES[name]), *self.chunks[name]]) for name in COLUMNS}
        return pd.DataFrame({name: pd.Series(column).astype(COLUMNS[name]) for name, column in columns.items()})


def tabulate(runs: Iterable[Record]) -> pd.DataFrame:
    """The tidy table of finished runs."""
    rows = Rows()
    done: dict[Path, dict[str, Any]] = {}
    for run in runs:
        e = run.experiment
        constant = {"study": e.study, "dataset": e.dataset, "method": e.method, "model": e.model, "seed": e.seed, "run": e.name}
        plain = constant | {"condition": describe_condition(e, e.testing.severities)}
        _add_epochs(rows, plain, read_jsonl(run.directory / "metrics.jsonl"))
        parameters: dict[str, int] = {}
        for path in run.evaluations:
            tested = read_evaluation(path)
            own = constant | {"condition": describe_condition(e, tested.severities), "split": tested.split}
            common = {"composition": tested.names, "n_corruptions": counts(tested.names)}
            rows.add(own, tested.accuracy_c, metric="accuracy", **common)
            rows.add(own, tested.loss_c, metric="loss", **common)
            parameters = {"trained_parameters": tested.trained_parameters, "total_parameters": tested.total_parameters}
        facts = parameters | _facts(run, done)
        rows.add(plain, list(facts.values()), metric=list(facts))
    return rows.table()


def _add_epochs(rows: Rows, constant: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> None:
    """The rows of metrics.jsonl; `step` is the row's number there, as it is the step in W&B."""
    stages = [row["stage"] for row in epochs]
    layers = ["" if stage == "train" else stage.removeprefix("search-level") for stage in stages]
    prefixes = ["" if stage == "train" else "search_" for stage in stages]
    # Parts that classify nothing have no accuracy.
    for key in [key for key in CURVES if epochs and key in epochs[0]]:
        split, metric = CURVES[key]
        values = [row[key] for row in epochs]
        metrics = [prefix + metric for prefix in prefixes]
        rows.add(
            constant,
            values,
            split=split,
            epoch=[row["epoch"] for row in epochs],
            step=list(range(len(epochs))),
            layer=layers,
            metric=metrics,
        )


def _facts(run: Record, done: dict[Path, dict[str, Any]]) -> dict[str, float]:
    """The numbers of a run as a whole. A sum over parts is left out where the record of a part is gone."""

    def facts_of(directory: Path) -> dict[str, Any]:
        if directory not in done:
            done[directory] = read_json(directory / "done.json") or {}
        return done[directory]

    e, own = run.experiment, facts_of(run.directory)
    if isinstance(e, Trained):
        facts = {key: own[key] for key in ("best_epoch", *COSTS) if key in own}
        return facts | ({} if run.evaluations else {"trained_parameters": own["parameters"]} if "parameters" in own else {})
    root = run.directory.parent.parent
    parts = [own, *(facts_of(root / part.dataset / part.name) for part in prerequisites(e).values())]
    return {key: sum(part.get(key, 0) for part in parts) for key in COSTS if all(key in part for part in parts[1:])}


def name_systems(table: pd.DataFrame) -> pd.Series:
    """A label for each row's system: its method, with model and condition where these tell variants apart.

    Runs of one label differ in their seed alone: where they do not, what their names say is added (lr, weight), at last their hash.
    """
    keys = ["dataset", "run", "condition"]
    systems = table[[*keys, "method", "model", "seed"]].drop_duplicates().copy()
    several_models = systems.groupby(["dataset", "method"])["model"].transform("nunique") > 1
    details = [
        ", ".join(filter(None, [model if several else "", condition]))
        for model, several, condition in zip(systems["model"], several_models, systems["condition"])
    ]
    systems["label"] = [f"{method} ({detail})" if detail else method for method, detail in zip(systems["method"], details)]
    hashless = [
        re.sub(r"-s\d+-[0-9a-f]{12}$", "", run).removeprefix(method).lstrip("-") for run, method in zip(systems["run"], systems["method"])
    ]
    for addition in (hashless, [run[-12:-6] for run in systems["run"]]):
        systems["addition"] = addition
        group = systems.groupby(["dataset", "label"])
        if addition is hashless:
            ambiguous = group["addition"].transform("nunique") > 1
        else:
            ambiguous = group["seed"].transform("size") > group["seed"].transform("nunique")
        systems["label"] = [
            f"{label} {more}" if add else label for label, more, add in zip(systems["label"], systems["addition"], ambiguous)
        ]
    labels = dict(zip(zip(*(systems[key] for key in keys)), systems["label"]))
    return pd.Series([labels[key] for key in zip(*(table[key] for key in keys))], index=table.index, dtype="str")


def write_stdout(text: str) -> None:
    """Prints text; a reader who has gone (`| head`) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would raise again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def add_sources(arguments: Arguments) -> None:
    """The sources of a command line, which `split_sources` reads."""
    arguments.add_argument("source", nargs="+", help="YAML lists, run directories, or folders of run directories")


def split_sources(sources: Sequence[str], rest: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """All sources of a command line, also those that follow an option (argparse leaves them in `rest`), and the overrides among them."""
    # argparse takes an override whose value has a space for a source.
    words = [*sources, *rest]
    overrides = read_overrides(word for word in words if word.startswith("-"))
    return [word for word in words if not word.startswith("-")], overrides


def main(argv: Sequence[str] | None = None) -> int:
    arguments = Arguments("python -m plots.results", description=__doc__)
    add_sources(arguments)
    options, rest = arguments.parse_known_args(argv)

    def write() -> None:
        sources, overrides = split_sources(options.source, rest)
        write_stdout(load(*sources, overrides=overrides).to_csv(index=False))

    return report_errors(write)


if __name__ == "__main__":
    sys.exit(main())
