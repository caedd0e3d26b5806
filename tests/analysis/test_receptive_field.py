"""Receptive fields: against sets of pixels taken backwards, NaN that spreads, published numbers, and the gradients of the same networks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle, relu

import info_dicts
from analysis.options import ReceptiveField
from analysis.receptive_field import SEEN_SHARE, border, fields, measure, run
from analysis.taps import layers
from data.torchvision_import import import_torchvision
from errors import InputError
from models.networks import build_network, resize
from tests.analysis.looked_at import inputs, seen, small_convolutions
from tests.models.representatives import MODELS

INFINITE = (math.inf, math.inf)


def by_layer(found):
    return {field.layer: field for field in found}


def window(kind, kernel, stride, padding, dilation):
    """A layer of three channels that looks through a window."""
    if kind == "conv":
        return nn.Conv2d(3, 3, kernel, stride, padding, dilation)
    if kind == "depthwise":
        return nn.Conv2d(3, 3, kernel, stride, padding, dilation, groups=3)
    pad = tuple(min(p, k // 2) for p, k in zip(padding, kernel))
    return nn.MaxPool2d(kernel, stride, pad, dilation) if kind == "max" else nn.AvgPool2d(kernel, stride, pad)


axes = st.tuples(st.integers(1, 4), st.integers(1, 4))
steps = st.tuples(
    st.sampled_from(["conv", "depthwise", "max", "average"]),
    axes,
    st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
)


def seen_by(unit, chain, axis):
    """The pixels along an axis that a unit of the last layer of a chain is made of, were the image without end."""
    pixels = {unit}
    for part in reversed(chain):
        kernel, stride, dilation = (
            (value if isinstance(value, tuple) else (value, value))[axis]
            for value in (part.kernel_size, part.stride, getattr(part, "dilation", 1))
        )
        pixels = {place * stride + step * dilation for place in pixels for step in range(kernel)}
    return pixels


@settings(max_examples=8, deadline=None)
@given(st.lists(steps, min_size=1, max_size=3))
def test_a_chain_sees_the_pixels_that_its_windows_reach(chosen):
    parts = [window(*step) for step in chosen]
    # What changes no field stands between.
    network = nn.Sequential(*(own for part in parts for own in (part, nn.BatchNorm2d(3), nn.ReLU())), nn.Conv2d(3, 2, 1))
    found = by_layer(fields(network, (3, 110, 120)))
    assert list(found) == [f"{3 * n}" for n, part in enumerate(parts) if isinstance(part, nn.Conv2d)] + [f"{3 * len(parts)}"]
    for n, part in enumerate([*parts, network[-1]]):
        if not isinstance(part, nn.Conv2d):
            continue
        field, chain = found[f"{3 * n}"], [*parts, network[-1]][: n + 1]
        assert field.largest == field.smallest
        assert field.incoming_largest == field.incoming_smallest
        for axis in (0, 1):
            first, second, before = seen_by(0, chain, axis), seen_by(1, chain, axis), seen_by(0, chain[:-1], axis)
            assert field.largest[axis] == max(first) - min(first) + 1
            assert field.jump[axis] == min(second) - min(first)
            assert field.incoming_largest[axis] == max(before) - min(before) + 1
    with torch.no_grad():
        assert network[: 3 * len(parts) + 1](torch.zeros(2, 3, 110, 120)).shape[2:] == found[f"{3 * len(parts)}"].map


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a convolution where the stride is more than 1; `cut` lets no NaN through the convolutions."""

    cut = False

    def __init__(self, stride=1, kernel=(3, 3), dilation=1):
        super().__init__()
        padding = tuple(dilation * (k // 2) for k in kernel)
        # Registered against the order of the forward pass.
        self.second = nn.Conv2d(4, 4, kernel, 1, padding, dilation)
        self.first = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups=2)
        self.short = nn.Conv2d(4, 4, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        branch = self.second(relu(self.first(x), inplace=True))
        return relu((branch.nan_to_num() if self.cut else branch) + self.short(x))


class Dense(nn.Module):
    """What comes in beside what two convolutions make of it, as DenseNets have it, brought back to four channels by the next layer."""

    cut = False

    def __init__(self):
        super().__init__()
        self.grow = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1))
        self.narrow = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        grown = self.grow(x)
        return self.narrow(torch.cat([x, grown.nan_to_num() if self.cut else grown], 1))


