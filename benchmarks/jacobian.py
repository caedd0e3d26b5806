"""A step of Jacobian distillation, against one backward pass for each class and each network.

    python -m benchmarks jacobian

ours: a step on 64 images as students take it, the teacher's part included: logits of both networks, Jacobians of both, both parts of the loss, the
backward pass. other: one forward pass of each network, then one autograd.grad for each class and network, each with a graph that can be
differentiated, as published; then the same loss and the backward pass, through the student alone. Of 100 classes ours takes the teacher's top 20,
the other all. Networks are in eval mode on both sides, so that both losses are equal where the classes are the same, which is checked. Images and
weights are drawn at random, which changes no time. One thread, as a process of the pool has; sides take turns.
"""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks._figures import Figure, spread
from data.cue_batches import CueBatch
from losses.distillation import distillation_loss
from losses.jacobian import jacobian_loss
from models.networks import Network, build_network
from train.build import build
from train.distilling import Pair, make_term

IMAGES = 64


class Case(NamedTuple):
    """A student's data set, its network and how wide it is, the size of images, of how many classes the loss takes how many, and rounds."""

    dataset: str
    model: str
    width: float
    size: int
    classes: int
    rows: int
    rounds: int


CASES = (
    Case("FashionMNIST-mini", "SmallNet", 1.0, 28, 10, 10, 9),
    Case("CIFAR10", "ResNet18-stem7-w64", 0.25, 32, 10, 10, 5),
    Case("CIFAR100", "ResNet18-stem7-w64", 0.25, 32, 100, 20, 3),
)


def student(case: Case) -> Any:
    """The entry of a student and its teacher, both of the case's network."""
    common = {"model": case.model, "width": case.width, "mechanism": "P", "lr": 0.1}
    return build(common | {"dataset": case.dataset, "method": "Student", "loss": "Jacobian", "teacher": common})


class Step:
    """Both ways to the loss of one batch, and the gradient of a student's weights."""

    def __init__(self, case: Case):
        torch.manual_seed(0)
        self.experiment = student(case)
        assert self.experiment.rows == case.rows
        self.teacher, self.student = (build_network(case.model, case.classes, case.width).eval() for _ in range(2))
        self.teacher.requires_grad_(False)
        labels, numbers = torch.zeros(IMAGES, dtype=torch.int64), torch.arange(IMAGES)
        self.batch = CueBatch(torch.randn(IMAGES, 3, case.size, case.size), labels, 1, numbers)
        self.term = make_term(self.experiment, self.pair(), IMAGES)

    def pair(self) -> Pair:
        with torch.no_grad():
            teacher = self.teacher.levels(self.batch.images_nchw)
        return Pair(self.batch, self.student, self.teacher, self.student.levels(self.batch.images_nchw), teacher)

    def ours(self) -> Tensor:
        pair = self.pair()
        return self.total(pair.student_levels[-1], pair.teacher_levels[-1], self.term(pair))

    def other(self) -> Tensor:
        (student, own), (teacher, taught) = (by_class(network, self.batch.images_nchw) for network in (self.student, self.teacher))
        return self.total(student, teacher.detach(), jacobian_loss(own, taught.detach()))

    def total(self, student_nk: Tensor, teacher_nk: Tensor, term: Tensor) -> Tensor:
        return (distillation_loss(student_nk, teacher_nk, self.experiment.temperature) + term) / 2


def by_class(network: Network, images_nchw: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and Jacobians (N, K, pixels), both with a graph, by K backward passes one after the other."""
    images = images_nchw.clone().requires_grad_()
    logits_nk = network(images)
    rows = [torch.autograd.grad(logits_n.sum(), images, create_graph=True)[0].flatten(1) for logits_n in logits_nk.unbind(1)]
    return logits_nk, torch.stack(rows, 1)


def timed(way: Callable[[], Tensor], student: nn.Module) -> tuple[float, float]:
    """Seconds of a step, and its loss."""
    student.zero_grad(set_to_none=True)
    start = time.perf_counter()
    loss = way()
    loss.backward()
    return time.perf_counter() - start, loss.item()


def run() -> list[Figure]:
    """A row for each case: seconds of our step over seconds of the other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = []
        for case in CASES:
            step = Step(case)
            ours: list[float] = []
            other: list[float] = []
            for turn in range(case.rounds + 1):
                (own, own_loss), (slow, slow_loss) = timed(step.ours, step.student), timed(step.other, step.student)
                if case.rows == case.classes and not math.isclose(own_loss, slow_loss, rel_tol=1e-4):
                    raise RuntimeError(f"{case.model}: the losses are {own_loss} and {slow_loss}")
                if turn:  # the first one warms up
                    ours.append(own)
                    other.append(slow)
            name = f"{case.model} x {case.width:g}, {case.size} px, {case.rows} of {case.classes} classes"
            print(f"\nJacobian distillation, {IMAGES} images, {name}, seconds on one thread")
            print(f"  {'ours':<30} {spread(ours)}")
            print(f"  {'one backward pass a class':<30} {spread(other)}")
            print(f"  ratio by round: {', '.join(f'{a / b:.3f}' for a, b in zip(ours, other))}", flush=True)
            rows.append(Figure(f"Jacobian step over one class at a time, {name}", ours, other, None, "s"))
        return rows
    finally:
        torch.set_num_threads(threads)
