"""Architectures: the published tables and SmallNet's own, properties that every entry of the menu has, and torchvision's networks as oracles of ours."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import info_dicts
from data.torchvision_import import import_torchvision
from errors import InputError
from models import networks
from models.networks import Network, build_autoencoder, build_module, build_network, count_parameters, scaled, width_for
from tests.models.representatives import MODELS, QUICK


def has_parts(model: info_dicts.Choice) -> bool:
    """Whether modules and autoencoders are made for an architecture."""
    return bool(model.facts.get("parts", True))


WITH_PARTS = [model for model in MODELS if has_parts(model)]
LEVELS = [pytest.param(model, level, id=f"{model}-{level}") for model in WITH_PARTS for level in range(model.blocks)]

# Level 1 to the last, and the logits.
SHAPES = {
    "EMNISTNet": [(64, 14, 14), (128, 7, 7), (256, 4, 4), (256, 2, 2), (512,), (47,)],
    "InceptionV3": [
        *[(32, 49, 49), (32, 47, 47), (64, 47, 47), (80, 23, 23), (192, 21, 21), (256, 10, 10), (288, 10, 10), (288, 10, 10)],
        *[(768, 4, 4)] * 5,
        *[(1280, 1, 1), (2048, 1, 1), (2048,), (388,)],
    ],
    "ResNet18-stem7-w64": [*[(64, 16, 16)] * 3, *[(128, 8, 8)] * 2, *[(256, 4, 4)] * 2, (512, 2, 2), (512,), (10,)],
    "SmallNet": [(16, 14, 14), (32, 7, 7), (64, 4, 4), (128,), (10,)],
}
PARAMETERS = {"EMNISTNet": 3_216_815, "InceptionV3": 22_580_580, "ResNet18-stem7-w64": 11_181_642, "SmallNet": 156_842}
MODULE_PARAMETERS = {
    "EMNISTNet": [214_595, 204_928, 819_456, 3_277_312, 3_277_312, 525_312],
    "InceptionV3": [
        *[312_771, 77_088, 77_088, 307_776, 480_720, 2_766_528, 4_917_504, 285_152, 285_152],
        *[1_297_408, 1_691_008, 1_691_008, 2_141_952, 2_141_952, 122_891_520, 6_076_800, 12_601_344],
    ],
    "ResNet18-stem7-w64": [113_091, *[73_984] * 3, *[295_424] * 2, *[1_180_672] * 2, 4_720_640, 527_360],
    "SmallNet": [11_251, 4_640, 25_648, 102_496, 33_024],
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def images(model: info_dicts.Choice, number: int = 4) -> Tensor:
    size = model.sizes[0]
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def some_sizes(model: info_dicts.Choice) -> list[int]:
    """All sizes of a model that names them; of a range the least, which is padded or not, an odd and an even one."""
    return [model.sizes[0], 33, 64] if isinstance(model.sizes, range) else list(model.sizes)


def quick_network(model: str, classes: int = 10) -> Network:
    return build_network(model, classes, QUICK.get(model, 1.0))


def quick_module(model: str, level: int) -> nn.Module:
    return build_module(model, level, QUICK.get(model, 1.0))


def features(model: info_dicts.Choice, level: int) -> Tensor:
    """The tensor of a level, from a fresh network."""
    with torch.no_grad():
        return quick_network(model).eval()(images(model), stop=level)


@pytest.mark.parametrize("model", SHAPES)
def test_shapes_of_all_levels(model: str) -> None:
    choice = next(choice for choice in MODELS if choice == model)
    network = build_network(model, SHAPES[model][-1][0]).eval()
    x = images(choice, 1)
    for level, shape in enumerate(SHAPES[model]):
        x = network(x, level, level + 1)
        assert tuple(x.shape[1:]) == shape


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameters_are_those_of_the_tables(model: str) -> None:
    with torch.device("meta"):
        assert count_parameters(build_network(model, SHAPES[model][-1][0])) == PARAMETERS[model]
        assert [count_parameters(build_module(model, level)) for level in range(len(MODULE_PARAMETERS[model]))] == MODULE_PARAMETERS[model]


def rates(part: nn.Module) -> list[tuple[type, float]]:
    return [(type(layer), layer.p) for layer in part.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d)]


def test_dropout_of_emnist_net() -> None:
    maps, units = nn.Dropout2d, nn.Dropout
    assert rates(build_network("EMNISTNet", 47)) == [(maps, 0.1), (maps, 0.3), (maps, 0.5), (maps, 0.5), (units, 0.5)]
    expected = [[(maps, 0.1), (maps, 0.3), (maps, 0.3)], *[[(maps, 0.3)] * 2] * 2, *[[(maps, 0.5)] * 2] * 2, [(units, 0.5)] * 2]
    assert [rates(build_module("EMNISTNet", level)) for level in range(6)] == expected


@pytest.mark.parametrize("training", [False, True])
def test_resnet_is_torchvisions_without_max_pool(training: bool) -> None:
    import_torchvision()
    from torchvision.models import resnet18

    ours, theirs = build_network("ResNet18-stem7-w64", 10), resnet18(num_classes=10)
    theirs.maxpool = nn.Identity()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(6, 3, 32, 32)
    torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "part", [build_network("ResNet18-stem7-w64", 10), build_module("ResNet18-stem7-w64", 8)], ids=["network", "module"]
)
def test_resnet_is_initialised_like_torchvisions(part: nn.Module) -> None:
    convolutions = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) in (2, 20)
    for layer in convolutions:
        fan_out = layer.out_channels * math.prod(layer.kernel_size)
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        # A uniform draw of that deviation would not reach beyond 1.74 deviations.
        assert layer.weight.abs().max().item() > 3 * math.sqrt(2 / fan_out)
    for norm in (layer for layer in part.modules() if isinstance(layer, nn.BatchNorm2d)):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


@pytest.fixture(scope="module")
def inceptions() -> tuple[Network, nn.Module]:
    """Ours and torchvision's, built after the same seed."""
    import_torchvision()
    from torchvision.models import inception_v3

    with torch.random.fork_rng():
        torch.manual_seed(3)
        ours = build_network("InceptionV3", 10)
        torch.manual_seed(3)
        return ours, inception_v3(weights=None, num_classes=10, aux_logits=False, transform_input=False, init_weights=True, dropout=0.0)


