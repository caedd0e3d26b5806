"""What every shuffle keeps of each block's weights and what it moves; the same n-cuts on any number of processes."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.shuffles import BANDWIDTH, SHUFFLES, cut_of, one_cut, shuffled, shuffled_cuts
from analysis.weight_graph import Edges, WeightGraph, normalised_cut

KINDS = list(SHUFFLES)
PERMUTED = ["layer", "layer_nonzero"]
REDRAWN = ["layer_nonzero_distribution", "layer_all_distribution"]
SAME_PLACES = ["layer_nonzero", "layer_nonzero_distribution"]
NEW_PLACES = ["layer", "layer_all_distribution"]
OPTIONS = (3, 2, False, False)


def graph_of(*weights):
    """Layers behind each other with these weights."""
    sizes = (weights[0].shape[1], *(own.shape[0] for own in weights))
    edges = tuple(Edges(number, number + 1, own) for number, own in enumerate(weights))
    return WeightGraph(tuple(f"layer{number}" for number in range(len(sizes))), sizes, edges)


def sparse_graph(seed=0, sizes=(40, 30, 25), density=0.6):
    """Two layers with zeros, the second one's other weights ten times as large."""
    draw = np.random.default_rng(seed)
    blocks = []
    for scale, before, after in zip((1, 10), sizes, sizes[1:]):
        weights = scale * draw.uniform(1, 2, (after, before))
        blocks.append(weights * (draw.random(weights.shape) < density))
    return graph_of(*blocks)


def pairs(graph, kind, seed=0):
    """(before, after) of every block."""
    found = shuffled(graph, kind, np.random.default_rng(seed))
    assert (found.names, found.sizes) == (graph.names, graph.sizes)
    assert [(own.source, own.target) for own in found.edges] == [(own.source, own.target) for own in graph.edges]
    return [(before.weights_ts, after.weights_ts) for before, after in zip(graph.edges, found.edges)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), density=st.sampled_from([0.0, 0.2, 0.8, 1.0]), kind=st.sampled_from(KINDS))
def test_every_shuffle_keeps_shapes_and_how_many_weights_are_not_0(seed, density, kind):
    for before, after in pairs(sparse_graph(seed, (9, 7, 6), density), kind, seed):
        assert after.shape == before.shape
        assert np.count_nonzero(after) == np.count_nonzero(before)
        assert (after >= 0).all()


@pytest.mark.parametrize("kind", PERMUTED)
def test_permuted_weights_are_the_same_ones_in_another_order(kind):
    for before, after in pairs(sparse_graph(), kind):
        np.testing.assert_array_equal(np.sort(after, axis=None), np.sort(before, axis=None))
        assert (after != before).mean() > 0.3


@pytest.mark.parametrize("kind", SAME_PLACES)
def test_zeros_stay_where_they_are(kind):
    for before, after in pairs(sparse_graph(), kind):
        np.testing.assert_array_equal(after == 0, before == 0)
        assert (after != before).any()


@pytest.mark.parametrize("kind", NEW_PLACES)
def test_zeros_are_moved(kind):
    for before, after in pairs(sparse_graph(), kind):
        assert ((after == 0) != (before == 0)).mean() > 0.2


@pytest.mark.parametrize("kind", REDRAWN)
def test_redrawn_weights_are_new_and_distributed_like_the_old_ones(kind):
    draw = np.random.default_rng(0)
    # Two humps and a gap, and zeros.
    shape = (60, 60)
    old = np.where(draw.random(shape) < 0.4, draw.normal(0.5, 0.05, shape), draw.normal(2, 0.2, shape)) * (draw.random(shape) < 0.7)
    ((before, after),) = pairs(graph_of(old), kind)
    before, after = before[before != 0], after[after != 0]
    assert not np.isin(after, before).any()
    shares = [0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98]
    np.testing.assert_allclose(np.quantile(after, shares), np.quantile(before, shares), atol=0.05)
    assert stats.ks_2samp(after, before).pvalue > 1e-3


