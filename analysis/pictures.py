"""The images that an analysis of layers looks at: a data set's splits under compositions, or under the mechanisms of counterfactual sets.

The pixels are those of the evaluation: keyed by data set, split, image and composition, never by who looks.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.batches import DeviceSplit, ToNetwork, on_device, spread
from data.compositions import IDENTITY, Composition
from data.content import DataSet, Split
from data.corruptions import corrupt, quantize
from data.cue_batches import first_of_classes
from data.cues.scene import make_cues
from data.datasets import class_balanced
from data.keys import evaluation_seed
from data.mechanisms import Mechanism

CHUNK = 250  # images: what runs through the networks at once


class Pictures(Protocol):
    """Images by condition. `clean` is the condition that networks and probes are fitted under; conditions start with it, where it is among them."""

    conditions: tuple[str, ...]
    clean: str

    def labels(self, split: str, condition: str, images: int | None) -> Tensor:
        """The labels (N,) of the first images of every class, `images` in all, of a split."""

    def batches(self, split: str, condition: str, images: int | None, first: int = 0) -> Iterator[Tensor]:
        """Network inputs (n, 3, H, W) of the same images in the same order, from number `first` on, in chunks."""

    def names(self, condition: str) -> Composition:
        """The corruptions that a system is told of."""

    def cells(self, split: str, condition: str) -> dict[str, str]:
        """The columns `split` and `composition` of a table's row about such images."""


class Corrupted:
    """Images under compositions of corruptions."""

    def __init__(self, dataset: DataSet, compositions: Sequence[Composition], severities: Mapping[str, int], device: torch.device):
        ordered = [*(names for names in compositions if names == IDENTITY), *(names for names in compositions if names != IDENTITY)]
        self.by_name = {"-".join(names): names for names in ordered}
        self.conditions, self.clean = tuple(self.by_name), "-".join(IDENTITY)
        self.dataset, self.severities, self.device = dataset, severities, device
        self.to_network = ToNetwork(dataset.name, device)
        self._arrays = lru_cache(maxsize=4)(self._load)

    def _load(self, split: str, images: int | None) -> DeviceSplit:
        own = self.dataset.split(split)
        if images is None or images >= len(own):
            return on_device(own, self.device)
        rows = class_balanced(own, images)
        return on_device(Split(np.ascontiguousarray(own.images[rows]), own.labels[rows], own.ids[rows]), self.device)

    def labels(self, split: str, condition: str, images: int | None) -> Tensor:
        return self._arrays(split, images).labels

    def batches(self, split: str, condition: str, images: int | None, first: int = 0) -> Iterator[Tensor]:
        arrays, seed = self._arrays(split, images), evaluation_seed(self.dataset.name, split)
        for start, stop in spread(len(arrays.labels) - first, CHUNK):
            own = slice(first + start, first + stop)
            levels = corrupt(arrays.images[own], self.names(condition), ids=arrays.ids[own], seed=seed, severities=self.severities)
            yield self.to_network(quantize(levels))

    def names(self, condition: str) -> Composition:
        return self.by_name.get(condition, IDENTITY)

    def cells(self, split: str, condition: str) -> dict[str, str]:
        return {"split": split, "composition": condition}


class Cued:
    """Images under the mechanisms of counterfactual sets; `own` is the set that has the mechanism of the training images."""

    def __init__(self, dataset: DataSet, sets: Mapping[str, Mechanism], own: str, device: torch.device):
        self.dataset, self.sets, self.device, self.clean = dataset, sets, device, own
        self.conditions = (own, *(name for name in sets if name != own))
        self.to_network = ToNetwork(dataset.name, device)
        self._cues = lru_cache(maxsize=3)(lambda split: make_cues(dataset, split, device))

    def _rows(self, split: str, condition: str, images: int | None) -> Tensor:
        labels = self._cues(split).scene(self.sets[condition]).labels
        return first_of_classes(labels, len(labels) if images is None else images)

    def labels(self, split: str, condition: str, images: int | None) -> Tensor:
        return self._cues(split).scene(self.sets[condition]).labels[self._rows(split, condition, images)]

    def batches(self, split: str, condition: str, images: int | None, first: int = 0) -> Iterator[Tensor]:
        cues, rows = self._cues(split), self._rows(split, condition, images)[first:]
        scene = cues.scene(self.sets[condition])
        for start, stop in spread(len(rows), CHUNK):
            yield self.to_network(cues.render(scene.take(rows[start:stop])))

    def names(self, condition: str) -> Composition:
        return IDENTITY

    def cells(self, split: str, condition: str) -> dict[str, str]:
        return {"split": f"{split}/{condition}", "composition": ""}
