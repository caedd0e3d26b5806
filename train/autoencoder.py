"""Autoencoder: undoes one corruption in image space, trained on the pixel MSE to the clean image in network space."""

from typing import Any

import torch
from torch import nn
from torch.nn.functional import mse_loss

from data.batches import Batch
from data.content import DataSet
from models.networks import build_autoencoder
from train.method import Method, Stage, Step, load_part


class Autoencoder(Method):
    def __init__(self, experiment: Any, dataset: DataSet, device: torch.device):
        super().__init__(experiment, dataset, device)
        self.views = (experiment.corruption, "Identity")

    def build(self, stage: Stage, results: dict[str, dict[str, float]]) -> nn.Module:
        return fresh_autoencoder(self.experiment)

    def loss(self, network: nn.Module, batch: Batch) -> Step:
        """Only the corrupted half of the batch goes through the network."""
        corrupted, clean = batch.images_nchw.chunk(2)
        return Step(mse_loss(network(corrupted).float(), clean), rows=len(clean))


def fresh_autoencoder(experiment: Any) -> nn.Module:
    """A fresh autoencoder for an experiment's images."""
    return build_autoencoder(experiment.model, experiment.choice("dataset").shape[-1])


def load_autoencoders(experiments: list[Any], device: torch.device) -> dict[str, nn.Module]:
    """The trained autoencoders of finished runs by corruption, frozen, in eval mode on the device."""
    return {part.corruption: load_part(fresh_autoencoder(part), part, device) for part in experiments}
