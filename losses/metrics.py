"""Scores of classifications by their names on the menu, counted on the device and read once.

All but the top-5 accuracy are functions of a confusion matrix; of that they need only its diagonal and its margins, so these are what is counted.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

TOP = 5


@dataclass(frozen=True)
class Counts:
    """By class, float64 (K,): how many images it has, how often it was answered, how often rightly; and how many labels were among the TOP classes."""

    images_k: Tensor
    answers_k: Tensor
    hits_k: Tensor
    in_top: Tensor

    @property
    def total(self) -> Tensor:
        return self.images_k.sum()


def accuracy(counts: Counts) -> Tensor:
    """The fraction of images whose class is answered, in 0..1."""
    return counts.hits_k.sum() / counts.total


def top5_accuracy(counts: Counts) -> Tensor:
    """The fraction of images whose class is among the five with the largest logits, in 0..1; 1 where there are no more than five."""
    return counts.in_top / counts.total


def mcc(counts: Counts) -> Tensor:
    """The correlation of classes and answers for several classes, in -1..1 (Gorodkin 2004, R_K); 0 where all classes or all answers are one."""
    total = counts.total
    together = counts.hits_k.sum() * total - counts.images_k @ counts.answers_k
    spreads = (total**2 - counts.images_k.square().sum()) * (total**2 - counts.answers_k.square().sum())
    return torch.where(spreads > 0, together / spreads.clamp(min=1).sqrt(), 0.0)


def balanced_accuracy(counts: Counts) -> Tensor:
    """The mean over the classes that have images of the fraction of them that is answered rightly, in 0..1."""
    there = counts.images_k > 0
    return (counts.hits_k / counts.images_k.clamp(min=1)).sum() / there.sum()


def f1_macro(counts: Counts) -> Tensor:
    """The mean over the classes that have images or are answered of 2 hits / (images + answers), in 0..1."""
    both = counts.images_k + counts.answers_k
    return (2 * counts.hits_k / both.clamp(min=1)).sum() / (both > 0).sum()


METRICS: dict[str, Callable[[Counts], Tensor]] = {
    "accuracy": accuracy,
    "top5_accuracy": top5_accuracy,
    "mcc": mcc,
    "balanced_accuracy": balanced_accuracy,
    "f1_macro": f1_macro,
}


class Tally:
    """Answers counted on the device, batch by batch, without waiting for it."""

    def __init__(self, classes: int, device: torch.device):
        self.classes = classes
        self.images_k, self.answers_k, self.hits_k = (torch.zeros(classes, dtype=torch.int64, device=device) for _ in range(3))
        self.in_top = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, logits_nk: Tensor, labels_n: Tensor) -> None:
        """Counts the answers, the largest of the logits (N, K), to images of these classes (N,)."""
        answers_n = logits_nk.argmax(1)
        right_n = answers_n == labels_n
        ones_n = torch.ones_like(labels_n)
        self.images_k.index_add_(0, labels_n, ones_n)
        self.answers_k.index_add_(0, answers_n, ones_n)
        self.hits_k.index_add_(0, labels_n, right_n.long())
        top = logits_nk.topk(min(TOP, self.classes), dim=1).indices
        self.in_top += (top == labels_n[:, None]).sum()

    def values(self, names: Iterable[str]) -> dict[str, float]:
        """The scores of these names of the menu, read from the device at once. ValueError where nothing was counted or for other names."""
        names = list(names)
        if unknown := [name for name in names if name not in METRICS]:
            raise ValueError(f"no metric {unknown[0]!r}; allowed: {', '.join(METRICS)}")
        counts = Counts(*(count.double() for count in (self.images_k, self.answers_k, self.hits_k, self.in_top)))
        if not names:
            return {}
        found = torch.stack([METRICS[name](counts) for name in names]).tolist()
        if any(value != value for value in found):
            raise ValueError("no image was counted")
        return dict(zip(names, found))
