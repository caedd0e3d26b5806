"""What an analysis of layers is given: a finished system, and the images to look at."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from analysis.pictures import Pictures
from analysis.taps import Take, tapped
from errors import InputError
from models.networks import Network


class System(Protocol):
    """A finished system, in eval mode: logits (N, classes) of network inputs under a composition. `network` has the layers and levels that are looked at."""

    network: Network

    def __call__(self, images_nchw: Tensor, composition: Any) -> Tensor: ...


@dataclass(frozen=True)
class Seen:
    """A finished system and the images to look at. `untrained` builds the same system around the network as it was before its training.

    `tick` is called for every chunk of images and may raise; `image_steps` are the rows that went through the network in training.
    """

    name: str
    system: System
    untrained: Callable[[], System]
    pictures: Pictures
    shape: tuple[int, int, int]
    classes: int
    device: torch.device
    image_steps: int = 0
    # The network with the weights before its pruning, where it was pruned; the modules of a system by corruption, each with its level.
    unpruned: Callable[[], Network] | None = None
    parts: Mapping[str, tuple[nn.Module, int]] = field(default_factory=dict)
    tick: Callable[[], object] = lambda: None

    @property
    def network(self) -> Network:
        return self.system.network

    def responses(self, system: System, split: str, condition: str, images: int | None, first: int = 0) -> Iterator[Tensor]:
        """The logits of every chunk of images; taps see what happens on the way."""
        names = self.pictures.names(condition)
        with torch.no_grad():
            for chunk in self.pictures.batches(split, condition, images, first):
                yield system(chunk, names)
                self.tick()

    def watched(
        self, system: System, take: Take, at: str, names: Collection[str], split: str, condition: str, images: int | None, first: int = 0
    ) -> Iterator[Tensor]:
        """`responses`, of which `take(name, features)` gets the named layers or levels (`at`), each with all images of a chunk; InputError where it has them in parts."""
        rows: dict[str, list[int]] = {}

        def counted(name: str, features: Tensor) -> None:
            rows.setdefault(name, []).append(len(features))
            take(name, features)

        with tapped(system.network, counted, at, names):
            for logits in self.responses(system, split, condition, images, first):
                for name in names:
                    if rows.get(name) != [len(logits)]:
                        raise self.apart(name)
                rows.clear()
                yield logits

    def apart(self, name: str) -> InputError:
        """The error for a layer or level that has no features of all images."""
        return InputError(
            f"{self.name}: its images go different ways through the network (routing, or a layer that is used twice), so {name} has no features of all"
        )
