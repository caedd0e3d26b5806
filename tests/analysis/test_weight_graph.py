"""Graphs of weights against networkx, dense linear algebra and scikit-learn; the normalised cut against its formula and published values."""

import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from analysis.shuffles import cut_of
from analysis.weight_graph import DENSE, Edges, WeightGraph, cluster, inside_to_outside, normalise, normalised_cut, spectrum
from errors import InputError

SIZES = st.lists(st.integers(1, 8), min_size=2, max_size=5)
SEEDS = st.integers(0, 10**6)


def graph_of(weights, sizes):
    """A graph of {(source, target): weights}."""
    edges = tuple(Edges(source, target, np.asarray(own, dtype=np.float64)) for (source, target), own in weights.items())
    return WeightGraph(tuple(f"layer{number}" for number in range(len(sizes))), tuple(sizes), edges)


def layered(sizes, seed=0, skips=(), density=1.0):
    """Layers behind each other, with random weights; `skips` are further pairs (source, target)."""
    draw = np.random.default_rng(seed)
    weights = {}
    for source, target in [*((number, number + 1) for number in range(len(sizes) - 1)), *skips]:
        shape = (sizes[target], sizes[source])
        weights[source, target] = draw.exponential(size=shape) * (draw.random(shape) < density)
    return graph_of(weights, sizes)


def triangle(sizes, seed=0, density=1.0):
    """Three layers of which each is connected to the two others: not bipartite."""
    return layered(sizes, seed, [(0, 2)], density)


def dense(graph):
    """The adjacency matrix, entry by entry."""
    found = np.zeros((graph.nodes, graph.nodes))
    starts = np.concatenate([[0], np.cumsum(graph.sizes)])
    for own in graph.edges:
        for t in range(own.weights_ts.shape[0]):
            for s in range(own.weights_ts.shape[1]):
                i, j = starts[own.target] + t, starts[own.source] + s
                found[i, j] += own.weights_ts[t, s]
                found[j, i] += own.weights_ts[t, s]
    return found


def laplacian(graph):
    adjacency = dense(graph)
    scale = 1 / np.sqrt(adjacency.sum(0))
    return np.eye(len(adjacency)) - scale[:, None] * adjacency * scale


def planted(groups, sizes, skips=(), between=0.0, seed=0):
    """A graph whose nodes have a group each, with weights `between` those of different groups; and the groups (nodes,)."""
    graph = layered(sizes, seed, skips)
    draw = np.random.default_rng(seed)
    own = [draw.permutation(np.arange(size) % groups) for size in sizes]
    edges = []
    for edge in graph.edges:
        same = own[edge.target][:, None] == own[edge.source]
        edges.append(Edges(edge.source, edge.target, np.where(same, 0.5 + edge.weights_ts, between * edge.weights_ts)))
    return WeightGraph(graph.names, graph.sizes, tuple(edges)), np.concatenate(own)


def direct_cut(adjacency, labels):
    """The n-cut by its definition, over all pairs of nodes that have a label."""
    total = 0.0
    for label in set(labels[labels >= 0].tolist()):
        leaves = volume = 0.0
        for i in range(len(labels)):
            for j in range(len(labels)):
                if labels[i] == label and labels[j] >= 0:
                    volume += adjacency[i, j]
                    leaves += adjacency[i, j] * (labels[j] != label)
        total += leaves / volume if volume else 0.0
    return total


# Four kinds of graphs: by singular values; by the whole matrix; by Lanczos iterations; with more eigenvectors than the smaller side has nodes.
ROUTES = {
    "bipartite": lambda: layered((30, 20, 40, 10)),
    "dense": lambda: triangle((20, 30, 25)),
    "lanczos": lambda: triangle((150, 140, 130)),
    "narrow": lambda: layered((40, 5)),
}


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS, skip=st.booleans())
def test_adjacency_degrees_and_components_are_those_of_networkx(sizes, seed, skip):
    graph = layered(sizes, seed, [(0, len(sizes) - 1)] if skip and len(sizes) > 2 else [], density=0.3)
    matrix = dense(graph)
    np.testing.assert_allclose(graph.adjacency().toarray(), matrix, rtol=0, atol=1e-12)
    own = nx.from_numpy_array(matrix)
    np.testing.assert_allclose(graph.degrees, [degree for _, degree in own.degree(weight="weight")], atol=1e-12)
    found = {frozenset(np.flatnonzero(graph.components == number).tolist()) for number in np.unique(graph.components)}
    assert found == {frozenset(nodes) for nodes in nx.connected_components(own)}
    first, last = set(range(sizes[0])), set(range(graph.nodes - sizes[-1], graph.nodes))
    through = set().union(*(nodes for nodes in nx.connected_components(own) if nodes & first and nodes & last))
    assert set(np.flatnonzero(graph.through()).tolist()) == through


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS)
def test_the_kept_nodes_have_the_edges_between_them(sizes, seed):
    graph = layered(sizes, seed, [(0, len(sizes) - 1)])
    keep = np.random.default_rng(seed).random(graph.nodes) < 0.5
    np.testing.assert_array_equal(dense(graph.kept(keep)), dense(graph)[np.ix_(keep, keep)])


