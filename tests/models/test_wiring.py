"""Blocks of weights against the layers' own tensors and responses; which layers feed which against autograd; what cannot be read is refused."""

from collections import OrderedDict
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from errors import InputError
from models.networks import Network, build_network
from models.wiring import LAYERS, collapse, graph_sets, trace


def drawn(network, seed=0):
    """A network in eval mode whose weights, batch norms and statistics are all drawn; factors of batch norms may be negative."""
    torch.manual_seed(seed)
    for part in network.modules():
        for parameter in part.parameters(recurse=False):
            nn.init.normal_(parameter)
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.3, 3)
            nn.init.normal_(part.running_mean)
    return network.eval()


def traced(network, *shape):
    """The wiring, for one input of this shape."""
    return trace(network, torch.zeros(1, *shape))


def blocks_of(network, wiring, norm=1):
    """The blocks' weights by (source, target), each of which there is once."""
    blocks = wiring.blocks(network, norm)
    found = {(block.source, block.target): block.weights_ts for block in blocks}
    assert len(found) == len(blocks)
    return found


def factors(norm):
    return norm.weight.abs() / torch.sqrt(norm.running_var + norm.eps)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


class Sliced(nn.Module):
    """Channels 1 and 3 of a convolution's 5, without their last rows, before another one."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 5, 3), nn.Conv2d(2, 4, 3)

    def forward(self, x_nchw):
        return self.two(self.one(x_nchw)[:, 1:5:2, :-2])


def test_a_slice_of_channels_comes_from_these_channels():
    network = drawn(Sliced())
    found = blocks_of(network, traced(network, 3, 12, 12))
    own = found["one", "two"]
    close(own[:, [1, 3]], network.two.weight.abs().sum((2, 3)))
    assert not own[:, [0, 2, 4]].any()


class Joined(nn.Module):
    """Two convolutions whose outputs are put behind each other and normalised, before a third one."""

    def __init__(self, dim=1):
        super().__init__()
        self.dim = dim
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.norm, self.three = nn.BatchNorm2d(9), nn.Conv2d(9, 6, 3)

    def forward(self, x_nchw):
        first = self.one(x_nchw).relu()
        return self.three(self.norm(torch.cat([self.two(first), first], self.dim)).relu())


class Combined(nn.Module):
    """A convolution's output combined with that of another one, which takes it, before a third one."""

    def __init__(self, combine):
        super().__init__()
        self.combine = combine
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 3)

    def forward(self, x_nchw):
        first = self.one(x_nchw)
        return self.three(self.combine(first, self.two(first)))


class Moved(nn.Module):
    """Two convolutions with an operator on maps (N, 4, 4, 4) between them."""

    def __init__(self, move, inputs=4):
        super().__init__()
        self.one, self.move, self.two = nn.Conv2d(3, 4, 1), move, nn.Conv2d(inputs, 2, 1)

    def forward(self, x_nchw):
        return self.two(self.move(self.one(x_nchw)))


@lru_cache
def chain():
    """Convolutions and linear layers with batch norms in all places, and the wiring."""
    network = nn.Sequential(
        OrderedDict(
            one=nn.Conv2d(3, 4, 3), norm1=nn.BatchNorm2d(4), act1=nn.ReLU(),
            two=nn.Conv2d(4, 6, 3, bias=False), act2=nn.ReLU(), pool=nn.MaxPool2d(2), norm2=nn.BatchNorm2d(6),
            three=nn.Conv2d(6, 4, 2, groups=2), act3=nn.Tanh(), flat=nn.Flatten(), norm3=nn.BatchNorm1d(36),
            four=nn.Linear(36, 7), norm4=nn.BatchNorm1d(7), act4=nn.ReLU(), drop=nn.Dropout(0.5), five=nn.Linear(7, 2),
        )
    )  # fmt: skip
    network = drawn(network)
    return network, traced(network, 3, 12, 12)


@lru_cache
def residual(model):
    """A small residual network with drawn weights, and the wiring."""
    network = build_network(model, 10, 1 / 16, **({"depth": 8} if model == "ResNet20_Wide" else {}))
    network = drawn(network)
    return network, traced(network, 3, 32, 32)


