"""JointClassifier: the whole network trained on clean images and on what the frozen autoencoders make of each single corruption."""

from typing import Any

import torch
from torch import nn

from data.batches import Batch
from data.content import DataSet
from train.autoencoder import load_autoencoders
from train.identity import Identity
from train.method import Step


class JointClassifier(Identity):
    def __init__(self, experiment: Any, dataset: DataSet, device: torch.device):
        super().__init__(experiment, dataset, device)
        self.views = (*experiment.corruptions, "Identity")
        self.autoencoders = load_autoencoders(experiment.autoencoders(), device)

    def loss(self, network: nn.Module, batch: Batch) -> Step:
        """Cross-entropy over all views; a corrupted view passes through its own autoencoder first, the clean one unchanged."""
        *corrupted, clean = batch.images_nchw.chunk(batch.num_views)
        with torch.no_grad():
            restored = [self.autoencoders[name](images).to(clean.dtype) for name, images in zip(self.views, corrupted)]
        return super().loss(network, Batch(torch.cat([*restored, clean]), batch.labels_n, batch.num_views))