@settings(max_examples=25, deadline=None)
@given(number=st.integers(2, 7), pairs=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=8))
def test_sets_have_two_sides_where_networkx_says_so(number, pairs):
    pairs = {(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1] and max(pair) < number}
    own = nx.Graph(pairs)
    own.add_nodes_from(range(number))
    side = graph_of({pair: np.ones((2, 2)) for pair in pairs}, [2] * number).sides()
    assert (side is not None) == nx.is_bipartite(own)
    assert side is None or all(side[one] != side[other] for one, other in pairs)


def test_a_graph_has_the_sets_that_blocks_touch_in_the_order_of_the_network():
    graph = WeightGraph.of([("b", "c", np.ones((2, 3))), ("a", "b", np.ones((3, 4)))], {"a": 4, "x": 9, "b": 3, "c": 2})
    assert (graph.names, graph.sizes) == (("a", "b", "c"), (4, 3, 2))
    assert graph.degrees.tolist() == [3] * 4 + [6] * 3 + [3] * 2


def test_a_graph_of_no_blocks_is_refused():
    with pytest.raises(InputError, match="empty"):
        WeightGraph.of([], {"a": 4})


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS)
def test_the_cut_into_two_clusters_is_that_of_networkx(sizes, seed):
    graph = layered(sizes, seed)
    labels = np.random.default_rng(seed).integers(2, size=graph.nodes)
    assume(0 < labels.sum() < graph.nodes)
    # Theirs is the weight between the two, each edge once, times the sum of 1 / volume, as ours is.
    own = nx.from_numpy_array(dense(graph))
    expected = nx.normalized_cut_size(own, np.flatnonzero(labels == 0), np.flatnonzero(labels == 1), weight="weight")
    assert normalised_cut(graph, labels) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    sizes=SIZES, seed=SEEDS, k=st.integers(1, 6), skip=st.booleans(), least=st.sampled_from([-1, 0]), density=st.sampled_from([0.3, 1.0])
)
def test_the_cut_is_its_formula_and_lies_between_0_and_the_number_of_clusters(sizes, seed, k, skip, least, density):
    graph = layered(sizes, seed, [(0, len(sizes) - 1)] if skip else [], density)
    labels = np.random.default_rng(seed).integers(least, k, size=graph.nodes)
    cut = normalised_cut(graph, labels)
    assert cut == pytest.approx(direct_cut(dense(graph), labels), rel=1e-9, abs=1e-12)
    assert -1e-12 <= cut <= len(np.unique(labels[labels >= 0])) + 1e-12


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS)
def test_a_cluster_without_inner_edges_adds_exactly_1(sizes, seed):
    graph = layered(sizes, seed)
    assert normalised_cut(graph, np.repeat(np.arange(len(sizes)), sizes)) == len(sizes)


def test_the_published_cut_of_three_layers_of_two_units():
    weights = {(0, 1): np.abs([[12, -1.3], [0, 7.4]]), (1, 2): np.abs([[-8.9, 0.15], [0.23, -5.7]])}
    assert normalised_cut(graph_of(weights, (2, 2, 2)), np.array([0, 1, 0, 1, 0, 1])) == pytest.approx(0.09895, abs=1e-3)