def feeding(network, *shape):
    """Which layer's output, or the image, comes to which layer without another layer between them, by autograd: (source, target)."""
    leaves, taken = {}, {}

    def before(name):
        return lambda _, inputs: taken.update({name: inputs[0]})

    def after(name):
        def cut(_, inputs, output):
            leaves[name] = output.detach().requires_grad_()
            return leaves[name].clone()

        return cut

    hooks = []
    for name, part in network.named_modules():
        if isinstance(part, LAYERS):
            hooks += [part.register_forward_pre_hook(before(name)), part.register_forward_hook(after(name))]
    leaves["image"] = torch.randn(2, *shape, requires_grad=True)
    network(leaves["image"])
    for hook in hooks:
        hook.remove()
    found = set()
    for target, value in taken.items():
        gradients = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True, retain_graph=True)
        found |= {(source, target) for source, own in zip(leaves, gradients) if own is not None}
    return found


def test_the_blocks_of_an_mlp_are_its_absolute_weights():
    network = drawn(nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5), nn.Dropout(), nn.Tanh(), nn.Linear(5, 3)))
    wiring = traced(network, 3, 2, 2)
    blocks = blocks_of(network, wiring)
    assert list(blocks) == [("input", "1"), ("1", "3"), ("3", "6")]
    for (_, target), weights_ts in blocks.items():
        close(weights_ts, network.get_submodule(target).weight.abs())
    assert {name: wiring.sizes[name] for name in ("input", "1", "3", "6")} == {"input": 12, "1": 7, "3": 5, "6": 3}


def test_an_mlp_of_grey_images_takes_every_pixel_once():
    network = build_network("MLP-64x3", 10)
    wiring = traced(network, 3, 7, 7)
    blocks = blocks_of(network, wiring)
    close(blocks["input", "blocks.0.2"], network.blocks[0][2].weight.abs())
    assert wiring.sizes["input"] == 49
    assert set(graph_sets(wiring)) == {"input", "blocks.0.2", "blocks.1.0", "blocks.2.0", "blocks.3"}


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, (2, 3), stride=2, dilation=2),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.ConvTranspose2d(4, 6, 3),
        nn.ConvTranspose2d(4, 6, (3, 2), groups=2),
    ],
    ids=str,
)
def test_a_kernel_counts_as_the_norm_of_all_its_positions(layer, norm):
    layer = drawn(layer)
    weights_ts = collapse(layer, norm).detach()
    with torch.no_grad():
        layer.weight.copy_(layer.weight.abs() ** norm)
        layer.bias.zero_()
    layer.stride = (1, 1)
    # What comes out, anywhere, of a single pixel of one channel.
    pixels = torch.zeros(4, 4, 15, 15)
    pixels[range(4), range(4), 7, 7] = 1
    responses_st = layer(pixels).detach().sum((2, 3))
    close(weights_ts, responses_st.T ** (1 / norm))


@pytest.mark.parametrize("norm", [1, 2])
def test_a_batch_norm_directly_behind_a_layer_scales_its_rows(norm):
    network, wiring = chain()
    blocks = blocks_of(network, wiring, norm)
    fused = fuse_conv_bn_eval(network.one, network.norm1)
    close(blocks["image", "one"], torch.linalg.vector_norm(fused.weight, norm, (2, 3)))
    close(blocks["four", "five"], network.five.weight.abs())
    # Its columns are scaled by another norm; of those sums nothing but the rows' own factors is looked at.
    rows = fuse_linear_bn_eval(network.four, network.norm4).weight.abs() * factors(network.norm3)
    close(blocks["three", "four"].sum(1), rows.sum(1))


