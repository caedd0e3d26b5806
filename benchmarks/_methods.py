"""Methods on images drawn at random, which changes no time, with finished prerequisites whose weights are drawn, too."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data.batches import Batch
from data.content import DataSet, Split
from data.facts import dataset_choice
from train.build import build
from train.checkpoint import save_weights
from train.entry import Experiment
from train.loop import Loop
from train.method import Method, method_class
from train.run import Run, open_run

CPU = torch.device("cpu")


def drawn(name: str, train: int, other: int = 0) -> DataSet:
    """A data set of the menu with so many drawn images in train, and in valid and test one of each class or more."""
    facts = dataset_choice(name)
    generator = np.random.default_rng(0)

    def split(count: int) -> Split:
        if facts.facts.get("values"):
            return Split(generator.standard_normal((count, *facts.shape), dtype=np.float32), np.zeros(count, np.int64), np.arange(count))
        images = generator.integers(0, 256, (count, *facts.shape), dtype=np.uint8)
        return Split(images, np.arange(count) % facts.classes, np.arange(count))

    return DataSet(name, split(train), split(max(other, facts.classes)), split(max(other, facts.classes)), "")


def method_of(entry: dict[str, Any], dataset: DataSet, device: torch.device = CPU) -> Method:
    """The method of an entry, whose prerequisites are finished with fresh weights in the folder of runs."""
    experiment = build(entry)
    for part in experiment.requires():
        finish(part, dataset)
    return method_class(experiment.method)(experiment, dataset, device)


def finish(experiment: Experiment, dataset: DataSet) -> None:
    """Makes a finished run with fresh weights, unless there is one."""
    for part in experiment.requires():
        finish(part, dataset)
    if not (experiment.directory / "done.json").exists():
        method = method_class(experiment.method)(experiment, dataset, CPU)
        stages = method.stages()
        network = method.build(stages[-1], {}) if stages else nn.Identity()
        with open_run(experiment) as run:
            run.start("")
            save_weights(run.directory, method.product(network), {"width": 1.0} | method.facts({}))
            run.finish({})


class Trainer:
    """The loop and the training of a method's last stage, to run single epochs of."""

    def __init__(self, method: Method, run: Run):
        self.method, self.loop = method, Loop(run, method, lambda row, epoch: None, quiet=True)
        self.training = self.loop.begin(0, method.stages()[-1])
        self.network, self.optimizer, self.batches = self.training.network, self.training.optimizer, method.batches()

    @cached_property
    def ready(self) -> list[Batch]:
        """The batches of an epoch."""
        return list(self.batches.epoch(0))

    def epoch(self) -> float:
        """An epoch as the loop has it; the seconds of its training, without validation."""
        self.training.begin_epoch()
        self.loop.epoch(self.training, self.batches)
        return self.training.seconds

    def alone(self) -> None:
        """Loss, backward pass and optimizer on ready batches."""
        self.network.train()
        for batch in self.ready:
            self.optimizer.zero_grad(set_to_none=True)
            self.method.loss(self.network, batch).loss.backward()
            self.optimizer.step()


def runs_in(folder: Path) -> dict[str, str]:
    """The environment in which runs lie in a folder and W&B is told nothing."""
    return {"PALIMPSEST_RUNS": str(folder), "WANDB_MODE": "disabled"}
