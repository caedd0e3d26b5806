"""Evaluation of all systems of the demo on the 167 compositions, against the networks' forward passes alone on ready tensors.

    python -m benchmarks evaluation

The limit is what the same networks take for the same images when every network input lies ready in memory; ours makes the
corrupted images (through the prefix tree, once for all systems), cuts and standardises them, runs the networks and scores
them. Both run the autoencoders' chain once for the two image-space systems; what that saves is a row of its own. Weights are
drawn at random, which changes no time. One thread, as a process of the pool has; sides take turns.
"""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._figures import Figure, spread
from data import datasets
from data.batches import ToNetwork
from data.compositions import ELEMENTALS, compositions
from data.corruptions import quantize, stream
from data.keys import evaluation_seed
from models.networks import build_autoencoder, build_module, build_network
from train.evaluation import CHUNK, evaluate
from train.fields import Evaluation
from train.img_space_identity import ImgSpaceNetwork
from train.method import PlainSystem, System
from train.modular_system import ModularNetwork
from train.routing import Routing

ROUNDS = 5
DATASET = "FashionMNIST-mini"
# Where the demo's level search puts the modules.
LEVELS = {"Contrast": 1, "GaussianBlur": 4, "ImpulseNoise": 4, "Invert": 3, "Rotate90": 3, "Swirl": 4}


def demo_systems() -> list[System]:
    """Identity, CrossEntropy, Contrastive, the modular and the two image-space systems, with the demo's network."""
    plain = [PlainSystem(build_network("SmallNet", 10)) for _ in range(3)]
    modules = {name: build_module("SmallNet", LEVELS[name]) for name in ELEMENTALS}
    modular = ModularNetwork(build_network("SmallNet", 10), modules, LEVELS, Routing())
    autoencoders: dict[str, nn.Module] = {name: build_autoencoder("SmallNet", 28) for name in ELEMENTALS}
    image_space = [ImgSpaceNetwork(autoencoders, build_network("SmallNet", 10), Routing(), "chain") for _ in range(2)]
    return [system.eval().requires_grad_(False) for system in (*plain, modular, *image_space)]


@torch.inference_mode()
def ready_inputs(dataset: datasets.DataSet, count: int) -> list[tuple[tuple[str, ...], Tensor]]:
    """The network inputs of every composition, in the order of the walk."""
    spec = compositions("167")
    to_network = ToNetwork(dataset.name, "cpu")
    images, ids = torch.from_numpy(dataset.test.images[:count]), torch.from_numpy(dataset.test.ids[:count])
    walk = stream(images, spec, ids=ids, seed=evaluation_seed(dataset.name, "test"))
    # One stored channel stands for three, as in the evaluation itself.
    return [(spec[index], to_network(quantize(levels))) for index, levels in walk]


@torch.inference_mode()
def forward_alone(systems: Sequence[System], inputs: Sequence[tuple[tuple[str, ...], Tensor]]) -> None:
    for composition, images in inputs:
        restored = {system.restoration: system.restore(images, composition) for system in unlike(systems)}
        for system in systems:
            system.classify(restored[system.restoration], composition)


def unlike(systems: Sequence[System]) -> list[System]:
    """One system for each restoration."""
    return list({system.restoration: system for system in systems}.values())


def run() -> list[Figure]:
    """One row: seconds of the evaluation over seconds of the forward passes alone (goal: at most 1.10)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        dataset, systems = datasets.load(DATASET), demo_systems()
        inputs = ready_inputs(dataset, CHUNK)
        positions, device = np.arange(CHUNK), torch.device("cpu")
        ours: list[float] = []
        limit: list[float] = []
        shared: list[float] = []
        apart: list[float] = []
        pair = systems[-2:]
        for turn in range(ROUNDS + 1):
            start = time.perf_counter()
            evaluate(systems, dataset, Evaluation(), positions, device)
            middle = time.perf_counter()
            forward_alone(systems, inputs)
            end = time.perf_counter()
            evaluate(pair, dataset, Evaluation(), positions, device)
            together = time.perf_counter()
            for system in pair:
                evaluate([system], dataset, Evaluation(), positions, device)
            last = time.perf_counter()
            if turn:  # the first one warms up
                ours.append(middle - start)
                limit.append(end - middle)
                shared.append(together - end)
                apart.append(last - together)
        print(f"\n{len(systems)} systems, 167 compositions of {CHUNK} images, seconds on one thread")
        print(f"  {'evaluation':<30} {spread(ours)}")
        print(f"  {'forward passes alone':<30} {spread(limit)}")
        print(f"  ratio by round: {', '.join(f'{a / b:.3f}' for a, b in zip(ours, limit))}", flush=True)
        return [
            Figure("evaluation of the demo's systems over their forward passes", ours, limit, 1.10, "s"),
            Figure("both image-space systems in one pass over one after the other", shared, apart, 1.0, "s"),
        ]
    finally:
        torch.set_num_threads(threads)
