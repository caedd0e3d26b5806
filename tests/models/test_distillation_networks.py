"""The networks of teachers and students: counts in closed form, torchvision's and functional definitions as oracles, images of all shapes, levels and modes."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import info_dicts
from data.torchvision_import import import_torchvision
from errors import InputError
from models.lenet import SIDE, AtLeast
from models.networks import Network, as_tested, build_autoencoder, build_module, build_network, count_parameters
from tests.models import representatives

# Those that are made for images of one size have tests of their own.
ALL = [
    model
    for model in info_dicts.MODELS.values()
    if not model.facts.get("parts", True) and (isinstance(model.sizes, range) or model.sizes == (1,))
]
MODELS = [model for model in representatives.MODELS if model in ALL]
FOR_VECTORS = [model for model in MODELS if model.sizes == (1,)]
SHAPES = sorted({(28, 28), (32, 32), (64, 32), (64, 64)} | {dataset.shape[1:] for dataset in info_dicts.DATASETS.values()})
MODELS_AND_SHAPES = [
    pytest.param(model, shape, id=f"{model}-{'x'.join(map(str, shape))}") for model in MODELS for shape in SHAPES if shape[1] in model.sizes
]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def narrow(model: info_dicts.Choice, classes: int = 10) -> Network:
    """A network whose published width is no part of the claim: a sixteenth of a deep one's parameters."""
    return build_network(model, classes, representatives.QUICK.get(model, 1.0))


def some_shape(model: info_dicts.Choice) -> tuple[int, int]:
    return (1, 1) if model in FOR_VECTORS else (64, 32)


def settled(network: Network, shape: tuple[int, int]) -> Network:
    """A network in float64 whose batch norms have seen images that are not standardised, in eval mode."""
    network.double().train()
    with torch.no_grad():
        network(torch.rand(8, 3, *shape, dtype=torch.float64) * 3 - 1)
    return network.eval()


@pytest.mark.parametrize(("classes", "parameters"), [(10, 272_186), (100, 278_036)])
def test_parameters_of_the_published_wide_resnet(classes: int, parameters: int) -> None:
    assert count_parameters(build_network("ResNet20_Wide", classes)) == parameters
    assert count_parameters(build_network("ResNet20_Wide", classes, 1.0, 20)) == parameters


@pytest.mark.parametrize("width", [0.5, 1, 2, 10])
@pytest.mark.parametrize("depth", [8, 14, 20, 26, 38])
def test_parameters_of_wide_resnets(depth: int, width: float) -> None:
    # A block of a stage of m c channels has 18 m^2 c^2 weights and norms of 4 m c; a strided one has half the inputs, and a shortcut.
    blocks, c = (depth - 2) // 6, int(16 * width)
    for classes in (2, 10, 100):
        with torch.device("meta"):
            found = count_parameters(build_network("ResNet20_Wide", classes, width, depth))
        assert found == blocks * (378 * c**2 + 28 * c) - 80 * c**2 + 23 * c + (4 * c + 1) * classes


@pytest.mark.parametrize("width", [0.25, 0.5, 1, 2])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_parameters_of_the_other_networks(classes: int, width: float) -> None:
    def found(model: str) -> int:
        with torch.device("meta"):
            return count_parameters(build_network(model, classes, width))

    c = int(64 * width)
    assert found("ResNet18") == 2_724 * c**2 + 297 * c + (8 * c + 1) * classes
    assert found("ResNet50") == 5_724 * c**2 + 977 * c + (32 * c + 1) * classes
    # A half of a published number of channels is rounded to the even side.
    c1, c2, c3, units = (round(number * width) for number in (18, 48, 360, 252))
    assert found("LeNet5") == 78 * c1 + 25 * c1 * c2 + 3 * c2 + 25 * c2 * c3 + 3 * c3 + (c3 + 1) * units + (units + 1) * classes
    h1, h2 = round(100 * width), round(200 * width)
    assert found("MLP-100-200-100") == 4 * h1 + (h1 + 1) * h2 + (h2 + 1) * h1 + (h1 + 1) * classes
    for published in (10, 50):
        hidden = round(published * width)
        assert found(f"MLP-{published}") == 4 * hidden + (hidden + 1) * classes


