"""Clusters of hidden units whose activations go together, beside those by their weights; and the classes that units and clusters go with.

The graph has the squared correlation of each two units as its weight (Hod et al., arXiv 2110.08058); its null has these in a random order. A convolution's channel is
taken by the L2 norm of its map.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from analysis.cluster_images import cluster_images, pixel_correlations, save_sheet
from analysis.clusterability import clustered, example_of, graph_of, rows_of, to_text
from analysis.null_tests import against
from analysis.options import Coactivation
from analysis.seen import Seen
from analysis.table import Row
from analysis.weight_graph import Edges, Floats, WeightGraph, cluster, normalised_cut
from data.keys import derive
from errors import InputError
from models.wiring import INPUT, trace


def correlations(units_nu: Floats, kind: str) -> Floats:
    """The correlation (U, U) of each two columns of activations (N, U) by Pearson, Spearman (of ranks) or Kendall (tau-b); 0 for columns that are constant."""
    if kind == "kendall":
        found = np.eye(units_nu.shape[1])
        for one in range(units_nu.shape[1]):
            for other in range(one):
                found[one, other] = found[other, one] = stats.kendalltau(units_nu[:, one], units_nu[:, other]).statistic
        return np.nan_to_num(found)
    values = stats.rankdata(units_nu, axis=0) if kind == "spearman" else units_nu
    values = values - values.mean(0)
    size = np.sqrt(np.square(values).sum(0))
    values = values / np.where(size > 1e-12 * max(1.0, size.max(initial=0)), size, np.inf)
    return values.T @ values


def graph_between(weights: Floats) -> WeightGraph:
    """The graph of units whose edges have these weights (U, U), symmetric; every edge once, so that its one block is above the diagonal."""
    return WeightGraph(("units",), (len(weights),), (Edges(0, 0, np.triu(weights, 1)),))


def shuffled(graph: WeightGraph, draw: np.random.Generator) -> WeightGraph:
    """A graph between units with its weights in a random order."""
    (block,) = graph.edges
    above = np.triu_indices(graph.nodes, 1)
    found = np.zeros_like(block.weights_ts)
    found[above] = draw.permutation(block.weights_ts[above])
    return WeightGraph(graph.names, graph.sizes, (Edges(0, 0, found),))


def activations(seen: Seen, options: Coactivation, layers: list[str], condition: str) -> dict[str, Floats]:
    """What leaves each layer after its ReLU (N, units), by layer."""
    found: dict[str, list[Tensor]] = {layer: [] for layer in layers}

    def take(layer: str, features: Tensor) -> None:
        features = features.relu()
        found[layer].append((features.flatten(2).norm(dim=2) if features.ndim == 4 else features).cpu())

    for _ in seen.watched(seen.system, take, "layers", layers, options.split, condition, options.images):
        pass
    return {layer: torch.cat(own).double().numpy() for layer, own in found.items()}


def run(seen: Seen, options: Coactivation, folder: Path) -> list[Row]:
    """Rows: the n-cut of clusters by activations against shuffled graphs; `nmi`, what these share with the clusters by weights, against permuted labels; `transfer_ncut`, the
    n-cut of the clusters by weights in the graph of activations, against permuted labels; the mean squared correlation inside and between clusters by weights;
    of units the class that they go with most (`selectivity`). All units go to units.csv; how clusters go with the pixels to clusters-<condition>.png.
    """
    wiring = trace(seen.network, example_of(seen))
    try:
        by_weight = clustered(graph_of(seen.network, wiring, options), options).by_layer()
    except InputError as error:
        raise InputError(f"{seen.name}: {error}") from None
    layers = [layer for layer in by_weight if layer not in (INPUT, wiring.wires[-1].layer)]
    if not layers:
        raise InputError(f"{seen.name}: coactivation: there is no hidden layer")
    rows: list[Row] = []
    table: list[list[Any]] = []
    for condition in seen.pictures.conditions:
        cells = seen.pictures.cells(options.split, condition)
        own = activations(seen, options, layers, condition)
        units_nu = np.concatenate([own[layer] for layer in layers], axis=1)
        names = [(layer, unit) for layer in layers for unit in range(own[layer].shape[1])]
        labels = np.concatenate([by_weight[layer] for layer in layers])
        squares = np.square(correlations(units_nu, options.correlation))
        graph = graph_between(squares)
        # Units that never change, or have no weights, are in neither clustering.
        there = (graph.degrees > 0) & (labels >= 0)
        graph, squares, labels = graph.kept(there), squares[np.ix_(there, there)], labels[there]
        names = [name for name, kept in zip(names, there) if kept]
        if len(labels) <= options.clusters:
            raise InputError(
                f"{seen.name}: coactivation: {len(labels)} units change with the images; {options.clusters} clusters need more"
            )
        draw = np.random.default_rng(derive("coactivation", options.seed) % 2**63)
        found = cluster(graph, options.clusters, options.seed, options.restarts, options.weighted)
        tests: dict[str, tuple[float, Callable[[], float], bool]] = {
            "coactivation_ncut": (normalised_cut(graph, found), partial(cut_at_random, graph, options, draw), False),
            "nmi": (shared(found, labels), partial(permuted, partial(shared, found), labels, draw), True),
            "transfer_ncut": (normalised_cut(graph, labels), partial(permuted, partial(normalised_cut, graph), labels, draw), False),
        }  # fmt: skip
        for metric, (value, again, right) in tests.items():
            rows.append(Row(metric, value, **cells))
            if options.shuffles:
                null = []
                for _ in range(options.shuffles):
                    null.append(again())
                    seen.tick()
                rows += rows_of(against(value, null, right), metric, "", **cells)
        same = labels[:, None] == labels[None]
        off = ~np.eye(len(labels), dtype=bool)
        for metric, pairs in (("correlation_inside", same & off), ("correlation_between", ~same)):
            if pairs.any():
                rows.append(Row(metric, float(squares[pairs].mean()), **cells))
        classes = seen.pictures.labels(options.split, condition, options.images).cpu().numpy()
        selectivity, preferred = selective(units_nu[:, there], classes, seen.classes)
        rows += group_rows(selectivity, preferred, [name[0] for name in names], labels, cells)
        images = np.concatenate([batch.cpu().numpy() for batch in seen.pictures.batches(options.split, condition, options.images)])
        groups = groups_of([name[0] for name in names], labels)
        save_sheet(cluster_images(pixel_correlations(images, units_nu[:, there]), groups), folder / f"clusters-{condition}.png")
        table += [
            [condition, layer, unit, int(labels[place]), int(found[place]), float(selectivity[place]), int(preferred[place])]
            for place, (layer, unit) in enumerate(names)
        ]
    header = ["condition", "layer", "unit", "cluster_by_weights", "cluster_by_activations", "selectivity", "preferred_class"]
    (folder / "units.csv").write_text(to_text(header, table))
    return rows


def shared(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """What two clusterings of the same units share: their normalised mutual information, in 0..1."""
    return float(normalized_mutual_info_score(one, other))


def permuted(score: Callable[[NDArray[np.int64]], float], labels: NDArray[np.int64], draw: np.random.Generator) -> float:
    """The score of labels in a random order."""
    return score(draw.permutation(labels))


def cut_at_random(graph: WeightGraph, options: Coactivation, draw: np.random.Generator) -> float:
    """The n-cut of the clusters of a shuffled graph."""
    other = shuffled(graph, draw)
    return normalised_cut(other, cluster(other, options.clusters, int(draw.integers(2**31)), options.restarts, options.weighted))


def selective(units_nu: Floats, classes_n: NDArray[np.int64], classes: int) -> tuple[Floats, NDArray[np.int64]]:
    """The largest absolute correlation (U,) of each unit with being of a class, and that class (U,)."""
    of_class = (classes_n[:, None] == np.arange(classes)).astype(np.float64)
    found = np.abs(correlations(np.concatenate([units_nu, of_class], axis=1), "pearson")[: units_nu.shape[1], units_nu.shape[1] :])
    return found.max(1), found.argmax(1)


def group_rows(
    selectivity: Floats, preferred: NDArray[np.int64], layers: list[str], labels: NDArray[np.int64], cells: dict[str, str]
) -> list[Row]:
    """Of each cluster in a layer: its units' mean selectivity, and the share of them that prefer the commonest class."""
    rows = []
    for name, own in groups_of(layers, labels).items():
        rows.append(Row("selectivity", float(selectivity[own].mean()), name, **cells))
        rows.append(Row("same_class", float(np.bincount(preferred[own]).max() / len(own)), name, **cells))
    return rows


def groups_of(layers: list[str], labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The places of the units of each cluster in a layer, by `<layer>/<cluster>`."""
    of_layer = np.array(layers)
    return {
        f"{layer}/{label}": np.flatnonzero((of_layer == layer) & (labels == label))
        for layer in dict.fromkeys(layers)
        for label in np.unique(labels[of_layer == layer]).tolist()
    }
