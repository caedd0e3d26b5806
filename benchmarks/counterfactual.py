"""The test of a student on eight counterfactual sets while it trains, against the 100 training steps between two tests.

    python -m benchmarks counterfactual

ours: accuracy, KL and agreement on the first 1,000 images of eight sets, one pass, the teacher's logits known. other: 100 steps of distillation by
logits, batches of 64, the teacher's forward pass included. Dominoes-sized images drawn at random, which changes no time; weights likewise. Sides
take turns. The published code looked at all images of every set, in batches of 64: 1,349 forward passes for 100 steps.
"""

import itertools
import time

import numpy as np
import torch

from benchmarks._figures import Figure, spread
from data.content import DataSet, Split
from train.build import build
from train.counterfactual import CounterfactualTest
from train.method import Stage
from train.student import Student

ROUNDS = 3
STEPS = 100
GOAL = 0.4
COUNTS = {"train": 10_000, "valid": 100, "test": 1_000}


def random_dominoes() -> DataSet:
    generator = np.random.default_rng(0)

    def split(count: int) -> Split:
        images = generator.integers(0, 256, (count, 3, 64, 32), dtype=np.uint8)
        return Split(images, np.arange(count) % 10, np.arange(count))

    return DataSet("Dominoes", split(COUNTS["train"]), split(COUNTS["valid"]), split(COUNTS["test"]), "")


def student(model: str, dataset: DataSet) -> Student:
    """A student whose own mechanism is none of the seven sets, with a teacher that is not trained."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    taught = {"mechanism": "CIFAR10", "lr": 0.1}
    entry = {"dataset": "Dominoes", "model": model, "method": "Student", "mechanism": [1, 0.5, 0.5, 0, 0, 0], "lr": 0.1}
    labels = Student(build(entry | {"loss": "Labels"}), dataset, device)
    labels.experiment = build(entry | {"loss": "Base", "teacher": taught})
    labels.teacher = labels.fresh().to(device).eval().requires_grad_(False)
    labels.has_term, labels.by_teacher = False, True
    return labels


def run() -> list[Figure]:
    dataset, rows = random_dominoes(), []
    for model in ("ResNet20_Wide", "LeNet5"):
        method = student(model, dataset)
        pupil = method.build(Stage("train", 1), {}).to(method.device).train()
        network = method.product(pupil)
        optimizer = torch.optim.SGD(pupil.parameters(), lr=1e-3)
        test = CounterfactualTest(method.experiment, dataset, method.device, method.teacher)
        assert len(test.sets) == 8
        test.fast(network)
        ours, other = [], []
        for number in range(ROUNDS):
            start = time.perf_counter()
            test.fast(network)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            for batch in itertools.islice(method.batches().epoch(number), STEPS):
                optimizer.zero_grad(set_to_none=True)
                method.loss(pupil, batch).loss.backward()
                optimizer.step()
            if method.device.type == "cuda":
                torch.cuda.synchronize()
            other.append(time.perf_counter() - start)
        print(f"{model}: test {spread(ours)} s, {STEPS} steps {spread(other)} s")
        rows.append(Figure(f"test on 8 counterfactual sets / {STEPS} steps, {model}", ours, other, GOAL, "s"))
    return rows
