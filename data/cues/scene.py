"""Scenes: what every image of a split shows under a mechanism, as index arrays; the pixels of a batch are made of them at once.

Every draw is keyed by (data set, split, seed, what is drawn), what is drawn at random also by the epoch. So a scene is the same whoever asks for it.
"""

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from data import cues
from data.content import DataSet
from data.keys import derive
from data.mechanisms import Mechanism

# The seed of evaluation: all networks and epochs are tested on the same pixels.
EVALUATION = "evaluation"
ABSENT = -1


@dataclass(frozen=True)
class Scene:
    """M images: their labels, which image of the split gives the content, and the values of cue 1 and cue 2; int64 (M,), ABSENT where there is none."""

    labels: Tensor
    content: Tensor
    cue_1: Tensor
    cue_2: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Scene":
        """The scene of some of its images."""
        return Scene(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device: torch.device) -> "Scene":
        return Scene(*(getattr(self, field.name).to(device) for field in fields(self)))


def join(scenes: Sequence[Scene]) -> Scene:
    """The images of several scenes, one after the other."""
    return Scene(*(torch.cat([getattr(scene, field.name) for scene in scenes]) for field in fields(Scene)))


class Draws:
    """The draws of a scene: `fixed` ones last for all epochs, the others are of one."""

    def __init__(self, dataset: str, split: str, seed: int | str, epoch: int):
        self.key, self.epoch = ("cue", str(dataset), split, seed), epoch

    def _generator(self, what: str, fixed: bool) -> torch.Generator:
        return torch.Generator().manual_seed(derive(*self.key, what, *([] if fixed else [self.epoch])))

    def below(self, what: str, high: int, n: int, fixed: bool = False) -> Tensor:
        """Uniform whole numbers in 0..high-1, (n,)."""
        return torch.randint(high, (n,), generator=self._generator(what, fixed))

    def below_each(self, what: str, high_n: Tensor) -> Tensor:
        """Uniform whole numbers in 0..high-1, for each high of (n,) its own."""
        share = torch.rand(len(high_n), generator=self._generator(what, False), dtype=torch.float64)
        return torch.minimum((share * high_n).long(), high_n - 1)

    def order(self, what: str, n: int) -> Tensor:
        """A fixed permutation of 0..n-1."""
        return torch.randperm(n, generator=self._generator(what, True))

    def carriers(self, what: str, labels_n: Tensor, fraction: float) -> Tensor:
        """Which images carry a cue, bool (n,): of every class the rounded fraction, drawn independently of every other cue.

        A larger fraction adds carriers and takes none away.
        """
        if fraction in (0, 1):
            return torch.full_like(labels_n, bool(fraction), dtype=torch.bool)
        order = self.order(what, len(labels_n))
        order = order[labels_n[order].argsort(stable=True)]
        counts = torch.bincount(labels_n)
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[labels_n[order]]
        return torch.empty_like(labels_n, dtype=torch.bool).scatter(0, order, rank < (counts * fraction).round().long()[labels_n[order]])

    def same_class(self, what: str, labels_n: Tensor) -> Tensor:
        """For every image another one of its class (or itself), drawn uniformly, (n,)."""
        by_class = labels_n.argsort(stable=True)
        counts = torch.bincount(labels_n)
        first = counts.cumsum(0) - counts
        return by_class[first[labels_n] + self.below_each(what, counts[labels_n])]


class Cues(ABC):
    """The cues of a data set: scenes of a split, and their pixels."""

    def __init__(self, dataset: DataSet, split: str, device: torch.device):
        own = dataset.split(split)
        self.dataset, self.split, self.device = dataset.name, split, device
        self.labels, self.ids = torch.from_numpy(own.labels), torch.from_numpy(own.ids)
        self.images = torch.from_numpy(own.images).to(device)

    def scene(self, mechanism: Mechanism, seed: int | str = EVALUATION, epoch: int = 0) -> Scene:
        """What the split's images show under a mechanism, on the device."""
        return self.compose(mechanism, Draws(self.dataset, self.split, seed, epoch)).to(self.device)

    @abstractmethod
    def compose(self, mechanism: Mechanism, draws: Draws) -> Scene:
        """The scene of a mechanism, on the CPU."""

    @abstractmethod
    def render(self, scene: Scene, augment: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The images (M, C, H, W) of a scene, as they are stored; `augment` changes their contents before cues are put on."""

    def contents(self, mechanism: Mechanism, draws: Draws) -> Tensor:
        """Which image of the split gives each image's content, (n,): itself, a random one, or none."""
        n = len(self.labels)
        own = draws.below("content", n, n) if mechanism.random_content else torch.arange(n)
        return torch.where(draws.carriers("has content", self.labels, mechanism.content), own, ABSENT)

    def gather(self, content: Tensor, augment: Callable[[Tensor], Tensor] | None) -> Tensor:
        """The contents (M, C, H, W), black where there is none."""
        images = self.images[content.clamp(min=0)]
        images = images if augment is None else augment(images)
        return images * (content >= 0).view(-1, 1, 1, 1).to(images.dtype)


Maker = Callable[[DataSet, str, torch.device], Cues]
_makers: dict[str, Maker] = {}


def cues_of(*datasets: str) -> Callable[[type[Cues]], type[Cues]]:
    """Decorator: registers a class of cues for data sets, which have `cues` on the menu."""

    def register(kind: type[Cues]) -> type[Cues]:
        _makers.update(dict.fromkeys(datasets, kind))
        return kind

    return register


@functools.cache
def _registered() -> dict[str, Maker]:
    for file in pkgutil.iter_modules(cues.__path__):
        importlib.import_module(f"data.cues.{file.name}")
    return _makers


def make_cues(dataset: DataSet, split: str, device: torch.device) -> Cues:
    """The cues of a data set's split; ValueError where no file in data/cues/ has them."""
    if dataset.name not in _registered():
        raise ValueError(f"{dataset.name}: no file in data/cues/ registers its cues with @cues_of({dataset.name!r})")
    return _registered()[dataset.name](dataset, split, device)
