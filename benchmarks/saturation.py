"""What saturation along a training costs: training steps with it over steps without it.

    python -m benchmarks saturation

A step is a batch of 128 CIFAR10-sized images forward, backward and through SGD, with every batch's outputs of all layers taken into their covariances. Images and
weights are drawn at random, which changes no time. All threads; sides take turns. An epoch also has the eigenvalues of each layer once, which are timed beside.
"""

import time
from contextlib import nullcontext

import torch
from torch.nn.functional import cross_entropy

from analysis.saturation import Covariances
from benchmarks._figures import Figure, spread
from models.networks import build_network

IMAGES, SIZE, ROUNDS = 128, 32, 7
MODELS = ("VGG16", "ResNet18-stem7-w64")


def run() -> list[Figure]:
    """A row for each model: seconds of a step with saturation over seconds of one without."""
    rows = []
    for model in MODELS:
        torch.manual_seed(0)
        network = build_network(model, 10).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        images, labels = torch.randn(IMAGES, 3, SIZE, SIZE), torch.randint(0, 10, (IMAGES,))
        covariances = Covariances()
        taken: dict[bool, list[float]] = {True: [], False: []}
        for turn in range(ROUNDS + 1):
            for along in (True, False):
                start = time.perf_counter()
                with covariances.watching(network) if along else nullcontext():
                    loss = cross_entropy(network(images), labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if turn:  # the first one warms up
                    taken[along].append(time.perf_counter() - start)
        start = time.perf_counter()
        covariances.spectra()
        print(
            f"\n{model}, a step of {IMAGES} images, seconds (eigenvalues of all layers, once an epoch: {time.perf_counter() - start:.2f} s)"
        )
        print(f"  {'with saturation':<30} {spread(taken[True])}")
        print(f"  {'without':<30} {spread(taken[False])}", flush=True)
        rows.append(Figure(f"training step with saturation, {model}", taken[True], taken[False], 1.1, "s"))
    return rows
