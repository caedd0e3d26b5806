"""Regression: a network that computes functions of its inputs, here all sums of monomials (data/polynomials.py), trained on the mean squared error."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from data.batches import Batch
from data.content import DataSet
from data.polynomials import IN_SUM, POWERS
from train.method import Method, PlainSystem, Stage, Step, System, load_network, whole_network


class Regression(Method):
    def __init__(self, experiment: Any, dataset: DataSet, device: torch.device):
        super().__init__(experiment, dataset, device)
        self.in_sum_mk = torch.from_numpy(IN_SUM).float().to(device)

    def build(self, stage: Stage, results: dict[str, dict[str, float]]) -> nn.Module:
        return whole_network(self.experiment)

    def targets(self, points_nchw: Tensor) -> Tensor:
        """The values (N, 512) of all sums at points (N, 3, 1, 1)."""
        x, y = points_nchw.flatten(1)[:, :2].T
        return torch.stack([x**a * y**b for a, b in POWERS], dim=1) @ self.in_sum_mk

    def loss(self, network: nn.Module, batch: Batch) -> Step:
        return Step(mse_loss(network(batch.images_nchw).float(), self.targets(batch.images_nchw)))

    @classmethod
    def system(cls, experiment: Any, device: torch.device) -> System:
        """The network alone: it classifies nothing, but its weights can be looked at."""
        return PlainSystem(load_network(experiment, device))