@pytest.mark.parametrize("kind", REDRAWN)
def test_weights_are_redrawn_with_replacement_from_all_places(kind):
    old = 1.0 + np.random.default_rng(0).permutation(3600).reshape(60, 60)
    ((before, after),) = pairs(graph_of(old), kind)
    # So far apart that what is drawn says of which it is: a share of 1 / e is of none.
    assert len(np.unique(after.round())) / 3600 == pytest.approx(1 - 1 / np.e, abs=0.03)
    assert (after.round() == before).mean() < 0.01


@pytest.mark.parametrize("kind", REDRAWN)
def test_the_kernel_has_its_bandwidth(kind):
    ((_, after),) = pairs(graph_of(np.full((60, 60), 3.0)), kind)
    assert stats.kstest((after.ravel() - 3) / BANDWIDTH, "norm").pvalue > 1e-3


@pytest.mark.parametrize("kind", REDRAWN)
def test_redrawn_weights_have_no_sign(kind):
    # Of weights far below the bandwidth nothing but the absolute values of the noise is left.
    ((_, after),) = pairs(graph_of(np.full((60, 60), 1e-9)), kind)
    assert stats.kstest(after.ravel() / BANDWIDTH, "halfnorm").pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_never_mixed(kind):
    for seed in range(5):
        (_, first), (_, second) = pairs(sparse_graph(seed), kind, seed)
        assert 0.9 < first[first != 0].min() <= first.max() < 2.1
        assert 9.9 < second[second != 0].min() <= second.max() < 20.1


@pytest.mark.parametrize(("kind", "places"), [("layer", 8), ("layer_nonzero", 5)])
def test_every_order_is_as_likely(kind, places):
    weights = np.array([[9.0, 1, 0, 2], [0, 3, 4, 0]])
    draw = np.random.default_rng(0)
    largest = [int(shuffled(graph_of(weights), kind, draw).edges[0].weights_ts.argmax()) for _ in range(2000)]
    counts = np.unique(largest, return_counts=True)[1]
    assert len(counts) == places
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_that_are_shuffled_stay_as_they_are(kind):
    graph = sparse_graph()
    before = [own.weights_ts.copy() for own in graph.edges]
    shuffled(graph, kind, np.random.default_rng(0))
    for own, weights_ts in zip(graph.edges, before):
        np.testing.assert_array_equal(own.weights_ts, weights_ts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_key_gives_the_same_cuts_with_one_and_two_workers(kind):
    graph = sparse_graph()
    alone = list(shuffled_cuts(graph, kind, 6, (1, 2, 3), OPTIONS, 1))
    assert list(shuffled_cuts(graph, kind, 6, (1, 2, 3), OPTIONS, 2)) == alone
    assert len(set(alone)) == 6
    # Fewer shuffles are the first of more; another key has others.
    assert list(shuffled_cuts(graph, kind, 3, (1, 2, 3), OPTIONS, 1)) == alone[:3]
    assert not set(shuffled_cuts(graph, kind, 3, (1, 2, 4), OPTIONS, 1)) & set(alone)


def test_a_cut_of_a_shuffle_is_that_of_the_clusters_found_in_it():
    graph, sequence = sparse_graph(), np.random.SeedSequence(5)
    draw = np.random.default_rng(sequence)
    own = shuffled(graph, "layer", draw)
    cut, labels = cut_of(own, 3, int(draw.integers(2**31)), 2, False, False)
    assert set(labels.tolist()) == {0, 1, 2}
    assert cut == normalised_cut(own, labels)
    assert one_cut(graph, "layer", sequence, OPTIONS) == pytest.approx(cut, rel=1e-9)


def test_shuffled_clusters_are_harder_to_cut():
    draw = np.random.default_rng(0)
    groups = [np.arange(size) % 3 for size in (30, 24, 27)]
    blocks = [draw.uniform(0.5, 1, (len(b), len(a))) * np.where(b[:, None] == a, 1, 0.02) for a, b in itertools.pairwise(groups)]
    cut, _ = cut_of(graph_of(*blocks), *OPTIONS[:1], 0, *OPTIONS[1:])
    assert max(cut, 0.3) < min(shuffled_cuts(graph_of(*blocks), "layer", 5, (0,), OPTIONS, 1))


def test_processes_that_shuffle_start_without_torch():
    names = "analysis.shuffles", "analysis.weight_graph", "analysis.null_tests", "analysis.lesion_tests"
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
