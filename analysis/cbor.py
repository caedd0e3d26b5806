"""The two kinds of files that Deephys reads (model and test set; pip's deephys 0.14.1 writes the same bytes), written image by image.

Both are CBOR maps. A test set's images hold three channels of rows of bytes, and for each layer its activations as big-endian float32.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import cbor2
import numpy as np
from numpy.typing import NDArray

NAME_LETTERS, LAYER_LETTERS = 40, 30  # what Deephys shows
ARRAY = 4  # CBOR's major type


def write_model(path: Path, name: str, layers: Mapping[str, int], classification_layer: str) -> None:
    """A model file: its layers by name with their numbers of neurons."""
    check_name(name, NAME_LETTERS)
    for layer in layers:
        check_name(layer, LAYER_LETTERS)
    described = [{"layerID": layer, "neurons": [{} for _ in range(count)]} for layer, count in layers.items()]
    with path.open("wb") as file:
        cbor2.dump({"name": name, "layers": described, "classification_layer": classification_layer}, file)
        sync(file)


class TestSet:
    """A test-set file being written: so many images, in several pieces. Closed without an error it must be complete."""

    __test__ = False  # it is no test of pytest's

    def __init__(self, path: Path, name: str, classes: Sequence[str], images: int):
        check_name(name, NAME_LETTERS)
        self.classes, self.expected, self.written = list(classes), images, 0
        self.file = path.open("wb")
        encoder = cbor2.CBOREncoder(self.file)
        head = {"name": name, "dtype": "float32", "classes": self.classes}
        encoder.encode_length(5, len(head) + 1)
        for key, value in head.items():
            encoder.encode(key)
            encoder.encode(value)
        encoder.encode("images")
        encoder.encode_length(ARRAY, images)
        self.encoder = encoder

    def add(self, levels_nchw: NDArray[np.uint8], labels_n: NDArray[np.int64], activations: Sequence[NDArray[np.float32]]) -> None:
        """Appends images of one or three channels with the activations (N, units) of every layer, in the model's order."""
        rgb = np.broadcast_to(levels_nchw, (len(levels_nchw), 3, *levels_nchw.shape[2:]))
        layers = [layer.astype(">f4") for layer in activations]
        for number, (image, label) in enumerate(zip(rgb, labels_n.tolist(), strict=True)):
            self.encoder.encode(
                {
                    "imageID": self.written,
                    "categoryID": label,
                    "category": self.classes[label],
                    "data": [[row.tobytes() for row in channel] for channel in image],
                    "features": None,
                    "activations": {"activations": [layer[number].tobytes() for layer in layers]},
                }
            )
            self.written += 1

    def __enter__(self) -> "TestSet":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self.file:
            if kind is None:
                if self.written != self.expected:
                    raise ValueError(f"{self.file.name}: {self.written} images of {self.expected} were written")
                sync(self.file)


def check_name(name: str, letters: int) -> None:
    if len(name) > letters:
        raise ValueError(f"{name!r} is longer than the {letters} letters that Deephys takes")


def sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
