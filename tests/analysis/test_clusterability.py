"""Clusterability of networks: planted modules are found and cut less than shuffles; what is told is what the files hold."""

import csv
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from analysis import clusterability
from analysis.options import Clusterability
from errors import InputError
from models.networks import Network
from tests.analysis.looked_at import seen, small_convolutions
from tests.analysis.test_lesions import mlp, value

OPTIONS = Clusterability(clusters=4, shuffles=20, restarts=3)


def planted(modules=4, inside=5.0):
    """An MLP whose hidden units are in modules with larger weights."""
    network = mlp(hidden=(32, 32, 32))
    for layer in (network.blocks[1][0], network.blocks[2][0]):
        module = torch.arange(32) % modules
        layer.weight[module[:, None] == module[None]] *= inside
    # Each module reads pixels of its own.
    first = network.blocks[0][1]
    first.weight[torch.arange(32)[:, None] % modules != torch.arange(3 * 28 * 28)[None] % modules] = 0
    return network


def test_planted_modules_are_found_and_no_shuffle_is_cut_as_little(tmp_path):
    rows = clusterability.run(seen(planted()), OPTIONS, tmp_path)
    assert value(rows, "ncut_layer_p") == 1 / 21
    assert value(rows, "ncut_layer_z") < -5
    assert value(rows, "ncut") < value(rows, "ncut_layer_low") < value(rows, "ncut_layer_mean") < value(rows, "ncut_layer_high")
    with (tmp_path / "clusters.csv").open(newline="") as file:
        units = [line for line in csv.DictReader(file) if line["layer"] in ("blocks.1.0", "blocks.2.0")]
    by_module = {}
    for line in units:
        by_module.setdefault(int(line["unit"]) % 4, set()).add(line["cluster"])
    assert sorted(map(len, by_module.values())) == [1, 1, 1, 1]
    assert len({tuple(own) for own in by_module.values()}) == 4


def test_a_random_network_is_one_among_its_shuffles(tmp_path):
    rows = clusterability.run(seen(mlp(hidden=(32, 32))), OPTIONS.model_copy(update={"shuffles": 40}), tmp_path)
    assert value(rows, "ncut_layer_p") > 0.02
    assert abs(value(rows, "ncut_layer_z")) < 3.5
    shuffled = [row.value for row in rows if row.metric == "ncut_layer_shuffled"]
    assert len(shuffled) == 40
    assert value(rows, "ncut_layer_mean") == pytest.approx(np.mean(shuffled))
    assert value(rows, "ncut_layer_std") == pytest.approx(np.std(shuffled))


def test_what_is_left_out_is_counted(tmp_path):
    network = mlp(hidden=(12, 12))
    network.blocks[0][1].weight[:, :100] = 0  # pixels that nothing looks at
    network.blocks[1][0].weight[3] = 0
    network.blocks[2].weight[:, 3] = 0  # a unit without edges
    rows = clusterability.run(seen(network), OPTIONS.model_copy(update={"shuffles": 0}), tmp_path)
    assert value(rows, "nodes") == 3 * 28 * 28 + 12 + 12 + 10
    assert value(rows, "isolated") == value(rows, "left_out") == 101
    assert value(rows, "components") == 1
    sizes = [row.value for row in rows if row.metric == "cluster_size"]
    assert sum(sizes) == value(rows, "nodes") - 101
    assert not [row for row in rows if "shuffled" in row.metric]


def test_stray_components_are_kept_or_dropped(tmp_path):
    network = mlp(hidden=(12, 12))
    # Pixel 0 and unit 0 are by themselves.
    network.blocks[0][1].weight[0, 1:] = 0
    network.blocks[0][1].weight[1:, 0] = 0
    network.blocks[1][0].weight[:, 0] = 0
    options = OPTIONS.model_copy(update={"shuffles": 0})
    kept = clusterability.run(seen(network), options, tmp_path)
    dropped = clusterability.run(seen(network), options.model_copy(update={"stray": "drop"}), tmp_path)
    assert value(kept, "components") == 2
    assert (value(kept, "left_out"), value(dropped, "left_out")) == (0, 2)
    assert value(kept, "largest_component") == value(kept, "nodes") - 2
    # A component of its own is the best cluster there is.
    assert value(kept, "eigenvalue", "2") == pytest.approx(0, abs=1e-9)
    assert value(dropped, "eigenvalue", "2") > 0.1


def test_modules_of_a_system_are_cut_beside_their_backbone(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(6, 9, 3, padding=1), nn.ReLU(), nn.Conv2d(9, 6, 3, padding=1), nn.ReLU())
    one_layer = nn.Conv2d(6, 6, 1)
    own = dataclasses.replace(seen(small_convolutions()), parts={"Contrast": (module, 1), "Invert": (one_layer, 1)})
    rows = clusterability.run(own, OPTIONS.model_copy(update={"clusters": 2, "shuffles": 5}), tmp_path)
    assert {row.layer for row in rows if row.metric == "ncut"} == {"", "Contrast"}
    assert value(rows, "nodes") == 14
    assert value(rows, "nodes", "Contrast") == 15
    assert len([row for row in rows if row.metric == "ncut_layer_shuffled" and row.layer.startswith("Contrast:")]) == 5


def test_other_weights_are_cut_too(tmp_path):
    network, fresh = planted(), mlp(seed=1, hidden=(32, 32, 32))
    own = dataclasses.replace(seen(network, untrained=fresh), unpruned=lambda: mlp(seed=2, hidden=(32, 32, 32)))
    rows = clusterability.run(own, OPTIONS.model_copy(update={"weights": ("final", "unpruned", "untrained"), "shuffles": 2}), tmp_path)
    assert value(rows, "ncut") < min(value(rows, "unpruned_ncut"), value(rows, "untrained_ncut"))
    alone = clusterability.run(seen(fresh), OPTIONS.model_copy(update={"shuffles": 0}), tmp_path)
    assert value(rows, "untrained_ncut") == value(alone, "ncut")


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(
        InputError, match=r"a network: weights: it was not pruned, so there are none before a pruning; allowed: final, untrained"
    ):
        clusterability.run(seen(mlp()), OPTIONS.model_copy(update={"weights": ("unpruned",)}), tmp_path)
    tiny = Network([nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 2)), nn.Linear(2, 10)])
    tiny.blocks[0][1].weight.data[:] = 0
    tiny.blocks[1].weight.data[:, 0] = 0
    tiny.blocks[1].weight.data[2:] = 0
    with pytest.raises(InputError, match=r"a network: the graph of weights has 3 units with edges; 4 clusters need as many"):
        clusterability.run(seen(tiny.requires_grad_(False)), OPTIONS, tmp_path)
