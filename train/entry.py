"""What every experiment has: its common fields, its identity (canonical form, hash, name, directory) and what it rests on. Loads without torch.

An experiment is named by its contents: `Experiment.hash` is the SHA-256 of the canonical JSON of the fields that differ
from their defaults, nested prerequisites included. So defaults are append-only, like menu numbers: a new field with a
default orphans no finished run.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationInfo, field_serializer, field_validator, model_validator

import info_dicts
from errors import InputError
from train.fields import MENUS, PART, Analyses, Device, Evaluation, Metrics, Number, Whole, choose, from_menu, number_of, unpublished
from train.sparse import ClusterableStart, CutPenalty, Part, Pruning

ROOT = Path(__file__).resolve().parent.parent

# The three seeds of the published study.
SEEDS = (38164641, 13579111, 24681012)
# Fields that change nothing of what is computed, so they are not in the hash.
UNHASHED = ("study", "tags", "evaluation", "analyses", "metrics", "device", "threads", "compile")
# What a nested prerequisite takes from the entry around it where it says nothing itself; never lr or weight.
INHERITED = (
    "dataset", "model", "seed", "epochs", "batch_size", "precision", "severities", "augmentation", "study", "tags", "evaluation", "device", "threads", "compile",
)  # fmt: skip


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
    # Fields that it does not inherit although others do.
    by_itself: ClassVar[tuple[str, ...]] = ()
    # Whether its images carry corruptions, which are made for square ones.
    corrupted: ClassVar[bool] = True

    dataset: Annotated[str, from_menu("dataset")]
    method: Annotated[str, from_menu("method")]
    model: Annotated[str, from_menu("model")]
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0

    study: Annotated[str, Field(pattern=r"^[\w. -]*$")] = ""
    tags: tuple[str, ...] = ()
    evaluation: Evaluation = Evaluation()
    # What is looked at in its layers once it is trained, by analysis.
    analyses: Analyses = {}
    device: Device = "auto"
    threads: Annotated[Whole, Field(ge=1, le=1024)] | None = None
    # Whether torch's compiler makes the network that is trained: minutes at the start, for long trainings on a GPU.
    compile: StrictBool = False

    @classmethod
    def part(cls, key: str, raw: Mapping[str, Any]) -> dict[str, Any]:
        """What this method gives to the nested prerequisite `key` beyond the inherited fields."""
        return {}

    @field_serializer("analyses")
    def _plain(self, analyses: dict[str, Any]) -> dict[str, Any]:
        return {name: options.model_dump(mode="json", exclude_defaults=True) for name, options in analyses.items()}

    @model_validator(mode="after")
    def _analysable(self) -> "Experiment":
        for name, options in self.analyses.items():
            if reason := self.unanalysable(name, options):
                raise ValueError(f"analyses: {reason}")
        return self

    @model_validator(mode="after")
    def _possible(self) -> "Experiment":
        dataset, model = self.choice("dataset"), self.choice("model")
        # What is made for one size is made for squares.
        if self.pixels not in model.sizes or (isinstance(model.sizes, tuple) and dataset.shape[-1] != dataset.shape[-2]):
            fitting = ", ".join(m for m in info_dicts.MODELS.values() if self.pixels in m.sizes)
            made = f"{dataset}" if self.pixels == dataset.shape[-1] else f"resolution of {dataset}"
            raise ValueError(f"model: {model} takes no images of {self.pixels} px ({made}); allowed: {fitting}")
        if self.corrupted and (dataset.shape[-1] != dataset.shape[-2] or dataset.shape[-1] == 1):
            square = ", ".join(d for d in info_dicts.DATASETS.values() if d.shape[-1] == d.shape[-2] > 1)
            raise ValueError(f"dataset: {self.method} needs square images, {dataset} has none; allowed: {square}")
        images = self.evaluation.images
        if images and (images % dataset.classes or images > (self.split_size or images)):
            most = f", at most {self.split_size}" if self.split_size else ""
            raise ValueError(f"evaluation.images: must be a multiple of the {dataset.classes} classes{most}, got {images}")
        return self

    def choice(self, key: str) -> Any:
        """The menu's choice behind one of this experiment's names, with its facts as attributes."""
        return choose(key, getattr(self, key))

    @property
    def pixels(self) -> int:
        """The width of the images that its network sees."""
        return int(self.choice("dataset").shape[-1])

    def requires(self) -> "list[Experiment]":
        """The experiments that must be finished before this one starts, in order."""
        return []

    @property
    def is_system(self) -> bool:
        """Whether this experiment's run classifies images, so that it is evaluated on compositions."""
        return "oracle" in self.choice("method").facts

    def unanalysable(self, name: str, options: Any) -> str:
        """Why this experiment's run cannot have an analysis of layers with these options; empty where it can."""
        if self.is_system or not self.corrupted:
            return ""
        return f"{self.method} is a part, which classifies nothing by itself; analyses take systems, teachers and students"

    @property
    def oracle(self) -> str:
        """What this system is told at test time about the corruptions of an image."""
        return str(self.choice("method").oracle)

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
    def split_size(self) -> int | None:
        """How many images the split has that systems are evaluated on; None where that depends on a copy that is not prepared."""
        counts = self.choice("dataset").counts
        if counts:
            return counts[{"valid": 1, "test": 2}[self.evaluation.split]]
        # Only here, since reading a list shall not load h5py.
        from data.datasets import split_count

        return split_count(self.dataset, self.evaluation.split)

    @property
    def test_images(self) -> int:
        """How many images the evaluation uses; InputError where that depends on a copy that is not prepared."""
        images = self.evaluation.images or self.split_size
        if images is None:
            from data.datasets import require

            require(self.dataset)
            raise InputError(
                f"{self.dataset}: the number of {self.evaluation.split} images cannot be read; run: python -m data check {self.dataset}"
            )
        return images

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
        return [] if self.model == self.default_of("model") else [self.model.replace(":", ".")]

    @cached_property
    def name(self) -> str:
        """Readable, with a short hash: `<method>-<bits>-s<seed>-<12 hex>`."""
        words = [re.sub(r"[^A-Za-z0-9.+_]+", "", word) for word in (self.method, *self.bits(), f"s{self.seed}")]
        return "-".join([*words, self.hash[:12]])

    @property
    def place(self) -> Path:
        """Where the run directory lies in the folder of runs."""
        return Path(re.sub(r"[^A-Za-z0-9._-]", "-", self.dataset)) / self.name

    @property
    def directory(self) -> Path:
        """The run directory."""
        return runs_root() / self.place

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
    if isinstance(value, Part):
        return value.model_dump(mode="json")
    if name == "corruptions":
        return [number_of(name, item) for item in value]
    if isinstance(value, dict):  # severities and levels are by corruption
        return {str(number_of("corruption", key)): own for key, own in value.items()}
    if name in MENUS:
        return number_of(name, value)
    return list(value) if isinstance(value, tuple) else value


