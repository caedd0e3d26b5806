"""From the values of a trial to its entry and its experiments; a prerequisite may be the winner of another search. Loads without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.compositions import ELEMENTALS
from errors import InputError
from train.build import build, experiment_class
from train.entry import INHERITED, ROOT, UNHASHED, Experiment, runs_root
from train.experiment import OneCorruption
from train.fields import FieldError, choose
from train.lists import override, read_yaml

# What every trial is evaluated on: a search never meets compositions of corruptions, nor test images.
SELECTION = {"compositions": "elementals", "split": "valid"}
# Values of the fields without a default, for a part whose winner is not found yet.
STAND_IN = {"lr": 0.1, "weight": 1, "level": "auto"}


def entry_of(values: Mapping[str, Any], root: Path | None = None, *, missing_ok: bool = False) -> dict[str, Any]:
    """The entry of a trial: (dotted) keys nested, files of winners replaced by what they say, evaluated on validation elementals.

    A prerequisite that is a word instead of a mapping is a YAML file with one entry, the winner of another search. A path that starts with
    `runs/` lies where runs live, any other one in `root` (default: the project). The prerequisite is that very experiment: what the file
    leaves to defaults is not inherited from the trial, and a winner's corruption is dropped. Where a file is not there, `missing_ok` puts
    any possible part in its place, to validate a search before the search that it needs. Raises FieldError with the key.
    """
    entry = override({}, dict(sorted(values.items())))
    evaluation = entry.get("evaluation", {})
    if not isinstance(evaluation, Mapping):
        raise FieldError("evaluation", f"must be a mapping such as {{images: 1000}}, got {evaluation!r}")
    for key in evaluation:
        if key != "images":
            raise FieldError(
                f"evaluation.{key}", "a search selects by validation images with at most one corruption; allowed: evaluation.images"
            )
    if "method" in entry:
        entry = with_winners(class_of(entry["method"]), entry, {}, root, missing_ok)
    return entry | {"evaluation": SELECTION | dict(evaluation)}


def experiments_of(entry: Mapping[str, Any]) -> list[Experiment]:
    """The experiments of a trial's entry: those of all elementals, in menu order, for a part that names no corruption; else the one.

    Raises FieldError with the key, what is wrong and what is allowed.
    """
    if "method" in entry and issubclass(class_of(entry["method"]), OneCorruption) and "corruption" not in entry:
        return [build({**entry, "corruption": corruption}) for corruption in ELEMENTALS]
    return [build(entry)]


def class_of(method: object) -> type[Experiment]:
    """The typed model of an entry's method; FieldError where there is none."""
    try:
        return experiment_class(method)
    except ValueError as error:
        raise FieldError("method", str(error)) from None


def with_winners(
    cls: type[Experiment], entry: Mapping[str, Any], around: Mapping[str, Any], root: Path | None, missing_ok: bool
) -> dict[str, Any]:
    """A copy of an entry in which no prerequisite is a file; `around` holds the data set and the model of the entry around it."""
    found = dict(entry)
    stated = {**around, **{name: entry[name] for name in ("dataset", "model") if name in entry}}
    for key, method in cls.nested.items():
        part_class, value = experiment_class(method), entry.get(key)
        try:
            if isinstance(value, Mapping):
                found[key] = with_winners(part_class, value, stated, root, missing_ok)
            elif isinstance(value, str):
                path = winner_path(value, root)
                found[key] = stand_in(part_class, cls) if missing_ok and not path.exists() else winner(path, part_class, stated, root)
        except FieldError as error:
            raise FieldError(f"{key}.{error.key}" if error.key else key, error.problem) from None
    return found


def winner_path(text: str, root: Path | None) -> Path:
    """Where a winner's file lies; FieldError where the text names no YAML file."""
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        raise FieldError("", f"must be a mapping, or a YAML file with the winner of another search, got {text!r}")
    return runs_root().joinpath(*path.parts[1:]) if path.parts[0] == "runs" else (root or ROOT) / path


def winner(path: Path, part_class: type[Experiment], stated: Mapping[str, Any], root: Path | None) -> dict[str, Any]:
    """The winner in a file as a prerequisite of an entry that states this data set and model: the same experiment, whatever is around it."""
    if not path.exists():
        raise FieldError("", f"{path}: not there; it is the winner of another search: python -m train.sweep best SOURCE writes it")
    try:
        entries = read_yaml(path)
    except InputError as error:
        raise FieldError("", str(error)) from None
    if len(entries) != 1 or not isinstance(entries[0], Mapping):
        raise FieldError("", f"{path}: must hold one entry, the winner of a search, but holds {len(entries)}")
    try:
        entry = with_winners(class_of(entries[0].get("method")), entries[0], {}, root, False)
        experiment = experiments_of(entry)[0]
    except FieldError as error:
        raise FieldError("", f"{path}: {error}") from None
    if not isinstance(experiment, part_class):
        raise FieldError("", f"{path} holds {a(experiment.method)}, must be {a(part_class.__name__)}")
    for name, value in stated.items():
        if getattr(experiment, name) != (wanted := chosen(name, value)):
            raise FieldError("", f"{path} is for {getattr(experiment, name)}, this for {wanted}")
    own = {name: getattr(experiment, name) for name in INHERITED if name in part_class.model_fields}
    return {name: value for name, value in {**own, **entry}.items() if name not in (*UNHASHED, "method", "corruption")}


def chosen(name: str, value: object) -> str:
    """The menu's name for what an entry states; FieldError where there is none."""
    try:
        return str(choose(name, value))
    except ValueError as error:
        raise FieldError(name, str(error)) from None


def a(word: str) -> str:
    return f"{'an' if word[0] in 'AEIOU' else 'a'} {word}"


def stand_in(part_class: type[Experiment], around: type[Experiment]) -> dict[str, Any]:
    """Any possible prerequisite of an entry of the class `around`, which gives it the prerequisites that both have."""
    required = [name for name, field in part_class.model_fields.items() if field.is_required()]
    parts = {key: method for key, method in part_class.nested.items() if key in required and key not in around.nested}
    values: dict[str, Any] = {name: STAND_IN[name] for name in required if name in STAND_IN}
    return values | {key: stand_in(experiment_class(method), part_class) for key, method in parts.items()}