def test_the_published_cut_of_untrained_mlps():
    draw = np.random.default_rng(0)
    sizes, cuts = (784, 256, 256, 256, 256, 10), []
    for seed in range(3):
        weights = {}
        for number, (before, after) in enumerate(itertools.pairwise(sizes)):
            bound = np.sqrt(6 / (before + after))
            weights[number, number + 1] = np.abs(draw.uniform(-bound, bound, (after, before)))
        with threadpool_limits(1):
            cuts.append(cut_of(graph_of(weights, sizes), 12, seed, 10, False, False)[0])
    assert np.mean(cuts) == pytest.approx(10.295, abs=0.1)


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, seed=SEEDS, skip=st.booleans(), density=st.sampled_from([0.3, 0.7, 1.0]), share=st.floats(0, 1))
def test_eigenvalues_are_those_of_the_dense_laplacian(sizes, seed, skip, density, share):
    graph = layered(sizes, seed, [(0, len(sizes) - 1)] if skip else [], density)
    graph = graph.kept(graph.degrees > 0)
    assume(graph.nodes)
    k = max(1, round(share * graph.nodes))
    values, vectors = spectrum(graph, k)
    full = laplacian(graph)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(full)[:k], rtol=0, atol=1e-8)
    np.testing.assert_allclose(full @ vectors, vectors * values, rtol=0, atol=1e-7)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), rtol=0, atol=1e-7)


@pytest.mark.parametrize("route", ROUTES)
def test_the_embedding_spans_the_space_of_the_dense_laplacian(route):
    graph = ROUTES[route]()
    assert (graph.nodes > DENSE) == (route == "lanczos")
    assert (graph.sides() is None) == (route in ("dense", "lanczos"))
    expected, own = np.linalg.eigh(laplacian(graph))
    values, vectors = spectrum(graph, 8)
    np.testing.assert_allclose(values, expected[:8], rtol=0, atol=1e-8)
    gaps = np.diff(expected[:9]) > 1e-3
    # Where the next eigenvalue is apart, those up to it span one space.
    assert gaps.any()
    for last in np.flatnonzero(gaps) + 1:
        assert subspace_angles(vectors[:, :last], own[:, :last]).max() < 1e-5


@pytest.mark.parametrize("components", [2, 3, 5])
@pytest.mark.parametrize(
    ("sizes", "skips"), [((15, 20, 25), ()), ((15, 20, 25), ((0, 2),)), ((150, 140, 130), ((0, 2),))], ids=["bipartite", "dense", "lanczos"]
)
def test_a_graph_of_some_components_has_as_many_eigenvalues_of_0(components, sizes, skips):
    graph, groups = planted(components, sizes, skips)
    assert len(np.unique(graph.components)) == components
    values, _ = spectrum(graph, components + 1)
    np.testing.assert_allclose(values[:components], 0, atol=1e-9)
    assert values[components] > 1e-3
    assert normalised_cut(graph, groups) == pytest.approx(0, abs=1e-12)
    assert adjusted_rand_score(groups, cluster(graph, components, 0)) == 1


def test_more_clusters_than_nodes_are_an_error():
    with pytest.raises(ValueError, match="10 clusters of 9 nodes"):
        spectrum(layered((4, 5)), 10)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("skips", [(), ((0, 2),)], ids=["bipartite", "skip"])
def test_planted_clusters_are_found_as_scikit_learn_finds_them(weighted, skips):
    graph, groups = planted(4, (40, 32, 36), skips, between=0.03)
    labels = cluster(graph, 4, 0, weighted=weighted)
    theirs = SpectralClustering(4, affinity="precomputed", random_state=0).fit_predict(dense(graph))
    assert adjusted_rand_score(labels, theirs) == 1
    assert adjusted_rand_score(labels, groups) == 1


def test_singular_values_of_0_have_eigenvectors_too():
    # The matrix between the sides has rank 2: what is divided by other singular values would be noise.
    weights = np.random.default_rng(0).random((8, 2)) @ np.random.default_rng(1).random((2, 6))
    graph = graph_of({(0, 1): weights}, (6, 8))
    values, vectors = spectrum(graph, 6)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(laplacian(graph))[:6], rtol=0, atol=1e-8)
    np.testing.assert_allclose(laplacian(graph) @ vectors, vectors * values, rtol=0, atol=1e-7)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(6), rtol=0, atol=1e-7)


def test_nodes_of_any_degree_in_a_component_have_one_row_of_the_embedding():
    # Without d^-1/2 a node's row would be as long as the root of its degree, and nodes of large degree a cluster.
    groups = [np.arange(20) % 2, np.arange(30) % 2]
    degree = np.where(np.arange(20) < 4, 400.0, 1.0)
    same = (groups[1][:, None] == groups[0]) * degree * np.random.default_rng(0).uniform(0.5, 1, (30, 20))
    labels = cluster(graph_of({(0, 1): same + 1e-4 * degree}, (20, 30)), 2, 0)
    assert adjusted_rand_score(labels, np.concatenate(groups)) == 1


def test_clusters_are_the_same_for_the_same_seed():
    graph = layered((30, 20, 25))
    np.testing.assert_array_equal(cluster(graph, 5, 3), cluster(graph, 5, 3))


