"""Experiments: the validated, immutable form of one entry of a list, one typed model per method. Loads without torch."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

import info_dicts
from data.compositions import ELEMENTALS
from train.cue_experiments import Student, Teacher
from train.entry import Experiment, Trained, WholeNetwork, canonical_value
from train.fields import (
    Corruptions,
    Number,
    Severities,
    Whole,
    by_corruption,
    choose,
    from_menu,
    read_corruptions,
)  # fmt: skip

# The kinds of experiments by their methods' names; those under cues stand in a file of their own.
__all__ = ["Student", "Teacher"]

# The analyses that look at no images.
OF_WEIGHTS = ("clusterability", "cost")


class Identity(WholeNetwork):
    """The whole network trained on clean images alone: the backbone of modules, and a baseline."""

    method: Literal["Identity"] = "Identity"


class Regression(WholeNetwork):
    """A network that computes functions of points, which the data set names, by the mean squared error. It tells no classes; its weights can be analysed."""

    corrupted: ClassVar[bool] = False
    classifies: ClassVar[bool] = False

    method: Literal["Regression"] = "Regression"

    @model_validator(mode="after")
    def _fits(self) -> "Regression":
        if not self.choice("dataset").facts.get("values"):
            allowed = ", ".join(d for d in info_dicts.DATASETS.values() if d.facts.get("values"))
            raise ValueError(f"dataset: Regression needs functions to compute, {self.dataset} has none; allowed: {allowed}")
        if self.augmentation != "None":
            raise ValueError(f"augmentation: {self.augmentation} is for images; allowed for Regression: None")
        return self

    def unanalysable(self, name: str, options: Any) -> str:
        if name not in OF_WEIGHTS:
            return f"{name} needs classes; allowed for Regression: {', '.join(OF_WEIGHTS)}"
        return super().unanalysable(name, options)


def only(corruptions: tuple[str, ...]) -> str:
    """What tells a system that is made for some corruptions alone; empty for all of the study's."""
    return "" if corruptions == ELEMENTALS else f"{', '.join(corruptions)} only"


class Views(WholeNetwork):
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
        return ", ".join(filter(None, [only(self.corruptions), "parameter-matched" if self.match else ""]))


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


class OneCorruption(Trained):
    """Training of a part that undoes one corruption."""

    corruption: Annotated[str, from_menu("corruption")]
    severities: Severities = {}

    @field_validator("corruption", mode="after")
    @classmethod
    def _corrupts(cls, name: str) -> str:
        if name == "Identity":
            raise ValueError(f"Identity has no {cls.__name__.lower()}: there is nothing to undo")
        return name

    def canonical(self) -> dict[str, Any]:
        """Only the part's own corruption is ever applied: other severities would give one experiment two names."""
        fields = super().canonical()
        own = {key: severity for key, severity in fields.pop("severities", {}).items() if int(key) == fields["corruption"]}
        return fields | ({"severities": own} if own else {})

    def canonical_of_all(self, *without: str) -> dict[str, Any]:
        """The canonical form where this part stands for those of all corruptions of a system."""
        return {key: value for key, value in super().canonical().items() if key not in ("corruption", *without)}

    def of(self, corruptions: Iterable[str]) -> list[Any]:
        """The experiments of the same kind for these corruptions."""
        entry = {name: getattr(self, name) for name in self.model_fields_set}
        return [type(self).model_validate(entry | {"corruption": corruption}) for corruption in corruptions]


