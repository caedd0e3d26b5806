"""Tests of networks on counterfactual sets: accuracy and, beside a teacher, KL(teacher || student) and top-1 agreement, of one pass over each set."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from data.content import DataSet
from data.cue_batches import CounterfactualSet
from losses.distillation import agreement_n, kl_n
from models.networks import Network, as_tested
from train.method import Tick

# What is tested on while training goes on: so many images of each set, the first of every class.
FAST = 1000
# By set: accuracy, and with a teacher its accuracy, KL(teacher || student) in nats, and the fraction of images with the same top class.
Found = dict[str, dict[str, float]]


class CounterfactualTest:
    """The counterfactual sets of an experiment and what its teacher makes of them, which is computed once. `tick` is called after every batch."""

    def __init__(self, experiment: Any, dataset: DataSet, device: torch.device, teacher: Network | None = None, tick: Tick = lambda: None):
        self.device = device
        self.sets = {name: CounterfactualSet(dataset, mechanism, device, FAST) for name, mechanism in experiment.tested_on.items()}
        self.teacher_logits: Mapping[str, Tensor] = {}
        if teacher is not None:
            self.teacher_logits = {name: answers(teacher, own.batches(), tick) for name, own in self.sets.items()}

    def fast(self, network: nn.Module, tick: Tick = lambda: None) -> Found:
        """On the first FAST images of every set."""
        with as_tested(network):
            found = {name: self._compare(name, own.chosen, answers(network, own.fast(), tick)) for name, own in self.sets.items()}
        return to_floats(found)

    def exact(self, network: nn.Module, tick: Tick = lambda: None) -> Found:
        """On all images of every set."""
        found = {}
        with as_tested(network):
            for name, own in self.sets.items():
                found[name] = self._compare(name, torch.arange(len(own), device=self.device), answers(network, own.batches(), tick))
        return to_floats(found)

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


def answers(network: nn.Module, batches: Iterable[Tensor], tick: Tick = lambda: None) -> Tensor:
    """The logits (M, classes) of network inputs that come in batches, without a graph."""
    found = []
    for images_nchw in batches:
        with torch.no_grad():
            found.append(network(images_nchw))
        tick()
    return torch.cat(found)


def to_floats(found: Mapping[str, Mapping[str, Tensor]]) -> Found:
    """The values, read from the device at once."""
    values = iter(torch.stack([value for own in found.values() for value in own.values()]).tolist())
    return {name: {metric: next(values) for metric in own} for name, own in found.items()}
