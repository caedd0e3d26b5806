"""Class means and maxima of systems' penultimate units on compositions: what the invariance scores of arXiv 2306.09005 are made of.

Images go class by class, so that only the classes of one chunk are held for all compositions; what is finished stands in the file.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from analysis.files import FORMAT, create
from analysis.walk import Data, System, respond
from data.content import Split
from models.networks import Activations


@torch.inference_mode()
def collect(
    systems: Sequence[System], data: Data, paths: Sequence[Path], device: torch.device, tick: Callable[[], object] = lambda: None
) -> None:
    """Writes a file of class means (see analysis/files.py) for each system, from one walk through the prefix tree for every chunk of images.

    Sums are float64, whatever the networks compute in. `tick` is called after every composition of a chunk. RunError where a file cannot be
    written; then, and where anything else goes wrong, none is.
    """
    data = replace(data, images=sort_by_class(data.images))
    with ExitStack() as stack:
        sinks = [Sink(stack.enter_context(create(path)), data) for path in paths]
        for start, stop in data.chunks():
            labels = data.images.labels[start:stop]
            classes = range(labels[0], labels[-1] + 1)
            labels_n = torch.from_numpy(labels).to(device)
            for place, _, images in data.walk(start, stop, device):
                for sink, seen in zip(sinks, respond(systems, images, data.compositions[place])):
                    sink.add(place, seen, labels_n, classes)
                tick()
            for sink in sinks:
                sink.close_classes(last=stop == len(data.images))
        for sink in sinks:
            sink.finish()


def sort_by_class(images: Split) -> Split:
    order = np.argsort(images.labels, kind="stable")
    return Split(images.images[order], images.labels[order], images.ids[order])


@dataclass
class Chunk:
    """Sums (C, k, U) float64 of the k classes from `first` on that a chunk of images has."""

    first: int
    sums_cku: Tensor


class Sink:
    """The file of one system, and what is known of the classes that are not yet finished."""

    def __init__(self, file: h5py.File, data: Data):
        self.file, self.data = file, data
        self.counts = np.bincount(data.images.labels, minlength=data.classes)
        self.correct: Tensor | None = None
        self.maxima: Tensor | None = None
        self.chunk: Chunk | None = None
        self.carried: Chunk | None = None

    def add(self, place: int, seen: Activations, labels_n: Tensor, classes: range) -> None:
        """Takes in a chunk of images, whose labels ascend through those classes, under the composition at `place`."""
        units, n_compositions = seen.penultimate_nu, len(self.data.compositions)
        if self.maxima is None or self.correct is None:
            self.maxima = units.new_full((n_compositions, units.shape[1]), -torch.inf)
            self.correct = units.new_zeros(n_compositions, dtype=torch.int64)
            self.file.create_dataset("mean", (n_compositions, self.data.classes, units.shape[1]), "f4")
        if self.chunk is None:
            self.chunk = Chunk(classes.start, units.new_zeros((n_compositions, len(classes), units.shape[1]), dtype=torch.float64))
        self.correct[place] += (seen.logits_nk.argmax(1) == labels_n).sum()
        self.maxima[place] = torch.maximum(self.maxima[place], units.amax(0))
        self.chunk.sums_cku[place] = one_hot(labels_n - classes.start, len(classes)).double().T @ units.double()

    def close_classes(self, last: bool) -> None:
        """Writes the means of classes that no later image has; the sums of a class that goes on are carried over."""
        assert self.chunk is not None
        chunk, before = self.chunk, self.carried
        self.chunk = self.carried = None
        if before is not None and before.first == chunk.first:
            chunk.sums_cku[:, 0] += before.sums_cku[:, 0]
        elif before is not None:
            self.write(before)
        if last:
            self.write(chunk)
            return
        kept = chunk.sums_cku.shape[1] - 1
        self.write(Chunk(chunk.first, chunk.sums_cku[:, :kept]))
        self.carried = Chunk(chunk.first + kept, chunk.sums_cku[:, kept:].clone())

    def write(self, chunk: Chunk) -> None:
        own = slice(chunk.first, chunk.first + chunk.sums_cku.shape[1])
        counts = torch.from_numpy(self.counts[own]).clamp(min=1).to(chunk.sums_cku.device)
        self.file["mean"][:, own] = (chunk.sums_cku / counts[:, None]).float().cpu().numpy()

    def finish(self) -> None:
        """Writes what stands beside the means."""
        assert self.maxima is not None
        assert self.correct is not None
        data, file = self.data, self.file
        file["composition"] = ["-".join(composition) for composition in data.compositions]
        file["label"] = np.arange(data.classes)
        file["class_count"] = self.counts
        file["accuracy"] = self.correct.cpu().numpy() / len(data.images)
        file["max"] = self.maxima.cpu().numpy()
        file["ids"] = data.images.ids
        file.attrs.update(
            format=FORMAT, dataset=data.dataset, split=data.split, severities=repr(dict(data.severities)), data=data.checksum, n=len(data.images)
        )  # fmt: skip
