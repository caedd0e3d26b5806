"""Tests of networks on counterfactual sets: accuracy and, beside a teacher, KL(teacher || student) and top-1 agreement, of one pass over each set."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from data.cue_batches import CounterfactualSet
from data.datasets import DataSet
from losses.distillation import agreement_n, kl_n
from models.networks import Network, as_tested

# What is tested on while training goes on: so many images of each set, the first of every class.
FAST = 1000
# By set: accuracy, and with a teacher its accuracy, KL(teacher || student) in nats, and the fraction of images with the same top class.
Found = dict[str, dict[str, float]]


class CounterfactualTest:
    """The counterfactual sets of an experiment and what its teacher makes of them, which is computed once."""

    def __init__(self, experiment: Any, dataset: DataSet, device: torch.device, teacher: Network | None = None):
        self.experiment, self.device = experiment, device
        self.sets = {name: CounterfactualSet(dataset, mechanism, device, fast=FAST) for name, mechanism in experiment.tested_on.items()}
        self.teacher_logits: Mapping[str, Tensor] = {}
        if teacher is not None:
            self.teacher_logits = {name: answers(teacher, own) for name, own in self.sets.items()}

    def fast(self, network: nn.Module) -> Found:
        """On the first FAST images of every set."""
        found = {}
        with as_tested(network), torch.inference_mode():
            for name, own in self.sets.items():
                logits = torch.cat([network(images) for images in own.fast()])
                found[name] = self._compare(name, own.chosen, logits)
        return read(found)

    def exact(self, network: nn.Module) -> Found:
        """On all images of every set."""
        found = {}
        with as_tested(network), torch.inference_mode():
            for name, own in self.sets.items():
                found[name] = self._compare(name, torch.arange(len(own), device=self.device), answers(network, own))
        return read(found)

    def _compare(self, name: str, rows: Tensor, logits_nk: Tensor) -> dict[str, Tensor]:
        labels = self.sets[name].scene.labels[rows]
        found = {"accuracy": (logits_nk.argmax(1) == labels).double().mean()}
        if name in self.teacher_logits:
            teacher = self.teacher_logits[name][rows]
            found |= {
                "teacher_accuracy": (teacher.argmax(1) == labels).double().mean(),
                "teacher_kl": kl_n(teacher, logits_nk).double().mean(),
                "teacher_agreement": agreement_n(teacher, logits_nk).double().mean(),
            }
        return found


@torch.inference_mode()
def answers(network: nn.Module, own: CounterfactualSet) -> Tensor:
    """The logits (M, classes) of all images of a set."""
    return torch.cat([network(images) for images in own.batches()])


def read(found: Mapping[str, Mapping[str, Tensor]]) -> Found:
    """The values, read from the device at once."""
    keys = [(name, metric) for name, values in found.items() for metric in values]
    values = torch.stack([found[name][metric] for name, metric in keys]).tolist()
    read: Found = {name: {} for name in found}
    for (name, metric), value in zip(keys, values):
        read[name][metric] = value
    return read
