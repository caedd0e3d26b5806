"""Evaluation of five systems on the 167 compositions, against the networks' forward passes alone on ready tensors, and against the usual way.

    python -m benchmarks evaluation

The limit is what the same networks take for the same images when every network input lies ready in memory; ours makes the
corrupted images (through the prefix tree, once for all systems), cuts and standardises them, runs the networks and scores
them. Both run the autoencoders' chain, which is nearly all of it, once for the two image-space systems. Weights are
drawn at random, which changes no time. One thread, as a process of the pool has; sides take turns. The usual way, on all cores, is one system at a time over a
DataLoader whose workers take image by image through its composition with scikit-image. About six minutes on two cores.
"""

import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks._figures import Figure, in_turns, processes, spread
from benchmarks.corruptions import PerImage
from data import datasets
from data.batches import ToNetwork
from data.compositions import ELEMENTALS, compositions
from data.corruptions import quantize, stream
from data.keys import evaluation_seed
from models.networks import build_autoencoder, build_module, build_network
from train.evaluation import evaluate
from train.fields import Evaluation
from train.img_space_identity import ImgSpaceNetwork
from train.method import PlainSystem, System
from train.modular_system import ModularNetwork
from train.routing import Routing

ROUNDS, IMAGES = 4, 100
DATASET = "FashionMNIST-mini"
FIELD_IMAGES = 40  # of the usual way, which is slow; both sides are given per image
# Where the demo's level search puts the modules.
LEVELS = {"Contrast": 1, "GaussianBlur": 4, "ImpulseNoise": 4, "Invert": 3, "Rotate90": 3, "Swirl": 4}


def five_systems() -> list[System]:
    """CrossEntropy, Contrastive, the modular and the two image-space systems, with the demo's network."""
    plain = [PlainSystem(build_network("SmallNet", 10)) for _ in range(2)]
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


def over_forward_passes() -> Figure:
    """Seconds of the evaluation over seconds of the forward passes alone."""
    dataset, systems = datasets.load(DATASET), five_systems()
    inputs = ready_inputs(dataset, IMAGES)
    positions, device = np.arange(IMAGES), torch.device("cpu")
    taken = in_turns(
        {
            "evaluation": lambda: evaluate(systems, dataset, Evaluation(), positions, device),
            "forward passes alone": lambda: forward_alone(systems, inputs),
        },
        ROUNDS,
    )
    print(f"\n{len(systems)} systems, 167 compositions of {IMAGES} images, seconds on one thread")
    for side, seconds in taken.items():
        print(f"  {side:<30} {spread(seconds)}", flush=True)
    ours, limit = taken.values()
    return Figure("evaluation of the five systems over their forward passes", ours, limit, 1.10, "s")


def evaluate_share(number: int) -> None:
    """What a process of the pool evaluates: the next IMAGES images."""
    positions = np.arange(IMAGES * number, IMAGES * (number + 1))
    evaluate(five_systems(), datasets.load(DATASET), Evaluation(), positions, torch.device("cpu"))


@torch.inference_mode()
def usual_way(systems: Sequence[System], loader: DataLoader) -> None:
    """Every system by itself: a pass over all compositions, whose images are corrupted one by one by the DataLoader's workers."""
    spec, standardise = compositions("167"), ToNetwork(DATASET, "cpu")
    for system in systems:
        for numbers, images in loader:
            images = standardise(images)
            for number in numbers.unique():
                rows = numbers == number
                system(images[rows], spec[int(number)]).argmax(1)


class Numbered(PerImage):
    """Images of the usual way with the number of their composition."""

    def __getitem__(self, item: int) -> tuple[int, Tensor]:  # type: ignore[override]
        return item // len(self.images_nhwc), super().__getitem__(item)


def over_the_usual_way() -> Figure:
    """Images (each under all compositions, through all systems) per second, on all cores on both sides."""
    cores = len(os.sched_getaffinity(0))
    systems, images = five_systems(), datasets.load(DATASET).test.images[:FIELD_IMAGES]
    loader = DataLoader(Numbered(images), batch_size=FIELD_IMAGES, num_workers=cores, persistent_workers=True)
    torch.set_num_threads(cores)
    with processes(cores) as pool:
        taken = in_turns(
            {"ours": lambda: list(pool.map(evaluate_share, range(cores))), "usual": lambda: usual_way(systems, loader)}, ROUNDS
        )
    ours = [IMAGES * cores / seconds for seconds in taken["ours"]]
    usual = [FIELD_IMAGES / seconds for seconds in taken["usual"]]
    print(
        f"\n{len(systems)} systems, 167 compositions, images/s on {cores} cores: ours {spread(ours)}, the usual way {spread(usual)}",
        flush=True,
    )
    return Figure("evaluation of the five systems over DataLoader, scikit-image and one system at a time", ours, usual, 5.0)


def run() -> list[Figure]:
    """Rows over the limit (goal: at most 1.10) and over the usual way (goal: at least 5). Torch's thread count is put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [over_forward_passes(), over_the_usual_way()]
    finally:
        torch.set_num_threads(threads)
