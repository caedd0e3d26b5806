"""Teacher: one network trained on labels, on images that carry cues, and tested on counterfactual sets."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from data.batches import Batch
from data.content import DataSet
from data.cue_batches import CueBatch, CueBatches
from errors import InputError
from models.networks import Network
from train.counterfactual import CounterfactualTest
from train.method import Method, Stage, Step, Tick, whole_network


class CueMethod(Method):
    """What teachers and students share: batches under the experiment's mechanism, and counterfactual tests."""

    def __init__(self, experiment: Any, dataset: DataSet, device: torch.device):
        super().__init__(experiment, dataset, device)
        self.teacher: Network | None = None
        self._batches: CueBatches | None = None
        self._test: CounterfactualTest | None = None

    def batches(self) -> CueBatches:
        e = self.experiment
        if self._batches is None:
            try:
                self._batches = CueBatches(
                    self.dataset, e.trained_on, e.batch_size, seed=e.seed, device=self.device,
                    augmentation=e.augmentation, padding=e.choice("dataset").padding,
                )  # fmt: skip
            except ValueError as error:
                raise InputError(f"{e.name}: {error}") from None
        return self._batches

    def fresh(self) -> Network:
        """A freshly initialised network of the experiment."""
        e = self.experiment
        return whole_network(e, e.width, e.depth)

    def test(self, tick: Tick) -> CounterfactualTest:
        if self._test is None:
            self._test = CounterfactualTest(self.experiment, self.dataset, self.device, self.teacher, tick)
        return self._test

    def watch(self, network: nn.Module, iteration: int, tick: Tick = lambda: None) -> dict[str, Any] | None:
        if iteration % self.experiment.evaluate_every:
            return None
        return {"counterfactual": self.test(tick).fast(self.product(network), tick)}

    def examine(self, network: nn.Module, tick: Tick = lambda: None) -> dict[str, Any]:
        return {"counterfactual": self.test(tick).exact(self.product(network), tick)}

    def facts(self, results: dict[str, dict[str, float]]) -> dict[str, Any]:
        e = self.experiment
        return ({"width": e.width} if e.width != 1 else {}) | ({"depth": e.depth} if e.depth else {})

    def describe(self, row: dict[str, Any]) -> str:
        """What is told of an epoch: the accuracy on the test images of the network's own mechanism, and its teacher's beside."""
        own = row["counterfactual"][self.experiment.own_set]
        beside = f" (teacher {own['teacher_accuracy']:.4f})" if "teacher_accuracy" in own else ""
        return f"test accuracy {own['accuracy']:.4f}{beside}"


def mixed_cross_entropy(logits_nk: Tensor, batch: CueBatch) -> Tensor:
    """Cross-entropy with labels, or with both labels of mixed images by their shares; mean over the batch."""
    if batch.others_n is None or batch.share_n is None:
        return cross_entropy(logits_nk, batch.labels_n)
    first, second = (cross_entropy(logits_nk, labels, reduction="none") for labels in (batch.labels_n, batch.others_n))
    return (batch.share_n * first + (1 - batch.share_n) * second).mean()


def correct(logits_nk: Tensor, batch: CueBatch) -> Tensor:
    """Which images are classified as their label, of mixed ones that of the larger share, bool (B,)."""
    labels = batch.labels_n
    if batch.others_n is not None and batch.share_n is not None:
        labels = torch.where(batch.share_n >= 0.5, labels, batch.others_n)
    return logits_nk.argmax(1) == labels


class Teacher(CueMethod):
    def build(self, stage: Stage, results: dict[str, dict[str, float]]) -> nn.Module:
        return self.fresh()

    def loss(self, network: nn.Module, batch: Batch) -> Step:
        assert isinstance(batch, CueBatch)
        logits = network(batch.images_nchw)
        return Step(mixed_cross_entropy(logits, batch), logits, correct(logits, batch))