@settings(max_examples=60, deadline=None)
@given(depth=st.integers(-12, 50))
def test_depths_are_6_n_plus_2(depth: int) -> None:
    if depth in range(8, 51, 6):
        with torch.device("meta"):
            network = build_network("ResNet20_Wide", 10, 1 / 16, depth)
        # Six blocks at every depth: two convolutions for each of 3 n blocks, stem, and two shortcuts.
        assert len(network.blocks) == 6
        assert sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == depth - 2 + 3
    else:
        with pytest.raises(ValueError, match=rf"depths 8, 14, 20, \.\.\. \(6 n \+ 2\), not {depth}$"):
            build_network("ResNet20_Wide", 10, 1 / 16, depth)


@pytest.mark.parametrize("model", [model for model in info_dicts.MODELS.values() if "depth" not in model.facts], ids=str)
def test_networks_of_one_depth_take_none(model: info_dicts.Choice) -> None:
    with pytest.raises(ValueError, match=f"{model} has no depth to choose, got 20"):
        build_network(model, 10, 1.0, 20)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_networks_without_parts_say_so(model: info_dicts.Choice) -> None:
    with pytest.raises(InputError, match=f"{model} has no module"):
        build_module(model, 0)
    with pytest.raises(InputError, match=f"{model} has no autoencoder"):
        build_autoencoder(model, model.sizes[0])


@pytest.fixture(scope="module", params=["ResNet18", "ResNet34", "ResNet50"])
def pair(request: pytest.FixtureRequest) -> tuple[Network, nn.Module]:
    """Ours and torchvision's, built after the same seed."""
    import_torchvision()
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(3)
        ours = build_network(request.param, 10)
        torch.manual_seed(3)
        return ours, getattr(models, request.param.lower())(weights=None, num_classes=10)


def test_deep_resnets_draw_the_weights_that_torchvisions_draw(pair: tuple[Network, nn.Module]) -> None:
    ours, theirs = (part.state_dict() for part in pair)
    for (name, value), expected in zip(ours.items(), theirs.values(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (45, 71)])
@pytest.mark.parametrize("training", [False, True])
def test_deep_resnets_are_torchvisions(pair: tuple[Network, nn.Module], training: bool, shape: tuple[int, int]) -> None:
    ours, theirs = pair
    with torch.no_grad():
        # Statistics that are not those of a fresh norm.
        theirs.train()(torch.rand(4, 3, 64, 64) * 3 - 1)
        ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
        x = torch.randn(3, 3, *shape)
        expected = theirs.train(training)(x)
        torch.testing.assert_close(ours.train(training)(x), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    for value, after in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, after)


