"""Clusters by activations: correlations are scipy's, planted groups are found, and pictures of clusters have the sign of most of their units."""

import csv

import networkx as nx
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from analysis import coactivation
from analysis.cluster_images import aligned_mean, cluster_images, coloured, pixel_correlations, save_sheet
from analysis.coactivation import correlations, graph_between, selective, shared, shuffled
from analysis.options import Coactivation
from analysis.weight_graph import cluster, normalised_cut, spectrum
from errors import InputError
from tests.analysis.looked_at import seen, small_convolutions
from tests.analysis.test_lesions import mlp, value

OPTIONS = Coactivation(clusters=3, shuffles=10, restarts=2)


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("pearson", lambda a, b: stats.pearsonr(a, b).statistic),
        ("spearman", lambda a, b: stats.spearmanr(a, b).statistic),
        ("kendall", lambda a, b: stats.kendalltau(a, b).statistic),
    ],
)
def test_correlations_are_scipys_and_0_for_what_never_changes(kind, oracle):
    draw = np.random.default_rng(0)
    units = np.maximum(draw.standard_normal((60, 5)) + draw.standard_normal((60, 1)), 0)  # with ties, as behind a ReLU
    found = correlations(units, kind)
    for one in range(5):
        for other in range(5):
            assert found[one, other] == pytest.approx(oracle(units[:, one], units[:, other]))
    units[:, 2] = 0.7
    found = correlations(units, kind)
    assert not np.delete(found[2], 2).any()
    assert np.isfinite(found).all()


def test_units_that_go_together_are_a_cluster_and_shuffled_graphs_are_harder_to_cut():
    draw = np.random.default_rng(1)
    group = np.arange(24) % 3
    units = draw.standard_normal((400, 3))[:, group] + 0.5 * draw.standard_normal((400, 24))
    squares = np.square(correlations(units, "pearson"))
    graph = graph_between(squares)
    found = cluster(graph, 3, 0, 5)
    assert shared(found, group) == pytest.approx(1)
    other = shuffled(graph, draw)
    before, after = (own.adjacency().toarray() for own in (graph, other))
    assert np.array_equal(after, after.T)
    assert not np.array_equal(after, before)
    assert np.sort(after.ravel()) == pytest.approx(np.sort(before.ravel()))
    assert normalised_cut(graph, found) < 1 < normalised_cut(other, cluster(other, 3, 0, 5))


@pytest.mark.parametrize("units", [24, 450])
def test_the_graph_between_units_is_cut_and_spread_as_by_networkx_and_dense_algebra(units):
    draw = np.random.default_rng(3)
    weights = draw.random((units, units))
    weights = weights + weights.T
    np.fill_diagonal(weights, 0)
    graph, labels = graph_between(weights), np.arange(units) % 3
    assert graph.adjacency().toarray() == pytest.approx(weights)
    assert graph.degrees == pytest.approx(weights.sum(0))
    network = nx.from_numpy_array(weights)
    sets = [set(np.flatnonzero(labels == label).tolist()) for label in range(3)]
    expected = sum(nx.cut_size(network, own, weight="weight") / nx.volume(network, own, weight="weight") for own in sets)
    assert normalised_cut(graph, labels) == pytest.approx(expected)
    # Of one cluster the kept part is that of the submatrix.
    assert graph.kept(labels == 0).adjacency().toarray() == pytest.approx(weights[np.ix_(labels == 0, labels == 0)])
    scale = 1 / np.sqrt(weights.sum(0))
    assert spectrum(graph, 4)[0] == pytest.approx(1 - np.linalg.eigvalsh(scale[:, None] * weights * scale)[::-1][:4], abs=1e-9)


def test_a_unit_that_names_a_class_prefers_it():
    classes = np.arange(50) % 5
    units = np.stack([classes == 3, -(classes == 1).astype(float), np.arange(50) // 5], axis=1).astype(float)
    strength, preferred = selective(units, classes, 5)
    assert strength[:2] == pytest.approx(1)
    assert preferred[:2].tolist() == [3, 1]
    assert strength[2] < 0.01


def test_pictures_of_clusters_are_correlations_with_one_sign():
    draw = np.random.default_rng(2)
    images = draw.random((300, 2, 4, 5)).astype(np.float32)
    grey = images.mean(1)
    units = np.stack([grey[:, 1, 2], -grey[:, 1, 2], grey[:, 3, 0]], axis=1).astype(float)
    maps = pixel_correlations(images, units)
    assert maps[0, 1, 2] == pytest.approx(1)
    assert maps[1, 1, 2] == pytest.approx(-1)
    assert maps[0, 0, 0] == pytest.approx(np.corrcoef(units[:, 0], grey[:, 0, 0])[0, 1], abs=1e-6)
    # The second unit is the first one upside down: aligned they do not cancel.
    assert np.abs(aligned_mean(maps[:2])[1, 2]) == pytest.approx(1)
    found = cluster_images(maps, {"a/0": np.array([0, 1]), "a/1": np.array([2])})
    assert found["a/1"][3, 0] == pytest.approx(1)


def test_colours_are_red_above_blue_below_and_white_at_0(tmp_path):
    assert coloured(np.array([[2.0, -2.0, 0.0]])).tolist() == [[[255, 0, 0], [0, 0, 255], [255, 255, 255]]]
    save_sheet({"a/0": np.ones((4, 5)), "a/1": -np.ones((4, 5)), "b/0": np.zeros((4, 5))}, tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (4 * 3 + 4), 2 * (5 * 3 + 4), 3)
    assert sheet[0, 0].tolist() == [255, 0, 0]
    assert sheet[0, 19].tolist() == [0, 0, 255]


@pytest.mark.parametrize("make", [lambda: mlp(hidden=(20, 16)), small_convolutions])
def test_what_is_told_of_a_network_is_what_its_units_say(make, tmp_path):
    network = make()
    own = seen(network, (("Identity",), ("Invert",)))
    rows = coactivation.run(own, OPTIONS, tmp_path)
    with (tmp_path / "units.csv").open(newline="") as file:
        units = list(csv.DictReader(file))
    clean = [unit for unit in units if unit["condition"] == "Identity"]
    assert 0 < len(clean) <= 36
    by_weights, by_activations = ([unit[key] for unit in clean] for key in ("cluster_by_weights", "cluster_by_activations"))
    assert value(rows, "nmi") == pytest.approx(shared(by_weights, by_activations))
    assert value(rows, "coactivation_ncut") < value(rows, "coactivation_ncut_mean")
    assert {row.composition for row in rows} == {"Identity", "Invert"}
    name = f"{clean[0]['layer']}/{clean[0]['cluster_by_weights']}"
    mine = [float(unit["selectivity"]) for unit in clean if f"{unit['layer']}/{unit['cluster_by_weights']}" == name]
    assert value(rows, "selectivity", name) == pytest.approx(np.mean(mine))
    assert {path.name for path in tmp_path.glob("*.png")} == {"clusters-Identity.png", "clusters-Invert.png"}
    assert rows == coactivation.run(own, OPTIONS, tmp_path)


def test_a_network_whose_units_never_change_is_refused_in_one_line(tmp_path):
    network = mlp(hidden=(20, 16))
    for block in (network.blocks[0][1], network.blocks[1][0]):
        block.bias[:] = -1e6
    with pytest.raises(InputError, match=r"a network: coactivation: 0 units change with the images; 3 clusters need more"):
        coactivation.run(seen(network), OPTIONS, tmp_path)
