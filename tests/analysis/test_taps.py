"""Taps: what they hand out is what the network computes, at layers, levels or both, and the network is as it was."""

import pytest
import torch

from analysis.taps import layers, tapped
from tests.analysis.looked_at import small_convolutions

IMAGES = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0))
LAYERS = ["blocks.0.conv", "blocks.1.conv", "blocks.2.linear", "blocks.3"]
LEVELS = [f"level {number}" for number in range(4)]


def taken(network, at, only=None):
    found = {}
    with torch.no_grad(), tapped(network, lambda name, values: found.setdefault(name, values.clone()), at, only):
        network(IMAGES)
    return found


@pytest.mark.parametrize(("at", "names"), [("layers", LAYERS), ("levels", LEVELS), ("both", [*LAYERS, *LEVELS])])
def test_every_point_is_handed_out(at, names):
    assert sorted(taken(small_convolutions(), at)) == sorted(names)


def test_levels_are_the_networks_and_layers_come_before_what_follows_them():
    network = small_convolutions()
    found = taken(network, "both")
    with torch.no_grad():
        levels = [IMAGES, *network.levels(IMAGES)]
        assert torch.equal(found["blocks.0.conv"], network.blocks[0].conv(IMAGES))
    for number, name in enumerate(LEVELS):
        assert torch.equal(found[name], levels[number])
    assert torch.equal(found["blocks.3"], levels[-1])
    assert (found["blocks.0.conv"] < 0).any()  # before the activation


def test_only_what_is_named():
    assert list(taken(small_convolutions(), "both", {"blocks.1.conv", "level 2"})) == ["blocks.1.conv", "level 2"]


def test_hooks_are_gone_also_after_an_error():
    network = small_convolutions()
    with torch.no_grad():
        before = network(IMAGES)
    with (
        pytest.raises(RuntimeError, match="no more"),
        tapped(network, lambda name, values: (_ for _ in ()).throw(RuntimeError("no more")), "both"),
    ):
        network(IMAGES)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
    with torch.no_grad():
        assert torch.equal(network(IMAGES), before)
    assert list(layers(network)) == LAYERS
