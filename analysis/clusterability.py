"""Clusterability: the normalised cut of the clusters of a network's weights, beside those of shuffled weights (Filan et al., arXiv 2003.04881, 2103.03386).

Only the z and p of a network against its own shuffles can be compared between networks: the n-cut depends on k, on the widths and on the law of the weights.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from analysis.null_tests import Against, against, cohens_d
from analysis.options import Clusterability, Clustering
from analysis.seen import Seen
from analysis.shuffles import SHUFFLES, cut_of, shuffled_cuts
from analysis.table import Row
from analysis.weight_graph import WeightGraph, inside_to_outside, spectrum
from errors import InputError
from models.wiring import Wiring, graph_sets, trace


@dataclass(frozen=True)
class Clustered:
    """A network's graph with the label (nodes,) of every node, -1 for those that are left out, and the n-cut."""

    graph: WeightGraph
    labels: NDArray[np.int64]
    cut: float

    def by_layer(self) -> dict[str, NDArray[np.int64]]:
        """The labels of each layer's units."""
        return {name: self.labels[self.graph.part(number)] for number, name in enumerate(self.graph.names)}


def graph_of(network: nn.Module, wiring: Wiring, options: Clustering) -> WeightGraph:
    """The graph of a network's weights as they are now."""
    keep = graph_sets(wiring, options.dense)
    blocks = [
        (block.source, block.target, block.weights_ts.detach().cpu().double().numpy())
        for block in wiring.blocks(network, options.norm)
        if block.source in keep and block.target in keep
    ]
    return WeightGraph.of(blocks, wiring.sizes)


def thinned(graph: WeightGraph, options: Clustering) -> NDArray[np.bool_]:
    """Which nodes are clustered: those with edges; with `stray: drop` only those of components that go from the first set to the last."""
    return (graph.degrees > 0) & (graph.through() if options.stray == "drop" else True)


def settings(options: Clustering) -> tuple[Any, ...]:
    """What `cut_of` is told beside the graph and the seed."""
    return options.clusters, options.restarts, options.weighted, options.normalise


def clustered(graph: WeightGraph, options: Clustering) -> Clustered:
    """The clusters of a graph; InputError where it has fewer nodes with edges than there shall be clusters."""
    keep = thinned(graph, options)
    if keep.sum() < options.clusters:
        raise InputError(f"the graph of weights has {keep.sum()} units with edges; {options.clusters} clusters need as many")
    k, restarts, weighted, normal = settings(options)
    cut, own = cut_of(graph.kept(keep), k, options.seed, restarts, weighted, normal)
    labels = np.full(graph.nodes, -1)
    labels[keep] = own
    return Clustered(graph, labels, cut)


def example_of(seen: Seen) -> torch.Tensor:
    """An image as the network's first block takes it."""
    image = next(iter(seen.pictures.batches("test", seen.pictures.clean, None)))[:1]
    return seen.network.prepare(image)


def networks(seen: Seen, options: Clusterability) -> Iterator[tuple[str, str, nn.Module, torch.Tensor]]:
    """What is cut: (the weights' name before metrics, the part's name, network or module, an input for it)."""
    image = example_of(seen)
    for weights in options.weights:
        if weights == "final":
            yield "", "", seen.network, image
        elif weights == "untrained":
            yield "untrained_", "", seen.untrained().network, image
        elif seen.unpruned is None:
            raise InputError(f"{seen.name}: weights: it was not pruned, so there are none before a pruning; allowed: final, untrained")
        else:
            yield "unpruned_", "", seen.unpruned(), image
    features = image
    levels = {0: features}
    with torch.no_grad():
        for number, block in enumerate(seen.network.blocks[:-1], 1):
            features = block(features)
            levels[number] = features
    for name, (module, level) in seen.parts.items():
        yield "", name, module, levels[level]


def run(seen: Seen, options: Clusterability, folder: Path) -> list[Row]:
    """Rows of the network, and of each module of a system (its corruption as `layer`): ncut, its ratio of weights inside and outside, what was left out, sizes of
    clusters, weights between them; of each shuffle mean, deviation, z, p with intervals, and all its n-cuts. The clusters of all units go to clusters.csv.
    """
    rows: list[Row] = []
    units: list[list[Any]] = []
    for number, (weights, part, network, example) in enumerate(networks(seen, options)):
        try:
            wiring = trace(network, example)
            found = clustered(graph_of(network, wiring, options), options)
        except InputError as error:
            if not part:
                raise InputError(f"{seen.name}: {error}") from None
            # A module of one layer has no graph.
            continue
        rows += described(found, weights, part)
        rows += tested(found, weights, part, options, number, seen)
        for layer, labels in found.by_layer().items():
            units += [[weights.rstrip("_") or "final", part, layer, unit, label] for unit, label in enumerate(labels.tolist())]
    (folder / "clusters.csv").write_text(to_text(["weights", "part", "layer", "unit", "cluster"], units))
    return rows