def normalised(x_nchw: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """A batch norm in eval mode, written out."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (x_nchw - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def layers(network: nn.Module, kind: type) -> Iterator[nn.Module]:
    return iter([layer for layer in network.modules() if isinstance(layer, kind)])


@pytest.mark.parametrize(("depth", "width", "shape"), [(8, 0.5, (28, 28)), (20, 0.25, (64, 32)), (26, 0.25, (33, 40))])
def test_wide_resnets_are_pre_activation_blocks_without_a_last_norm(depth: int, width: float, shape: tuple[int, int]) -> None:
    network = settled(build_network("ResNet20_Wide", 10, width, depth), shape)
    norms, kernels = layers(network, nn.BatchNorm2d), layers(network, nn.Conv2d)

    def convolve(x: Tensor, stride: int = 1) -> Tensor:
        kernel = next(kernels).weight
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def activate(x: Tensor) -> Tensor:
        return normalised(x, next(norms)).clamp(min=0)

    images = torch.randn(3, 3, *shape, dtype=torch.float64)
    x = activate(convolve(images))
    for stage in range(3):
        for block in range((depth - 2) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            # In the order in which a block holds its layers: two convolutions, then the shortcut.
            residual = convolve(activate(convolve(activate(x), stride)))
            x = residual + (convolve(x, 2) if stride == 2 else x)
        torch.testing.assert_close(network(images, stop=stage + 2), x)
    classifier = network.blocks[-1]
    torch.testing.assert_close(network(images), x.mean((2, 3)) @ classifier.weight.T + classifier.bias)
    assert next(norms, None) is None
    assert next(kernels, None) is None


def test_wide_resnets_are_initialised_by_fan_out_without_biases() -> None:
    network = build_network("ResNet20_Wide", 10, 4.0, 14)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    # A stem, twelve of blocks, two of shortcuts.
    assert len(convolutions) == 15
    for layer in convolutions:
        assert layer.bias is None
        deviation = math.sqrt(2 / (layer.out_channels * math.prod(layer.kernel_size)))
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
        # A uniform draw of that deviation would not reach beyond 1.74 deviations.
        assert layer.weight.abs().max().item() > 2.5 * deviation
    for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (50, 39)])
def test_lenet_is_its_definition(shape: tuple[int, int]) -> None:
    network = settled(build_network("LeNet5", 10), shape)
    x = images = torch.randn(3, 3, *shape, dtype=torch.float64)
    norms, kernels, linear = (layers(network, kind) for kind in (nn.BatchNorm2d, nn.Conv2d, nn.Linear))
    for pooled in (True, True, False):
        kernel = next(kernels)
        x = normalised(functional.conv2d(x, kernel.weight, kernel.bias), next(norms)).tanh()
        if pooled:
            # An odd last row or column is left out.
            rows, columns = (2 * (length // 2) for length in x.shape[2:])
            x = (
                x[:, :, 0:rows:2, 0:columns:2]
                + x[:, :, 1:rows:2, 0:columns:2]
                + x[:, :, 0:rows:2, 1:columns:2]
                + x[:, :, 1:rows:2, 1:columns:2]
            ) / 4
    hidden, classifier = linear
    x = (x.mean((2, 3)) @ hidden.weight.T + hidden.bias).tanh()
    torch.testing.assert_close(network(images), x @ classifier.weight.T + classifier.bias)


@pytest.mark.parametrize("training", [False, True])
def test_lenet_pads_28_pixels_to_32(training: bool) -> None:
    network = settled(build_network("LeNet5", 10), (32, 32)).train(training)
    small = torch.randn(4, 3, 28, 28, dtype=torch.float64)
    padded = torch.zeros(4, 3, 32, 32, dtype=torch.float64)
    padded[:, :, 2:30, 2:30] = small
    assert torch.equal(network(small), network(padded))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), side=st.integers(1, 36))
def test_padding_is_even_and_only_of_short_sides(height: int, width: int, side: int) -> None:
    images = torch.rand(2, 3, height, width) + 1
    padded = AtLeast(side)(images)
    assert padded.shape == (2, 3, max(height, side), max(width, side))
    top, left = (padded.shape[2] - height) // 2, (padded.shape[3] - width) // 2
    assert torch.equal(padded[:, :, top : top + height, left : left + width], images)
    assert padded.count_nonzero() == images.numel()


# Levels 1 to the last, and the logits, by the shape of the image.
LEVELS = {
    "LeNet5": {
        (28, 28): [(18, 14, 14), (48, 5, 5), (360, 1, 1), (360,), (252,), (10,)],
        (SIDE, SIDE): [(18, 14, 14), (48, 5, 5), (360, 1, 1), (360,), (252,), (10,)],
        (64, 32): [(18, 30, 14), (48, 13, 5), (360, 9, 1), (360,), (252,), (10,)],
    },
    "ResNet18": {
        (32, 32): [*[(64, 8, 8)] * 3, *[(128, 4, 4)] * 2, *[(256, 2, 2)] * 2, *[(512, 1, 1)] * 2, (512,), (10,)],
        (64, 32): [*[(64, 16, 8)] * 3, *[(128, 8, 4)] * 2, *[(256, 4, 2)] * 2, *[(512, 2, 1)] * 2, (512,), (10,)],
        (64, 64): [*[(64, 16, 16)] * 3, *[(128, 8, 8)] * 2, *[(256, 4, 4)] * 2, *[(512, 2, 2)] * 2, (512,), (10,)],
    },
    "ResNet50": {
        (64, 32): [(64, 16, 8), *[(256, 16, 8)] * 3, *[(512, 8, 4)] * 4, *[(1024, 4, 2)] * 6, *[(2048, 2, 1)] * 3, (2048,), (10,)],
    },
    "ResNet20_Wide": {
        (32, 32): [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64,), (10,)],
        (64, 32): [(16, 64, 32), (16, 64, 32), (32, 32, 16), (64, 16, 8), (64,), (10,)],
    },
    "MLP-100-200-100": {(1, 1): [(100,), (200,), (100,), (10,)]},
    "MLP-10": {(1, 1): [(10,), (10,)]},
    "MLP-50": {(1, 1): [(50,), (10,)]},
}


@pytest.mark.parametrize(("model", "shape"), [(model, shape) for model, shapes in LEVELS.items() for shape in shapes])
def test_shapes_of_all_levels(model: str, shape: tuple[int, int]) -> None:
    with torch.device("meta"):
        found = build_network(model, 10).eval().levels(torch.empty(2, 3, *shape))
    assert [tuple(level.shape) for level in found] == [(2, *expected) for expected in LEVELS[model][shape]]


@pytest.mark.parametrize(("model", "shape"), MODELS_AND_SHAPES)
def test_images_of_every_data_set_that_fits_are_classified(model: info_dicts.Choice, shape: tuple[int, int]) -> None:
    network = narrow(model, 7).eval()
    logits = network(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    # Images that differ are told apart, from a fresh network too.
    assert not torch.equal(logits[0], logits[1])


def test_every_data_set_of_images_fits_every_network_for_images() -> None:
    for dataset in info_dicts.DATASETS.values():
        takers = {model for model in ALL if dataset.shape[2] in model.sizes}
        if dataset.shape[1:] == (1, 1):
            assert takers == set(FOR_VECTORS)
        else:
            # Five max-pools leave nothing of 28 pixels.
            assert takers == {
                model for model in ALL if model not in FOR_VECTORS and not (model.startswith("VGG") and dataset.shape[2] < 32)
            }


@pytest.mark.parametrize("model", FOR_VECTORS, ids=str)
def test_mlps_are_affine_maps_and_rectifiers_of_the_features(model: info_dicts.Choice) -> None:
    network = build_network(model, 2).double()
    vectors = torch.randn(5, 3, dtype=torch.float64)
    *hidden, classifier = layers(network, nn.Linear)
    # Points have two features.
    x = vectors[:, : hidden[0].in_features]
    for layer in hidden:
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    expected = x @ classifier.weight.T + classifier.bias
    assert expected.shape == (5, 2)
    torch.testing.assert_close(network(vectors[:, :, None, None]), expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_levels_are_the_chain_of_blocks_and_no_block_changes_what_it_was_given(model: info_dicts.Choice, training: bool) -> None:
    network = narrow(model).train(training)
    images = torch.randn(3, 3, *some_shape(model))
    before, x, chain = images.clone(), images, []
    with torch.no_grad():
        # The same dropout each time.
        torch.manual_seed(1)
        for block in network.blocks:
            x = block(x)
            # What it is before any later block sees it.
            chain.append(x.clone())
        torch.manual_seed(1)
        found = network.levels(images)
        torch.manual_seed(1)
        logits = network(images)
    assert len(found) == model.blocks
    for level, expected in zip(found, chain, strict=True):
        assert torch.equal(level, expected)
    assert torch.equal(found[-1], logits)
    assert torch.equal(images, before)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_gradients_of_any_level_can_be_taken_after_the_forward_pass(model: info_dicts.Choice) -> None:
    network = narrow(model).train()
    images = torch.randn(4, 3, *some_shape(model), requires_grad=True)
    # Autograd refuses tensors that were changed in place after they were saved.
    sum(level.square().mean() for level in network.levels(images)).backward()
    assert images.grad is not None
    assert (images.grad.abs().amax((1, 2, 3)) > 0).all()


@pytest.mark.parametrize(
    ("model", "options"), [(model, {}) for model in MODELS] + [("ResNet20_Wide", {"depth": depth}) for depth in (8, 26)], ids=str
)
def test_gradients_of_the_loss_reach_every_parameter(model: str, options: dict[str, int]) -> None:
    choice = next(choice for choice in MODELS if choice == model)
    network = (build_network(model, 10, 0.5, **options) if options else narrow(choice)).train()
    logits = network(torch.randn(16, 3, *some_shape(choice)))
    functional.cross_entropy(logits, torch.arange(16) % 10).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_as_tested_images_of_a_batch_do_not_meet(model: info_dicts.Choice) -> None:
    shape = some_shape(model)
    network = settled(narrow(model), shape)
    images = torch.randn(5, 3, *shape, dtype=torch.float64, requires_grad=True)
    logits = network(images)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(logits, alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network(images[[3, 1, 3]]), logits[[3, 1, 3]], rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(logits[2].square().sum(), images)
    assert gradient[2].any()
    assert not gradient[[0, 1, 3, 4]].any()


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_memory_format_and_precision_change_little(model: info_dicts.Choice) -> None:
    network = settled(narrow(model), some_shape(model)).float()
    images = torch.randn(4, 3, *some_shape(model))
    with torch.no_grad():
        expected = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(network(images).float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        found = network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("width", [0.02, 0.4, 1.5])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_networks_of_every_width_classify(model: info_dicts.Choice, width: float) -> None:
    with torch.device("meta"):
        assert build_network(model, 10, width)(torch.empty(2, 3, *some_shape(model))).shape == (2, 10)


@pytest.mark.parametrize(
    ("model", "options"), [(model, {}) for model in MODELS] + [("ResNet20_Wide", {"width": 0.5, "depth": 26})], ids=str
)
def test_two_builds_after_one_seed_are_equal(model: str, options: dict[str, float]) -> None:
    choice = next(choice for choice in MODELS if choice == model)

    def state(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        network = build_network(model, 10, **options) if options else narrow(choice)
        return network.state_dict()

    first, again, other = state(1), state(1), state(2)
    assert first.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    weights = [name for name in first if name.endswith("weight") and first[name].ndim > 1]
    assert weights
    assert not any(torch.equal(first[name], other[name]) for name in weights)


@pytest.mark.parametrize("training", [False, True])
def test_as_tested_gives_the_mode_back(training: bool) -> None:
    network = build_network("ResNet20_Wide", 10, 0.25, 8).train(training)
    with as_tested(network):
        assert not any(part.training for part in network.modules())
    assert all(part.training == training for part in network.modules())
    with pytest.raises(ZeroDivisionError), as_tested(network):
        raise ZeroDivisionError
    assert all(part.training == training for part in network.modules())


def test_as_tested_gives_every_parts_own_mode_back() -> None:
    network = build_network("LeNet5", 10).train()
    network.blocks[0].eval()
    modes = [part.training for part in network.modules()]
    assert len(set(modes)) == 2
    with as_tested(network), as_tested(network.blocks[1]):
        assert not any(part.training for part in network.modules())
    assert [part.training for part in network.modules()] == modes


def test_as_tested_changes_no_statistics() -> None:
    network = build_network("LeNet5", 10).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.randn(4, 3, 32, 32)
    with as_tested(network):
        first = network(images)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not torch.equal(network(images), first)
    assert not torch.equal(network.state_dict()["blocks.0.2.running_mean"], before["blocks.0.2.running_mean"])
