"""A clustering of a network's weights, against scikit-learn's spectral clustering as the published programs call it; lesions against full forward passes.

    python -m benchmarks clusterability

ours, of a clustering: a shuffle of an MLP's weights (784-256x4-10, of which the largest tenth is left), the embedding by the smaller Gram matrix, k-means with 10 starts and
the n-cut. other: the same shuffle, the sparse matrix of all weights, SpectralClustering(eigen_solver="arpack", n_init=10) and the same n-cut. k = 4 and 12, one thread, sides in
turns; the n-cuts of both sides are told. `320 shuffles` is the whole test of one network on all cores (goal: 40 s), over 320 times other's clustering shared among
as many cores. Of lesions: LESIONS of each layer of the MLP on 10,000 images from cached activations, over as many forward passes of the whole network with masked weights.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.cluster import SpectralClustering
from threadpoolctl import threadpool_limits

from analysis.clusterability import graph_of
from analysis.lesioned import Chain
from analysis.options import Clusterability
from analysis.shuffles import cut_of, shuffled, shuffled_cuts
from analysis.weight_graph import WeightGraph, normalised_cut
from benchmarks._figures import Figure
from models.networks import Network, build_network
from models.wiring import trace
from train.pruning import kernels, largest

ROUNDS, LESIONS, IMAGES = 5, 10, 10_000


def pruned_mlp() -> Network:
    """The published MLP, initialised, with its largest tenth of weights."""
    torch.manual_seed(0)
    network = build_network("MLP-256x4", 10).eval().requires_grad_(True)
    with torch.no_grad():
        for weight in kernels(network):
            weight *= largest(weight, 0.9)
    return network.requires_grad_(False)


def theirs(graph: WeightGraph, k: int, seed: int) -> float:
    """The n-cut of scikit-learn's clusters."""
    there = graph.degrees > 0
    kept = graph.kept(there)
    found = SpectralClustering(k, affinity="precomputed", eigen_solver="arpack", n_init=10, assign_labels="kmeans", random_state=seed)
    return normalised_cut(kept, found.fit(kept.adjacency()).labels_.astype(np.int64))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def run() -> list[Figure]:
    """Rows of `python -m benchmarks`."""
    network = pruned_mlp()
    graph = graph_of(network, trace(network, torch.zeros(1, 3, 28, 28)), Clusterability())
    graph = graph.kept(graph.degrees > 0)
    rows, other_seconds = [], 0.0
    for k in (4, 12):
        sides: dict[str, list[tuple[float, float]]] = {"ours": [], "other": []}
        with threadpool_limits(1):
            for number in range(ROUNDS + 1):
                own = shuffled(graph, "layer", np.random.default_rng(number))
                sides["ours"].append(timed(lambda own=own, k=k: cut_of(own, k, 0, 10, False, False)[0]))  # type: ignore[misc]
                sides["other"].append(timed(lambda own=own, k=k: theirs(own, k, 0)))  # type: ignore[misc]
        times = {side: [seconds for seconds, _ in found[1:]] for side, found in sides.items()}
        cuts = {side: float(np.mean([cut for _, cut in found])) for side, found in sides.items()}
        print(f"n-cut, k = {k}: ours {cuts['ours']:.3f}, other {cuts['other']:.3f}", flush=True)
        rows.append(Figure(f"clustering, k = {k}", times["ours"], times["other"], 0.33, "s"))
        other_seconds = float(np.median(times["other"])) if k == 4 else other_seconds
    cores = torch.get_num_threads()
    list(shuffled_cuts(graph, "layer", 2 * cores, (0,), (4, 10, False, False), cores))  # the processes are there
    whole, _ = timed(lambda: list(shuffled_cuts(graph, "layer", 320, (0,), (4, 10, False, False), cores)))
    rows.append(Figure(f"320 shuffles, k = 4, {cores} cores", [whole], [320 * other_seconds / cores], 0.33, "s"))
    return rows + [lesions(network)]


@torch.no_grad()
def lesions(network: Network) -> Figure:
    """Lesions of random quarters of each hidden layer."""
    layers = [f"blocks.{number}.{2 if number == 0 else 0}" for number in range(4)]
    images = torch.rand(IMAGES, 3, 28, 28)
    generator = torch.Generator().manual_seed(0)
    masks = [(layer, (torch.rand(256, generator=generator) > 0.25).float()) for layer in layers for _ in range(LESIONS)]
    chain = Chain(network, layers)

    def ours() -> None:
        chain.load(images)
        for layer, mask in masks:
            chain.logits({layer: mask})

    def other() -> None:
        for layer, mask in masks:
            part: Any = network.get_submodule(layer)
            weight, bias = part.weight.clone(), part.bias.clone()
            part.weight.mul_(mask[:, None])
            part.bias.mul_(mask)
            network(images)
            part.weight.copy_(weight)
            part.bias.copy_(bias)

    times = [(timed(ours)[0], timed(other)[0]) for _ in range(3)]
    return Figure(f"{len(masks)} lesions, {IMAGES:,} images", [own for own, _ in times], [others for _, others in times], 1.0, "s")
