"""Experiments: the validated, immutable form of one entry of a list, one typed model per method. Loads without torch.

An experiment is named by its contents: `Experiment.hash` is the SHA-256 of the canonical JSON of the fields that differ
from their defaults, nested prerequisites included. So defaults are append-only, like menu numbers: a new field with a
default orphans no finished run.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

import info_dicts
from data.compositions import ELEMENTALS
from train.fields import (
    MENUS,
    PART,
    Corruptions,
    Evaluation,
    FieldError,
    Number,
    Severities,
    Whole,
    choose,
    from_menu,
    number_of,
    read_corruptions,
    unpublished,
)  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent

# Fields that change nothing of what is computed, so they are not in the hash.
UNHASHED = ("study", "tags", "evaluation", "device", "threads")
# What a nested prerequisite takes from the entry around it where it says nothing itself; never lr or weight.
INHERITED = ("dataset", "model", "seed", "epochs", "batch_size", "precision", "severities", "augmentation", *UNHASHED)


def runs_root() -> Path:
    """Where run directories live: the environment's PALIMPSEST_RUNS, or `runs/` in the project."""
    return Path(os.environ.get("PALIMPSEST_RUNS") or ROOT / "runs")


class Experiment(BaseModel):
    """The fields that every method has; a subclass has its method's name and adds that method's own fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    # Raised when a fix changes this method's results: runs with an older number are listed as stale.
    recipe: ClassVar[int] = 1
    # Prerequisites that an entry describes in a nested dict: key -> method.
    nested: ClassVar[dict[str, str]] = {}

    dataset: Annotated[str, from_menu("dataset")]
    method: Annotated[str, from_menu("method")]
    model: Annotated[str, from_menu("model")]
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0

    study: Annotated[str, Field(pattern=r"^[\w. -]*$")] = ""
    tags: tuple[str, ...] = ()
    evaluation: Evaluation = Evaluation()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None

    @classmethod
    def part(cls, key: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        """What this method gives to the nested prerequisite `key` beyond the inherited fields."""
        return {}

    @model_validator(mode="after")
    def _possible(self) -> "Experiment":
        dataset, model = self.choice("dataset"), self.choice("model")
        if dataset.shape[-1] not in model.sizes:
            fitting = ", ".join(m for m in info_dicts.MODELS.values() if dataset.shape[-1] in m.sizes)
            raise ValueError(f"model: {model} takes no images of {dataset.shape[-1]} px ({dataset}); allowed: {fitting}")
        images, available = self.evaluation.images, self.split_size
        if images and (images % dataset.classes or images > available):
            raise ValueError(f"evaluation.images: must be a multiple of the {dataset.classes} classes, at most {available}, got {images}")
        return self

    def choice(self, key: str) -> Any:
        """The menu's choice behind one of this experiment's names, with its facts as attributes."""
        return choose(key, getattr(self, key))

    def requires(self) -> "list[Experiment]":
        """The experiments that must be finished before this one starts, in order."""
        return []

    @property
    def is_system(self) -> bool:
        """Whether this experiment's run classifies images, so that it is evaluated on compositions."""
        return "oracle" in self.choice("method").facts

    @property
    def trained_severities(self) -> dict[str, int]:
        """The unpublished severities that this experiment or its modules are trained at."""
        return getattr(self, "severities", {})

    @property
    def testing(self) -> Evaluation:
        """The evaluation with the severities that it really uses."""
        severities = unpublished(self.trained_severities | self.evaluation.severities)
        return self.evaluation.model_copy(update={"severities": severities})

    @property
    def split_size(self) -> int:
        """How many images the split has that systems are evaluated on."""
        return self.choice("dataset").counts[{"valid": 1, "test": 2}[self.evaluation.split]]

    @property
    def test_images(self) -> int:
        """How many images the evaluation uses."""
        return self.evaluation.images or self.split_size

    @property
    def evaluation_parts(self) -> int:
        """How many parts of PART images the evaluation has: the unit of work, and what is lost by a kill."""
        return -(-self.test_images // PART)

    @property
    def condition(self) -> str:
        """What tells this variant of its method from the plain form, in tables and figures; empty for the plain form."""
        return ""

    def default_of(self, name: str) -> Any:
        """The value of a field of which a list says nothing."""
        if name in ("model", "augmentation"):
            return getattr(self.choice("dataset"), name)
        return type(self).model_fields[name].default

    def canonical(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as menu numbers and plain values, nested prerequisites included."""
        names = [name for name in type(self).model_fields if name not in UNHASHED]
        values = {name: getattr(self, name) for name in names}
        return {
            name: canonical_value(name, value)
            for name, value in values.items()
            if name in ("dataset", "method") or value != self.default_of(name)
        }

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of this experiment."""
        return hashlib.sha256(json.dumps(self.canonical(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def bits(self) -> list[str]:
        """What a reader wants to see in the run's name, between the method and the seed."""
        return [] if self.model == self.default_of("model") else [self.model]

    @cached_property
    def name(self) -> str:
        """Readable, with a short hash: `<method>-<bits>-s<seed>-<12 hex>`."""
        words = [re.sub(r"[^A-Za-z0-9.+_]+", "", word) for word in (self.method, *self.bits(), f"s{self.seed}")]
        return "-".join([*words, self.hash[:12]])

    @property
    def directory(self) -> Path:
        """The run directory."""
        return runs_root() / self.dataset / self.name

    def recipes(self) -> dict[str, int]:
        """The recipe numbers on which this experiment's results rest: its own and its prerequisites'."""
        recipes = {self.method: self.recipe}
        for part in self.requires():
            recipes |= part.recipes()
        return dict(sorted(recipes.items()))


def canonical_value(name: str, value: Any) -> Any:
    """A field's value as canonical JSON has it: menu names as numbers, nested experiments in their canonical form."""
    if isinstance(value, Experiment):
        return value.canonical()
    if name == "corruptions":
        return [number_of(name, item) for item in value]
    if name == "severities":
        return {str(number_of(name, key)): severity for key, severity in value.items()}
    if name in MENUS:
        return number_of(name, value)
    return list(value) if isinstance(value, tuple) else value


class Trained(Experiment):
    """A network trained by SGD with momentum, cosine annealing stepped once per epoch, best weights by validation loss."""

    augmentation: Annotated[str, from_menu("augmentation")]
    epochs: Annotated[Whole, Field(ge=1)] = 200
    batch_size: Annotated[Whole, Field(ge=1)] = 256
    precision: Literal["float32", "bfloat16"] = "float32"
    lr: Annotated[Number, Field(gt=0)]
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4

    def bits(self) -> list[str]:
        return [*super().bits(), f"lr{self.lr:g}"]


class Identity(Trained):
    """The whole network trained on clean images alone: the backbone of modules, and a baseline."""

    method: Literal["Identity"] = "Identity"


class Views(Trained):
    """Training of a whole network on every elemental corruption and Identity."""

    nested: ClassVar[dict[str, str]] = {"match": "ModularSystem"}

    corruptions: Corruptions = ELEMENTALS
    severities: Severities = {}
    # A control: the network is widened until it has as many parameters as all parts of this modular system together.
    match: "ModularSystem | None" = None

    def requires(self) -> list[Experiment]:
        return [] if self.match is None else self.match.requires()

    def bits(self) -> list[str]:
        return [*super().bits(), *(["matched"] if self.match else [])]

    @property
    def condition(self) -> str:
        return "parameter-matched" if self.match else ""


class CrossEntropy(Views):
    """Cross-entropy on all views. `paired`: few images in all their views per step; `independent`: (image, corruption) pairs, as published."""

    method: Literal["CrossEntropy"] = "CrossEntropy"
    batching: Literal["paired", "independent"] = "paired"

    def bits(self) -> list[str]:
        return [*super().bits(), *(["independent"] if self.batching == "independent" else [])]

    @property
    def condition(self) -> str:
        return ", ".join(filter(None, [super().condition, "independent batches" if self.batching == "independent" else ""]))


class Contrastive(Views):
    """Cross-entropy plus a contrastive loss between the views of an image, for each corruption at a level."""

    method: Literal["Contrastive"] = "Contrastive"
    weight: Annotated[Number, Field(ge=0)]
    temperature: Annotated[Number, Field(gt=0)] = 0.15
    # One level for each corruption (a single number serves all); the default is the penultimate one, the classifier's input.
    levels: Annotated[tuple[int, ...], Field(validate_default=True)] = ()

    @field_validator("levels", mode="before")
    @classmethod
    def _levels(cls, value: Any, info: ValidationInfo) -> Any:
        if "model" not in info.data or "corruptions" not in info.data:
            return ()
        last, n = choose("model", info.data["model"]).blocks - 1, len(info.data["corruptions"])
        if value == ():
            return (last,) * n
        levels = [value] * n if not isinstance(value, list | tuple) else value
        if len(levels) != n or any(isinstance(i, bool) or not isinstance(i, int) or not 1 <= i <= last for i in levels):
            raise ValueError(f"must be one level from 1 to {last}, or one for each of the {n} corruptions, got {value!r}")
        return tuple(levels)

    def default_of(self, name: str) -> Any:
        if name == "levels":
            return (self.choice("model").blocks - 1,) * len(self.corruptions)
        return super().default_of(name)

    def bits(self) -> list[str]:
        return [*super().bits(), f"w{self.weight:g}"]


class Module(Trained):
    """A module for one corruption at one level of a frozen backbone; `level: auto` searches the level first (AutoModules)."""

    nested: ClassVar[dict[str, str]] = {"backbone": "Identity"}

    method: Literal["Module"] = "Module"
    corruption: Annotated[str, from_menu("corruption")]
    level: int | Literal["auto"]
    weight: Annotated[Number, Field(ge=0)]
    temperature: Annotated[Number, Field(gt=0)] = 0.15
    pass_through: bool = True
    search_epochs: Annotated[Whole, Field(ge=1)] = 5
    severities: Severities = {}
    backbone: Identity

    @field_validator("level", mode="before")
    @classmethod
    def _level(cls, value: object, info: ValidationInfo) -> object:
        blocks = choose("model", info.data["model"]).blocks if "model" in info.data else 1_000
        if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < blocks):
            return value
        raise ValueError(f"must be 'auto' or a whole number from 0 to {blocks - 1}, got {value!r}")

    @model_validator(mode="after")
    def _consistent(self) -> "Module":
        if self.corruption == "Identity":
            raise ValueError("corruption: Identity has no module, the backbone stands for it")
        if self.level != "auto" and "search_epochs" in self.model_fields_set:
            raise ValueError("search_epochs: goes with 'level: auto' only")
        if (self.backbone.dataset, self.backbone.model) != (self.dataset, self.model):
            raise ValueError("backbone: must have the data set and the model of its module")
        return self

    def canonical(self) -> dict[str, Any]:
        """Only the module's own corruption is ever applied: other severities would give one experiment two names."""
        fields = super().canonical()
        own = {key: severity for key, severity in fields.pop("severities", {}).items() if int(key) == fields["corruption"]}
        return fields | ({"severities": own} if own else {})

    def requires(self) -> list[Experiment]:
        return [self.backbone]

    def bits(self) -> list[str]:
        level = self.level if self.level == "auto" else f"level{self.level}"
        model = Experiment.bits(self)
        return [*model, self.corruption, level, f"lr{self.lr:g}", f"w{self.weight:g}", *([] if self.pass_through else ["bypass"])]


class ModularSystem(Experiment):
    """A backbone with one module per corruption. It trains nothing: its run is its evaluation."""

    nested: ClassVar[dict[str, str]] = {"backbone": "Identity", "module": "Module"}
    # Fields that an entry may carry only for its parts to inherit.
    hands_down: ClassVar[tuple[str, ...]] = ("epochs", "batch_size", "precision", "severities", "augmentation")

    method: Literal["ModularSystem"] = "ModularSystem"
    corruptions: Corruptions = ELEMENTALS
    backbone: Identity
    # The first corruption's module; the others differ from it in the corruption alone.
    module: Module
    # In which order modules of the same level undo the corruptions: as they were applied (published), the reverse, or at random.
    order: Literal["application", "reverse", "random"] = "application"

    @classmethod
    def part(cls, key: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        if key != "module":
            return {}
        corruptions = read_corruptions(raw.get("corruptions", ELEMENTALS))
        return {"corruption": corruptions[0], "backbone": raw.get("backbone")}

    def canonical(self) -> dict[str, Any]:
        """The module stands here for all corruptions, so with all severities and without what the system says itself."""
        module = Experiment.canonical(self.module)
        return super().canonical() | {"module": {key: value for key, value in module.items() if key not in ("corruption", "backbone")}}

    @property
    def trained_severities(self) -> dict[str, int]:
        return self.module.severities

    def modules(self) -> list[Module]:
        """The modules' experiments, in menu order of their corruptions."""
        entry = {name: getattr(self.module, name) for name in self.module.model_fields_set}
        return [Module.model_validate(entry | {"corruption": corruption}) for corruption in self.corruptions]

    def requires(self) -> list[Experiment]:
        return [self.backbone, *self.modules()]

    def bits(self) -> list[str]:
        module = [f"lr{self.module.lr:g}", f"w{self.module.weight:g}", *([] if self.module.pass_through else ["bypass"])]
        return [*super().bits(), *module, *([] if self.order == "application" else [self.order])]

    @property
    def condition(self) -> str:
        order = "" if self.order == "application" else f"{self.order} order"
        return ", ".join(filter(None, [order, "" if self.module.pass_through else "no pass-through"]))


def experiment_class(method: object) -> type[Experiment]:
    """The typed model of a method, found by its menu name."""
    name = choose("method", method)
    classes = list(Experiment.__subclasses__())
    for known in classes:
        if known.__name__ == name:
            return known
        classes += known.__subclasses__()
    raise ValueError(f"{name} is on the menu, but train/experiment.py has no class of that name")


def build(entry: object) -> Experiment:
    """The experiment of one entry of a list (a mapping of keys).

    Nested dicts of prerequisites inherit what they do not say themselves. Raises FieldError with the key, what is wrong
    and what is allowed.
    """
    if not isinstance(entry, Mapping):
        raise FieldError("", f"must be a mapping of keys such as 'dataset' and 'method', got {entry!r}")
    if "method" not in entry:
        raise FieldError("method", f"missing; allowed: {', '.join(info_dicts.METHODS.values())}")
    raw = {str(key): value for key, value in entry.items()}
    try:
        cls = experiment_class(raw["method"])
    except ValueError as error:
        raise FieldError("method", str(error)) from None
    raw["method"] = cls.__name__
    try:
        dataset = choose("dataset", raw.get("dataset"))
    except ValueError as error:
        raise FieldError("dataset", str(error) if "dataset" in raw else "missing") from None
    raw.setdefault("model", dataset.model)
    if issubclass(cls, Trained):
        raw.setdefault("augmentation", dataset.augmentation)
    for key, method in cls.nested.items():
        if isinstance(raw.get(key), Mapping):
            raw[key] = build_part(cls, key, method, raw)
    raw = {key: value for key, value in raw.items() if key not in getattr(cls, "hands_down", ())}
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        raise first_problem(cls, error) from None


def build_part(cls: type[Experiment], key: str, method: str, raw: Mapping[str, Any]) -> Experiment:
    """The nested prerequisite `key` of an entry, with what it inherits."""
    part_class = experiment_class(method)
    known = {*part_class.model_fields, *part_class.nested, *getattr(part_class, "hands_down", ())}
    inherited = {name: raw[name] for name in INHERITED if name in raw and name in known}
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
    problem = error.errors()[0]
    key = ".".join(str(word) for word in problem["loc"] if not str(word).startswith(("function-", "constrained-", "literal[")))
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        last = str(problem["loc"][-1])
        owner: type[BaseModel] = Evaluation if len(problem["loc"]) > 1 else cls
        near = difflib.get_close_matches(last, owner.model_fields, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return FieldError(key, f"unknown key for {owner.__name__}; {hint}allowed: {', '.join(owner.model_fields)}")
    if problem["type"] == "missing":
        return FieldError(key, f"missing; {cls.__name__} needs it")
    if not key and ": " in message:
        key, message = message.split(": ", 1)
    elif problem["type"] != "value_error":
        message = f"{message[0].lower()}{message[1:]}, got {problem['input']!r}"
    return FieldError(key, message)


Views.model_rebuild()
CrossEntropy.model_rebuild()
Contrastive.model_rebuild()
