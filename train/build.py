"""From an entry of a list to its experiment: nested prerequisites inherit, and what is wrong is said in one line. Loads without torch."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

import info_dicts
from train import experiment
from train.entry import INHERITED, Experiment, Trained
from train.fields import Evaluation, FieldError, choose, is_folder, number_of
from train.sparse import ClusterableStart, CutPenalty, Pruning

# The models of fields that have keys of their own.
PARTS: dict[str, type[BaseModel]] = {
    "evaluation": Evaluation,
    "pruning": Pruning,
    "cut_penalty": CutPenalty,
    "clusterable_start": ClusterableStart,
}
# The typed model of every method, by its name.
KINDS = {str(name): getattr(experiment, name) for name in info_dicts.METHODS.values() if hasattr(experiment, name)}


def experiment_class(method: object) -> type[Experiment]:
    """The typed model of a method: the class of its menu name in train/experiment.py; ValueError where there is none."""
    name = choose("method", method)
    found = getattr(experiment, name, None)
    if found is None:
        raise ValueError(f"{name} is on the menu, but train/experiment.py has no class of that name")
    return found


def build(entry: object) -> Experiment:
    """The experiment of one entry of a list (a mapping of keys).

    Nested dicts of prerequisites inherit what they do not say themselves. Raises FieldError with the key, what is wrong
    and what is allowed.
    """
    if not isinstance(entry, Mapping):
        raise FieldError("", f"must be a mapping of keys such as 'dataset' and 'method', got {entry!r}")
    if "method" not in entry:
        near = difflib.get_close_matches("method", map(str, entry), 1)
        raise FieldError(
            "method", f"missing{f' (is {near[0]!r} meant so?)' if near else ''}; allowed: {', '.join(info_dicts.METHODS.values())}"
        )
    raw = {str(key): value for key, value in entry.items()}
    try:
        cls = experiment_class(raw["method"])
    except ValueError as error:
        raise FieldError("method", str(error)) from None
    raw["method"] = cls.__name__
    if is_folder(raw.get("dataset")):
        raw = with_pixels(raw)
    try:
        dataset = choose("dataset", raw.get("dataset"))
    except ValueError as error:
        missing = f"missing; allowed: {', '.join(f'{number} {name}' for number, name in info_dicts.DATASETS.items())}"
        raise FieldError("dataset", str(error) if "dataset" in raw else missing) from None
    raw.setdefault("model", dataset.model)
    if issubclass(cls, Trained) and cls.model_fields["augmentation"].is_required():
        raw.setdefault("augmentation", dataset.augmentation)
    for key, method in cls.nested.items():
        if isinstance(raw.get(key), Mapping):
            raw[key] = build_part(cls, key, method, raw)
    raw = {key: value for key, value in raw.items() if key not in getattr(cls, "hands_down", ())}
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        raise first_problem(cls, error) from None


def with_pixels(raw: Mapping[str, Any]) -> dict[str, Any]:
    """An entry whose folder of images has its pixels in its name: where the name says none, `resolution` is that of the stored images."""
    if "@" in raw["dataset"]:
        return dict(raw)
    pixels = raw.get("resolution")
    if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 8:
        if "resolution" in raw:
            raise FieldError("resolution", f"must be a whole number of pixels from 8 on, got {pixels!r}")
        raise FieldError("dataset", f"{raw['dataset']} says no resolution; write {raw['dataset']}@64, or 'resolution: 64' beside it")
    return {key: value for key, value in raw.items() if key != "resolution"} | {"dataset": f"{raw['dataset']}@{pixels}"}


def build_part(cls: type[Experiment], key: str, method: str, raw: Mapping[str, Any]) -> Experiment:
    """The nested prerequisite `key` of an entry, with what it inherits."""
    part_class = experiment_class(method)
    known = {*part_class.model_fields, *part_class.nested, *getattr(part_class, "hands_down", ())}
    inherited = {name: raw[name] for name in INHERITED if name in raw and name in known and name not in part_class.by_itself}
    try:
        given = {name: value for name, value in cls.part(key, raw).items() if value is not None}
        if raw[key].get("method", method) not in (method, number_of("method", method)):
            raise FieldError("method", f"must be {method}, got {raw[key]['method']!r}")
        return build(inherited | given | dict(raw[key]) | {"method": method})
    except FieldError as error:
        raise FieldError(f"{key}.{error.key}" if error.key else key, error.problem) from None
    except ValueError as error:
        raise FieldError(key, str(error)) from None


def first_problem(cls: type[Experiment], error: ValidationError) -> FieldError:
    """The first of pydantic's complaints, as one line in this project's words."""
    # A misspelt key explains the one that is missing.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(word) for word in problem["loc"] if not str(word).startswith(("function-", "constrained-", "literal[")))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        last = str(problem["loc"][-1])
        owner: type[BaseModel] = PARTS.get(str(problem["loc"][0]), Evaluation) if len(problem["loc"]) > 1 else cls
        near = difflib.get_close_matches(last, owner.model_fields, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return FieldError(key, f"unknown key for {owner.__name__}; {hint}allowed: {', '.join(owner.model_fields)}")
    if problem["type"] == "missing":
        owner = PARTS.get(str(problem["loc"][0]), cls) if len(problem["loc"]) > 1 else cls
        return FieldError(key, f"missing; {owner.__name__} needs it")
    if problem["type"] == "model_type" and key in PARTS:
        return FieldError(key, f"must be a mapping, got {problem['input']!r}; its keys: {', '.join(PARTS[key].model_fields)}")
    if not key and ": " in message:
        key, message = message.split(": ", 1)
    elif problem["type"] in ("bool_parsing", "bool_type"):
        message = f"must be true or false, got {problem['input']!r}"
    elif problem["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, got {problem['input']!r}"
    return FieldError(key, message)
