"""What a method supplies to the loop (its networks, its batches, its loss) and what a finished system offers (logits)."""

import importlib
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from data.batches import Batch, Batches
from data.content import DataSet
from errors import InputError
from models.networks import Activations, Network, build_network, count_parameters
from train.checkpoint import WEIGHTS, load_weights, read_facts
from train.entry import Experiment, Trained

Tick = Callable[[], object]


class Step(NamedTuple):
    """What a method makes of a batch: the loss to go down, and what is counted.

    `correct_n` (rows,) bool where it is not the labels that the logits (rows, classes) are compared with; neither for a part that
    classifies nothing. `rows` where fewer go through the network than the batch has.
    """

    loss: Tensor
    logits_nk: Tensor | None = None
    correct_n: Tensor | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Stage:
    """One training from fresh weights: its name and how many of the schedule's epochs are run."""

    name: str
    epochs: int


class System(nn.Module):
    """A finished system: classifies images whose corruption is named; only systems with an oracle look at the name."""

    trained_parameters: int
    total_parameters: int
    # The network whose levels and layers analyses look at.
    network: Network
    # Names what `restore` does: of systems with the same name it is done once for all.
    restoration: Hashable = None

    def restore(self, images_nchw: Tensor, composition: Sequence[str]) -> Tensor:
        """The images (N, 3, H, W) as `classify` takes them: in image space, so that several classifiers may share them."""
        return images_nchw

    def activate(self, restored_nchw: Tensor, composition: Sequence[str]) -> Activations:
        """What enters the classifier (N, U), and logits (N, classes), of what `restore` made of images that carry this composition."""
        raise TypeError(f"{type(self).__name__} is a part, not a system")

    def classify(self, restored_nchw: Tensor, composition: Sequence[str]) -> Tensor:
        """The logits of `activate`."""
        return self.activate(restored_nchw, composition).logits_nk

    def forward(self, images_nchw: Tensor, composition: Sequence[str]) -> Tensor:
        """Logits (N, classes) of network inputs (N, 3, H, W) that carry this composition."""
        return self.classify(self.restore(images_nchw, composition), composition)


class Method:
    """The base of the methods. A method's class has its menu name and lives in the file of that name in snake case."""

    experiment: Any
    views: tuple[str, ...] = ("Identity",)
    paired = True

    def __init__(self, experiment: Experiment, dataset: DataSet, device: torch.device):
        self.experiment, self.dataset, self.device = experiment, dataset, device
        self.classes: int = experiment.choice("dataset").classes

    def stages(self) -> list[Stage]:
        """The trainings of this method, in order; the last one's best weights are the run's. A system has none."""
        return [Stage("train", self.experiment.epochs)] if isinstance(self.experiment, Trained) else []

    def batches(self) -> Any:
        """The batches of every stage: `Batches`, or what gives `epoch`, `steps` and `validation` like them."""
        e: Trained = self.experiment
        return Batches(
            self.dataset, self.views, e.batch_size, seed=e.seed, device=self.device,
            augmentation=e.augmentation, severities=getattr(e, "severities", {}), paired=self.paired,
        )  # fmt: skip

    def build(self, stage: Stage, results: dict[str, dict[str, float]]) -> nn.Module:
        """A freshly initialised network to train in a stage; `results` are the last metrics of the stages before."""
        raise TypeError(f"{type(self).__name__} trains nothing")

    def loss(self, network: nn.Module, batch: Batch) -> Step:
        """The loss of a batch, in training and in validation."""
        raise TypeError(f"{type(self).__name__} trains nothing")

    def facts(self, results: dict[str, dict[str, float]]) -> dict[str, Any]:
        """What must be known beside the weights to build the network again."""
        return {}

    def product(self, network: nn.Module) -> nn.Module:
        """What is kept of a trained network: all of it, unless parts of it only serve the training."""
        return network

    def watch(self, network: nn.Module, iteration: int, tick: Tick = lambda: None) -> dict[str, Any] | None:
        """What is found of a network before its first iteration (0) and after others, as a row; None where nothing is looked at.

        Looking must draw nothing and change nothing; `tick` is called every now and then and may raise.
        """
        return None

    def examine(self, network: nn.Module, tick: Tick = lambda: None) -> dict[str, Any]:
        """What is found of a network after an epoch, beside its validation; as `watch`."""
        return {}

    def describe(self, row: dict[str, Any]) -> str:
        """What is told of an epoch's row beside its validation; empty for nothing."""
        return ""

    @classmethod
    def system(cls, experiment: Any, device: torch.device) -> System:
        """The finished system of an experiment, in eval mode on the device; InputError where its weights are damaged."""
        raise TypeError(f"{cls.__name__} is a part, not a system")


def method_class(name: str) -> type[Method]:
    """The method of a menu name: the class of that name in `train/<name in snake case>.py`; InputError where there is none."""
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    try:
        return getattr(importlib.import_module(f"train.{module}"), name)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != f"train.{module}":
            raise
        raise InputError(f"{name} is on the menu, but there is no class {name} in train/{module}.py") from None


class PlainSystem(System):
    """One network that is told nothing about the corruption."""

    def __init__(self, network: Network):
        super().__init__()
        self.network = network
        self.trained_parameters = self.total_parameters = count_parameters(network)

    def activate(self, restored_nchw: Tensor, composition: Sequence[str]) -> Activations:
        return self.network.activate(restored_nchw)


Part = TypeVar("Part", bound=nn.Module)


def whole_network(experiment: Any, width: float = 1.0, depth: int | None = None) -> Network:
    """A freshly initialised network from an experiment's images to its classes, which sees them at the experiment's resolution, if it has one, and in its range."""
    network = build_network(experiment.model, experiment.choice("dataset").classes, width, depth)
    network.resolution = getattr(experiment, "resolution", None)
    if getattr(experiment, "inputs", "standardised") == "unit":
        facts = experiment.choice("dataset")
        network.unit = (facts.mean, facts.std)
    return network


def load_part(part: Part, experiment: Experiment, device: torch.device, name: str = WEIGHTS) -> Part:
    """A freshly built network with the weights of a finished run, frozen, in eval mode on the device."""
    load_weights(part, experiment, name)
    return part.to(device).eval().requires_grad_(False)


def fresh_network(experiment: Experiment) -> Network:
    """The classifier of a finished run as it is built, before its training."""
    facts = read_facts(experiment)
    return whole_network(experiment, facts.get("width", 1.0), facts.get("depth"))


def load_network(experiment: Experiment, device: torch.device, name: str = WEIGHTS) -> Network:
    """The trained classifier of a finished run, frozen, in eval mode on the device; with its final weights, or those of another file."""
    return load_part(fresh_network(experiment), experiment, device, name)
