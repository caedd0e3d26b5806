"""Contrastive: cross-entropy plus a contrastive loss that pulls the views of an image together at a level for each corruption.

The views whose corruption has the same level are pooled with Identity into one loss at that level, as published.
"""

import torch
from einops import rearrange
from torch import nn
from torch.nn.functional import cross_entropy

from data.batches import Batch
from losses.contrastive import contrastive_loss
from train.cross_entropy import CrossEntropy
from train.method import Step


class Contrastive(CrossEntropy):
    def loss(self, network: nn.Module, batch: Batch) -> Step:
        e = self.experiment
        if e.weight == 0:
            return super().loss(network, batch)
        features, start, contrast = batch.images_nchw, 0, torch.zeros((), device=self.device)
        for level in sorted(set(e.levels)):
            features, start = network(features, start, level), level
            views = [i for i, own in enumerate(e.levels) if own == level] + [batch.num_views - 1]
            contrast = contrast + contrastive_loss(rearrange(features, "(v b) ... -> v b ...", v=batch.num_views)[views], e.temperature)
        logits = network(features, start)
        return Step(cross_entropy(logits, batch.labels_n) + e.weight * contrast, logits)
