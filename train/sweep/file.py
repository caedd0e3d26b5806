"""The sweep file: a W&B sweep configuration whose trials are experiments, read and validated offline. Loads without torch.

name: emnist_backbone                                        # the winner's folder is named by it
method: grid                                                 # grid, random or bayes; the last two need a run_cap
metric: {name: selection/clean_accuracy, goal: maximize}     # what is best
command: [python, -m, train.sweep, trial, "${args}"]
parameters:                                                  # fields of an entry, dotted where they are nested
  dataset: {value: EMNIST}
  method: {value: Identity}
  lr: {values: [0.01, 0.1]}
"""

import difflib
import hashlib
import importlib.util
import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import info_dicts
from errors import InputError
from train.build import experiment_class
from train.entry import INHERITED, UNHASHED, Experiment
from train.fields import FieldError, Whole, choose
from train.lists import parse
from train.sweep.entry import entry_of, experiments_of
from train.sweep.metrics import Metric, metrics_of
from train.sweep.space import Constant, IntUniform, Parameter, QUniform, Real, in_words, read_parameter

METHODS = ("grid", "random", "bayes")
TEXTS = ("apiVersion", "kind", "description", "entity", "project")
KEYS = ("name", "method", "metric", "command", "parameters", "run_cap", "early_terminate", *TEXTS)
# Keys of W&B's own that make no sense for these searches.
REFUSED = {
    "program": "the command says what a trial runs; leave program out",
    "metrics": "one metric says what is best; write metric: {name: ..., goal: ...}",
    "controller": "who proposes the trials is told by the command that runs the search; leave controller out",
    "scheduler": "who proposes the trials is told by the command that runs the search; leave scheduler out",
    "job": "trials are run by their command, not by W&B Launch; leave job out",
    "image_uri": "trials are run by their command, not by W&B Launch; leave image_uri out",
}  # fmt: skip
COMMAND = '[python, -m, train.sweep, trial, "${args}"]'
# A grid with at most this many points is tried as a whole before it is run.
TRIED_POINTS = 200
GRID_VALUES = 10_000
LAST_BAND = 10**9  # epochs


