"""Training of a module at every level, against the plain way.

    python -m benchmarks modules

ours: an epoch of the loop: what is below the module comes from features that are computed once, what is above has no gradients of its own weights.
other: the same step with a graph and gradients for the whole network, as the published code has it, on ready tensors. The limit is the same loss on ready features: the
module has to be trained either way, and its gradients come through the blocks above it. The EMNIST network, 256 rows, one thread, sides take turns. About three minutes.
"""

import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks._figures import Figure, spread
from benchmarks._methods import Trainer, drawn, method_of, runs_in
from benchmarks.steps import MODULE, ROWS
from losses.contrastive import contrastive_loss
from train.module import Module
from train.run import open_run

ROUNDS = 7
LEVELS = range(6)
# Below, there is little to compute once.
GOAL_FROM = 2


class Plain:
    """The plain step of a module's training, and the step on ready features that is its limit."""

    def __init__(self, trainer: Trainer, level: int):
        assert isinstance(trainer.method, Module)
        self.method, self.module, self.optimizer, self.level = trainer.method, trainer.network, trainer.optimizer, level
        batch = next(iter(self.method.batches().batches.epoch(0)))
        self.images_nchw, self.labels_n = batch.images_nchw.contiguous(), batch.labels_n
        with torch.no_grad():
            self.features = self.method.backbone(self.images_nchw, 0, level)

    def whole(self) -> None:
        """Everything with a graph and with gradients for the frozen parts, too."""
        backbone = self.method.backbone.requires_grad_(True)
        self._step(backbone(self.images_nchw, 0, self.level))
        backbone.requires_grad_(False)

    def limit(self) -> None:
        """The module and what its gradients pass through, without gradients of frozen weights."""
        self._step(self.features)

    def _step(self, before: Tensor) -> None:
        e = self.method.experiment
        after = self.module(before)
        repaired, clean = after.chunk(2)[0], before.chunk(2)[1]
        loss = cross_entropy(self.method.backbone(after, self.level), self.labels_n)
        loss = loss + e.weight * contrastive_loss(torch.stack([repaired, clean]), e.temperature)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()


def run() -> list[Figure]:
    """A row for each level: images/s of ours over those of the plain way (goal from level 2 up: at least 2)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    figures = []
    try:
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, runs_in(Path(folder))):
            for level in LEVELS:
                method = method_of(MODULE | {"level": level}, drawn("EMNIST", ROWS // 2))
                with open_run(method.experiment) as opened:
                    trainer = Trainer(method, opened)
                    plain = Plain(trainer, level)
                    rates: dict[str, list[float]] = {"ours": [], "plain": [], "limit": []}
                    for turn in range(ROUNDS + 1):
                        taken = {"ours": trainer.epoch()}
                        for side, step in (("plain", plain.whole), ("limit", plain.limit)):
                            start = time.perf_counter()
                            step()
                            taken[side] = time.perf_counter() - start
                        if turn:  # the first one warms up and computes the features
                            for side, seconds in taken.items():
                                rates[side].append(ROWS / seconds)
                print(f"level {level}, images/s: " + ", ".join(f"{side} {spread(own)}" for side, own in rates.items()), flush=True)
                goal = 2.0 if level >= GOAL_FROM else None
                figures.append(Figure(f"module at level {level}, over the plain way", rates["ours"], rates["plain"], goal))
                figures.append(Figure(f"the limit at level {level}, over the plain way", rates["limit"], rates["plain"]))
    finally:
        torch.set_num_threads(threads)
    return figures
