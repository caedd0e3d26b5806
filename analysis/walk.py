"""What analyses look at: a split's images under compositions, the same pixels as in the evaluation, and the systems that see them."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from data.batches import ToNetwork, on_device, spread
from data.class_names import class_names
from data.compositions import Composition
from data.content import Split
from data.corruptions import quantize, stream
from data.keys import evaluation_seed
from models.networks import Activations

CHUNK = 250  # images: what runs through the networks at once


class System(Protocol):
    """A finished system, in eval mode: `activate` gives penultimate units and logits of what `restore` made of images."""

    restoration: Hashable

    def restore(self, images_nchw: Tensor, composition: Sequence[str]) -> Tensor: ...

    def activate(self, restored_nchw: Tensor, composition: Sequence[str]) -> Activations: ...


@dataclass(frozen=True)
class Data:
    """Images of a data set's split (those chosen), the compositions that they are seen under, severities where they are not the published ones."""

    dataset: str
    split: str
    images: Split
    compositions: tuple[Composition, ...]
    severities: Mapping[str, int]
    checksum: str = ""

    @property
    def classes(self) -> int:
        return len(class_names(self.dataset))

    def chunks(self) -> list[tuple[int, int]]:
        """Bounds of the images that run through the networks at once."""
        return spread(len(self.images), CHUNK)

    def walk(self, start: int, stop: int, device: torch.device) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The place of every composition, and images start..stop under it, as grey levels and as network inputs: one walk through the prefix tree."""
        own = self.images
        arrays = on_device(Split(own.images[start:stop], own.labels[start:stop], own.ids[start:stop]), device)
        to_network = ToNetwork(self.dataset, device)
        seed = evaluation_seed(self.dataset, self.split)
        for place, levels in stream(arrays.images, self.compositions, ids=arrays.ids, seed=seed, severities=self.severities):
            cut = quantize(levels)
            yield place, cut, to_network(cut)


def respond(systems: Sequence[System], images_nchw: Tensor, composition: Composition) -> Iterator[Activations]:
    """What each system makes of images under a composition; those of one restoration share it."""
    restored: dict[Hashable, Tensor] = {None: images_nchw}
    for system in systems:
        if system.restoration not in restored:
            restored[system.restoration] = system.restore(images_nchw, composition)
        yield system.activate(restored[system.restoration], composition)
