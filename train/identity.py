"""Identity: the whole network trained on clean images alone; the backbone of modules, and a baseline."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from data.batches import Batch
from train.method import Method, PlainSystem, Stage, Step, System, load_network, whole_network


class Identity(Method):
    def build(self, stage: Stage, results: dict[str, dict[str, float]]) -> nn.Module:
        return whole_network(self.experiment)

    def loss(self, network: nn.Module, batch: Batch) -> Step:
        logits = network(batch.images_nchw)
        return Step(cross_entropy(logits, batch.labels_n), logits)

    @classmethod
    def system(cls, experiment: Any, device: torch.device) -> System:
        return PlainSystem(load_network(experiment, device))
