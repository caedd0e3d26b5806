"""Batches of images that carry cues, for training under a mechanism, and counterfactual sets, for testing.

As in data/batches.py every draw is keyed: by (seed, epoch) the order, augmentation and what a mechanism draws at random; by the seed alone which images
carry a cue. So two networks with one seed and mechanism meet the same pixels in the same order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from data.augmentations import crop_flip_rotate, mixup
from data.batches import Batch, ToNetwork, crop_flip, spread
from data.content import DataSet
from data.cues.scene import Scene, join, make_cues
from data.keys import derive
from data.mechanisms import Mechanism

# Values of images that go through a network at once where nothing is trained: what a core's cache is for; a GPU has more.
CHUNK_VALUES = {"cpu": 400_000, "cuda": 6_400_000}
# What Union adds: the same images without cues.
PLAIN = Mechanism(1.0, 0.0, 0.0)


@dataclass(frozen=True)
class CueBatch(Batch):
    """A batch, the rows of the epoch's scene (B,), and of mixed images the other's label (B,) and the share of the first in 0..1 (B,)."""

    rows_n: Tensor
    others_n: Tensor | None = None
    share_n: Tensor | None = None


def chunk_size(images_nchw: Tensor) -> int:
    """How many images of this size go through a network at once where nothing is trained."""
    return max(1, CHUNK_VALUES.get(images_nchw.device.type, CHUNK_VALUES["cpu"]) // images_nchw[0].numel())


class CueBatches:
    """The training and validation batches of a network under a mechanism."""

    def __init__(
        self,
        dataset: DataSet,
        mechanism: Mechanism,
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        augmentation: str = "None",
        padding: int = 0,
    ):
        self.mechanism, self.batch_size, self.seed, self.device = mechanism, batch_size, seed, device
        self.augmentation, self.padding = augmentation, padding
        self.to_network = ToNetwork(dataset.name, device)
        self.train, self.valid = (make_cues(dataset, split, device) for split in ("train", "valid"))
        self.valid_scene = self.valid.scene(mechanism)
        self.size = len(self._scene(0))
        if not self.size or not len(self.valid_scene):
            raise ValueError(f"no image of {dataset.name} is left under the mechanism {tuple(mechanism)}")

    def _scene(self, epoch: int) -> Scene:
        mechanisms = [self.mechanism, PLAIN] if self.augmentation == "Union" else [self.mechanism]
        return join([self.train.scene(mechanism, self.seed, epoch) for mechanism in mechanisms])

    def steps(self) -> int:
        """Batches of an epoch."""
        return len(spread(self.size, self.batch_size))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[CueBatch]:
        """The training batches of an epoch from number `first` on, the same for the same (seed, epoch)."""
        scene = self._scene(epoch)
        order = torch.randperm(self.size, generator=self._generator("order", epoch)).to(self.device)
        for number, (start, stop) in list(enumerate(spread(self.size, self.batch_size)))[first:]:
            rows = order[start:stop]
            own = scene.take(rows)
            images = self.to_network(self.train.render(own, partial(self._augment, epoch, number)))
            if self.augmentation == "Mixup":
                mixed, partner, share = mixup(images, self._generator("mixup", epoch, number))
                yield CueBatch(mixed, own.labels, 1, rows, own.labels[partner], share)
            else:
                yield CueBatch(images, own.labels, 1, rows)

    def validation(self) -> Iterator[CueBatch]:
        """The validation batches: the same pixels in every epoch, for every network and seed."""
        for start, stop in spread(len(self.valid_scene), chunk_size(self.valid.images)):
            rows = torch.arange(start, stop, device=self.device)
            own = self.valid_scene.take(rows)
            yield CueBatch(self.to_network(self.valid.render(own)), own.labels, 1, rows)

    def _generator(self, what: str, *numbers: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive(what, self.seed, *numbers))

    def _augment(self, epoch: int, number: int, contents: Tensor) -> Tensor:
        generator, n = self._generator("augmentation", epoch, number), len(contents)
        if self.augmentation == "CropFlip":
            offsets = torch.randint(0, 2 * self.padding + 1, (n, 2), generator=generator).to(contents.device)
            return crop_flip(contents, offsets, (torch.rand(n, generator=generator) < 0.5).to(contents.device), self.padding)
        if self.augmentation == "CropFlipRotate":
            return crop_flip_rotate(contents, generator)
        return contents


class CounterfactualSet:
    """The test images under a mechanism: the same whoever is tested on them.

    `chosen` are the rows to test on while training goes on: the first of every class, `fast` images in all, or all where there are fewer.
    """

    def __init__(self, dataset: DataSet, mechanism: Mechanism, device: torch.device, fast: int):
        self.cues = make_cues(dataset, "test", device)
        self.scene = self.cues.scene(mechanism)
        if not len(self.scene):
            raise ValueError(f"no image of {dataset.name} is left under the mechanism {tuple(mechanism)}")
        self.to_network = ToNetwork(dataset.name, device)
        self.chosen = first_of_classes(self.scene.labels, fast)
        self._levels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scene)

    def levels(self) -> Tensor:
        """The chosen images (N, C, H, W) as they are stored; they are made once."""
        if self._levels is None:
            self._levels = self.cues.render(self.scene.take(self.chosen))
        return self._levels

    def fast(self) -> Iterator[Tensor]:
        """The network inputs of the chosen images, in batches."""
        levels = self.levels()
        for start, stop in spread(len(levels), chunk_size(self.cues.images)):
            yield self.to_network(levels[start:stop])

    def batches(self) -> Iterator[Tensor]:
        """The network inputs of all images, in the order of the scene."""
        for start, stop in spread(len(self.scene), chunk_size(self.cues.images)):
            rows = torch.arange(start, stop, device=self.scene.labels.device)
            yield self.to_network(self.cues.render(self.scene.take(rows)))


def first_of_classes(labels_n: Tensor, n: int) -> Tensor:
    """The rows of the first n / classes images of every class, in the order of the rows; all rows where there are no more than n."""
    if len(labels_n) <= n:
        return torch.arange(len(labels_n), device=labels_n.device)
    order = labels_n.argsort(stable=True)
    counts = torch.bincount(labels_n)
    rank = torch.arange(len(order), device=labels_n.device) - (counts.cumsum(0) - counts)[labels_n[order]]
    return order[rank < n // int((counts > 0).sum())].sort().values