def test_inception_draws_the_weights_that_torchvisions_draws(inceptions: tuple[Network, nn.Module]) -> None:
    ours, theirs = (part.state_dict() for part in inceptions)
    for (name, value), expected in zip(ours.items(), theirs.values(), strict=True):
        assert torch.equal(value, expected), name


@pytest.mark.parametrize("size", [100, 112])
@pytest.mark.parametrize("training", [False, True])
def test_inception_is_torchvisions(inceptions: tuple[Network, nn.Module], training: bool, size: int) -> None:
    ours, theirs = inceptions
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(3, 3, size, size)
    with torch.no_grad():
        expected = theirs.train(training)(x)
        # Fresh weights make logits of 1e10 in eval mode.
        torch.testing.assert_close(ours.train(training)(x), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    for value, after in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, after)


def test_inceptions_modules_are_initialised_like_the_network_where_they_are_its_blocks() -> None:
    mixed, plain = build_module("InceptionV3", 9), build_module("InceptionV3", 1)
    weights = torch.cat([layer.weight.detach().flatten() for layer in mixed.modules() if isinstance(layer, nn.Conv2d)])
    assert weights.std().item() == pytest.approx(0.1, rel=0.01)
    assert weights.abs().max().item() > 0.4
    for layer in (layer for layer in plain.modules() if isinstance(layer, nn.Conv2d)):
        bound = 1 / math.sqrt(32 * 25)
        assert 0.99 * bound < layer.weight.abs().max().item() <= bound


# Levels whose map is smaller than half the module's kernels: model, level, image size, side of the map, parameters of the fitted module.
FITTED = [("EMNISTNet", 4, 28, 2, 1_180_160), ("InceptionV3", 14, 100, 1, 4_926_720), ("InceptionV3", 14, 112, 2, 44_248_320)]


@pytest.mark.parametrize(("model", "level", "size", "side", "parameters"), FITTED)
def test_a_published_module_cut_to_its_kernels_centres_is_the_fitted_one(
    model: str, level: int, size: int, side: int, parameters: int
) -> None:
    with torch.device("meta"):
        assert count_parameters(build_module(model, level, kernels="fitted", size=size)) == parameters
    published, fitted = (build_module(model, level, 1 / 16, kernels, size).eval() for kernels in ("published", "fitted"))
    inner = slice(3 - side, 2 + side)
    fitted.load_state_dict({name: value[..., inner, inner] if value.ndim == 4 else value for name, value in published.state_dict().items()})
    channels = next(published.parameters()).shape[1]
    x = torch.randn(8, channels, side, side)
    expected = published(x)
    assert expected.any()
    torch.testing.assert_close(fitted(x), expected)
    # Of the published kernels the outer taps only ever meet padding, of the fitted ones none.
    for part, seen in ((published, (2 * side - 1) ** 2), (fitted, next(fitted.parameters())[0, 0].numel())):
        part(x).square().sum().backward()
        for kernel in (parameter for parameter in part.parameters() if parameter.ndim == 4):
            assert kernel.grad is not None
            assert int((kernel.grad.abs().amax((0, 1)) > 0).sum()) == seen


