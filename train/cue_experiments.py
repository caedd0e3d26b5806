"""Experiments under spurious cues: teachers, and students that learn from them, each under a mechanism of its own. Loads without torch."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from data.mechanisms import Mechanism, check, counterfactuals, mechanism_name, read_mechanism, short_name
from train.entry import Experiment, WholeNetwork
from train.fields import Number, Whole, choose, from_menu

# Above so many classes a Jacobian has the rows of the teacher's top classes alone, unless an entry says how many.
ALL_CLASSES = 20


def default_momentum(optimizer: object) -> float:
    """The momentum of an optimizer under cues, by number or name, of which an entry says nothing; ValueError for none of the menu's."""
    try:
        return 0.9 if choose("optimizer", optimizer).beta1 else 0.0
    except ValueError as error:
        raise ValueError(f"optimizer: {error}") from None


class UnderCues(WholeNetwork):
    """A network trained on images that carry cues: by default SGD, cosine annealing from lr to final_lr stepped once per iteration."""

    corrupted: ClassVar[bool] = False
    # A student's augmentation asks for no other teacher.
    by_itself: ClassVar[tuple[str, ...]] = ("augmentation",)
    anneal: ClassVar[Literal["epoch", "iteration"]] = "iteration"

    augmentation: Annotated[str, from_menu("augmentation")] = "None"
    epochs: Annotated[Whole, Field(ge=1)] = 20
    batch_size: Annotated[Whole, Field(ge=1)] = 64
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[Number, Field(ge=0)] = 0.0
    # Where cosine annealing ends.
    final_lr: Annotated[Number, Field(ge=0)] = 0.0

    # What the training images tell of their class: a number or name of the data set's menu, or six numbers.
    mechanism: Mechanism
    # Of the images that would carry cues, as many do.
    cue_fraction: Annotated[Number, Field(ge=0, le=1)] = 1.0
    # The counterfactual sets to test on; the default are the data set's.
    counterfactuals: tuple[Mechanism, ...] = ()
    # Iterations between two tests on the first images of each set; changes nothing of what is trained.
    evaluate_every: Annotated[Whole, Field(ge=1)] = 100
    width: Annotated[Number, Field(gt=0)] = 1.0
    depth: Annotated[Whole, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _beta1(cls, raw: Any) -> Any:
        """Adam and its kin keep their usual beta1: without momentum is SGD's default here, not theirs."""
        if isinstance(raw, dict) and "momentum" not in raw and raw.get("optimizer") is not None:
            return raw | {"momentum": default_momentum(raw["optimizer"])}
        return raw

    @field_validator("mechanism", mode="before")
    @classmethod
    def _mechanism(cls, value: Any, info: ValidationInfo) -> Any:
        return read_mechanism(info.data["dataset"], value) if "dataset" in info.data else value

    @field_validator("counterfactuals", mode="before")
    @classmethod
    def _counterfactuals(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be a list of mechanisms, got {value!r}")
        return tuple(read_mechanism(info.data["dataset"], own) for own in value) if "dataset" in info.data else ()

    @model_validator(mode="after")
    def _annealed(self) -> "UnderCues":
        if self.schedule != "cosine" and self.final_lr != self.default_of("final_lr"):
            raise ValueError(f"final_lr: goes with 'schedule: cosine' only, not with {self.schedule!r}")
        return self

    @model_validator(mode="after")
    def _fits(self) -> "UnderCues":
        try:
            check(self.dataset, self.trained_on)
        except ValueError as error:
            raise ValueError(f"cue_fraction: {error}") from None
        if self.choice("dataset").shape[-1] == 1 and self.augmentation not in ("None", "Mixup", "Union"):
            raise ValueError(f"augmentation: {self.augmentation} is for images, {self.dataset} has none; allowed: None, Mixup, Union")
        depth = self.choice("model").facts.get("depth")
        if self.depth is not None and (depth is None or self.depth < 8 or self.depth % 6 != 2):
            raise ValueError(
                f"depth: {self.model} has {'depths 8, 14, 20, ... (6 n + 2)' if depth else 'no depth to choose'}, got {self.depth}"
            )
        return self

    @property
    def trained_on(self) -> Mechanism:
        """The mechanism of the training images."""
        return self.mechanism.scaled(self.cue_fraction)

    @property
    def tested_on(self) -> dict[str, Mechanism]:
        """The counterfactual sets by name, and under `own` the mechanism of the training images where it is none of them."""
        sets = {mechanism_name(self.dataset, own): own for own in self.counterfactuals or counterfactuals(self.dataset)}
        return sets if self.trained_on in sets.values() else sets | {"own": self.trained_on}

    @property
    def own_set(self) -> str:
        """The name of the set that has the mechanism of the training images."""
        return next(name for name, mechanism in self.tested_on.items() if mechanism == self.trained_on)

    def default_of(self, name: str) -> Any:
        if name == "augmentation":
            return type(self).model_fields[name].default
        if name == "depth":
            return self.choice("model").facts.get("depth")
        if name == "momentum":
            return default_momentum(self.optimizer)
        return super().default_of(name)

    def canonical(self) -> dict[str, Any]:
        """The mechanism as the six numbers of the training images, so that one experiment has one name however its entry says it."""
        fields = {
            key: value for key, value in super().canonical().items() if key not in ("cue_fraction", "evaluate_every", "counterfactuals")
        }
        if self.depth is None:
            fields.pop("depth", None)
        if self.counterfactuals and self.counterfactuals != counterfactuals(self.dataset):
            fields["counterfactuals"] = [list(own) for own in self.counterfactuals]
        return fields | {"mechanism": list(self.trained_on)}

    def bits(self) -> list[str]:
        model = Experiment.bits(self)
        shape = [
            *([f"x{self.width:g}"] if self.width != 1 else []),
            *([f"d{self.depth}"] if self.depth not in (None, self.default_of("depth")) else []),
        ]
        augmentation = [] if self.augmentation == "None" else [self.augmentation]
        shown = [*model, *shape, *self.resolution_bits()]
        return [*shown, mechanism_name(self.dataset, self.trained_on), *augmentation, *self.optimizer_bits(), *self.sparse_bits()]


class Teacher(UnderCues):
    """A network trained on labels under a mechanism."""

    method: Literal["Teacher"] = "Teacher"

    def bits(self) -> list[str]:
        return [*super().bits(), f"lr{self.lr:g}"]

    @property
    def condition(self) -> str:
        return short_name(self.dataset, self.trained_on)


class Student(UnderCues):
    """A network trained by a teacher's outputs on images under a mechanism of its own: (1 - alpha) base + alpha term."""

    nested: ClassVar[dict[str, str]] = {"teacher": "Teacher"}

    method: Literal["Student"] = "Student"
    loss: Annotated[str, from_menu("loss")]
    teacher: Teacher | None = None
    # Of the base loss.
    temperature: Annotated[Number, Field(gt=0)] = 4.0
    # Of Contrastive and CRD; the default is the loss's own.
    contrast_temperature: Annotated[Number, Field(gt=0)] | None = None
    # `auto`: both parts of the loss begin with the same size, by the first batches (train/student.py).
    alpha: Annotated[Number, Field(ge=0, le=1)] | Literal["auto"] = "auto"
    # Rows of a Jacobian: the teacher's top classes of each image.
    top_classes: Annotated[Whole, Field(ge=1)] | None = None

    @field_validator("alpha", mode="before")
    @classmethod
    def _alpha(cls, value: Any) -> Any:
        if value != "auto" and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
            raise ValueError(f"must be 'auto' or a number from 0 to 1, got {value!r}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Student":
        loss, classes = self.choice("loss"), self.choice("dataset").classes
        if loss.teacher and self.teacher is None:
            raise ValueError(f"teacher: missing; the loss {loss} needs it, as teacher: {{mechanism: ..., lr: ...}}")
        if self.teacher is not None and self.teacher.choice("dataset").classes != classes:
            theirs = self.teacher.choice("dataset").classes
            raise ValueError(
                f"teacher.dataset: {self.teacher.dataset} has {theirs} classes, its student's {self.dataset} {classes}; they must be the same"
            )
        if self.teacher is not None and self.teacher.dataset != self.dataset:
            raise ValueError(f"teacher.dataset: must be its student's ({self.dataset}), got {self.teacher.dataset}")
        if loss == "AttentionTransfer" and self.choice("dataset").shape[-1] == 1:
            raise ValueError(f"loss: AttentionTransfer is for images, {self.dataset} has none")
        if self.top_classes is not None and self.top_classes > classes:
            raise ValueError(f"top_classes: {self.dataset} has {classes} classes, got {self.top_classes}")
        for key, used in (("alpha", loss.term), ("top_classes", loss == "Jacobian"), ("contrast_temperature", "temperature" in loss.facts)):
            if not used and getattr(self, key) != self.default_of(key):
                raise ValueError(f"{key}: means nothing for the loss {loss}")
        if not loss.teacher and self.temperature != self.default_of("temperature"):
            raise ValueError(f"temperature: means nothing for the loss {loss}")
        return self

    @property
    def contrast(self) -> float:
        """The temperature of the second term."""
        return self.contrast_temperature or float(self.choice("loss").temperature)

    @property
    def rows(self) -> int:
        """Rows of a Jacobian."""
        classes: int = self.choice("dataset").classes
        return self.top_classes or (classes if classes <= ALL_CLASSES else ALL_CLASSES)

    def requires(self) -> list[Experiment]:
        return [] if self.teacher is None else [self.teacher]

    def bits(self) -> list[str]:
        teacher = [] if self.teacher is None else [f"T{mechanism_name(self.dataset, self.teacher.trained_on)}"]
        return [*super().bits(), *teacher, self.loss, f"lr{self.lr:g}"]

    @property
    def condition(self) -> str:
        data = short_name(self.dataset, self.trained_on)
        return (
            f"{self.loss}, {data}"
            if self.teacher is None
            else f"{self.loss}, {data} from {short_name(self.dataset, self.teacher.trained_on)}"
        )