def to_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def described(found: Clustered, weights: str, part: str) -> list[Row]:
    """What there is of a graph and its clusters, without shuffles; a layer's cluster is called `<layer>/<cluster>`."""
    graph, labels = found.graph, found.labels
    inside = f"{part}:" if part else ""
    there = graph.kept(graph.degrees > 0)
    components = np.bincount(there.components)
    clusters = np.unique(labels[labels >= 0])
    values = {
        "ncut": found.cut,
        "inside_to_outside": inside_to_outside(found.cut, len(clusters)),
        "nodes": graph.nodes,
        "isolated": int((graph.degrees == 0).sum()),
        "left_out": int((labels < 0).sum()),
        "components": len(components),
        "largest_component": int(components.max()),
    }
    rows = [Row(weights + metric, float(value), part) for metric, value in values.items()]
    rows += [Row(f"{weights}cluster_size", float((labels == cluster).sum()), f"{inside}{cluster}") for cluster in clusters.tolist()]
    clustered_part = graph.kept(labels >= 0)
    eigenvalues, _ = spectrum(clustered_part, min(2 * len(clusters), clustered_part.nodes))
    rows += [Row(f"{weights}eigenvalue", float(value), f"{inside}{place}") for place, value in enumerate(eigenvalues, 1)]
    by_layer = found.by_layer()
    for layer, own in by_layer.items():
        names, counts = np.unique(own[own >= 0], return_counts=True)
        rows += [Row(f"{weights}cluster_units", float(count), f"{inside}{layer}/{name}") for name, count in zip(names.tolist(), counts)]
    for edges in graph.edges:
        source, target = graph.names[edges.source], graph.names[edges.target]
        for one in np.unique(by_layer[source][by_layer[source] >= 0]).tolist():
            for other in np.unique(by_layer[target][by_layer[target] >= 0]).tolist():
                mean = edges.weights_ts[np.ix_(by_layer[target] == other, by_layer[source] == one)].mean()
                rows.append(Row(f"{weights}cluster_weight", float(mean), f"{inside}{source}/{one}>{target}/{other}"))
    return rows


def tested(found: Clustered, weights: str, part: str, options: Clusterability, number: int, seen: Seen) -> list[Row]:
    """The n-cut against those of shuffles."""
    if not options.shuffles:
        return []
    graph = found.graph.kept(thinned(found.graph, options))
    cuts: dict[str, list[float]] = {}
    rows: list[Row] = []
    for kind in options.shuffle:
        cuts[kind] = []
        key = (options.seed, number, list(SHUFFLES).index(kind))
        for cut in shuffled_cuts(graph, kind, options.shuffles, key, settings(options), max(1, torch.get_num_threads())):
            cuts[kind].append(cut)
            seen.tick()
        rows += rows_of(against(found.cut, cuts[kind]), f"{weights}ncut_{kind}", part)
        inside = f"{part}:" if part else ""
        rows += [Row(f"{weights}ncut_{kind}_shuffled", cut, f"{inside}{place}") for place, cut in enumerate(cuts[kind])]
    for one, other in combinations(options.shuffle, 2):
        rows.append(Row(f"{weights}cohens_d_{one}_{other}", cohens_d(cuts[one], cuts[other]), part))
    return rows


def rows_of(test: Against, metric: str, part: str, **cells: str) -> list[Row]:
    """A test as rows."""
    values = {
        "mean": test.mean, "std": test.deviation, "z": test.z, "p": test.p, "p_low": test.p_low, "p_high": test.p_high, "low": test.low, "high": test.high,
    }  # fmt: skip
    return [Row(f"{metric}_{name}", value, part, **cells) for name, value in values.items()]


class CutAlong:
    """The n-cut of a network along its training, without shuffles."""

    def __init__(self, options: Clusterability):
        self.options = options
        self.wiring: Wiring | None = None

    def measure(self, network: nn.Module, example: Callable[[], torch.Tensor]) -> dict[str, float]:
        """The n-cut and the ratio of weights inside and outside, of the weights as they are now; drawn from the options' seed alone."""
        if self.wiring is None:
            self.wiring = trace(network, example())
        found = clustered(graph_of(network, self.wiring, self.options), self.options)
        return {"ncut": found.cut, "inside_to_outside": inside_to_outside(found.cut, self.options.clusters)}