@pytest.mark.parametrize("model", WITH_PARTS, ids=str)
def test_all_other_modules_are_fitted_as_published(model: info_dicts.Choice) -> None:
    smaller = {(level, size) for name, level, size, _, _ in FITTED if name == model}
    with torch.device("meta"):
        for level in range(model.blocks):
            published = {name: value.shape for name, value in build_module(model, level).state_dict().items()}
            for size in model.sizes:
                fitted = {name: value.shape for name, value in build_module(model, level, kernels="fitted", size=size).state_dict().items()}
                assert (fitted != published) == ((level, size) in smaller)


def test_modules_are_fitted_to_the_first_size_by_default() -> None:
    with torch.device("meta"):
        assert [count_parameters(build_module(model, level, kernels="fitted")) for model, level, *_ in FITTED[:2]] == [1_180_160, 4_926_720]


def test_unknown_kernels_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="published or fitted, not 'small'"):
        build_module("SmallNet", 1, kernels="small")
    with pytest.raises(ValueError, match="InceptionV3 takes images of 100 or 112 pixels, not 28"):
        build_module("InceptionV3", 1, kernels="fitted", size=28)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_blocks_and_sizes_are_those_of_the_menu(model: info_dicts.Choice) -> None:
    network = quick_network(model, 7).eval()
    assert len(network.blocks) == model.blocks
    assert isinstance(network.blocks[-1], nn.Linear)
    for size in some_sizes(model):
        assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_running_to_a_level_and_on_from_it_is_running_through(model: info_dicts.Choice) -> None:
    network, x = quick_network(model).eval(), images(model, 2)
    whole = network(x)
    for level in range(model.blocks + 1):
        assert torch.equal(network(network(x, stop=level), start=level), whole)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_every_parameter_of_a_network_is_trained(model: info_dicts.Choice) -> None:
    network = quick_network(model).train()
    nn.functional.cross_entropy(network(images(model, 16)), torch.arange(16) % 10).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize(("model", "level"), LEVELS)
