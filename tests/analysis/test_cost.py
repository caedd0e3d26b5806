"""Cost: multiplications counted by hand, published numbers, and a network that stays as it is."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from analysis.cost import computational_info, cost, run
from analysis.options import Cost as Options
from analysis.seen import Seen
from analysis.taps import layers
from data.torchvision_import import import_torchvision
from models.networks import build_network
from tests.analysis.looked_at import seen, small_convolutions


def window():
    return st.tuples(
        st.sampled_from([1, 2, 4]),
        st.tuples(st.integers(1, 4), st.integers(1, 4)),
        st.tuples(st.integers(1, 2), st.integers(1, 3)),
        st.integers(0, 2),
        st.booleans(),
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(window(), min_size=1, max_size=3), st.tuples(st.integers(30, 40), st.integers(60, 64)), st.booleans())
def test_every_output_takes_two_operations_for_each_weight_that_it_sees(chosen, size, bias):
    parts, flops, parameters, side = [nn.Conv2d(3, 4, 1)], [2 * 3 * 4 * size[0] * size[1]], [3 * 4 + 4], size
    for groups, kernel, stride, padding, norm in chosen:
        parts.append(nn.Conv2d(4, 8, kernel, stride, padding, groups=groups, bias=bias))
        side = tuple((s + 2 * padding - k) // step + 1 for s, k, step in zip(side, kernel, stride))
        seen_by_one = 4 // groups * kernel[0] * kernel[1]
        flops.append(2 * seen_by_one * 8 * side[0] * side[1])
        parameters.append(seen_by_one * 8 + 8 * bias)
        # These cost nothing that is counted, but a batch norm has two parameters for each channel.
        parts += [nn.BatchNorm2d(8)] * norm + [nn.ReLU(), nn.Conv2d(8, 4, 1)]
        flops.append(2 * 8 * 4 * side[0] * side[1])
        parameters += [8 * 4 + 4]
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7)]
    flops.append(2 * 4 * 7)
    parameters.append(4 * 7 + 7)
    network = nn.Sequential(*parts)
    found = cost(network, (3, *size))
    assert list(found.layer_flops.values()) == flops
    assert list(found.layer_parameters.values()) == parameters
    assert list(found.layer_flops) == list(found.layer_parameters) == list(layers(network))
    assert found.forward_flops == sum(flops)
    assert found.parameters == sum(parameters) + sum(2 * 8 for *_, norm in chosen if norm)
    # Backward, once as much for the weights, and once more for what comes in: of the first layer that is an image, which needs no gradient.
    assert found.training_flops == 3 * sum(flops) - flops[0]


def test_resnet18_at_32_pixels():
    found = cost(import_torchvision().models.resnet18(num_classes=10), (3, 32, 32))
    assert f"{found.forward_flops / 1e6:.2f}" == "74.03"
    assert f"{found.training_flops / found.forward_flops:.2f}" == "2.93"
    assert found.parameters == 11_181_642
    # 112 x 112 x 64 x 147 multiply-additions, cut to 16 x 16.
    assert found.layer_flops["conv1"] == 2 * 16 * 16 * 64 * 147
    assert sum(found.layer_flops.values()) == found.forward_flops
    info = computational_info(found, 1000)
    assert (info["str_flops"], info["str_macs"], info["str_params"]) == ("0.07 GFLOPs", "0.04 GMACs", "0.01 G")


def test_resnet18_at_224_pixels_has_the_published_1_8_billion_multiply_additions():
    found = cost(import_torchvision().models.resnet18(), (3, 224, 224))
    assert computational_info(found, 1)["str_macs"] == "1.81 GMACs"
    assert found.parameters == 11_689_512


def test_the_info_is_of_the_whole_training():
    found = cost(small_convolutions(), (3, 28, 28))
    info = computational_info(found, 12_345_678)
    numbers = {
        "flops": found.forward_flops,
        "macs": found.forward_flops // 2,
        "params": found.parameters,
        "training_flops": found.training_flops * 12_345_678,
    }
    assert {name: info[name] for name in numbers} == numbers
    units = {"flops": "GFLOPs", "macs": "GMACs", "params": "G", "training_flops": "GFLOPs"}
    assert {name: info[f"str_{name}"] for name in numbers} == {name: f"{value / 1e9:.2f} {units[name]}" for name, value in numbers.items()}
    assert len(info) == 8
    assert computational_info(found, 0)["training_flops"] == 0


def test_a_layer_that_is_used_twice_costs_twice_and_one_that_is_not_used_nothing():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.unused = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(5, 6)

        def forward(self, x):
            return self.conv(self.conv(x))

    found = cost(Twice(), (3, 6, 7))
    assert found.layer_flops == {"conv": 2 * 2 * 27 * 3 * 42}
    assert found.layer_parameters == {"conv": 84, "unused": 36}
    assert found.parameters == 120


def test_counting_changes_nothing():
    network = build_network("LeNet5", 10)
    network.train()(torch.randn(4, 3, 28, 28))
    network.blocks[1].eval()
    next(network.parameters()).requires_grad_(False)
    modes = [part.training for part in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = cost(network, (3, 28, 28))
    # Whether a parameter is frozen here is not the network's cost.
    assert found == cost(network.requires_grad_(), (3, 28, 28)) == cost(network.requires_grad_(False), (3, 28, 28))
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert [part.training for part in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_resizes_costs_what_the_resized_images_cost():
    network = build_network("LeNet5", 10)
    expected = cost(network, (3, 56, 56))
    assert expected != cost(network, (3, 28, 28))
    network.resolution = 56
    assert cost(network, (3, 28, 28)) == expected
    assert network.resolution == 56


def test_rows_and_the_file_say_what_is_found(tmp_path):
    network = small_convolutions()
    plain = seen(network)
    found = Seen(**{name: getattr(plain, name) for name in Seen.__dataclass_fields__} | {"image_steps": 480})
    rows = run(found, Options(), tmp_path)
    own = cost(network, (3, 28, 28))
    value = {(row.metric, row.layer): row.value for row in rows}
    assert len(value) == len(rows) == 4 * 2 + 4
    names = ("blocks.0.conv", "blocks.1.conv", "blocks.2.linear", "blocks.3")
    assert [value["flops", name] for name in names] == list(own.layer_flops.values())
    # 3 x 5 x 5 weights for 6 channels of 7 x 7 (a padding of 1, a stride of 4), and so on.
    assert own.layer_flops["blocks.0.conv"] == 2 * 75 * 6 * 7 * 7
    assert own.layer_flops["blocks.1.conv"] == 2 * 54 * 8 * 4 * 4
    assert [value["parameters", name] for name in names] == [75 * 6 + 6, 54 * 8 + 8, 128 * 12 + 12, 12 * 10 + 10]
    assert value["parameters", ""] == sum(value["parameters", name] for name in names) + 16
    assert value["flops", ""] == sum(value["flops", name] for name in names)
    assert value["training_flops_per_image", ""] == own.training_flops
    assert value["training_flops", ""] == 480 * own.training_flops
    assert {(row.split, row.composition) for row in rows} == {("", "")}
    assert json.loads((tmp_path / "computational_info.json").read_text()) == computational_info(own, 480)
    assert [path.name for path in tmp_path.iterdir()] == ["computational_info.json"]


@pytest.mark.parametrize("name", ["EMNISTNet", "ResNet20_Wide", "VGG11"])
def test_the_layers_of_a_network_on_the_menu_add_up(name):
    network = build_network(name, 10, 0.25)
    found = cost(network, (3, 28, 28) if name == "EMNISTNet" else (3, 32, 32))
    assert list(found.layer_flops) == list(layers(network))
    assert sum(found.layer_flops.values()) == found.forward_flops
    assert 2 * found.forward_flops < found.training_flops < 3 * found.forward_flops
