"""Shuffled weights, and the normalised cuts of their clusters: what a network's n-cut is compared with. Loads without torch.

Every block of weights is shuffled by itself. A shuffle that leaves units without edges loses them, as the network itself does.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from analysis.weight_graph import Edges, Floats, WeightGraph, cluster, normalise, normalised_cut

BANDWIDTH = 0.01  # of the Gaussian kernels of which values are drawn anew
Draw = np.random.Generator


def permuted(weights_ts: Floats, draw: Draw) -> Floats:
    """All entries in a random order, zeros among them."""
    return draw.permutation(weights_ts.ravel()).reshape(weights_ts.shape)


def permuted_nonzero(weights_ts: Floats, draw: Draw) -> Floats:
    """The entries that are not 0 in a random order, at the same places."""
    found = np.zeros_like(weights_ts)
    there = weights_ts != 0
    found[there] = draw.permutation(weights_ts[there])
    return found


def redrawn_nonzero(weights_ts: Floats, draw: Draw) -> Floats:
    """At the places that are not 0, values drawn from a Gaussian kernel density estimate of them, without their sign."""
    found = np.zeros_like(weights_ts)
    there = weights_ts != 0
    values = weights_ts[there]
    if len(values):
        found[there] = np.abs(draw.choice(values, len(values)) + BANDWIDTH * draw.standard_normal(len(values)))
    return found


SHUFFLES: dict[str, Callable[[Floats, Draw], Floats]] = {
    "layer": permuted,
    "layer_nonzero": permuted_nonzero,
    "layer_nonzero_distribution": redrawn_nonzero,
    "layer_all_distribution": lambda weights_ts, draw: redrawn_nonzero(permuted(weights_ts, draw), draw),
}


def shuffled(graph: WeightGraph, kind: str, draw: Draw) -> WeightGraph:
    """A graph with the weights of each block shuffled."""
    edges = [Edges(own.source, own.target, SHUFFLES[kind](own.weights_ts, draw)) for own in graph.edges]
    return WeightGraph(graph.names, graph.sizes, tuple(edges))


def cut_of(graph: WeightGraph, k: int, seed: int, restarts: int, weighted: bool, normal: bool) -> tuple[float, NDArray[np.int64]]:
    """The n-cut of a graph's clusters, and the label (nodes,) of every node: a cluster in 0..k-1, or -1 for those without edges."""
    if normal:
        graph = normalise(graph)
    there = graph.degrees > 0
    kept = graph if there.all() else graph.kept(there)
    labels = np.full(graph.nodes, -1)
    labels[there] = cluster(kept, k, seed, restarts, weighted)
    return normalised_cut(graph, labels), labels


def one_cut(graph: WeightGraph, kind: str, sequence: np.random.SeedSequence, options: tuple[Any, ...]) -> float:
    """The n-cut of one shuffle, on one thread; all that is random in it comes from the sequence."""
    draw = np.random.default_rng(sequence)
    with threadpool_limits(1):
        return cut_of(shuffled(graph, kind, draw), options[0], int(draw.integers(2**31)), *options[1:])[0]


def shuffled_cuts(
    graph: WeightGraph, kind: str, number: int, key: tuple[int, ...], options: tuple[Any, ...], workers: int
) -> Iterator[float]:
    """The n-cuts of so many shuffles, in order; the same for the same key whatever the number of processes (`workers`)."""
    sequences = np.random.SeedSequence(key).spawn(number)
    if workers == 1:
        for sequence in sequences:
            yield one_cut(graph, kind, sequence, options)
        return
    jobs = (delayed(one_cut)(graph, kind, sequence, options) for sequence in sequences)
    yield from Parallel(n_jobs=workers, return_as="generator", batch_size=4)(jobs)
