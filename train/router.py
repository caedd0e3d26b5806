"""Router: names the corruptions of an image, each by a yes or no of its own, trained on single corruptions and clean images.

It never sees a composition in training, as the systems that it serves never do.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from data.batches import Batch
from data.content import DataSet
from models.networks import Network, build_network
from train.experiment import Router as RouterExperiment
from train.method import Method, Stage, Step, load_part


class Router(Method):
    def __init__(self, experiment: Any, dataset: DataSet, device: torch.device):
        super().__init__(experiment, dataset, device)
        self.views = (*experiment.corruptions, "Identity")

    def build(self, stage: Stage, results: dict[str, dict[str, float]]) -> nn.Module:
        return build_router(self.experiment)

    def loss(self, network: nn.Module, batch: Batch) -> Step:
        """Binary cross-entropy, the mean over corruptions; correct is an image all of whose corruptions are named and no other."""
        logits = network(batch.images_nchw)
        number = len(self.views) - 1
        # The last view, Identity, carries none.
        carried = torch.eye(number + 1, number, device=logits.device).repeat_interleave(len(logits) // batch.num_views, dim=0)
        correct = ((logits > 0) == (carried > 0)).all(dim=1)
        return Step(binary_cross_entropy_with_logits(logits, carried.to(logits.dtype)), logits, correct)


def build_router(experiment: RouterExperiment) -> Network:
    """The data set's network with an output for each corruption."""
    return build_network(experiment.model, len(experiment.corruptions))


def load_router(experiment: RouterExperiment, device: torch.device) -> Network:
    """The trained router of a finished run: images (N, 3, H, W) to logits (N, corruptions), above 0 where one is seen."""
    return load_part(build_router(experiment), experiment, device)