class Hyperband(BaseModel):
    """W&B's early termination: at each band (a number of reported epochs) a trial that is not among the best 1/eta so far is stopped.

    Bands are min_iter * eta^k, or max_iter / eta^k for k from 1 to s. `strict` compares the value at the band, else the best value so far.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_iter: Whole | None = Field(None, ge=1)
    max_iter: Whole | None = Field(None, ge=1)
    s: Whole | None = Field(None, ge=1)
    eta: Real = Field(3, gt=1)
    strict: bool = Field(True, strict=True)

    @model_validator(mode="after")
    def _bands(self) -> "Hyperband":
        if (self.min_iter is None) == (self.max_iter is None and self.s is None):
            raise ValueError("min_iter: must be given, or both max_iter and s instead")
        if self.min_iter is None and (self.max_iter is None or self.s is None):
            raise ValueError(f"{'s' if self.s is None else 'max_iter'}: missing; max_iter and s go together")
        if not self.bands:
            raise ValueError(f"max_iter: must be at least eta ({self.eta}), or no trial is ever stopped, got {self.max_iter}")
        return self

    @property
    def bands(self) -> list[int]:
        """The numbers of reported epochs, rising, at which trials are compared."""
        if self.min_iter is not None:
            bands, band = [], float(self.min_iter)
            while band <= LAST_BAND:
                bands.append(int(band))
                band *= self.eta
            return bands
        assert self.max_iter is not None
        assert self.s is not None
        bands, band = [], self.max_iter / self.eta
        while band >= 1 and len(bands) < self.s:
            bands.append(int(band))
            band /= self.eta
        return sorted(bands)


@dataclass(frozen=True)
class SweepFile:
    """A validated search. `parameters` are by dotted name, in the order in which W&B's grid nests them (the last varies fastest)."""

    path: Path
    raw: Mapping[str, Any]
    name: str
    method: str
    metric: Metric
    parameters: dict[str, Parameter]
    run_cap: int | None
    early_terminate: Hyperband | None
    command: tuple[str, ...]

    @property
    def searched(self) -> dict[str, Parameter]:
        """The parameters that are no constants."""
        return {key: parameter for key, parameter in self.parameters.items() if not isinstance(parameter, Constant)}

    @property
    def datasets(self) -> list[str]:
        """The data sets that its trials take."""
        return [str(choose("dataset", name)) for name in self.parameters["dataset"].extremes()]

    @property
    def trials(self) -> int:
        """How many trials the search has at most."""
        if self.method != "grid":
            assert self.run_cap is not None
            return self.run_cap
        count = math.prod(len(parameter.points() or ()) for parameter in self.parameters.values())
        return min(count, self.run_cap or count)

    def each_point(self) -> Iterator[dict[str, Any]]:
        """The points of the grid, one by one."""
        points = [parameter.points() for parameter in self.parameters.values()]
        return (dict(zip(self.parameters, values)) for values in itertools.product(*(values or [] for values in points)))

    def points(self) -> list[dict[str, Any]]:
        """The values of all trials of a grid by dotted name, constants included, in W&B's order; not cut off at run_cap."""
        return list(self.each_point())

    def draw(self, number: int) -> dict[str, Any]:
        """The values of the random trial `number` by dotted name, constants included; they depend on the hash and the number alone."""
        generator = random.Random(f"{self.hash}-{number}")
        return {key: parameter.draw(generator) for key, parameter in self.parameters.items()}

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of what decides the trials: method, metric, parameters, early termination."""
        decisive = {
            "method": self.method,
            "metric": [self.metric.name, self.metric.goal],
            "parameters": {key: parameter.model_dump() for key, parameter in self.parameters.items()},
        }
        if self.early_terminate:
            decisive["early_terminate"] = self.early_terminate.model_dump(exclude_defaults=True)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_sweep(path: str | Path) -> SweepFile:
    """The search that a file describes, every experiment that it could build tried; InputError with the file, the key and what is allowed."""
    raw = read_mapping(path)
    try:
        return validated(Path(path), raw)
    except FieldError as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: an alias refers to what it stands in") from None


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; InputError where there is none."""
    try:
        raw = parse(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a sweep: {getattr(error, 'strerror', None) or error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{path}: {line}{getattr(error, 'problem', None) or ' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else f"a {type(raw).__name__}"
        raise InputError(f"{path}: must be a W&B sweep: a mapping with name, method, metric, command and parameters, but holds {found}")
    return raw


def validated(path: Path, raw: Mapping[str, Any]) -> SweepFile:
    """The search of a mapping; FieldError where it is none."""
    check_keys(raw)
    if not isinstance(raw["name"], str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", raw["name"]):
        raise FieldError("name", f"must be letters, digits, '.', '_' and '-', for it names a folder, got {raw['name']!r}")
    method, run_cap = raw["method"], raw.get("run_cap")
    if method not in METHODS:
        raise FieldError("method", f"{method!r} is no method of search; allowed: {', '.join(METHODS)}")
    if run_cap is not None and (isinstance(run_cap, bool) or not isinstance(run_cap, int) or run_cap < 1):
        raise FieldError("run_cap", f"must be a whole number from 1, got {run_cap!r}")
    if run_cap is None and method != "grid":
        raise FieldError("run_cap", f"missing; a search by method {method} would never end")
    command = read_command(raw["command"])
    parameters = flatten(raw["parameters"])
    check_parameters(parameters)
    experiments = searched_methods(parameters)
    metric = read_metric(raw["metric"], experiments)
    early_terminate = read_early_terminate(raw["early_terminate"], metric, experiments) if "early_terminate" in raw else None
    check_space(method, parameters)
    sweep = SweepFile(path, raw, raw["name"], method, metric, parameters, run_cap, early_terminate, command)
    for values in tried(sweep):
        try:
            experiments_of(entry_of(values, missing_ok=True))
        except FieldError as error:
            # What a part inherits stands in the file without the part.
            own = error.key.rpartition(".")[2]
            key = own if error.key not in parameters and own in parameters and own in INHERITED else error.key
            raise FieldError(f"parameters.{key}" if key else "parameters", error.problem) from None
    return sweep


def check_keys(raw: Mapping[str, Any]) -> None:
    """FieldError where a top-level key is missing, unknown, or of no use here."""
    for key, value in raw.items():
        if key in REFUSED:
            raise FieldError(key, REFUSED[key])
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            raise FieldError(str(key), f"unknown key; {f'did you mean {near[0]!r}? ' if near else ''}allowed: {', '.join(KEYS)}")
        if key in TEXTS and not isinstance(value, str):
            raise FieldError(key, f"must be a word, got {value!r}")
    if raw.get("kind", "sweep") != "sweep":
        raise FieldError("kind", f"must be sweep, got {raw['kind']!r}")
    hints = {
        "name": "letters, digits, '.', '_' and '-'; the winner's folder is named by it",
        "method": f"allowed: {', '.join(METHODS)}",
        "metric": "write metric: {name: ..., goal: ...}; it says which trial is best",
        "command": f"write command: {COMMAND}",
        "parameters": "they are the fields of an entry, such as dataset: {value: EMNIST}",
    }
    for key, hint in hints.items():
        if key not in raw:
            raise FieldError(key, f"missing; {hint}")


def read_command(command: object) -> tuple[str, ...]:
    """What an agent runs, as a list of words that ends with the trial's arguments."""
    if (
        not isinstance(command, list)
        or not all(isinstance(word, str) for word in command)
        or command[-1:] != ["${args}"]
        or len(command) < 2
    ):
        raise FieldError("command", f'must be a list of words that ends in "${{args}}", such as {COMMAND}, got {command!r}')
    for word in command[:-1]:
        if "${program}" in word or "${args" in word:
            raise FieldError("command", f"{word} has no place in it; write {COMMAND}")
    if "-m" in command:
        module, *rest = command[command.index("-m") + 1 :]
        if not importable(module) or (module == "train.sweep" and rest[:1] != ["trial"]):
            raise FieldError("command", f"must run a trial, as {COMMAND}, got {' '.join(['-m', module, *rest])}")
    return tuple(command)


def importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def flatten(raw: object, prefix: str = "") -> dict[str, Parameter]:
    """Parameters by dotted name, sorted within every mapping as W&B sorts them."""
    where = f"parameters.{prefix}" if prefix else "parameters."
    if not isinstance(raw, Mapping) or not raw:
        raise FieldError(where.rstrip("."), f"must be a mapping of the fields of an entry, such as lr: {{values: [0.1, 1]}}, got {raw!r}")
    parameters: dict[str, Parameter] = {}
    for key in sorted(raw, key=str):
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key, re.ASCII):
            raise FieldError(f"{where}{key}", "must be a field of an entry, dotted where it is nested, such as module.lr")
        value = raw[key]
        if isinstance(value, Mapping) and set(value) == {"parameters"}:
            found = flatten(value["parameters"], f"{prefix}{key}.")
        else:
            try:
                found = {f"{prefix}{key}": read_parameter(value)}
            except FieldError as error:
                raise FieldError(f"{where}{key}.{error.key}".rstrip("."), error.problem) from None
        for name in found:
            if name in parameters:
                raise FieldError(f"parameters.{name}", "appears twice, dotted and nested")
        parameters |= found
    return parameters


def check_parameters(parameters: Mapping[str, Parameter]) -> None:
    """FieldError for parameters that a search must not touch."""
    for key, parameter in parameters.items():
        words = key.split(".")
        if "evaluation" in words and key not in ("evaluation", "evaluation.images"):
            raise FieldError(
                f"parameters.{key}", "a search selects by validation images with at most one corruption; allowed: evaluation.images"
            )
        if set(words) & set(UNHASHED) and not isinstance(parameter, Constant):
            raise FieldError(
                f"parameters.{key}", "changes nothing of what is trained, so it cannot be searched; write value instead of values"
            )


def searched_methods(parameters: Mapping[str, Parameter]) -> list[type[Experiment]]:
    """The experiments' classes of all methods that a search tries."""
    if "method" not in parameters:
        raise FieldError("parameters.method", f"missing; allowed: {', '.join(info_dicts.METHODS.values())}")
    found = []
    for method in parameters["method"].extremes():
        try:
            found.append(experiment_class(method))
        except ValueError as error:
            raise FieldError("parameters.method", str(error)) from None
    return found


def read_metric(raw: object, experiments: list[type[Experiment]]) -> Metric:
    """The metric of a search, which each of its methods must report."""
    if not isinstance(raw, Mapping):
        raise FieldError("metric", f"must be a mapping with name and goal, got {raw!r}")
    for key in raw:
        if key not in ("name", "goal"):
            raise FieldError(f"metric.{key}", "unknown key; allowed: name, goal")
    if "name" not in raw:
        raise FieldError("metric.name", f"missing; {logged(experiments)}")
    for experiment in experiments:
        if not isinstance(raw["name"], str) or raw["name"] not in metrics_of(experiment):
            raise FieldError("metric.name", f"nobody logs {raw['name']!r}; {logged(experiments)}")
    metric = metrics_of(experiments[0])[raw["name"]]
    if raw.get("goal", "minimize") != metric.goal:
        given = repr(raw["goal"]) if "goal" in raw else "none, which means minimize"
        raise FieldError("metric.goal", f"must be {metric.goal} for {metric.name}, got {given}")
    return metric


def logged(experiments: list[type[Experiment]]) -> str:
    return "; ".join(f"{experiment.__name__} logs: {', '.join(metrics_of(experiment))}" for experiment in dict.fromkeys(experiments))


def read_early_terminate(raw: object, metric: Metric, experiments: list[type[Experiment]]) -> Hyperband:
    """The early termination of a search, which needs a metric that is known after every epoch."""
    if not isinstance(raw, Mapping):
        raise FieldError("early_terminate", f"must be a mapping such as {{type: hyperband, min_iter: 3}}, got {raw!r}")
    if raw.get("type") != "hyperband":
        raise FieldError("early_terminate.type", f"must be hyperband, got {raw.get('type')!r}")
    given = {key: value for key, value in raw.items() if key != "type"}
    for key in given:
        if key not in Hyperband.model_fields:
            raise FieldError(f"early_terminate.{key}", f"unknown key; allowed: type, {', '.join(Hyperband.model_fields)}")
    try:
        hyperband = Hyperband.model_validate(given)
    except ValidationError as error:
        problem = in_words(error)
        raise FieldError(f"early_terminate.{problem.key}", problem.problem) from None
    if not metric.live:
        raise FieldError("early_terminate", f"{metric.name} is known at a trial's end alone; known after every epoch: {live_metrics()}")
    return hyperband


def live_metrics() -> str:
    """The metrics that are known after every epoch, each with its methods."""
    methods: dict[str, list[str]] = {}
    for name in info_dicts.METHODS.values():
        for metric in metrics_of(experiment_class(name)).values():
            if metric.live:
                methods.setdefault(metric.name, []).append(name)
    return "; ".join(f"{metric} of {', '.join(names)}" for metric, names in methods.items())


def check_space(method: str, parameters: Mapping[str, Parameter]) -> None:
    """FieldError where a method of search cannot take a parameter's distribution."""
    for key, parameter in parameters.items():
        if method == "grid" and isinstance(parameter, IntUniform | QUniform):
            count = (parameter.max - parameter.min) / getattr(parameter, "q", 1)
            if count > GRID_VALUES:
                raise FieldError(f"parameters.{key}", f"a grid takes at most {GRID_VALUES} values of a parameter, got {count:.0f}")
        if method == "grid" and parameter.points() is None:
            allowed = "constant, categorical, int_uniform, q_uniform"
            raise FieldError(f"parameters.{key}", f"a grid cannot be made of {parameter.distribution}; allowed: {allowed}")
        if method == "bayes" and not isinstance(parameter, Constant):
            try:
                parameter.optuna_arguments()
            except ValueError as error:
                raise FieldError(f"parameters.{key}", str(error)) from None


def tried(sweep: SweepFile) -> Iterator[dict[str, Any]]:
    """Values of trials at which every experiment must be possible: each parameter at its extremes, and all points of a small grid."""
    extremes = {key: parameter.extremes() for key, parameter in sweep.parameters.items()}
    for key, parameter in sweep.parameters.items():
        if sweep.method == "grid" and isinstance(parameter, QUniform):
            points = parameter.points()
            extremes[key] = [points[0], points[-1]]
    first = {key: values[0] for key, values in extremes.items()}
    yield first
    yield from ({**first, key: value} for key, values in extremes.items() for value in values[1:])
    if sweep.method == "grid" and math.prod(len(parameter.points() or ()) for parameter in sweep.parameters.values()) <= TRIED_POINTS:
        yield from sweep.each_point()