def test_a_module_keeps_the_shape_of_its_level_and_is_trained(model: info_dicts.Choice, level: int) -> None:
    x, part = features(model, level), quick_module(model, level).train()
    out = part(x)
    assert out.shape == x.shape
    out.square().mean().backward()
    gradients = [parameter.grad for parameter in part.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("width", [0.02, 0.4, 1.5])
@pytest.mark.parametrize("model", WITH_PARTS, ids=str)
def test_networks_and_modules_of_one_width_fit(model: info_dicts.Choice, width: float) -> None:
    with torch.device("meta"):
        network = build_network(model, 10, width)
        x = torch.empty(2, 3, model.sizes[0], model.sizes[0])
        for level in range(model.blocks):
            assert build_module(model, level, width)(x).shape == x.shape
            x = network(x, level, level + 1)
    assert x.shape == (2, 10)


@pytest.mark.parametrize(("model", "level"), LEVELS)
def test_memory_format_and_precision_change_little(model: info_dicts.Choice, level: int) -> None:
    network, part = quick_network(model).eval(), quick_module(model, level).eval()
    x = images(model)

    def logits(x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(part(network(x, stop=level)), start=level)

    expected = logits(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(logits(x).float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())
    nn.Sequential(network, part).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(logits(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["EMNISTNet", "SmallNet"])
def test_image_modules_stay_in_the_image_range(model: str) -> None:
    out = build_module(model, 0)(torch.randn(4, 3, 28, 28) * 100)
    assert out.min() >= -1
    assert out.max() <= 1


@pytest.mark.parametrize("level", [None, *range(5)])
def test_small_net_is_small(level: int | None) -> None:
    choice = next(choice for choice in MODELS if choice == "SmallNet")
    part, x = (
        (build_network(choice, 10), images(choice, 1)) if level is None else (build_module(choice, level), features(choice, level)[:1])
    )
    with FlopCounterMode(display=False) as counter:
        part(x)
    assert 0 < counter.get_total_flops() <= 4_000_000


# Parameters, and the shape of the code, at the model's first size.
AUTOENCODERS = {
    "EMNISTNet": (2_058_243, (256, 4, 4)),
    "InceptionV3": (11_893_763, (512, 4, 4)),
    "ResNet18-stem7-w64": (261_315, (64, 24, 24)),
    "SmallNet": (630_544, (64 + 48, 7, 7)),
}


@pytest.mark.parametrize("model", WITH_PARTS, ids=str)
def test_parameters_and_code_of_autoencoders(model: info_dicts.Choice) -> None:
    with torch.device("meta"):
        autoencoder = build_autoencoder(model, model.sizes[0])
        code = autoencoder(torch.empty(2, 3, model.sizes[0], model.sizes[0]), stop=1)
    assert len(autoencoder.blocks) == 2
    assert (count_parameters(autoencoder), tuple(code.shape[1:])) == AUTOENCODERS[model]


@pytest.mark.parametrize("width", [0.02, 0.4, 1.0, 1.5])
@pytest.mark.parametrize("model", WITH_PARTS, ids=str)
def test_autoencoders_give_images_back_in_their_size(model: info_dicts.Choice, width: float) -> None:
    for size in model.sizes:
        with torch.device("meta"):
            x = torch.empty(2, 3, size, size)
            assert build_autoencoder(model, size, width)(x).shape == x.shape


@pytest.mark.parametrize(
    ("model", "bounded"), [("EMNISTNet", True), ("SmallNet", True), ("ResNet18-stem7-w64", False), ("InceptionV3", False)]
)
def test_autoencoders_of_images_in_a_range_stay_in_it(model: str, bounded: bool) -> None:
    choice = next(choice for choice in MODELS if choice == model)
    autoencoder = build_autoencoder(model, choice.sizes[0]).train()
    with torch.no_grad():
        # Larger weights of the last convolution, so that a linear output leaves the range.
        last = [layer for layer in autoencoder.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][-1]
        last.weight *= 100
        largest = autoencoder(images(choice)).abs().max().item()
    assert (0.99 < largest <= 1) if bounded else largest > 2


@pytest.mark.parametrize("model", WITH_PARTS, ids=str)
def test_every_parameter_of_an_autoencoder_is_trained(model: info_dicts.Choice) -> None:
    autoencoder, x = build_autoencoder(model, model.sizes[0]).train(), images(model)
    nn.functional.mse_loss(autoencoder(x), -x).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in autoencoder.parameters())


def test_dropout_of_autoencoders() -> None:
    maps = nn.Dropout2d
    assert rates(build_autoencoder("EMNISTNet", 28)) == [(maps, 0.1), (maps, 0.3), (maps, 0.5), (maps, 0.5), (maps, 0.3)]
    for model in WITH_PARTS:
        if model != "EMNISTNet":
            assert rates(build_autoencoder(model, model.sizes[0], 0.1)) == []


def test_small_nets_autoencoder_is_small_and_sees_the_whole_image_from_every_pixel() -> None:
    autoencoder = build_autoencoder("SmallNet", 28).eval()
    with FlopCounterMode(display=False) as counter:
        autoencoder(torch.zeros(1, 3, 28, 28))
    assert 0 < counter.get_total_flops() <= 4_000_000
    x = torch.randn(16, 3, 28, 28, requires_grad=True)
    for row, column in ((0, 0), (13, 5), (27, 27)):
        (gradient,) = torch.autograd.grad(autoencoder(x)[:, :, row, column].sum(), x)
        assert (gradient.abs().amax((0, 1)) > 0).all()


def test_small_nets_autoencoder_begins_with_its_input() -> None:
    autoencoder = build_autoencoder("SmallNet", 28).eval()
    x = torch.randn(4, 3, 28, 28)
    with torch.no_grad():
        autoencoder.blocks[1][0].weight[:, :64] = 0
        autoencoder.blocks[1][0].bias.zero_()
        assert torch.equal(autoencoder(x), x.tanh())


def test_autoencoders_for_sizes_off_the_menu_are_refused() -> None:
    with pytest.raises(ValueError, match="SmallNet takes images of 28 pixels, not 32"):
        build_autoencoder("SmallNet", 32)
    with pytest.raises(ValueError, match="no model 'LeNet'"):
        build_autoencoder("LeNet", 28)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_the_callers_seed_decides_the_weights(model: info_dicts.Choice) -> None:
    def weights(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            parts = [quick_network(model)]
            if has_parts(model):
                parts += [quick_module(model, level) for level in range(model.blocks)]
                parts += [build_autoencoder(model, model.sizes[0], QUICK.get(model, 1.0))]
        return torch.cat([parameter.detach().flatten() for part in parts for parameter in part.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@settings(max_examples=12, deadline=None)
@given(model=st.sampled_from(["EMNISTNet", "SmallNet"]), parameters=st.integers(1, 20_000_000))
def test_width_for_is_the_smallest_that_is_enough(model: str, parameters: int) -> None:
    steps = width_for(model, 10, parameters) * 64
    assert steps == int(steps) >= 1
    assert count_parameters(build_network(model, 10, steps / 64)) >= parameters
    assert steps == 1 or count_parameters(build_network(model, 10, (steps - 1) / 64)) < parameters


def test_width_for_of_the_network_itself_is_one_and_draws_nothing() -> None:
    state = torch.get_rng_state()
    for model in MODELS:
        with torch.device("meta"):
            parameters = count_parameters(build_network(model, 10))
        assert width_for(model, 10, parameters) <= 1
        assert width_for(model, 10, parameters + 1) > 1
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("channels", "width", "expected"), [(64, 1.0, 64), (64, 1 / 64, 1), (64, 0.001, 1), (100, 0.5, 50), (3, 0.6, 2)])
def test_scaled(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width) == expected


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_levels_outside_the_network_are_refused(model: info_dicts.Choice) -> None:
    for level in (-1, model.blocks):
        with pytest.raises(ValueError, match=f"levels 0..{model.blocks - 1}"):
            build_module(model, level)


def test_models_off_the_menu_and_models_without_a_builder_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="SmallNet, EMNISTNet"):
        build_network("LeNet", 10)
    monkeypatch.setitem(info_dicts.MODELS, 99, info_dicts.Choice("LeNet", blocks=2, sizes=(4,)))
    with pytest.raises(InputError, match=r"LeNet has no network: no file in models/ registers one with @network\('LeNet'\)"):
        build_network("LeNet", 10)
    with pytest.raises(InputError, match=r"LeNet has no autoencoder"):
        build_autoencoder("LeNet", 4)


def test_one_more_model_is_a_menu_line_and_three_builders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_network_builders", dict(networks._network_builders))
    monkeypatch.setattr(networks, "_module_builders", dict(networks._module_builders))
    monkeypatch.setattr(networks, "_autoencoder_builders", dict(networks._autoencoder_builders))
    monkeypatch.setitem(info_dicts.MODELS, 99, info_dicts.Choice("Perceptron", blocks=2, sizes=(4,)))

    @networks.network("Perceptron")
    def perceptron(classes: int, width: float) -> Network:
        units = scaled(5, width)
        return Network([nn.Sequential(nn.Flatten(), nn.Linear(48, units)), nn.Linear(units, classes)])

    @networks.module("Perceptron")
    def perceptron_module(level: int, width: float, max_kernel: int) -> nn.Module:
        return nn.Conv2d(3, 3, min(9, max_kernel), padding="same") if level == 0 else nn.Linear(scaled(5, width), scaled(5, width))

    @networks.autoencoder("Perceptron")
    def perceptron_autoencoder(size: int, width: float) -> Network:
        units = scaled(5, width)
        return Network([nn.Conv2d(3, units, 1), nn.Conv2d(units, 3, 1)])

    assert count_parameters(build_autoencoder("Perceptron", 4, 0.4)) == 3 * 2 + 2 + 2 * 3 + 3
    assert count_parameters(build_network("Perceptron", 3)) == 48 * 5 + 5 + 5 * 3 + 3
    assert count_parameters(build_module("Perceptron", 1, 2.0)) == 110
    assert [count_parameters(build_module("Perceptron", 0, kernels=word)) for word in ("published", "fitted")] == [9 * 81 + 3, 9 * 49 + 3]
    # 48u + u + 3u + 3 >= 500 needs u = 10, which 5 * 122/64 = 9.53 is the first to round to.
    assert width_for("Perceptron", 3, 500) == 122 / 64
    with pytest.raises(ValueError, match="registered twice"):
        networks.network("Perceptron")(perceptron)