class Module(OneCorruption):
    """A module for one corruption at one level of a frozen backbone; `level: auto` searches the level first (AutoModules)."""

    nested: ClassVar[dict[str, str]] = {"backbone": "Identity"}

    method: Literal["Module"] = "Module"
    # A mapping gives each corruption its own level, for the modules of a system.
    level: int | Literal["auto"] | dict[str, int]
    weight: Annotated[Number, Field(ge=0)]
    temperature: Annotated[Number, Field(gt=0)] = 0.15
    pass_through: bool = True
    search_epochs: Annotated[Whole, Field(ge=1)] = 5
    # `fitted`: kernels no larger than the map, so that no weight ever sees padding alone.
    kernels: Literal["published", "fitted"] = "published"
    backbone: Identity

    @field_validator("level", mode="before")
    @classmethod
    def _level(cls, value: object, info: ValidationInfo) -> object:
        blocks = choose("model", info.data["model"]).blocks if "model" in info.data else 1_000
        levels = by_corruption(value) if isinstance(value, Mapping) else {"": value}
        if all(isinstance(level, int) and not isinstance(level, bool) and 0 <= level < blocks for level in levels.values()):
            return {str(name): level for name, level in levels.items()} if isinstance(value, Mapping) else value
        if value == "auto":
            return value
        wrong = [f"{name}: {level}" for name, level in levels.items() if name and not (isinstance(level, int) and 0 <= level < blocks)]
        got = ", ".join(wrong) or repr(value)
        raise ValueError(f"must be 'auto', a whole number from 0 to {blocks - 1}, or one for each corruption, got {got}")

    @model_validator(mode="after")
    def _consistent(self) -> "Module":
        self.level_of(self.corruption)
        if self.level != "auto" and self.search_epochs != self.default_of("search_epochs"):
            raise ValueError("search_epochs: goes with 'level: auto' only")
        if (self.backbone.dataset, self.backbone.model) != (self.dataset, self.model):
            raise ValueError("backbone: must have the data set and the model of its module")
        if self.backbone.inputs != "standardised":
            raise ValueError("backbone.inputs: modules are made for standardised images")
        if self.backbone.resolution is not None:
            raise ValueError(
                f"backbone.resolution: modules are made for images as they are stored ({self.pixels} px), got {self.backbone.resolution}"
            )
        return self

    def level_of(self, corruption: str) -> int | str:
        """The level that this entry gives to the module of a corruption."""
        if not isinstance(self.level, dict):
            return self.level
        if corruption not in self.level:
            raise ValueError(f"level: names none for {corruption}")
        return self.level[corruption]

    @property
    def own_level(self) -> int | str:
        """The level of this module, or `auto`."""
        return self.level_of(self.corruption)

    def canonical(self) -> dict[str, Any]:
        return super().canonical() | {"level": self.own_level}

    def requires(self) -> list[Experiment]:
        return [self.backbone]

    def bits(self) -> list[str]:
        level = self.own_level if self.own_level == "auto" else f"level{self.own_level}"
        return [*Experiment.bits(self), self.corruption, level, f"lr{self.lr:g}", f"w{self.weight:g}", *self.variant_bits()]

    def variant_bits(self) -> list[str]:
        return [
            *self.optimizer_bits(),
            *self.sparse_bits(),
            *([] if self.pass_through else ["bypass"]),
            *([] if self.kernels == "published" else [self.kernels]),
        ]


class Autoencoder(OneCorruption):
    """An image-to-image network that undoes one corruption: pixel MSE to the clean image, in network space."""

    classifies: ClassVar[bool] = False

    method: Literal["Autoencoder"] = "Autoencoder"

    def bits(self) -> list[str]:
        return [*Experiment.bits(self), self.corruption, *self.optimizer_bits(), f"lr{self.lr:g}", *self.sparse_bits()]


