"""A training step of every method, against its forward pass, backward pass and optimizer alone on ready tensors.

    python -m benchmarks steps

ours: an epoch of the loop (batches are taken, augmented, corrupted and standardised, losses and hits are summed, signals and time looked at); other: the same
steps on the batches of one epoch that lie ready in memory. The EMNIST network at its size, batches of 256 rows, one thread; images and weights are drawn at random,
which changes no time. Sides take turns.
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

ROUNDS, IMAGES, GOAL = 5, 252, 1.05
COMMON: dict[str, Any] = {"dataset": "EMNIST", "lr": 0.01, "epochs": 1}
BACKBONE: dict[str, Any] = {"lr": 0.01}
CUES: dict[str, Any] = {"dataset": "FashionMNIST", "lr": 0.01, "epochs": 1, "evaluate_every": 1_000_000}
METHODS: dict[str, dict[str, Any]] = {
    "Identity": COMMON | {"method": "Identity"},
    "CrossEntropy": COMMON | {"method": "CrossEntropy"},
    "CrossEntropy, independent": COMMON | {"method": "CrossEntropy", "batching": "independent"},
    "Contrastive": COMMON | {"method": "Contrastive", "weight": 0.1},
    "Module, level 0": COMMON | {"method": "Module", "corruption": "Swirl", "level": 0, "weight": 0.1, "backbone": BACKBONE},
    "Module, level 3": COMMON | {"method": "Module", "corruption": "Swirl", "level": 3, "weight": 0.1, "backbone": BACKBONE},
    "Autoencoder": COMMON | {"method": "Autoencoder", "corruption": "GaussianBlur"},
    "Router": COMMON | {"method": "Router"},
    "Teacher": CUES | {"method": "Teacher", "mechanism": "B"},
    "Student, Base": CUES | {"method": "Student", "mechanism": "P", "loss": "Base", "teacher": {"mechanism": "B", "lr": 0.01}},
}


def run() -> list[Figure]:
    """A row for each method: seconds of an epoch over seconds of its steps alone (goal: at most 1.05)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    figures = []
    try:
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, runs_in(Path(folder))):
            for name, entry in METHODS.items():
                method = method_of(entry, drawn(entry["dataset"], IMAGES))
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