@pytest.mark.parametrize("normal", [False, True])
def test_nodes_without_edges_have_no_cluster(normal):
    graph, groups = planted(2, (12, 14, 10), between=0.01)
    gone = np.zeros(graph.nodes, dtype=bool)
    gone[[0, 5, 12, 20, 35]] = True
    edges = []
    for own in graph.edges:
        weights_ts = own.weights_ts.copy()
        weights_ts[gone[graph.part(own.target)]] = 0
        weights_ts[:, gone[graph.part(own.source)]] = 0
        edges.append(Edges(own.source, own.target, weights_ts))
    cut, labels = cut_of(WeightGraph(graph.names, graph.sizes, tuple(edges)), 2, 0, 10, False, normal)
    np.testing.assert_array_equal(labels == -1, gone)
    assert adjusted_rand_score(labels[~gone], groups[~gone]) == 1
    # What there is without them says the same.
    expected, alone = cut_of(graph.kept(~gone), 2, 0, 10, False, normal)
    assert adjusted_rand_score(labels[~gone], alone) == 1
    assert cut == pytest.approx(expected, rel=1e-9)


def test_normalising_keeps_the_function_of_a_relu_network():
    draw = np.random.default_rng(0)
    sizes = (12, 9, 7, 5, 3)
    layers = [draw.standard_normal((after, before)) for before, after in itertools.pairwise(sizes)]
    graph = normalise(graph_of({(number, number + 1): np.abs(own) for number, own in enumerate(layers)}, sizes))
    signed = [np.sign(own) * edges.weights_ts for own, edges in zip(layers, graph.edges)]

    def outputs(weights, x_nu):
        for own in weights[:-1]:
            x_nu = np.maximum(x_nu @ own.T, 0)
        return x_nu @ weights[-1].T

    images = draw.standard_normal((50, 12))
    expected = outputs(layers, images)
    assert (expected != 0).mean() > 0.9
    np.testing.assert_allclose(outputs(signed, images), expected, rtol=1e-9, atol=1e-12)
    for own in graph.edges[:-1]:
        np.testing.assert_allclose(np.linalg.norm(own.weights_ts, axis=1), 1, atol=1e-3)


def test_normalising_takes_all_incoming_weights_of_a_unit_together():
    graph = triangle((6, 5, 4))
    further = graph_of({**{(own.source, own.target): own.weights_ts for own in graph.edges}, (2, 3): np.ones((2, 4))}, (6, 5, 4, 2))
    found = {(own.source, own.target): own.weights_ts for own in normalise(further).edges}
    np.testing.assert_allclose(np.hypot(*(np.linalg.norm(found[source, 2], axis=1) for source in (0, 1))), 1, atol=1e-4)
    # What comes out of unit i of layer 2 is divided by as much as its outgoing weights are multiplied with.
    scaled = further.edges[1].weights_ts * np.linalg.norm(further.edges[0].weights_ts, axis=1)
    expected = np.hypot(np.linalg.norm(scaled, axis=1), np.linalg.norm(further.edges[2].weights_ts, axis=1))
    np.testing.assert_allclose(found[2, 3], np.broadcast_to(expected, (2, 4)), rtol=1e-3)


def test_normalising_takes_out_what_rescaling_units_does():
    graph = layered((20, 15, 10))
    factor = np.random.default_rng(1).uniform(0.2, 5, 15)
    first, second = graph.edges
    other = graph_of({(0, 1): first.weights_ts * factor[:, None], (1, 2): second.weights_ts / factor}, graph.sizes)
    assert normalised_cut(graph, np.arange(45) % 3) != pytest.approx(normalised_cut(other, np.arange(45) % 3), abs=1e-3)
    for one, two in zip(normalise(graph).edges, normalise(other).edges):
        np.testing.assert_allclose(one.weights_ts, two.weights_ts, rtol=1e-4)


def test_the_weights_inside_and_outside_of_equal_clusters():
    # Two clusters of one edge of weight 3 each, and between them two edges of weight 0.5: each has 3 inside, and half of 1 between each.
    graph = graph_of({(0, 1): [[3, 0.5], [0.5, 3]]}, (2, 2))
    cut = normalised_cut(graph, np.array([0, 1, 0, 1]))
    assert cut == pytest.approx(2 / 7)
    assert inside_to_outside(cut, 2) == pytest.approx(3)
    assert inside_to_outside(0.0, 2) == np.inf
    assert inside_to_outside(2.0, 2) == 0
