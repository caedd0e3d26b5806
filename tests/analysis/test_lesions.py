"""Lesions: a network without some units is the network whose weights into them are 0; what is told of clusters follows from accuracies alone."""

import csv
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from analysis import lesions
from analysis.lesion_tests import groups_of
from analysis.lesioned import Chain, Whole
from analysis.options import Lesions
from analysis.taps import layers
from errors import InputError
from models.networks import Network, build_network
from tests.analysis.looked_at import inputs, seen, small_convolutions


def mlp(seed=0, hidden=(20, 16), classes=10):
    torch.manual_seed(seed)
    units = [3 * 28 * 28, *hidden]
    blocks = [nn.Sequential(nn.Flatten(), nn.Linear(units[0], units[1]), nn.ReLU())]
    blocks += [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(units[1:])]
    return Network([*blocks, nn.Linear(units[-1], classes)]).eval().requires_grad_(False)


def without(network, lesion):
    """The logits of a copy whose weights and biases into these units are 0."""
    import copy

    other = copy.deepcopy(network)
    for layer, units in lesion.items():
        part = other.get_submodule(layer)
        part.weight.data[units] = 0
        if part.bias is not None:
            part.bias.data[units] = 0
    return other


def mask(size, units):
    found = torch.ones(size)
    found[units] = 0
    return found


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (mlp, ["blocks.0.1", "blocks.1.0"]),
        (small_convolutions, ["blocks.0.conv", "blocks.1.conv", "blocks.2.linear"]),
        (lambda: build_network("ResNet20_Wide", 10).eval().requires_grad_(False), None),
    ],
)
def test_a_lesion_is_a_network_without_the_weights_into_the_units(make, names):
    network = make()
    names = names or list(layers(network))[:4]
    images = inputs(seen(network))[:12]
    chain = Chain(network, names)
    intact = chain.load(images)
    assert torch.allclose(intact, network(images), atol=1e-6)
    sizes = {name: len(layers(network)[name].weight) for name in names}
    for lesion in ({names[0]: [0, 2]}, {names[-1]: [1]}, {names[0]: [1, 3], names[1]: [0, 2, 4]}):
        found = chain.logits({layer: mask(sizes[layer], units) for layer, units in lesion.items()})
        assert torch.allclose(found, without(network, lesion)(images), atol=1e-5)
        assert not torch.allclose(found, intact, atol=1e-5)
    # And nothing of it stays.
    assert (
        torch.equal(network(images), make()(images)) if names != list(layers(network))[:4] else torch.allclose(chain.load(images), intact)
    )


def test_a_system_that_is_run_as_a_whole_gives_the_same():
    network = mlp()
    own = seen(network)
    images, masks = inputs(own)[:9], {"blocks.0.1": mask(20, [0, 5]), "blocks.1.0": mask(16, [3])}
    chain, whole = Chain(network, list(masks)), Whole(own.system, ("Identity",))
    assert torch.allclose(chain.load(images), whole.load(images), atol=1e-6)
    assert torch.allclose(chain.logits(masks), whole.logits(masks), atol=1e-6)