class Inception(nn.Module):
    """A short path and two longer ones side by side, one through kernels of one row and one column, the other through a pool."""

    cut = False

    def __init__(self):
        super().__init__()
        self.short = nn.Conv2d(4, 2, 1)
        self.long = nn.Sequential(nn.Conv2d(4, 2, (1, 7), padding=(0, 3)), nn.Conv2d(2, 1, (5, 1), padding=(2, 0)))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 1, 1))

    def forward(self, x):
        longer = [self.long(x), self.pooled(x)]
        return torch.cat([self.short(x), *(own.nan_to_num() if self.cut else own for own in longer)], 1)


class Shuffled(nn.Module):
    """Channels in two groups exchanged between two convolutions."""

    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Conv2d(4, 4, 3, 2, 1, groups=2), nn.Conv2d(4, 4, 3, 1, 1, groups=2)

    def forward(self, x):
        x = self.before(x)
        return self.after(x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2))


class Standardised(nn.Module):
    """A convolution between constants that have the form of maps, and weights that are computed."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.register_buffer("mean", torch.randn(1, 4, 1, 1))
        self.last = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self.last((nn.functional.conv2d(x, weight, stride=2, padding=1) - self.mean) / torch.full((1, 4, 1, 1), 2.0, dtype=x.dtype))


def stem():
    return [nn.Conv2d(3, 4, (5, 3), 2, 1), nn.BatchNorm2d(4), nn.ReLU()]


NETWORKS = {
    "residual": lambda: [*stem(), nn.MaxPool2d(3, 2, 1), Residual(), Residual(2), Residual()],
    "residual of rows": lambda: [*stem(), Residual(1, (1, 5)), Residual(2, (3, 1)), nn.AvgPool2d((1, 2))],
    "dilated": lambda: [*stem(), Residual(dilation=2), Residual(2, dilation=3), nn.MaxPool2d(2, 1, dilation=2), nn.Conv2d(4, 4, 3)],
    "dense": lambda: [*stem(), Dense(), Dense(), nn.AvgPool2d(2), Dense(), nn.BatchNorm2d(4)],
    "inception": lambda: [*stem(), Inception(), nn.MaxPool2d(3, 2, ceil_mode=True), Inception()],
    "shuffled": lambda: [*stem(), Shuffled(), Shuffled()],
    "standardised": lambda: [*stem(), Standardised(), Standardised()],
    "padded and cut": lambda: [*stem(), nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d((13, 14)), nn.Conv2d(4, 4, 2)],
}


def spread(network, size, axis):
    """Of every layer, over how many pixels along an axis the NaN lie that reach one and the same unit: the most of all units.

    An image for every row (or column) of pixels, which is NaN there and elsewhere 0.
    """
    images = torch.zeros(size[axis], 3, *size, dtype=torch.float64)
    for place in range(size[axis]):
        images[place].select(axis + 1, place).fill_(math.nan)
    outputs = {}
    hooks = [
        own.register_forward_hook(lambda part, given, result, name=name: outputs.__setitem__(name, result.isnan()))
        for name, own in layers(network).items()
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    found = {}
    for name, nan_nchw in outputs.items():
        reached_nu = nan_nchw.any(1).any(2 - axis).numpy()
        extents = [np.flatnonzero(column) for column in reached_nu.T]
        found[name] = max(places[-1] - places[0] + 1 for places in extents if len(places))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_nan_spreads_as_far_as_fields_say(name):
    torch.manual_seed(0)
    network = nn.Sequential(*NETWORKS[name]()).eval()
    size = (104, 110)
    found = by_layer(fields(network, (3, *size)))
    # So that some unit sees nothing beyond the image.
    assert max(max(field.largest) for field in found.values()) < 90
    network.double()
    for attribute in ("largest", "smallest"):
        for part in network.modules():
            if hasattr(part, "cut"):
                part.cut = attribute == "smallest"
        for axis in (0, 1):
            expected = spread(network, size, axis)
            assert {layer: getattr(field, attribute)[axis] for layer, field in found.items()} == {layer: expected[layer] for layer in found}


def test_layers_stand_in_the_order_in_which_they_are_called():
    found = fields(nn.Sequential(nn.Conv2d(3, 4, 1), Residual(2)), (3, 40, 32))
    assert [field.layer for field in found] == ["0", "1.first", "1.second", "1.short"]
    assert [field.map for field in found] == [(40, 32), (20, 16), (20, 16), (20, 16)]


def test_what_comes_in_covers_the_image_at_the_border():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Residual(kernel=(3, 5)), Residual(kernel=(3, 5)), nn.Conv2d(4, 4, 1))
    found = fields(network, (3, 9, 17))
    assert by_layer(found)["2.second"].incoming_largest == (7, 13)
    assert (by_layer(found)["3"].incoming_largest, by_layer(found)["3"].incoming_smallest) == ((9, 17), (1, 1))
    # Both axes have to be covered.
    assert border(found, (9, 17)) == "3"
    assert border(found, (5, 5)) == "2.first"
    assert border(found, (7, 5)) == border(found, (5, 13)) == "2.second"
    assert border(found, (9, 18)) is border(found, (10, 17)) is border(found, (4, 5), smallest=True) is None
    # Through the skip connections nothing but a block's own first convolution.
    assert border(found, (3, 5), smallest=True) == "1.second"


@pytest.mark.parametrize(
    "end", [[nn.AdaptiveAvgPool2d(1), nn.Flatten()], [nn.Flatten()], [nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten()]], ids=str
)
def test_whatever_looks_at_a_map_as_a_whole_sees_everything(end):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *end, nn.LazyLinear(5), nn.Linear(5, 2))
    network(torch.zeros(2, 3, 10, 11))
    conv, first, last = fields(network, (3, 10, 11))
    assert (conv.largest, conv.map) == ((3, 3), (8, 9))
    for linear in (first, last):
        assert linear.largest == linear.smallest == linear.incoming_largest == linear.incoming_smallest == INFINITE
        assert linear.map == (1, 1)
    assert border([conv, first, last], (10, 11)) == border([conv, first, last], (10, 11), smallest=True) == first.layer


class Gated(nn.Module):
    """Channels times a gate that has seen the whole map, as squeeze-and-excitation has it."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.after = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, 2)

    def forward(self, x):
        x = self.conv(x)
        return self.after(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())


