"""The fields of an entry: menu choices, strictly typed numbers, severities, and what a system is evaluated on. Loads without torch."""

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, field_validator

import info_dicts
from analysis.options import Options, read_analyses
from data.compositions import abbreviate, compositions
from errors import InputError
from registry import is_factory

PART = 500  # images

MENUS: dict[str, Mapping[int, str]] = {
    "dataset": info_dicts.DATASETS,
    "method": info_dicts.METHODS,
    "model": info_dicts.MODELS,
    "corruption": info_dicts.CORRUPTIONS,
    "corruptions": info_dicts.CORRUPTIONS,
    "severities": info_dicts.CORRUPTIONS,
    "augmentation": info_dicts.AUGMENTATIONS,
    "loss": info_dicts.LOSSES,
    "optimizer": info_dicts.OPTIMIZERS,
    "schedule": info_dicts.SCHEDULES,
    "metrics": info_dicts.METRICS,
}


class FieldError(ValueError):
    """What is wrong with one key of an entry."""

    def __init__(self, key: str, problem: str):
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key, self.problem = key, problem


# Building a network once is enough.
@lru_cache
def _user_model(name: str) -> Any:
    from models.networks import user_choice

    return user_choice(name)


def _user_dataset(name: str) -> Any:
    from data.facts import dataset_choice

    return dataset_choice(name)


# What users bring along stands on no menu: how it is named, and what finds its facts. That loads torch or h5py, so it is imported only then.
BROUGHT: dict[str, tuple[str, Callable[[str], Any]]] = {
    "model": ("package.module:factory", _user_model),
    "dataset": ("folder:NAME@PIXELS or package.module:factory", _user_dataset),
}


def is_folder(value: object) -> bool:
    """Whether a value of an entry names a folder of images, `folder:NAME@PIXELS` or, as yet without its pixels, `folder:NAME`."""
    return isinstance(value, str) and value.startswith("folder:")


def is_brought(key: str, value: object) -> bool:
    """Whether a value names what a user brings along for this key."""
    return key in BROUGHT and (is_factory(value) or (key == "dataset" and is_folder(value)))


def choose(key: str, value: object) -> Any:
    """The menu's choice (a string that carries its facts) for a number or a name, or that of what a user brings along.

    ValueError that names what is allowed, or what is wrong with what the user brings.
    """
    menu = MENUS[key]
    if isinstance(value, int) and not isinstance(value, bool) and value in menu:
        return menu[value]
    for name in menu.values():
        if isinstance(value, str) and value == name:
            return name
    if is_brought(key, value):
        try:
            return BROUGHT[key][1](str(value))
        except InputError as error:
            raise ValueError(str(error)) from None
    own = [BROUGHT[key][0]] if key in BROUGHT else []
    allowed = ", ".join([*(f"{number} {name}" for number, name in menu.items()), *own])
    raise ValueError(f"{value!r} is not on the menu; allowed: {allowed}")


def number_of(key: str, name: str) -> int | str:
    """The menu number of a name; what a user brings along has its name alone."""
    return name if is_brought(key, name) else next(number for number, choice in MENUS[key].items() if choice == name)


def read_whole(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a whole number, got {value!r}")
    return value


def read_device(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        return value
    raise ValueError(f"must be auto, cpu, cuda or cuda:N, got {value!r}")


def read_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, got {value!r}")
    return value


def read_corruptions(value: object) -> tuple[str, ...]:
    """A set of elementals in menu order; Identity is always trained on and never named."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"must be a list of corruptions, got {value!r}")
    names = [str(choose("corruption", item)) for item in value]
    if len(set(names)) < len(names) or "Identity" in names:
        raise ValueError(f"must be different corruptions without Identity, got {', '.join(names)}")
    return tuple(sorted(names, key=lambda name: number_of("corruption", name)))


def read_metrics(value: object) -> tuple[str, ...]:
    """Different metrics by number or name, in menu order."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of metrics, got {value!r}")
    names = [str(choose("metrics", item)) for item in value]
    if len(set(names)) < len(names):
        raise ValueError(f"must be different metrics, got {', '.join(names)}")
    return tuple(str(name) for name in info_dicts.METRICS.values() if name in names)


def by_corruption(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """A mapping whose keys are corruptions by number or name, with the menu's choices as keys."""
    # In JSON, where experiments are kept too, a menu number that is a key has become a string.
    return {choose("corruption", int(key) if isinstance(key, str) and key.isdigit() else key): own for key, own in value.items()}


def read_severities(value: object) -> dict[str, int]:
    """Severities by corruption."""
    if not isinstance(value, Mapping):
        raise ValueError(f"must map corruptions to severities, got {value!r}")
    severities = {}
    for name, severity in by_corruption(value).items():
        if not name.severities:
            raise ValueError(f"{name} has no severities")
        if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= len(name.severities):
            raise ValueError(f"severity of {name} must be a whole number from 1 to {len(name.severities)}, got {severity!r}")
        severities[str(name)] = severity
    return dict(sorted(severities.items()))


def unpublished(severities: Mapping[str, int]) -> dict[str, int]:
    """The severities that differ from the published ones."""
    return {name: severity for name, severity in severities.items() if severity != choose("corruption", name).default}


def from_menu(key: str) -> BeforeValidator:
    return BeforeValidator(lambda value: str(choose(key, value)))


Device = Annotated[str, BeforeValidator(read_device)]
Whole = Annotated[int, BeforeValidator(read_whole)]
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(read_number)]
Analyses = Annotated[dict[str, SerializeAsAny[Options]], BeforeValidator(read_analyses)]
Metrics = Annotated[tuple[str, ...], BeforeValidator(read_metrics)]
Corruptions = Annotated[tuple[str, ...], BeforeValidator(read_corruptions)]
TestSeverities = Annotated[dict[str, int], BeforeValidator(read_severities)]
# Training at the published severity is the same experiment whether a list says so or not.
Severities = Annotated[dict[str, int], BeforeValidator(lambda value: unpublished(read_severities(value)))]


class Evaluation(BaseModel):
    """What a system is evaluated on; changes no hash. `images` are the first of every class, None means the whole split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compositions: str | tuple[str, ...] = "167"
    images: Annotated[Whole, Field(ge=1)] | None = None
    split: Literal["test", "valid"] = "test"
    # Where a system was trained at other severities than the published ones, it is tested at those unless this says otherwise.
    severities: TestSeverities = {}

    @field_validator("compositions", mode="before")
    @classmethod
    def _readable(cls, value: object) -> object:
        value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if not isinstance(value, str | list | tuple) or not value:
            raise ValueError(f"must be 167, 1957, elementals, a file of compositions or a list of them, got {value!r}")
        try:
            compositions(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value if isinstance(value, str) else tuple(value)

    @property
    def key(self) -> str:
        """The name of the file that holds this evaluation's results, such as `test-167` or `test-167-1000-GB5`."""
        spec = self.compositions
        if not (isinstance(spec, str) and spec.isalnum()):
            spec = hashlib.sha256(repr(compositions(spec)).encode()).hexdigest()[:12]
        images = [str(self.images)] if self.images else []
        return "-".join([self.split, spec, *images, *(f"{abbreviate([name])}{n}" for name, n in self.severities.items())])
