"""Batches: a batch is an index into one uint8 array on the device that trains; augmentation and corruption are batched tensor code.

Every draw is keyed: the order of images by (seed, epoch), augmentation by (seed, epoch, image), noise by (data set, split, seed, epoch, prefix, image).
So two methods with the same seed meet the same images in the same order, and nothing depends on how often anything was called.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from data.content import DataSet, Split
from data.corruptions import corrupt, quantize
from data.facts import dataset_choice
from data.keys import derive, evaluation_seed

# Corrupted validation images are kept between epochs up to this size; beyond it they are made again, the same, every epoch.
CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Batch:
    """Network inputs (views * B, 3, H, W) float32 in view-major order, labels (views * B,), and the number of views."""

    images_nchw: Tensor
    labels_n: Tensor
    num_views: int


class ToNetwork:
    """From grey levels (N, 1 or 3, H, W) in 0..255 to network inputs (N, 3, H, W), standardised by the data set's constants."""

    def __init__(self, dataset: str, device: torch.device | str):
        facts = dataset_choice(dataset)
        mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (facts.mean, facts.std))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def __call__(self, levels_nchw: Tensor) -> Tensor:
        images = torch.addcmul(self.shift, levels_nchw.float(), self.scale)
        return images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1)


def spread(count: int, size: int) -> list[tuple[int, int]]:
    """Bounds of the fewest batches of at most `size` that cover `count` rows, as even as can be: no row dropped, no tiny last batch."""
    batches = -(-count // size)
    edges = [count * i // batches for i in range(batches + 1)]
    return list(itertools.pairwise(edges))


def crop_flip(images_nchw: Tensor, offsets_n2: Tensor, flips_n: Tensor, padding: int) -> Tensor:
    """Zero-pads by `padding`, crops back at `offsets` (0..2*padding each, rows then columns) and mirrors the images whose flip is true."""
    n, channels, height, width = images_nchw.shape
    padded = torch.nn.functional.pad(images_nchw, (padding,) * 4)
    rows = offsets_n2[:, 0, None] + torch.arange(height, device=images_nchw.device)
    columns = torch.arange(width, device=images_nchw.device).expand(n, -1)
    columns = offsets_n2[:, 1, None] + torch.where(flips_n[:, None], width - 1 - columns, columns)
    index = torch.arange(n, device=images_nchw.device)
    return padded[
        index[:, None, None, None],
        torch.arange(channels, device=images_nchw.device)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


class Batches:
    """The training and validation batches of one experiment.

    `views` are single corruptions, Identity last by custom. `paired`: a batch holds batch_size // len(views) distinct images, each in
    all views. Otherwise it holds batch_size (image, corruption) pairs drawn from all of them, and an epoch meets every pair once.
    """

    def __init__(
        self,
        dataset: DataSet,
        views: Sequence[str],
        batch_size: int,
        *,
        seed: int,
        device: torch.device,
        augmentation: str = "None",
        severities: Mapping[str, int] | None = None,
        paired: bool = True,
    ):
        self.name, self.views, self.paired = dataset.name, tuple(views), paired
        self.seed, self.device, self.severities = seed, device, dict(severities or {})
        self.to_network = ToNetwork(dataset.name, device)
        self.train, self.valid = on_device(dataset.train, device), on_device(dataset.valid, device)
        self.per_batch = max(1, batch_size // len(self.views)) if paired else batch_size
        facts = dataset_choice(dataset.name)
        # Where values are to be computed of points, there is nothing to corrupt or to cut.
        self.points = bool(facts.facts.get("values"))
        self.padding = facts.padding if augmentation == "CropFlip" else None
        self._valid_cache: Tensor | None = None

    def rows_per_epoch(self) -> int:
        """Network rows of one epoch of training: every image in every view."""
        return len(self.train.labels) * len(self.views)

    def steps(self) -> int:
        """Batches of an epoch."""
        n = len(self.train.labels)
        return len(spread(n if self.paired else n * len(self.views), self.per_batch))

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The training batches of an epoch from number `first` on, the same for the same (seed, epoch)."""
        n, crops = len(self.train.labels), self._crops(epoch)
        for chosen in self.order(epoch, first):
            if self.paired:
                labels = self.train.labels[chosen].repeat(len(self.views))
                yield Batch(self.network_inputs(chosen, epoch, self.views, crops), labels, len(self.views))
            else:
                yield self._pairs(chosen % n, chosen // n, crops, self._noise_seed(epoch))

    def order(self, epoch: int, first: int = 0) -> Iterator[Tensor]:
        """What the batches of an epoch hold, from number `first` on: positions of images, or image + images * view where views are not paired."""
        n = len(self.train.labels)
        generator = torch.Generator().manual_seed(derive("order", self.seed, epoch))
        order = torch.randperm(n if self.paired else n * len(self.views), generator=generator).to(self.device)
        for start, stop in spread(len(order), self.per_batch)[first:]:
            yield order[start:stop]

    def network_inputs(self, chosen: Tensor, epoch: int, views: Sequence[str], crops: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Training images at these positions as the network sees them in an epoch, (views * B, 3, H, W), view-major."""
        images, _, ids = self._take(chosen, crops)
        return self.to_network(self._views(images, ids, self._noise_seed(epoch), views))

    def validation(self) -> Iterator[Batch]:
        """The validation batches: the same pixels in every epoch, for every method and seed."""
        n = len(self.valid.labels)
        bounds = spread(n, max(1, 512 // len(self.views)))
        seed = evaluation_seed(self.name, "valid")
        keep = len(self.views) * self.valid.images.numel() <= CACHE_BYTES
        if keep and self._valid_cache is None:
            parts = [self._views(self.valid.images[i:j], self.valid.ids[i:j], seed).to(self.valid.images.dtype) for i, j in bounds]
            self._valid_cache = torch.cat([rearrange(part, "(v b) c h w -> v b c h w", v=len(self.views)) for part in parts], dim=1)
        for start, stop in bounds:
            if self._valid_cache is not None:
                levels = rearrange(self._valid_cache[:, start:stop], "v b c h w -> (v b) c h w")
            else:
                levels = self._views(self.valid.images[start:stop], self.valid.ids[start:stop], seed)
            yield Batch(self.to_network(levels), self.valid.labels[start:stop].repeat(len(self.views)), len(self.views))

    def _noise_seed(self, epoch: int) -> int:
        return derive("train", self.name, self.seed, epoch)

    def _crops(self, epoch: int) -> tuple[Tensor, Tensor] | None:
        """Every training image's crop offset and flip of an epoch, so that all views and all methods share them."""
        if self.padding is None:
            return None
        generator = torch.Generator().manual_seed(derive("augmentation", self.seed, epoch))
        n = len(self.train.labels)
        offsets = torch.randint(0, 2 * self.padding + 1, (n, 2), generator=generator)
        return offsets.to(self.device), (torch.rand(n, generator=generator) < 0.5).to(self.device)

    def _take(self, chosen: Tensor, crops: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        images = self.train.images[chosen]
        if crops is not None and self.padding is not None:
            images = crop_flip(images, crops[0][chosen], crops[1][chosen], self.padding)
        return images, self.train.labels[chosen], self.train.ids[chosen]

    def _views(self, images: Tensor, ids: Tensor, seed: int, views: Sequence[str] | None = None) -> Tensor:
        """Grey levels of views (by default all) of the images, (views * B, C, H, W), view-major; points that are no images as they are."""
        if self.points:
            return images
        return torch.cat(
            [quantize(corrupt(images, (view,), ids=ids, seed=seed, severities=self.severities)) for view in views or self.views]
        )

    def _pairs(self, chosen: Tensor, views: Tensor, crops: tuple[Tensor, Tensor] | None, seed: int) -> Batch:
        """A batch of (image, corruption) pairs, grouped by corruption (the order inside a batch has no meaning)."""
        levels, labels = [], []
        for number, view in enumerate(self.views):
            images, label, ids = self._take(chosen[views == number], crops)
            if len(images):
                levels.append(quantize(corrupt(images, (view,), ids=ids, seed=seed, severities=self.severities)))
                labels.append(label)
        return Batch(self.to_network(torch.cat(levels)), torch.cat(labels), 1)


@dataclass(frozen=True)
class DeviceSplit:
    """A split's arrays as tensors on the device."""

    images: Tensor
    labels: Tensor
    ids: Tensor


def on_device(split: Split, device: torch.device) -> DeviceSplit:
    return DeviceSplit(*(torch.from_numpy(array).to(device) for array in (split.images, split.labels, split.ids)))