def test_gates_see_everything_and_what_they_open_also_passes_beside_them():
    conv, gate, after = fields(Gated(), (3, 20, 24))
    assert gate.largest == gate.smallest == INFINITE
    assert (conv.largest, after.largest, after.smallest, after.jump) == ((3, 3), INFINITE, (5, 5), (2, 2))


class Upsampled(nn.Sequential):
    def forward(self, x):
        return super().forward(interpolate(x, scale_factor=2))


class Depth(nn.Sequential):
    def forward(self, x):
        return super().forward(pixel_shuffle(x.repeat(1, 4, 1, 1), 2))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Upsampled(nn.Conv2d(3, 4, 3)), r"the operator upsample_nearest2d changes a map from \(8, 8\) to \(16, 16\)"),
        (Depth(nn.Conv2d(3, 4, 3)), r"the operator \w+ changes a map from \(8, 8\) to \(16, 16\)"),
        (nn.Sequential(nn.ConvTranspose2d(3, 3, 3, 2)), r"the operator conv_transpose2d changes a map from \(8, 8\) to \(17, 17\)"),
        # Of the same size, but not of the same pixels.
        (nn.Sequential(nn.ConvTranspose2d(3, 3, 3, 1, 1)), "the operator conv_transpose2d changes a map"),
        (nn.Sequential(nn.Linear(8, 8)), "the operator linear changes a map"),
    ],
    ids=["upsampled", "shuffled pixels", "transposed", "transposed, of the same size", "linear along rows"],
)
def test_operators_that_are_not_known_are_named(network, words):
    with pytest.raises(InputError, match=f"receptive_field: {words}") as raised:
        fields(network, (3, 8, 8))
    assert "\n" not in str(raised.value)