@pytest.mark.parametrize("norm", [1, 2])
def test_a_batch_norm_behind_an_activation_scales_the_columns_of_the_next_layer(norm):
    network, wiring = chain()
    blocks = blocks_of(network, wiring, norm)
    close(blocks["one", "two"], torch.linalg.vector_norm(network.two.weight, norm, (2, 3)))
    kernels = torch.linalg.vector_norm(network.three.weight, norm, (2, 3))
    scale = factors(network.norm2)
    expected = torch.zeros(4, 6)
    for target in range(4):
        for own in range(3):
            source = own + 3 * (target // 2)  # the two groups
            expected[target, source] = kernels[target, own] * scale[source]
    close(blocks["two", "three"], expected)


def test_the_columns_of_a_flattened_map_are_summed_by_channel():
    network, wiring = chain()
    weights = (network.four.weight.abs() * factors(network.norm3)).detach().numpy()
    scale = factors(network.norm4).detach().numpy()
    expected = np.zeros((7, 4))
    for target in range(7):
        for channel in range(4):
            for pixel in range(9):
                expected[target, channel] += scale[target] * weights[target, 9 * channel + pixel]
    close(blocks_of(network, wiring)["three", "four"].detach(), torch.tensor(expected, dtype=torch.float32))


def test_blocks_follow_the_weights_and_the_statistics_of_batch_norms():
    network, wiring = chain()
    before = blocks_of(network, wiring)
    weight, variance = network.one.weight.data.clone(), network.norm1.running_var.clone()
    network.one.weight.data *= 3
    network.norm1.running_var.copy_(4 * (variance + network.norm1.eps) - network.norm1.eps)
    after = blocks_of(network, wiring)
    network.one.weight.data, network.norm1.running_var = weight, variance
    close(after.pop(("image", "one")), before.pop(("image", "one")) * 1.5)
    for key, weights_ts in after.items():
        close(weights_ts, before[key])


def test_a_batch_norm_without_factors_scales_too():
    network = drawn(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    scale = 1 / torch.sqrt(network[1].running_var + network[1].eps)
    close(blocks_of(network, traced(network, 3, 8, 8))["image", "0"], network[0].weight.abs().sum((2, 3)) * scale[:, None])


@pytest.mark.parametrize("model", ["ResNet18-stem7-w64", "ResNet20_Wide"])
def test_a_layer_of_a_residual_network_has_blocks_from_all_whose_outputs_are_added(model):
    network, wiring = residual(model)
    blocks = blocks_of(network, wiring)
    expected = feeding(network, 3, 32, 32)
    assert set(blocks) == expected
    assert max(sum(own == target for _, own in expected) for _, target in expected) > 1
    for (source, target), weights_ts in blocks.items():
        assert weights_ts.shape == (wiring.sizes[target], wiring.sizes[source])


def test_a_batch_norm_before_a_convolution_scales_the_columns_of_all_its_blocks():
    network, wiring = residual("ResNet20_Wide")
    block = network.blocks[2][0]
    kernels = block.residual[2].weight.abs().sum((2, 3))
    expected = kernels * factors(block.residual[0]) * factors(block.residual[3])[:, None]
    blocks = {source: own for (source, target), own in blocks_of(network, wiring).items() if target == "blocks.2.0.residual.2"}
    assert set(blocks) == {"blocks.0.0", "blocks.1.0.residual.5"}
    for weights_ts in blocks.values():
        close(weights_ts, expected)
    # The shortcut takes the same sums, before that batch norm.
    close(blocks_of(network, wiring)["blocks.0.0", "blocks.2.0.shortcut"], block.shortcut.weight.abs().sum((2, 3)))


@pytest.mark.parametrize("dim", [1, -3])
def test_outputs_behind_each_other_have_their_own_columns_and_channels_of_batch_norms(dim):
    network = drawn(Joined(dim))
    blocks = blocks_of(network, traced(network, 3, 8, 8))
    expected = network.three.weight.abs().sum((2, 3)) * factors(network.norm)
    assert set(blocks) == {("image", "one"), ("one", "two"), ("two", "three"), ("one", "three")}
    close(blocks["two", "three"], expected[:, :5])
    close(blocks["one", "three"], expected[:, 5:])


@pytest.mark.parametrize("combine", [torch.add, torch.sub, lambda one, two: one * two.sigmoid()], ids=["sum", "difference", "gate"])
def test_both_of_two_combined_outputs_feed_the_next_layer(combine):
    network = drawn(Combined(combine))
    expected = feeding(network, 3, 8, 8)
    assert {("one", "three"), ("two", "three")} <= expected
    assert set(blocks_of(network, traced(network, 3, 8, 8))) == expected


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x_nchw):
        return self.two(self.two(self.one(x_nchw)).relu())


class Swapped(nn.Module):
    def forward(self, x_nchw):
        return x_nchw.transpose(1, 2)


class Flipped(nn.Module):
    def forward(self, x_nchw):
        return x_nchw.flip(1)


@pytest.mark.parametrize(
    ("move", "inputs", "operator"),
    [
        (Swapped(), 4, "transpose"),
        (Flipped(), 4, "flip"),
        (nn.PixelShuffle(2), 1, "pixel_shuffle"),
        (nn.ChannelShuffle(2), 4, "channel_shuffle"),
    ],
)
def test_an_operator_that_moves_channels_is_refused_in_one_line(move, inputs, operator):
    with pytest.raises(InputError, match=operator) as caught:
        traced(Moved(move, inputs), 3, 4, 4)
    assert "\n" not in str(caught.value)


def test_a_linear_layer_of_the_pixels_of_a_line_is_refused_in_one_line():
    # Its units are no channels: it would be a graph of three nodes for five units.
    with pytest.raises(InputError) as caught:
        traced(nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 2)), 3, 8, 8)
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_used_twice_is_refused_by_its_name():
    with pytest.raises(InputError, match="the layer two is used twice") as caught:
        traced(Repeated(), 3, 4, 4)
    assert "\n" not in str(caught.value)


