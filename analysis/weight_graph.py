"""Graphs of weights: sets of nodes (the units of layers) with blocks of edges between them, their spectral clusterings and the normalised cut of these.

With degrees d and L = I - D^-1/2 A D^-1/2, the rows of the embedding are d_i^-1/2 u_i of the k eigenvectors with the smallest eigenvalues, the trivial one among them;
k-means makes clusters of them (Shi and Malik 2000; Filan et al., arXiv 2003.04881). Loads without torch, since processes that shuffle weights start with this.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse import csgraph
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from sklearn.cluster import KMeans

from errors import InputError
from models.sides import two_sides

Floats = NDArray[np.float64]
SMALLEST = 1e-4  # singular values below it have no direction that can be trusted
DENSE = 400  # nodes up to which the whole matrix is quicker


@dataclass(frozen=True)
class Edges:
    """Weights (nodes of `target`, nodes of `source`), not negative, between two sets of nodes by their numbers; within one set, each edge once, so above the diagonal."""

    source: int
    target: int
    weights_ts: Floats


@dataclass(frozen=True)
class WeightGraph:
    """An undirected graph whose nodes are in sets, by name and size, and whose edges are in blocks between two sets, or within one."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    edges: tuple[Edges, ...]

    @classmethod
    def of(cls, blocks: Sequence[tuple[str, str, Floats]], sizes: Mapping[str, int]) -> "WeightGraph":
        """The graph of blocks (source, target, weights); its sets are those that a block touches, in the order of `sizes`. InputError where there is none."""
        touched = {name for source, target, _ in blocks for name in (source, target)}
        names = [name for name in sizes if name in touched]
        if not names:
            raise InputError("the graph of weights is empty: there are no two layers behind each other")
        edges = [Edges(names.index(source), names.index(target), weights_ts) for source, target, weights_ts in blocks]
        return cls(tuple(names), tuple(sizes[name] for name in names), tuple(edges))

    @property
    def nodes(self) -> int:
        return sum(self.sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where the nodes of every set begin."""
        return tuple(int(own) for own in np.concatenate([[0], np.cumsum(self.sizes)])[:-1])

    def part(self, number: int) -> slice:
        """The nodes of a set."""
        return slice(self.offsets[number], self.offsets[number] + self.sizes[number])

    @cached_property
    def degrees(self) -> Floats:
        """The sums of the weights at every node (nodes,)."""
        found = np.zeros(self.nodes)
        for own in self.edges:
            found[self.part(own.target)] += own.weights_ts.sum(1)
            found[self.part(own.source)] += own.weights_ts.sum(0)
        return found

    def kept(self, keep: NDArray[np.bool_]) -> "WeightGraph":
        """The graph of the nodes (nodes,) that are kept."""
        parts = [keep[self.part(number)] for number in range(len(self.sizes))]
        edges = [Edges(e.source, e.target, e.weights_ts[np.ix_(parts[e.target], parts[e.source])]) for e in self.edges]
        return WeightGraph(self.names, tuple(int(part.sum()) for part in parts), tuple(edges))

    def adjacency(self) -> sparse.csr_array:
        """The symmetric matrix of all weights (nodes, nodes)."""
        rows = []
        for target in range(len(self.sizes)):
            row: list[Any] = [sparse.csr_array((self.sizes[target], self.sizes[source])) for source in range(len(self.sizes))]
            for own in self.edges:
                if own.target == target:
                    row[own.source] = row[own.source] + sparse.csr_array(own.weights_ts)
                if own.source == target:
                    row[own.target] = row[own.target] + sparse.csr_array(own.weights_ts.T)
            rows.append(row)
        return sparse.csr_array(sparse.block_array(rows))

    @cached_property
    def components(self) -> NDArray[np.int64]:
        """The connected component (nodes,) of every node."""
        return csgraph.connected_components(self.adjacency(), directed=False)[1].astype(np.int64)

    def through(self) -> NDArray[np.bool_]:
        """Whether a node (nodes,) is in a component that touches the first and the last set."""
        first, last = (set(self.components[self.part(number)].tolist()) for number in (0, len(self.sizes) - 1))
        return np.isin(self.components, list(first & last))

    def normalised(self) -> LinearOperator:
        """D^-1/2 A D^-1/2, block by block: the blocks of most layers are dense."""
        scale = 1 / np.sqrt(self.degrees)
        parts = [
            (self.part(e.target), self.part(e.source), scale[self.part(e.target), None] * e.weights_ts * scale[None, self.part(e.source)])
            for e in self.edges
        ]

        def times(x: Floats) -> Floats:
            found = np.zeros_like(x)
            for target, source, weights_ts in parts:
                found[target] += weights_ts @ x[source]
                found[source] += weights_ts.T @ x[target]
            return found

        return LinearOperator((self.nodes, self.nodes), matvec=times, dtype=np.float64)

    def sides(self) -> NDArray[np.int64] | None:
        """The side (sets,), 0 or 1, of every set, so that all edges are between sides; None where there is no such choice."""
        found = two_sides([(own.source, own.target) for own in self.edges], range(len(self.sizes)))
        return None if found is None else np.array([int(found[number]) for number in range(len(self.sizes))])

    def halves(self, side: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
        """The normalised weights D^-1/2 B D^-1/2 between the sides, and which nodes are on side 1; the matrix is (of side 0, of side 1)."""
        scale = 1 / np.sqrt(self.degrees)
        second = np.repeat(side == 1, self.sizes)
        place = np.where(second, np.cumsum(second) - 1, np.cumsum(~second) - 1)
        matrix = np.zeros((int((~second).sum()), int(second.sum())))
        for own in self.edges:
            t, s = self.part(own.target), self.part(own.source)
            normal = scale[t, None] * own.weights_ts * scale[None, s]
            rows, columns = (t, s) if side[own.target] == 0 else (s, t)
            if self.sizes[own.target] and self.sizes[own.source]:
                first, other = place[rows][0], place[columns][0]
                block = normal if side[own.target] == 0 else normal.T
                matrix[first : first + len(block), other : other + block.shape[1]] += block
        return matrix, second


def spectrum(graph: WeightGraph, k: int) -> tuple[Floats, Floats]:
    """The k smallest eigenvalues (k,) of L, ascending, and their orthonormal eigenvectors (nodes, k) of a graph without isolated nodes.

    Where the graph is bipartite, as that of layers behind each other, from the singular vectors of the matrix between its sides, by the smaller Gram matrix: exact,
    and many times faster than L. Elsewhere by Lanczos iterations. ValueError for more eigenvectors than nodes.
    """
    if k > graph.nodes:
        raise ValueError(f"{k} clusters of {graph.nodes} nodes")
    side = graph.sides()
    if side is not None:
        matrix, second = graph.halves(side)
        if k <= min(matrix.shape):
            found = bipartite_spectrum(matrix, second, k)
            if found is not None:
                return found
    if graph.nodes > DENSE and k < graph.nodes - 1:
        try:
            # Where it begins is fixed, so that the result is.
            begin = np.random.default_rng(0).standard_normal(graph.nodes)
            values, vectors = eigsh(graph.normalised(), k, which="LA", v0=begin)
        except ArpackNoConvergence:
            values, vectors = dense_spectrum(graph, k)
    else:
        values, vectors = dense_spectrum(graph, k)
    order = np.argsort(-values)
    return 1 - values[order], vectors[:, order]


def dense_spectrum(graph: WeightGraph, k: int) -> tuple[Floats, Floats]:
    """The k largest eigenvalues of D^-1/2 A D^-1/2 and their eigenvectors, from the whole matrix."""
    scale = 1 / np.sqrt(graph.degrees)
    normal = graph.adjacency().toarray() * scale[:, None] * scale[None, :]
    return linalg.eigh(normal, subset_by_index=(graph.nodes - k, graph.nodes - 1))


def bipartite_spectrum(matrix: Floats, second: NDArray[np.bool_], k: int) -> tuple[Floats, Floats] | None:
    """`spectrum` by the singular triplets of the matrix between the sides: L's eigenvalue is 1 - sigma. None where a sigma is too small for the Gram matrix."""
    wide = matrix.shape[0] <= matrix.shape[1]
    narrow = matrix if wide else matrix.T
    size = len(narrow)
    squares, own = linalg.eigh(narrow @ narrow.T, subset_by_index=(size - k, size - 1), overwrite_a=True, check_finite=False)
    sigma = np.sqrt(np.clip(squares[::-1], 0, None))
    if sigma[-1] < SMALLEST:
        return None
    own = own[:, ::-1]
    other = narrow.T @ own / sigma
    vectors = np.empty((len(second), k))
    vectors[second if not wide else ~second] = own
    vectors[~second if not wide else second] = other
    return 1 - sigma, vectors / np.sqrt(2)


def cluster(graph: WeightGraph, k: int, seed: int, restarts: int = 10, weighted: bool = False) -> NDArray[np.int64]:
    """A cluster (nodes,) in 0..k-1 for every node of a graph without isolated nodes; with `weighted` k-means counts nodes by their degrees, as the n-cut does."""
    _, vectors = spectrum(graph, k)
    return cluster_embedding(vectors / np.sqrt(graph.degrees)[:, None], k, seed, restarts, graph.degrees if weighted else None)


def cluster_embedding(rows: Floats, k: int, seed: int, restarts: int, weights: Floats | None = None) -> NDArray[np.int64]:
    """k-means of the rows of an embedding, the best of several starts."""
    with warnings.catch_warnings():
        # Fewer distinct points than clusters: a graph of several components may have as many equal rows.
        warnings.simplefilter("ignore")
        return KMeans(k, n_init=restarts, random_state=seed).fit_predict(rows, sample_weight=weights).astype(np.int64)


def normalised_cut(graph: WeightGraph, labels: NDArray[np.int64]) -> float:
    """The sum over clusters of the weight that leaves it over its volume, the sum of its degrees: 0 for components, at most their number.

    Nodes with the label -1 count for nothing; empty clusters are no clusters.
    """
    _, between = volumes(graph, labels)
    volume = between.sum(1)
    there = volume > 0
    return float((1 - np.diag(between)[there] / volume[there]).sum())


def volumes(graph: WeightGraph, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
    """The clusters' labels (K,) and the weight (K, K) between each two; inside one every edge counts from both of its ends."""
    found = np.unique(labels[labels >= 0])
    member = (labels[:, None] == found[None]).astype(np.float64)
    between = np.zeros((len(found), len(found)))
    for own in graph.edges:
        one_way = member[graph.part(own.target)].T @ (own.weights_ts @ member[graph.part(own.source)])
        between += one_way + one_way.T
    return found, between


def inside_to_outside(cut: float, k: int) -> float:
    """The mean ratio of the weight inside clusters, each edge once, to that between them, of k clusters with this n-cut; infinity for none between."""
    ratio = cut / k
    return (1 - ratio) / (2 * ratio) if ratio else float("inf")


def normalise(graph: WeightGraph) -> WeightGraph:
    """Each hidden unit's incoming weights over their L2 norm, its outgoing ones times it: with ReLU the network's function stays as it is."""
    edges = list(graph.edges)
    for number in range(len(graph.sizes)):
        incoming = [place for place, own in enumerate(edges) if own.target == number]
        outgoing = [place for place, own in enumerate(edges) if own.source == number]
        if not incoming or not outgoing:
            continue
        scale = np.sqrt(sum(np.square(edges[place].weights_ts).sum(1) for place in incoming)) + 1e-5
        for place in incoming:
            own = edges[place]
            edges[place] = Edges(own.source, own.target, own.weights_ts / scale[:, None])
        for place in outgoing:
            own = edges[place]
            edges[place] = Edges(own.source, own.target, own.weights_ts * scale[None, :])
    return WeightGraph(graph.names, graph.sizes, tuple(edges))