# Of the last convolution; largest and smallest, where published or by the sum over its layers.
PUBLISHED = [
    ("resnet18", "layer4.1.conv2", 435, 139),
    ("resnet50", "layer4.2.conv3", 427, 75),
    ("vgg11", "features.18", 134, 134),
    pytest.param("densenet121", "features.denseblock4.denselayer16.conv2", 2071, 103, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "layer", "largest", "smallest"), PUBLISHED)
def test_published_fields(name, layer, largest, smallest):
    found = by_layer(fields(getattr(import_torchvision().models, name)(num_classes=10), (3, 64, 64)))
    assert (found[layer].largest, found[layer].smallest) == ((largest, largest), (smallest, smallest))


def test_the_borders_of_resnet18_at_32_pixels():
    found = fields(import_torchvision().models.resnet18(), (3, 32, 32))
    # 1 pixel, then after the stem 11, and 8 more for each convolution of the first stage.
    assert [field.incoming_largest[0] for field in found[:5]] == [1, 11, 19, 27, 35]
    assert border(found, (32, 32)) == "layer1.1.conv2"
    # Through the skip connections 11 pixels come into every block, and its first convolution adds 8, 16 and, in the third stage, 32.
    assert border(found, (32, 32), smallest=True) == "layer3.1.conv2"
    assert by_layer(found)["layer3.1.conv2"].incoming_smallest == (43, 43)


SLOW = ("InceptionV3",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS])
def test_every_network_on_the_menu_is_followed(name):
    facts = next(choice for choice in info_dicts.MODELS.values() if choice == name)
    network, size = build_network(name, 10, 0.25), facts.sizes[0]
    found = fields(network, (3, size, size))
    assert sorted(field.layer for field in found) == sorted(layers(network))
    for field in found:
        assert all(1 <= small <= large for small, large in zip(field.smallest, field.largest))
        assert all(before <= own for before, own in zip(field.incoming_largest, field.largest))
        # Square images and kernels, or each kernel beside its transpose.
        assert field.jump[0] == field.jump[1]
    assert found[-1].largest == INFINITE


# Gradients.


def test_gradients_of_linear_chains_reach_as_far_as_fields_say():
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, (3, 5)), nn.Conv2d(4, 4, 3, (2, 1), dilation=(1, 3)), nn.AvgPool2d(2), nn.Conv2d(4, 5, (5, 2), (1, 2))]
    network = nn.Sequential(*parts)
    images = torch.randn(3, 3, 40, 44)
    measured = measure(network, images)
    found = by_layer(fields(network, (3, 40, 44)))
    assert list(measured) == list(found) == ["0", "1", "3"]
    for layer, field in found.items():
        assert measured[layer].extent == field.largest
        assert measured[layer].effective <= math.sqrt(math.prod(field.largest)) + 1e-9


