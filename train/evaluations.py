"""Evaluation files: what a system did on every composition, with each image's correctness. Written by train/evaluation.py; read without torch."""

import ast
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from data.compositions import compositions, parse
from errors import InputError
from train.entry import Experiment
from train.fields import Evaluation


@dataclass(frozen=True)
class Tested:
    """An evaluation of a system on C compositions of N images: full names joined by '-', accuracies (C,) as fractions, mean losses (C,).

    `ids` is a hash of the images' ids, `path` the file that has each image's correctness; None where that was not at hand (W&B).
    """

    names: tuple[str, ...]
    accuracy_c: NDArray[np.float64]
    loss_c: NDArray[np.float64]
    split: str
    severities: dict[str, int]
    trained_parameters: int
    total_parameters: int
    images: int
    ids: str
    path: Path | None = None

    @property
    def size(self) -> int:
        """Compositions x images."""
        return len(self.names) * self.images

    @property
    def setting(self) -> tuple[Any, ...]:
        """What two evaluations on one data set must share to be comparable: split, severities, compositions and images."""
        return self.split, tuple(sorted(self.severities.items())), self.names, self.images, self.ids

    def answers(self, evaluation: Evaluation, images: int) -> bool:
        """Whether this is the evaluation that is asked for, on so many images."""
        names = full_names(tuple("-".join(names) for names in compositions(evaluation.compositions)))
        asked = (evaluation.split, evaluation.severities, names, images)
        return (self.split, self.severities, self.names, self.images) == asked


def evaluation_path(experiment: Experiment) -> Path:
    """The file of the evaluation that an experiment asks for."""
    return experiment.directory / "evaluation" / f"{experiment.testing.key}.h5"


def read_evaluation(path: Path) -> Tested:
    """What an evaluation file says of every composition; InputError where it is damaged."""
    try:
        with h5py.File(path) as file:
            names = tuple(file["composition"].asstr()[()])
            accuracy, loss, ids = file["accuracy"][()], file["loss"][()], file["ids"][()]
            facts = dict(file.attrs)
        return Tested(
            full_names(names), accuracy, loss, str(facts["split"]), ast.literal_eval(str(facts["severities"])),
            int(facts["trained_parameters"]), int(facts["total_parameters"]), len(ids), hash_of(ids), path,
        )  # fmt: skip
    except (OSError, KeyError, ValueError, SyntaxError) as error:
        raise damaged(path, error) from None


def unpack(path: Path) -> tuple[tuple[str, ...], NDArray[np.bool_], NDArray[np.int64]]:
    """The names of C compositions, which of N images were classified correctly (C, N), and the images' ids (N,), of an evaluation file."""
    try:
        with h5py.File(path) as file:
            names, ids = tuple(file["composition"].asstr()[()]), file["ids"][()]
            correct = np.unpackbits(file["correct"][()], axis=1, count=len(ids)).astype(bool)
    except (OSError, KeyError, ValueError) as error:
        raise damaged(path, error) from None
    return full_names(names), correct, ids


def correctness(experiment: Experiment) -> tuple[tuple[str, ...], NDArray[np.bool_], NDArray[np.int64]]:
    """`unpack` of the evaluation that an experiment asks for; InputError where it is not there."""
    return unpack(evaluation_path(experiment))


def hash_of(ids: NDArray[np.int64]) -> str:
    """16 hex digits that name a row of images."""
    return hashlib.sha256(np.ascontiguousarray(ids, "<i8").tobytes()).hexdigest()[:16]


def damaged(path: Path, error: Exception) -> InputError:
    problem = "missing" if isinstance(error, FileNotFoundError) else "damaged"
    return InputError(f"{path}: {problem}; delete it and make it again with: python -m train.evaluate CONFIG")


@lru_cache(maxsize=8)
def full_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Compositions in full names joined by '-', whatever of the two forms they have."""
    return tuple("-".join(parse(name)) for name in names)