def test_a_network_without_layers_is_refused():
    with pytest.raises(InputError, match="no convolution and no linear layer"):
        traced(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), 3, 4, 4)


@pytest.mark.parametrize("norm", [1, 2])
def test_gradients_flow_through_blocks(norm):
    network, wiring = chain()
    blocks = blocks_of(network, wiring, norm)
    total = sum(own.sum() for own in blocks.values())
    kernel, factor = torch.autograd.grad(total, [network.one.weight, network.norm1.weight], retain_graph=True)
    norms = torch.linalg.vector_norm(network.one.weight, norm, (2, 3))
    inner = network.one.weight.sign() if norm == 1 else network.one.weight / norms[..., None, None]
    close(kernel, inner * factors(network.norm1)[:, None, None, None])
    deviation = torch.sqrt(network.norm1.running_var + network.norm1.eps)
    close(factor, network.norm1.weight.sign() / deviation * norms.sum(1))
    layers = [part.weight for part in network if isinstance(part, LAYERS)]
    assert all((own != 0).all() for own in torch.autograd.grad(total, layers))


def test_tracing_leaves_a_network_as_it_is():
    network = Network([nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), nn.Sequential(nn.Flatten(), nn.Linear(144, 2))])
    drawn(network).train()
    network.blocks[1].eval()
    network.resolution, network.unit = 16, ((0.5,) * 3, (0.25,) * 3)
    state = {name: own.clone() for name, own in network.state_dict().items()}
    modes = [part.training for part in network.modules()]
    wiring = trace(network, torch.randn(2, 3, 8, 8))
    # Of the tensor that the first block takes: a resized one would have more columns.
    assert wiring.wires[-1].layer == "blocks.1.1"
    assert len(wiring.wires[-1].routes[0].channel_c) == 144
    assert (network.resolution, network.unit) == (16, ((0.5,) * 3, (0.25,) * 3))
    assert [part.training for part in network.modules()] == modes
    for name, own in network.state_dict().items():
        assert torch.equal(own, state[name])
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_the_graph_of_an_mlp_has_its_inputs_before_all_units():
    # The order counts: components are kept that go from the first set to the last.
    wiring = traced(nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5)), 3, 2, 2)
    assert graph_sets(wiring) == graph_sets(wiring, dense=True) == ["input", "1", "3"]


def test_the_graph_of_a_convolutional_network_has_channels_and_if_asked_all_units():
    _, wiring = chain()
    assert graph_sets(wiring) == ["one", "two", "three"]
    assert graph_sets(wiring, dense=True) == ["one", "two", "three", "four", "five"]
