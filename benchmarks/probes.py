"""Probes of all layers of a ResNet-18, against scikit-learn on activations that were dumped before.

    python -m benchmarks probes

ours: features from forward passes (nothing is stored), a probe fitted at every layer up to its certificate, accuracies on test images. other: activations of every layer
written to files batch by batch, read again, and scikit-learn's LogisticRegression(solver="saga", C=1, max_iter=100) on each, as is usual; saga does not converge in so many
iterations. Both: TRAIN training and TEST test images of CIFAR10 (python -m data prepare CIFAR10), maps averaged to 4 x 4, the same network, initialised and not trained,
one run, the same number of threads. Objectives of both are told, as means over the layers: the lower one is nearer to the minimum.
"""

import math
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from analysis.logistic import fit
from analysis.pooling import pool
from analysis.taps import tapped
from benchmarks._figures import Figure
from data import datasets
from data.batches import ToNetwork
from models.networks import Network, build_network

TRAIN, TEST, SIDE, BATCH = 2000, 1000, 4, 250


def inputs(split: datasets.Split, count: int) -> tuple[Tensor, Tensor]:
    """Network inputs and labels of the first images of every class."""
    rows = datasets.class_balanced(split, count)
    return ToNetwork("CIFAR10", "cpu")(torch.from_numpy(np.ascontiguousarray(split.images[rows]))), torch.from_numpy(split.labels[rows])


@torch.no_grad()
def features(network: Network, images_nchw: Tensor) -> dict[str, Tensor]:
    """The pooled features of every layer."""
    found: dict[str, list[Tensor]] = {}
    with tapped(network, lambda name, maps: found.setdefault(name, []).append(pool(maps, SIDE))):
        for chunk in images_nchw.split(BATCH):
            network(chunk)
    return {name: torch.cat(own) for name, own in found.items()}


def ours(network: Network, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> tuple[list[float], list[float]]:
    """Objectives and test accuracies by layer."""
    fitted = {name: fit(x, train[1], 10) for name, x in features(network, train[0]).items()}
    tested = features(network, test[0])
    return [probe.objective for probe in fitted.values()], [fitted[name].accuracy(x, test[1]) for name, x in tested.items()]


@torch.no_grad()
def dump(network: Network, images_nchw: Tensor, folder: Path) -> list[str]:
    """Writes the activations of every layer, averaged to 4 x 4 (smaller maps repeat their values), a file for each batch."""
    names: list[str] = []

    def take(name: str, maps: Tensor) -> None:
        if name not in names:
            names.append(name)
        number = len(list(folder.glob(f"{name}-*.npy")))
        np.save(folder / f"{name}-{number:04d}.npy", (adaptive_avg_pool2d(maps, SIDE) if maps.ndim == 4 else maps).flatten(1).numpy())

    with tapped(network, take):
        for chunk in images_nchw.split(BATCH):
            network(chunk)
    return names


def other(network: Network, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], folder: Path) -> tuple[list[float], list[float]]:
    """The same by scikit-learn."""
    objectives, accuracies = [], []
    (folder / "train").mkdir()
    (folder / "test").mkdir()
    names = dump(network, train[0], folder / "train")
    dump(network, test[0], folder / "test")
    for name in names:
        x, x_test = (
            np.concatenate([np.load(path) for path in sorted((folder / part).glob(f"{name}-*.npy"))]) for part in ("train", "test")
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(solver="saga", C=1.0, max_iter=100).fit(x, train[1].numpy())
        loss = -model.predict_log_proba(x)[np.arange(len(x)), train[1].numpy()].mean()
        objectives.append(float(loss + (model.coef_**2).sum() / (2 * len(x))))
        accuracies.append(float((model.predict(x_test) == test[1].numpy()).mean()))
    return objectives, accuracies


def run() -> list[Figure]:
    """One row: seconds of ours over seconds of the other."""
    data = datasets.load("CIFAR10")
    torch.manual_seed(0)
    network = build_network("ResNet18-stem7-w64", 10)
    train, test = inputs(data.train, TRAIN), inputs(data.test, TEST)
    # Statistics of batch norms, so that activations are of usual sizes.
    with torch.no_grad():
        network.train()(train[0][:: TRAIN // BATCH])
    network.eval()
    start = time.perf_counter()
    objectives, accuracies = ours(network, train, test)
    middle = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        other_objectives, other_accuracies = other(network, train, test, Path(folder))
    end = time.perf_counter()
    print(f"\nprobes of {len(objectives)} layers, {TRAIN:,} training and {TEST:,} test images, {torch.get_num_threads()} threads")
    for name, seconds, values, scores in (
        ("ours", middle - start, objectives, accuracies),
        ("saga on dumped activations", end - middle, other_objectives, other_accuracies),
    ):
        print(
            f"  {name:<30} {seconds:>8.1f} s, mean objective {math.fsum(values) / len(values):.4f}, mean test accuracy {math.fsum(scores) / len(scores):.4f}"
        )
    return [Figure("probes of all layers of a ResNet-18", [middle - start], [end - middle], 1.0, "s")]
