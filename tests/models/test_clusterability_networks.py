"""The networks of studies of clusterability: counts, initial weights, what they see of the colours, dropout and pooling, against published numbers and functional definitions."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import info_dicts
from models.networks import build_network, count_parameters
from models.wiring import trace

MLPS = {
    "MLP-256x4": [784, 256, 256, 256, 256, 10],
    "MLP-256x4-dropout": [784, 256, 256, 256, 256, 10],
    "MLP-256x4-dropout0.2": [784, 256, 256, 256, 256, 10],
    "MLP-256x4-colour": [3072, 256, 256, 256, 256, 10],
    "MLP-64x3": [49, 64, 64, 64, 10],
}
# Channels, and the side of the map behind every convolution.
CNNS = {
    "CNN-64x3": (64, [28, 14, 7]),
    "CNN-64x3-dropout": (64, [28, 14, 7]),
    "CNN-32x2": (32, [28, 14]),
    "CNN-32x2-dropout": (32, [28, 14]),
}
ALL = [*MLPS, *CNNS]
GREY = [name for name in MLPS if not name.endswith("colour")]
DROPPED = {
    "MLP-256x4-dropout": [0.5] * 4,
    "MLP-256x4-dropout0.2": [0.2] * 4,
    "CNN-64x3-dropout": [0.25] * 3 + [0.5],
    "CNN-32x2-dropout": [0.25] * 2 + [0.5],
}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def choice_of(name):
    return next(choice for choice in info_dicts.MODELS.values() if choice == name)


def side_of(name):
    return choice_of(name).sizes[0]


def some_images(name, number=5):
    return torch.rand(number, 3, side_of(name), side_of(name))


def layers_of(network):
    return [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]


def test_the_published_mlp_has_its_published_numbers_of_weights_and_biases():
    layers = layers_of(build_network("MLP-256x4", 10))
    assert sum(layer.weight.numel() for layer in layers) == 399_872
    assert sum(layer.bias.numel() for layer in layers) == 1_034


@pytest.mark.parametrize("name", MLPS)
def test_layers_of_mlps_have_their_units(name):
    network = build_network(name, 10)
    units = MLPS[name]
    assert [(layer.in_features, layer.out_features) for layer in layers_of(network)] == list(itertools.pairwise(units))
    assert count_parameters(network) == sum((before + 1) * after for before, after in itertools.pairwise(units))
    assert [level.shape[1:] for level in network.eval().levels(some_images(name))] == [(own,) for own in units[1:]]
    assert len(network.blocks) == choice_of(name).blocks


@pytest.mark.parametrize("name", CNNS)
def test_maps_of_cnns_have_their_channels_and_are_pooled(name):
    network = build_network(name, 10)
    channels, sides = CNNS[name]
    shapes = [tuple(level.shape[1:]) for level in network.eval().levels(some_images(name))]
    assert shapes == [*((channels, side, side) for side in sides), (128,), (10,)]
    convolutions = (27 + 1) * channels + (len(sides) - 1) * (9 * channels + 1) * channels
    assert count_parameters(network) == convolutions + (channels * sides[-1] ** 2 + 1) * 128 + 129 * 10
    assert len(network.blocks) == choice_of(name).blocks


@pytest.mark.parametrize("name", ALL)
def test_in_eval_mode_they_are_their_functional_definitions(name):
    network = build_network(name, 10).eval()
    for layer in layers_of(network):
        nn.init.normal_(layer.bias)
    x = images = some_images(name)
    if name in MLPS:
        x = (images.mean(1) if name in GREY else images).flatten(1)
    *hidden, last = layers_of(network)
    side = side_of(name)
    for number, layer in enumerate(hidden):
        if isinstance(layer, nn.Conv2d):
            x = functional.relu(functional.conv2d(x, layer.weight, layer.bias, padding=1))
            if CNNS[name][1][number] < side:
                side = CNNS[name][1][number]
                x = functional.max_pool2d(x, 2)
        else:
            x = functional.relu(functional.linear(x.flatten(1), layer.weight, layer.bias))
    torch.testing.assert_close(network(images), functional.linear(x, last.weight, last.bias), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_initial_weights_are_glorot_uniform_and_biases_0(name):
    for layer in layers_of(build_network(name, 10)):
        area = math.prod(layer.weight.shape[2:])
        bound = math.sqrt(6 / (area * (layer.weight.shape[0] + layer.weight.shape[1])))
        sizes = layer.weight.detach().abs() / bound
        assert sizes.max() <= 1 + 1e-6
        assert sizes.max() > 0.99
        # Uniform: the mean is 1/2, its deviation 1/sqrt(12 n).
        assert abs(sizes.mean().item() - 0.5) < 5 / math.sqrt(12 * sizes.numel())
        assert abs((layer.weight > 0).float().mean().item() - 0.5) < 5 / math.sqrt(4 * sizes.numel())
        assert (layer.bias == 0).all()


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(GREY), st.integers(0, 2**31))
def test_grey_networks_see_the_mean_over_channels_alone(name, seed):
    torch.manual_seed(seed)
    network = build_network(name, 10).double().eval()
    images = some_images(name).double()
    shift = torch.randn_like(images)
    shift -= shift.mean(1, keepdim=True)
    torch.testing.assert_close(network(images + shift), network(images), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network(images.mean(1, keepdim=True).expand(-1, 3, -1, -1)), network(images), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(network(images + torch.randn_like(images[:, :1])), network(images), rtol=1e-3)


@pytest.mark.parametrize("name", ["MLP-256x4-colour", *CNNS])
def test_the_others_see_colours(name):
    network = build_network(name, 10).eval()
    images = some_images(name)
    assert not torch.allclose(network(images.flip(1)), network(images), rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_dropout_is_there_in_train_mode_only(name):
    network = build_network(name, 10)
    rates = [part.p for part in network.modules() if isinstance(part, nn.Dropout | nn.Dropout2d)]
    assert rates == DROPPED.get(name, [])
    images = some_images(name)
    network.eval()
    assert torch.equal(network(images), network(images))
    network.train()
    assert torch.equal(network(images), network(images)) is not bool(rates)


@pytest.mark.parametrize("name", DROPPED)
def test_dropout_follows_the_nonlinearity_of_every_hidden_layer(name):
    network = build_network(name, 10)
    level = some_images(name, 64)
    with torch.no_grad():
        for rate, block in zip(DROPPED[name], network.blocks[:-1], strict=True):
            whole, dropped = block.eval()(level), block.train()(level)
            there = whole > 0
            # What is kept is scaled, so that the mean stays.
            kept = dropped != 0
            torch.testing.assert_close(dropped[kept], whole[kept] / (1 - rate), rtol=1e-5, atol=1e-6)
            n = int(there.sum())
            assert abs(1 - kept[there].float().mean().item() - rate) < 5 * math.sqrt(rate * (1 - rate) / n)
            # Single places go, not whole channels.
            if whole.ndim == 4:
                assert (kept & there).flatten(2).any(2).sum() > 0.95 * there.flatten(2).any(2).sum()
            level = whole
        assert torch.equal(network.blocks[-1].train()(level), network.blocks[-1].eval()(level))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("width", [0.25, 0.5, 2])
def test_a_width_multiplies_every_hidden_number_of_units(name, width):
    layers = layers_of(build_network(name, 7, width))
    plain = layers_of(build_network(name, 10))
    assert [layer.weight.shape[0] for layer in layers] == [*(width * layer.weight.shape[0] for layer in plain[:-1]), 7]
    assert layers[0].weight.shape[1] == plain[0].weight.shape[1]


@pytest.mark.parametrize("name", ALL)
def test_the_menu_says_which_images_they_take(name):
    network = build_network(name, 10).eval()
    assert len(choice_of(name).sizes) == 1
    assert network(some_images(name)).shape == (5, 10)
    side = side_of(name) + 4
    with pytest.raises(RuntimeError):
        network(torch.rand(2, 3, side, side))


def test_grey_images_whose_channels_share_memory_are_traced_like_others():
    network, image = build_network("MLP-256x4", 10), torch.rand(2, 1, 28, 28)
    assert torch.allclose(network(image.expand(-1, 3, -1, -1)), network(image.expand(-1, 3, -1, -1).contiguous()), atol=1e-5)
    found = [trace(network, own) for own in (image.expand(-1, 3, -1, -1), torch.rand(2, 3, 28, 28))]
    assert found[0].sizes == found[1].sizes
    assert list(found[0].sizes.values())[1:] == [784, 256, 256, 256, 256, 10]
