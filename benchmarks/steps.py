"""A training step of every method, against its forward pass, backward pass and optimizer alone on ready tensors.

    python -m benchmarks steps

ours: an epoch of the loop (batches are taken, augmented, corrupted and standardised, losses and hits are summed, signals and time looked at); other: the same
steps on the batches of one epoch that lie ready in memory. The EMNIST network at its size, one batch of 256 rows an epoch, one thread; images and weights are
drawn at random, which changes no time. Sides take turns. About six minutes on a core.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks._figures import Figure, spread
from benchmarks._methods import Trainer, drawn, method_of, runs_in
from train.run import open_run

ROUNDS, ROWS, GOAL = 9, 256, 1.05
COMMON: dict[str, Any] = {"dataset": "EMNIST", "lr": 0.01, "epochs": 1, "batch_size": ROWS}
MODULE = COMMON | {"method": "Module", "corruption": "Swirl", "weight": 0.1, "backbone": {"lr": 0.01}}
TEACHER: dict[str, Any] = {"mechanism": "B", "lr": 0.01}
CUES: dict[str, Any] = {"dataset": "FashionMNIST", "lr": 0.01, "epochs": 1, "evaluate_every": 1_000_000}
METHODS: dict[str, dict[str, Any]] = {
    "Identity": COMMON | {"method": "Identity"},
    "CrossEntropy": COMMON | {"method": "CrossEntropy"},
    "CrossEntropy, independent": COMMON | {"method": "CrossEntropy", "batching": "independent"},
    "Contrastive": COMMON | {"method": "Contrastive", "weight": 0.1},
    **{f"Module, level {level}": MODULE | {"level": level} for level in (0, 2, 4)},
    "Autoencoder": COMMON | {"method": "Autoencoder", "corruption": "GaussianBlur"},
    "JointClassifier": COMMON | {"method": "JointClassifier", "autoencoder": {"lr": 0.01}},
    "Router": COMMON | {"method": "Router"},
    "Regression": {"dataset": "Polynomials", "lr": 1e-5, "epochs": 1, "method": "Regression"},
    "Teacher": CUES | {"method": "Teacher", "mechanism": "B"},
    **{f"Student, {loss}": CUES | {"method": "Student", "mechanism": "P", "loss": loss, "teacher": TEACHER} for loss in ("Base", "CRD")},
}


def images_of(entry: dict[str, Any]) -> int:
    """So many images that an epoch is a batch, or a few of small ones."""
    views = {"Module": 2, "Autoencoder": 2, "Identity": 1}.get(entry["method"], 7)
    return ROWS // views if "batch_size" in entry else ROWS


def run() -> list[Figure]:
    """A row for each method: seconds of an epoch over seconds of its steps alone (goal: at most 1.05)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    figures = []
    try:
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, runs_in(Path(folder))):
            for name, entry in METHODS.items():
                method = method_of(entry, drawn(entry["dataset"], images_of(entry)))
                with open_run(method.experiment) as opened:
                    trainer = Trainer(method, opened)
                    ours, other = [], []
                    for turn in range(ROUNDS + 1):
                        taken = trainer.epoch()
                        start = time.perf_counter()
                        trainer.alone()
                        if turn:  # the first one warms up
                            ours.append(taken)
                            other.append(time.perf_counter() - start)
                print(f"{name:<28} epoch {spread(ours)} s, steps alone {spread(other)} s", flush=True)
                figures.append(Figure(f"training, {name}, over its steps on ready tensors", ours, other, GOAL, "s"))
    finally:
        torch.set_num_threads(threads)
    return figures