def test_the_effective_field_counts_the_pixels_with_a_fair_share_of_the_largest_gradient():
    conv = nn.Conv2d(3, 1, (3, 5), bias=False)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.weight[:, :, 0, :] = SEEN_SHARE * 0.99
        conv.weight[:, :, 2, :2] = SEEN_SHARE * 1.01
    (measured,) = measure(nn.Sequential(conv), torch.randn(2, 3, 12, 12)).values()
    assert measured.extent == (3, 5)
    assert measured.effective == pytest.approx(math.sqrt(10))


@pytest.mark.parametrize("name", ["residual", "dilated", "dense", "inception", "shuffled"])
@pytest.mark.parametrize("size", [(72, 80), (20, 33)])
def test_gradients_reach_no_farther_than_fields_or_the_image(name, size):
    torch.manual_seed(1)
    network = nn.Sequential(*NETWORKS[name]()).eval()
    measured = measure(network, torch.randn(2, 3, *size))
    found = by_layer(fields(network, (3, *size)))
    assert {*measured} == {*found}
    for layer, field in found.items():
        assert all(0 < own <= min(most, side) for own, most, side in zip(measured[layer].extent, field.largest, size))
        assert 0 < measured[layer].effective <= math.sqrt(math.prod(measured[layer].extent)) + 1e-9


def test_looking_changes_nothing():
    network = build_network("ResNet20_Wide", 10, 0.25)
    network.train()(torch.randn(4, 3, 28, 28))
    network.blocks[0].eval()
    frozen = next(network.parameters()).requires_grad_(False)
    modes = [part.training for part in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(2, 3, 28, 28)
    kept, random = images.clone(), torch.get_rng_state()
    first, again = measure(network, images), measure(network, images)
    assert first == again
    assert fields(network, (3, 28, 28)) == fields(network, (3, 28, 28))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert [part.training for part in network.modules()] == modes
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not frozen.requires_grad
    assert [parameter.requires_grad for parameter in network.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_fields_are_those_of_resized_images():
    network = build_network("LeNet5", 10)
    expected = fields(network, (3, 56, 56))
    network.resolution = 56
    assert fields(network, (3, 28, 28)) == expected
    assert network.resolution == 56


def value_of(rows):
    return {(row.metric, row.layer): row.value for row in rows}


def test_rows_say_what_is_found(tmp_path):
    network = small_convolutions()
    found = seen(network)
    rows = run(found, ReceptiveField(images=7), tmp_path)
    value = value_of(rows)
    assert len(value) == len(rows) == 4 * 5 + 2 * 2
    names = ("blocks.0.conv", "blocks.1.conv", "blocks.2.linear", "blocks.3")
    assert [value["receptive_field", name] for name in names] == [5, 13, math.inf, math.inf]
    assert [value["receptive_field_smallest", name] for name in names] == [5, 13, math.inf, math.inf]
    assert [value["jump", name] for name in names] == [4, 8, math.inf, math.inf]
    assert [value["covered", name] for name in names] == [value["covered_smallest", name] for name in names] == [0, 0, 1, 1]
    measured = measure(network, inputs(found)[:7])
    for name in names[:2]:
        assert value["receptive_field_measured", name] == max(measured[name].extent)
        assert value["receptive_field_effective", name] == measured[name].effective
    assert {row.split for row in rows} == {"", "test"}
    assert not list(tmp_path.iterdir())


def test_rows_of_a_network_that_resizes_are_all_in_its_pixels(tmp_path):
    network = build_network("LeNet5", 10).requires_grad_(False).eval()
    network.resolution = 84
    found = seen(network)
    value = value_of(run(found, ReceptiveField(images=5), tmp_path))
    network.resolution = None
    measured = measure(network, resize(inputs(found)[:5], 84))
    convolutions = [field for field in fields(network, (3, 84, 84)) if field.map != (1, 1)]
    assert convolutions
    for field in convolutions:
        assert value["receptive_field", field.layer] == max(field.largest)
        assert value["receptive_field_measured", field.layer] == max(measured[field.layer].extent) <= max(field.largest)
        assert value["covered", field.layer] == 0
