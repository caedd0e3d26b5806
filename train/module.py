"""Module: repairs one corruption at one level of a frozen backbone. `level: auto` is AutoModules.

The search trains a fresh module at every level for a few epochs of the same schedule and takes the level with the highest
validation accuracy (the lowest of equals); then a newly initialised module is trained there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data.batches import Batch
from data.content import DataSet
from losses.contrastive import contrastive_loss
from models.networks import build_module
from train.method import Method, Stage, Step, load_network
from train.prefixes import PrefixedBatch, PrefixedBatches


def fresh_module(experiment: Any, level: int) -> nn.Module:
    """A fresh module for a level of an experiment's network."""
    return build_module(experiment.model, level, kernels=experiment.kernels, size=experiment.choice("dataset").shape[-1])


class Module(Method):
    def __init__(self, experiment: Any, dataset: DataSet, device: torch.device):
        super().__init__(experiment, dataset, device)
        self.views = (experiment.corruption, "Identity")
        self.backbone = load_network(experiment.backbone, device)
        self.level = 0
        self.prefix: Callable[[Tensor], Tensor] | None = None
        self.prefixed: PrefixedBatches | None = None

    def batches(self) -> PrefixedBatches:
        if self.prefixed is None:
            self.prefixed = PrefixedBatches(super().batches(), self.prefix)
        return self.prefixed

    def stages(self) -> list[Stage]:
        e = self.experiment
        if e.own_level != "auto":
            return [Stage("train", e.epochs)]
        search = [Stage(f"search-level{level}", min(e.search_epochs, e.epochs)) for level in range(len(self.backbone.blocks))]
        return [*search, Stage("train", e.epochs)]

    def build(self, stage: Stage, results: dict[str, dict[str, float]]) -> nn.Module:
        self.level = int(stage.name.removeprefix("search-level")) if stage.name != "train" else self.facts(results)["level"]
        level = self.level
        # At level 0 there is nothing below the module.
        self.prefix = (lambda images: self.backbone(images, 0, level)) if level else None
        if self.prefixed is not None:
            self.prefixed.begin(self.prefix)
        return fresh_module(self.experiment, self.level)

    def facts(self, results: dict[str, dict[str, float]]) -> dict[str, Any]:
        if self.experiment.own_level != "auto":
            return {"level": self.experiment.own_level}
        accuracies = {name.removeprefix("search-level"): r["valid_accuracy"] for name, r in results.items() if name != "train"}
        return {"level": int(max(accuracies, key=lambda level: (accuracies[level], -int(level)))), "search": accuracies}

    def loss(self, network: nn.Module, batch: Batch) -> Step:
        e = self.experiment
        with torch.no_grad():
            parts = [self.backbone(batch.images_nchw, 0, self.level)] if len(batch.images_nchw) else []
            if isinstance(batch, PrefixedBatch):
                parts.append(batch.features_n)
            before = parts[0] if len(parts) == 1 else torch.cat(parts)
        corrupted, clean = before.chunk(2)
        after = network(before) if e.pass_through else torch.cat([network(corrupted), clean])
        logits = self.backbone(after, self.level)
        loss = cross_entropy(logits, batch.labels_n)
        if e.weight:
            repaired = after[: len(corrupted)]
            loss = loss + e.weight * contrastive_loss(torch.stack([repaired, clean.to(repaired.dtype)]), e.temperature)
        return Step(loss, logits)