def plain(number: float) -> str:
    """A number without exponent: names of runs have no room for a minus."""
    return f"{number:.12f}".rstrip("0").rstrip(".")


class Trained(Experiment):
    """A network that is trained: by default by SGD with momentum and cosine annealing stepped once per epoch; best weights by validation loss."""

    anneal: ClassVar[Literal["epoch", "iteration"]] = "epoch"
    # Whether it tells the classes of images, so that metrics can score it.
    classifies: ClassVar[bool] = True

    augmentation: Annotated[str, from_menu("augmentation")]
    epochs: Annotated[Whole, Field(ge=1)] = 200
    batch_size: Annotated[Whole, Field(ge=1)] = 256
    precision: Literal["float32", "bfloat16"] = "float32"
    lr: Annotated[Number, Field(gt=0)]
    optimizer: Annotated[str, from_menu("optimizer")] = "SGD"
    # Of SGD and RMSprop; of Adam, AdamW and RAdam it is beta1.
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[Number, Field(ge=0)] = 5e-4
    schedule: Annotated[str, from_menu("schedule")] = "cosine"
    # Of `schedule: step`: after so many epochs the learning rate is multiplied by the factor, again and again.
    step_epochs: Annotated[Whole, Field(ge=1)] | None = None
    step_factor: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    # What validation images are scored by after every epoch, beside loss and accuracy.
    metrics: Metrics = ()
    # The weights that are kept: those with the lowest validation loss, or the last. Of the pruned epochs always the last.
    keep: Literal["best", "last"] = "best"
    pruning: Pruning | None = None
    # Of the weights of convolutions and linear layers: times the sum of their absolute values, and of their squares, in the training loss.
    l1: Annotated[Number, Field(ge=0)] = 0.0
    l2: Annotated[Number, Field(ge=0)] = 0.0
    cut_penalty: CutPenalty | None = None
    clusterable_start: ClusterableStart | None = None

    @model_validator(mode="after")
    def _scheduled(self) -> "Trained":
        if self.schedule == "step" and self.step_epochs is None:
            raise ValueError("step_epochs: missing; 'schedule: step' needs it")
        for key in ("step_epochs", "step_factor"):
            if self.schedule != "step" and getattr(self, key) != self.default_of(key):
                raise ValueError(f"{key}: goes with 'schedule: step' only, not with {self.schedule!r}")
        return self

    @model_validator(mode="after")
    def _scored(self) -> "Trained":
        if self.metrics and not self.classifies:
            raise ValueError(f"metrics: {self.method} tells no classes; they are for parts and networks that do")
        return self

    @model_validator(mode="after")
    def _augmented(self) -> "Trained":
        if self.corrupted and self.choice("augmentation").facts.get("cues"):
            allowed = ", ".join(name for name in info_dicts.AUGMENTATIONS.values() if not name.facts.get("cues"))
            raise ValueError(
                f"augmentation: {self.augmentation} is for images that carry cues (Teacher, Student); allowed for {self.method}: {allowed}"
            )
        return self

    def unanalysable(self, name: str, options: Any) -> str:
        wanted = getattr(options, "weights", ())
        if self.pruning is None and "unpruned" in ([wanted] if isinstance(wanted, str) else wanted):
            return f"{name}: weights: unpruned are those before a pruning; this entry has no 'pruning'"
        return super().unanalysable(name, options)

    def bits(self) -> list[str]:
        return [*super().bits(), *self.optimizer_bits(), f"lr{self.lr:g}", *self.sparse_bits()]

    def sparse_bits(self) -> list[str]:
        """Pruning, penalties and initialisation in the run's name, where there are any."""
        return [
            *([f"l1_{plain(self.l1)}"] if self.l1 else []),
            *([f"l2_{plain(self.l2)}"] if self.l2 else []),
            *([f"cut{self.cut_penalty.weight:g}"] if self.cut_penalty else []),
            *(["clusterable"] if self.clusterable_start else []),
            *([f"pruned{self.pruning.sparsity:g}"] if self.pruning else []),
        ]

    @property
    def all_epochs(self) -> int:
        """The epochs of training, those of pruning among them."""
        return self.epochs + (self.pruning.epochs if self.pruning else 0)

    def optimizer_bits(self) -> list[str]:
        """The optimizer and the schedule in the run's name, where they are not the usual ones."""
        schedule = {"cosine": [], "step": [f"step{self.step_epochs}"]}.get(self.schedule, [self.schedule])
        return [*([] if self.optimizer == self.default_of("optimizer") else [self.optimizer]), *schedule]


class WholeNetwork(Trained):
    """A network from the images to the classes. With a resolution it sees them resized, once they are augmented, corrupted and standardised."""

    # The width in pixels; the height keeps the aspect. The stored width is the same experiment as none.
    resolution: Annotated[Whole, Field(ge=4)] | None = None
    # Pixels as the network sees them: by the mean and deviation of the data set, or in 0..1.
    inputs: Literal["standardised", "unit"] = "standardised"

    @field_validator("resolution", mode="after")
    @classmethod
    def _resolution(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None or "dataset" not in info.data:
            return value
        stored = choose("dataset", info.data["dataset"]).shape[-1]
        if stored == 1:
            raise ValueError(f"{info.data['dataset']} has no images to resize")
        return None if value == stored else value

    @property
    def pixels(self) -> int:
        return self.resolution or super().pixels

    def bits(self) -> list[str]:
        return [*super().bits(), *self.resolution_bits()]

    def resolution_bits(self) -> list[str]:
        """The resolution in the run's name, where there is one."""
        return [f"r{self.resolution}"] if self.resolution else []