def table(folder, name):
    with (folder / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def value(rows, metric, layer=""):
    return next(row.value for row in rows if (row.metric, row.layer) == (metric, layer))


OPTIONS = Lesions(clusters=3, labelings=12, pair_labelings=5, restarts=2)


def test_single_and_double_lesions_agree_with_each_other_and_with_the_network(tmp_path):
    network = mlp()
    own = seen(network)
    rows = lesions.run(own, OPTIONS, tmp_path)
    images, labels = inputs(own), own.pictures.labels("test", "Identity", None)

    def accuracy(model):
        return float((model(images).argmax(1) == labels).double().mean())

    intact = accuracy(network)
    assert value(rows, "lesion_intact") == pytest.approx(intact)
    singles = {f"{line['layer']}/{line['label']}": line for line in table(tmp_path, "single")}
    assert len(singles) == value(rows, "lesion_groups") >= 3
    assert {name.rpartition("/")[0] for name in singles} == {"blocks.0.1", "blocks.1.0"}
    units = {name: int(line["n_layer_label"]) for name, line in singles.items()}
    assert sum(units.values()) == 36
    for name, line in singles.items():
        assert float(line["diff"]) == pytest.approx(float(line["true"]) - intact)
        assert value(rows, "lesion_accuracy", name) == float(line["true"])
        null = [row.value for row in rows if row.metric == "lesion_random" and row.layer.startswith(f"{name}#")]
        assert len(null) == 12
        # Ties count against.
        assert float(line["corrected_pvalue"]) == pytest.approx((1 + sum(own <= float(line["true"]) + 1e-12 for own in null)) / 13)
        assert float(line["mean"]) == pytest.approx(np.mean(null))
    for line in table(tmp_path, "joint"):
        one, other = singles[line["first"]], singles[line["second"]]
        if line["first"] == line["second"]:
            assert float(line["true"]) == pytest.approx(float(one["true"]))
        assert float(line["interaction"]) == pytest.approx(float(line["diff"]) - float(one["diff"]) - float(other["diff"]))
    pairs = {frozenset((line["first"], line["second"])): float(line["true"]) for line in table(tmp_path, "joint")}
    assert len(pairs) == len(singles) * (len(singles) + 1) / 2
    conditional = table(tmp_path, "conditional")
    assert len(conditional) == len(singles) * (len(singles) - 1)
    for line in conditional:
        both = pairs[frozenset((line["of"], line["given"]))]
        assert float(line["diff"]) == pytest.approx(both - float(singles[line["given"]]["true"]))


def test_units_that_nothing_hears_are_prunable_and_have_no_small_p(tmp_path):
    network = mlp()
    # The second half of the last hidden layer speaks to no class: lesions of it change nothing, which is no evidence of importance.
    network.blocks[-1].weight[:, 8:] = 0
    rows = lesions.run(seen(network), OPTIONS.model_copy(update={"pair_labelings": 0}), tmp_path)
    for line in table(tmp_path, "single"):
        if float(line["diff"]) == 0 and float(line["std"]) == 0:
            assert float(line["corrected_pvalue"]) == 1
    network.blocks[-1].weight[:] = 0
    rows = lesions.run(seen(network), OPTIONS.model_copy(update={"clusters": 2}), tmp_path)
    assert {row.value for row in rows if row.metric == "lesion_p"} == {1.0}
    assert {row.value for row in rows if row.metric == "lesion_z"} == {0.0}


def test_the_same_seed_gives_the_same_and_memory_changes_nothing(tmp_path):
    network = mlp()
    found = [lesions.run(seen(network), OPTIONS.model_copy(update=more), tmp_path) for more in ({}, {"memory": 1e-6}, {"seed": 1})]
    assert found[0] == found[1]
    assert [row for row in found[0] if row.metric == "lesion_random"] != [row for row in found[2] if row.metric == "lesion_random"]


def test_every_condition_has_its_rows(tmp_path):
    rows = lesions.run(seen(small_convolutions(), (("Identity",), ("Invert",))), Lesions(clusters=2, labelings=3), tmp_path)
    assert {row.composition for row in rows if row.metric == "lesion_diff"} == {"Identity", "Invert"}
    # Of a network with convolutions their channels alone.
    assert {row.layer.rpartition("/")[0] for row in rows if row.metric == "lesion_diff"} == {"blocks.0.conv", "blocks.1.conv"}


def test_weights_before_a_pruning_need_a_pruning(tmp_path):
    with pytest.raises(InputError, match=r"weights: it was not pruned, so there are none before a pruning; allowed: final"):
        lesions.run(seen(mlp()), Lesions(weights="unpruned"), tmp_path)


def test_groups_are_the_clusters_of_layers_by_shares_of_the_units_that_are_left():
    found = groups_of({"a": np.array([0, 0, 1, -1, 1, 1]), "b": np.array([2, 2, -1])}, ["a", "b"])
    assert [(group.name, group.units.tolist(), group.proportion) for group in found] == [
        ("a/0", [0, 1], 0.4), ("a/1", [2, 4, 5], 0.6), ("b/2", [0, 1], 1.0),
    ]  # fmt: skip