class JointClassifier(WholeNetwork):
    """A whole network trained on clean images and on what the frozen autoencoders make of each single corruption."""

    nested: ClassVar[dict[str, str]] = {"autoencoder": "Autoencoder"}

    method: Literal["JointClassifier"] = "JointClassifier"
    corruptions: Corruptions = ELEMENTALS
    severities: Severities = {}
    # The first corruption's autoencoder; the others differ from it in the corruption alone.
    autoencoder: Autoencoder

    @classmethod
    def part(cls, key: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        return {"corruption": read_corruptions(raw.get("corruptions", ELEMENTALS))[0]}

    @model_validator(mode="after")
    def _consistent(self) -> "JointClassifier":
        if self.autoencoder.dataset != self.dataset:
            raise ValueError("autoencoder: must have the data set of its classifier")
        return self

    def autoencoders(self) -> list[Autoencoder]:
        """The autoencoders' experiments, in menu order of their corruptions."""
        return self.autoencoder.of(self.corruptions)

    def requires(self) -> list[Experiment]:
        return [*self.autoencoders()]

    def canonical(self) -> dict[str, Any]:
        return super().canonical() | {"autoencoder": self.autoencoder.canonical_of_all()}

    def bits(self) -> list[str]:
        return [*super().bits(), f"ae{self.autoencoder.lr:g}"]


class Router(Trained):
    """A network that names the corruptions of an image, trained on single corruptions and clean images."""

    classifies: ClassVar[bool] = False

    method: Literal["Router"] = "Router"
    corruptions: Corruptions = ELEMENTALS
    severities: Severities = {}


class RoutedSystem(Experiment):
    """A system with a part for each corruption, which must know which parts an image needs. It trains nothing: its run is its evaluation."""

    # Fields that an entry may carry only for its parts to inherit.
    hands_down: ClassVar[tuple[str, ...]] = ("epochs", "batch_size", "precision", "severities", "augmentation")
    parts: ClassVar[str]

    corruptions: Corruptions = ELEMENTALS
    # In which order the parts undo the corruptions: as they were applied (published), the reverse, or at random.
    order: Literal["application", "reverse", "random"] = "application"
    # What the system goes by: the true names and order (published), the names in a wrong order, as many parts drawn at random, or what a router sees.
    routing: Literal["told", "wrong_order", "random", "router"] = "told"
    router: Router | None = None

    @model_validator(mode="after")
    def _routed(self) -> "RoutedSystem":
        if self.routing == "router" and self.router is None:
            raise ValueError("router: missing; 'routing: router' needs it, as router: {lr: ...}")
        if self.routing != "router" and self.router is not None:
            raise ValueError(f"router: goes with 'routing: router' only, not with {self.routing!r}")
        if self.router and (self.router.dataset, self.router.corruptions) != (self.dataset, self.corruptions):
            raise ValueError("router: must have the data set and the corruptions of its system")
        if self.order != "application" and self.routing != "told":
            raise ValueError(f"order: {self.order} goes with 'routing: told' only")
        return self

    @classmethod
    def part(cls, key: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        corruptions = raw.get("corruptions", ELEMENTALS)
        return {"corruptions": corruptions} if key == "router" else {"corruption": read_corruptions(corruptions)[0]}

    def canonical(self) -> dict[str, Any]:
        fields = super().canonical()
        if self.router:
            fields["router"] = {key: value for key, value in fields["router"].items() if key != "corruptions"}
        return fields

    def requires(self) -> list[Experiment]:
        return [self.router] if self.router else []

    @property
    def oracle(self) -> str:
        told = {"wrong_order": "names, wrong order", "random": "number", "router": "none"}
        return told.get(self.routing, "names" if self.order == "random" else super().oracle)

    @property
    def condition(self) -> str:
        routing = {"told": "", "wrong_order": "wrong order", "random": f"random {self.parts}", "router": "router"}[self.routing]
        return ", ".join(filter(None, [only(self.corruptions), "" if self.order == "application" else f"{self.order} order", routing]))

    def bits(self) -> list[str]:
        order = [] if self.order == "application" else [self.order]
        routing = {"told": [], "random": [f"random_{self.parts}"]}.get(self.routing, [self.routing])
        return [*super().bits(), *self.part_bits(), *order, *routing]

    def part_bits(self) -> list[str]:
        """What a reader wants to see of the parts in the run's name."""
        return []


class ModularSystem(RoutedSystem):
    """A backbone with one module per corruption."""

    nested: ClassVar[dict[str, str]] = {"backbone": "Identity", "module": "Module", "router": "Router"}
    parts: ClassVar[str] = "modules"

    method: Literal["ModularSystem"] = "ModularSystem"
    backbone: Identity
    # The first corruption's module; the others differ from it in the corruption (and the level that goes with it) alone.
    module: Module

    @classmethod
    def part(cls, key: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        if key == "backbone":
            return {}
        return super().part(key, raw) | ({"backbone": raw.get("backbone")} if key == "module" else {})

    @model_validator(mode="after")
    def _levels(self) -> "ModularSystem":
        if self.module.backbone.hash != self.backbone.hash:
            raise ValueError("module.backbone: must be the backbone of its system")
        try:
            self.levels()
        except ValueError as error:
            raise ValueError(f"module.{error}") from None
        return self

    def levels(self) -> dict[str, int | str]:
        """The level, or `auto`, of each corruption's module."""
        return {corruption: self.module.level_of(corruption) for corruption in self.corruptions}

    def canonical(self) -> dict[str, Any]:
        """The module stands here for all corruptions, so with all severities and without what the system says itself."""
        levels = self.levels()
        level = canonical_value("level", levels) if len(set(levels.values())) > 1 else next(iter(levels.values()))
        return super().canonical() | {"module": self.module.canonical_of_all("backbone") | {"level": level}}

    @property
    def trained_severities(self) -> dict[str, int]:
        return self.module.severities

    def modules(self) -> list[Module]:
        """The modules' experiments, in menu order of their corruptions."""
        return self.module.of(self.corruptions)

    def requires(self) -> list[Experiment]:
        return [self.backbone, *self.modules(), *super().requires()]

    def part_bits(self) -> list[str]:
        return [f"lr{self.module.lr:g}", f"w{self.module.weight:g}", *self.module.variant_bits()]

    @property
    def condition(self) -> str:
        levels = self.levels().values()
        fixed = "" if "auto" in levels else f"level {next(iter(levels))}" if len(set(levels)) == 1 else "fixed levels"
        kernels = "" if self.module.kernels == "published" else "fitted kernels"
        return ", ".join(filter(None, [super().condition, fixed, "" if self.module.pass_through else "no pass-through", kernels]))


class ImgSpace(RoutedSystem):
    """A chain of autoencoders, one for each corruption of the image, before a classifier."""

    parts: ClassVar[str] = "autoencoders"

    # The first corruption's autoencoder; the others differ from it in the corruption alone.
    autoencoder: Autoencoder
    classifier: Identity | JointClassifier

    @model_validator(mode="after")
    def _same_data(self) -> "ImgSpace":
        for key in ("autoencoder", "classifier"):
            if getattr(self, key).dataset != self.dataset:
                raise ValueError(f"{key}: must have the data set of its system")
        return self

    def autoencoders(self) -> list[Autoencoder]:
        """The autoencoders' experiments, in menu order of their corruptions."""
        return self.autoencoder.of(self.corruptions)

    def requires(self) -> list[Experiment]:
        return [*self.autoencoders(), self.classifier, *super().requires()]

    @property
    def trained_severities(self) -> dict[str, int]:
        return self.autoencoder.severities

    def canonical(self) -> dict[str, Any]:
        return super().canonical() | {"autoencoder": self.autoencoder.canonical_of_all()}

    def part_bits(self) -> list[str]:
        return [f"ae{self.autoencoder.lr:g}", f"lr{self.classifier.lr:g}"]


class ImgSpaceIdentity(ImgSpace):
    """Autoencoders before a classifier that was trained on clean images alone."""

    nested: ClassVar[dict[str, str]] = {"autoencoder": "Autoencoder", "classifier": "Identity", "router": "Router"}

    method: Literal["ImgSpaceIdentity"] = "ImgSpaceIdentity"
    classifier: Identity

    @classmethod
    def part(cls, key: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        return {} if key == "classifier" else super().part(key, raw)


class ImgSpaceJoint(ImgSpace):
    """Autoencoders before a classifier that was trained on what they make of single corruptions."""

    nested: ClassVar[dict[str, str]] = {"autoencoder": "Autoencoder", "classifier": "JointClassifier", "router": "Router"}

    method: Literal["ImgSpaceJoint"] = "ImgSpaceJoint"
    classifier: JointClassifier

    @classmethod
    def part(cls, key: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        if key == "classifier":
            return {"corruptions": raw.get("corruptions", ELEMENTALS), "autoencoder": raw.get("autoencoder")}
        return super().part(key, raw)

    @model_validator(mode="after")
    def _same_autoencoders(self) -> "ImgSpaceJoint":
        if [part.hash for part in self.classifier.autoencoders()] != [part.hash for part in self.autoencoders()]:
            raise ValueError("classifier: must be trained behind the autoencoders of its system")
        return self

    def canonical(self) -> dict[str, Any]:
        classifier = {key: value for key, value in self.classifier.canonical().items() if key not in ("autoencoder", "corruptions")}
        return super().canonical() | {"classifier": classifier}


Views.model_rebuild()
CrossEntropy.model_rebuild()
Contrastive.model_rebuild()
