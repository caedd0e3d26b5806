"""Files of class means: what a system's penultimate units do on every composition. Written by analysis/activations.py; read without torch.

`composition` (C,) full names joined by '-', `label` (K,), `class_count` (K,) images of each class, `accuracy` (C,) fractions, `mean` (C, K, U)
float32 class means, `max` (C, U) float32 maxima over images, `ids` (N,) of the images; as attributes `format`, `dataset`, `split`,
`severities`, the data's checksum `data` and the number of images `n`.
"""

import ast
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from data.files import appearing
from errors import InputError, RunError

# Raised when the files change their meaning: those of another number are made again.
FORMAT = 1


class Rows(Protocol):
    """Rows of which one at a time is held in memory: an array, or an open file's."""

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class ClassMeans:
    """An open file: names of C compositions, accuracies (C,) as fractions, maxima (C, U), and class means, of which `mean[c]` is (K, U)."""

    names: tuple[str, ...]
    split: str
    severities: dict[str, int]
    accuracy_c: NDArray[np.float64]
    max_cu: NDArray[np.float32]
    mean: Rows
    images: int


def analysis_path(directory: Path, analysis: str, key: str) -> Path:
    """The file of class means of a run directory for the evaluation of that key."""
    return directory / "analyses" / analysis / f"{key}.h5"


@contextmanager
def create(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to write, which appears complete or not at all; its folder is made. RunError where it cannot be written."""
    try:
        with appearing(path) as temporary, h5py.File(temporary, "w") as file:
            yield file
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from None


@contextmanager
def opened(path: Path) -> Iterator[ClassMeans]:
    """A file of class means, open; InputError where it is damaged, also where that shows only when a row is read."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(h5py.File(path))
            if file.attrs["format"] != FORMAT:
                raise ValueError(f"format {file.attrs['format']}, now {FORMAT}")
            names, facts = tuple(file["composition"].asstr()[()]), dict(file.attrs)
            found = ClassMeans(
                names, str(facts["split"]), ast.literal_eval(str(facts["severities"])), file["accuracy"][()], file["max"][()], file["mean"],
                int(facts["n"]),
            )  # fmt: skip
        except (OSError, KeyError, ValueError, SyntaxError, RuntimeError) as error:
            raise damaged(path, error) from None
        try:
            yield found
        except OSError as error:
            raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> InputError:
    problem = "missing" if isinstance(error, FileNotFoundError) else "damaged, or of another version"
    return InputError(f"{path}: {problem}; delete it and make it again with: python -m analysis invariance CONFIG")
