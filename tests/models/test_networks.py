"""Architectures: the published tables and SmallNet's own, properties that every entry of the menu has, and torchvision's ResNet-18 as the oracle of ours."""

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
from models import networks
from models.networks import Network, build_module, build_network, count_parameters, scaled, width_for

MODELS = list(info_dicts.MODELS.values())
LEVELS = [pytest.param(model, level, id=f"{model}-{level}") for model in MODELS for level in range(model.blocks)]

# Level 1 to the last, and the logits.
SHAPES = {
    "EMNISTNet": [(64, 14, 14), (128, 7, 7), (256, 4, 4), (256, 2, 2), (512,), (47,)],
    "ResNet18-stem7-w64": [*[(64, 16, 16)] * 3, *[(128, 8, 8)] * 2, *[(256, 4, 4)] * 2, (512, 2, 2), (512,), (10,)],
    "SmallNet": [(16, 14, 14), (32, 7, 7), (64, 4, 4), (128,), (10,)],
}
PARAMETERS = {"EMNISTNet": 3_216_815, "ResNet18-stem7-w64": 11_181_642, "SmallNet": 156_842}
MODULE_PARAMETERS = {
    "EMNISTNet": [214_595, 204_928, 819_456, 3_277_312, 3_277_312, 525_312],
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


def features(model: info_dicts.Choice, level: int, width: float = 1.0) -> Tensor:
    """The tensor of a level, from a fresh network."""
    with torch.no_grad():
        return build_network(model, 10, width).eval()(images(model), stop=level)


@pytest.mark.parametrize("model", SHAPES)
def test_shapes_of_all_levels(model: str) -> None:
    choice = next(choice for choice in MODELS if choice == model)
    network = build_network(model, SHAPES[model][-1][0])
    x = images(choice)
    for level, shape in enumerate(SHAPES[model]):
        x = network(x, level, level + 1)
        assert tuple(x.shape[1:]) == shape


@pytest.mark.parametrize("model", PARAMETERS)
def test_parameters_are_those_of_the_tables(model: str) -> None:
    assert count_parameters(build_network(model, SHAPES[model][-1][0])) == PARAMETERS[model]
    assert [count_parameters(build_module(model, level)) for level in range(len(MODULE_PARAMETERS[model]))] == MODULE_PARAMETERS[model]


def test_dropout_of_emnist_net() -> None:
    def rates(part: nn.Module) -> list[tuple[type, float]]:
        return [(type(layer), layer.p) for layer in part.modules() if isinstance(layer, nn.Dropout | nn.Dropout2d)]

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


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_blocks_and_sizes_are_those_of_the_menu(model: info_dicts.Choice) -> None:
    network = build_network(model, 7).eval()
    assert len(network.blocks) == model.blocks
    assert isinstance(network.blocks[-1], nn.Linear)
    for size in model.sizes:
        assert network(torch.zeros(2, 3, size, size)).shape == (2, 7)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_running_to_a_level_and_on_from_it_is_running_through(model: info_dicts.Choice) -> None:
    network, x = build_network(model, 10).eval(), images(model)
    whole = network(x)
    for level in range(model.blocks + 1):
        assert torch.equal(network(network(x, stop=level), start=level), whole)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_every_parameter_of_a_network_is_trained(model: info_dicts.Choice) -> None:
    network = build_network(model, 10).train()
    nn.functional.cross_entropy(network(images(model, 16)), torch.arange(16) % 10).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize(("model", "level"), LEVELS)
def test_a_module_keeps_the_shape_of_its_level_and_is_trained(model: info_dicts.Choice, level: int) -> None:
    x, part = features(model, level), build_module(model, level).train()
    out = part(x)
    assert out.shape == x.shape
    out.square().mean().backward()
    gradients = [parameter.grad for parameter in part.parameters()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("width", [0.02, 0.4, 1.5])
@pytest.mark.parametrize("model", MODELS, ids=str)
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
    network, part = build_network(model, 10).eval(), build_module(model, level).eval()
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


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_the_callers_seed_decides_the_weights(model: info_dicts.Choice) -> None:
    def weights(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            parts = [build_network(model, 10), *(build_module(model, level) for level in range(model.blocks))]
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
        parameters = count_parameters(build_network(model, 10).to("meta"))
        torch.set_rng_state(state)
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
    with pytest.raises(ValueError, match="registers a builder for 'LeNet'"):
        build_network("LeNet", 10)


def test_one_more_model_is_a_menu_line_and_two_builders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_network_builders", dict(networks._network_builders))
    monkeypatch.setattr(networks, "_module_builders", dict(networks._module_builders))
    monkeypatch.setitem(info_dicts.MODELS, 99, info_dicts.Choice("Perceptron", blocks=2, sizes=(4,)))

    @networks.network("Perceptron")
    def perceptron(classes: int, width: float) -> Network:
        units = scaled(5, width)
        return Network([nn.Sequential(nn.Flatten(), nn.Linear(48, units)), nn.Linear(units, classes)])

    @networks.module("Perceptron")
    def perceptron_module(level: int, width: float) -> nn.Module:
        return nn.Conv2d(3, 3, 1) if level == 0 else nn.Linear(scaled(5, width), scaled(5, width))

    assert count_parameters(build_network("Perceptron", 3)) == 48 * 5 + 5 + 5 * 3 + 3
    assert count_parameters(build_module("Perceptron", 1, 2.0)) == 110
    # 48u + u + 3u + 3 >= 500 needs u = 10, which 5 * 122/64 = 9.53 is the first to round to.
    assert width_for("Perceptron", 3, 500) == 122 / 64
    with pytest.raises(ValueError, match="registered twice"):
        networks.network("Perceptron")(perceptron)
