"""CrossEntropy: one network trained on all single corruptions and Identity, told nothing about them.

`match` widens the network until it has at least as many parameters as all parts of the modular system that it is compared with.
"""

from typing import Any

import torch
from torch import nn

from data.content import DataSet
from models.networks import build_network, count_parameters, width_for
from train.checkpoint import read_facts
from train.experiment import ModularSystem
from train.identity import Identity
from train.method import Stage, whole_network
from train.module import fresh_module


class CrossEntropy(Identity):
    def __init__(self, experiment: Any, dataset: DataSet, device: Any):
        super().__init__(experiment, dataset, device)
        self.views = (*experiment.corruptions, "Identity")
        self.paired = getattr(experiment, "batching", "paired") == "paired"
        self.width = 1.0 if experiment.match is None else matched_width(experiment.match)

    def build(self, stage: Stage, results: dict[str, dict[str, float]]) -> nn.Module:
        return whole_network(self.experiment, self.width)

    def facts(self, results: dict[str, dict[str, float]]) -> dict[str, Any]:
        return {"width": self.width}


def matched_width(system: ModularSystem) -> float:
    """The width at which one network has at least as many parameters as a modular system's backbone and modules together."""
    classes = system.choice("dataset").classes
    with torch.device("meta"):
        parts = [fresh_module(module, read_facts(module)["level"]) for module in system.modules()]
        total = count_parameters(build_network(system.model, classes)) + sum(map(count_parameters, parts))
    return width_for(system.model, classes, total)
