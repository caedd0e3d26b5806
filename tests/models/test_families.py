"""Families of networks of several depths and widths: torchvision's as oracles, what tells the members of a family apart, dropout and batch norm in both modes."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import info_dicts
from data.torchvision_import import import_torchvision
from models.deep_resnets import DESIGNS
from models.networks import VARIANTS, Network, build_network, count_parameters, width_for
from models.vgg import CONFIGURATIONS

# All that have come since the first eleven.
NEW = [choice for number, choice in info_dicts.MODELS.items() if 10 < number < 45]
NARROW = [choice for choice in NEW if "width" in choice.facts]
PLAIN = [("ResNet18", "ResNet18-noskip"), ("ResNet34", "ResNet34-noskip")]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def on_meta(model: str, width: float = 1.0) -> Network:
    with torch.device("meta"):
        return build_network(model, 10, width)


def shapes(part: nn.Module) -> list[torch.Size]:
    return [value.shape for value in part.state_dict().values()]


def vgg_features(model: str) -> nn.Module:
    """The convolutional part of torchvision's VGG with batch norm; its classifier has 120 million parameters more."""
    import_torchvision()
    from torchvision.models import vgg

    return vgg.make_layers(vgg.cfgs[dict(zip(CONFIGURATIONS, "ABDE"))[model]], batch_norm=True)


@pytest.mark.parametrize("model", CONFIGURATIONS)
def test_convolutions_of_vggs_are_torchvisions(model: str) -> None:
    with torch.device("meta"):
        theirs = vgg_features(model)
    network = on_meta(model)
    ours = nn.Sequential(*network.blocks[:-3])
    assert shapes(ours) == shapes(theirs)
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)
    ours_in_order, theirs_in_order = ([repr(layer) for layer in part.modules() if isinstance(layer, kinds)] for part in (ours, theirs))
    assert ours_in_order == theirs_in_order
    # A block per convolution, the mean over the map, the hidden layer, the classifier: the number of weight layers of the paper.
    assert len(network.blocks) == int(model.removeprefix("VGG"))
    norms, linear = 2 * 512 + 2 * 256, 513 * 256 + 257 * 10
    assert count_parameters(network) == count_parameters(theirs) + norms + linear


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (45, 71)])
def test_vgg_is_torchvisions_features_and_a_head(training: bool, shape: tuple[int, int]) -> None:
    ours, theirs = build_network("VGG11", 10), vgg_features("VGG11")
    images = torch.rand(6, 3, *shape) * 3 - 1
    with torch.no_grad():
        # Statistics and scales that are not those of a fresh norm.
        theirs.train()(images)
        ours.train()(images)
        for layer in (layer for layer in ours.modules() if isinstance(layer, nn.BatchNorm1d)):
            layer.weight.uniform_(0.5, 2)
            layer.bias.normal_()
        nn.Sequential(*ours.blocks[:-3]).load_state_dict(
            dict(zip(nn.Sequential(*ours.blocks[:-3]).state_dict(), theirs.state_dict().values(), strict=True))
        )
        expected = theirs.train(training)(images)
        found = ours.train(training)(images, stop=-3)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
        ours.eval()
        x = ours(images, stop=-3).mean((2, 3))
        norms = [layer for layer in ours.modules() if isinstance(layer, nn.BatchNorm1d)]
        hidden, classifier = (layer for layer in ours.modules() if isinstance(layer, nn.Linear))
        x = (normalised(x, norms[0]) @ hidden.weight.T + hidden.bias).clamp(min=0)
        expected = normalised(x, norms[1]) @ classifier.weight.T + classifier.bias
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)


def normalised(x_nu: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """A batch norm of vectors in eval mode, written out."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return (x_nu - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def test_vggs_are_initialised_like_torchvisions() -> None:
    network = build_network("VGG16", 100)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_out = layer.out_channels * 9 if isinstance(layer, nn.Conv2d) else None
            deviation = 0.01 if fan_out is None else math.sqrt(2 / fan_out)
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
            # A uniform draw of that deviation would not reach beyond 1.74 deviations.
            assert layer.weight.abs().max().item() > 2.5 * deviation
            assert not layer.bias.any()
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


@pytest.mark.parametrize("model", ["ResNet34", "ResNet101", "ResNet152"])
def test_deeper_resnets_are_torchvisions(model: str) -> None:
    import_torchvision()
    from torchvision import models

    with torch.device("meta"):
        theirs = getattr(models, model.lower())(num_classes=10)
    ours = on_meta(model)
    assert shapes(ours) == shapes(theirs)
    for kind in (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d):
        ours_in_order, theirs_in_order = ([repr(layer) for layer in part.modules() if isinstance(layer, kind)] for part in (ours, theirs))
        assert ours_in_order == theirs_in_order


@pytest.mark.parametrize("training", [False, True])
def test_a_stem_for_small_images_keeps_the_map(training: bool) -> None:
    import_torchvision()
    from torchvision.models import resnet18

    theirs = resnet18(num_classes=10)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours = build_network("ResNet18-stem3-w64", 10)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.randn(3, 3, 32, 20)
    with torch.no_grad():
        torch.testing.assert_close(ours.train(training)(images), theirs.train(training)(images), rtol=1e-4, atol=1e-4)
        assert ours(images, stop=1).shape == (3, 64, 32, 20)


@pytest.mark.parametrize(("model", "plain"), PLAIN)
def test_networks_without_shortcuts_have_the_others_layers_but_those(model: str, plain: str) -> None:
    with_shortcuts, without = on_meta(model), on_meta(plain)
    projections = [value for name, value in with_shortcuts.named_parameters() if "downsample" in name]
    assert len(projections) == 9
    assert count_parameters(with_shortcuts) - count_parameters(without) == sum(value.numel() for value in projections)
    assert shapes(without) == [value.shape for name, value in with_shortcuts.state_dict().items() if "downsample" not in name]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("model", "plain"), PLAIN)
def test_networks_without_shortcuts_are_chains_of_convolutions(model: str, plain: str, training: bool) -> None:
    with_shortcuts, without = build_network(model, 10, 0.125), build_network(plain, 10, 0.125)
    state = [value for name, value in with_shortcuts.state_dict().items() if "downsample" not in name]
    without.load_state_dict(dict(zip(without.state_dict(), state, strict=True)))
    with_shortcuts.double().train(training)
    without.double().train(training)
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        x = with_shortcuts(images, stop=1)
        for level, block in enumerate(with_shortcuts.blocks[1:-2], 1):
            x = functional.relu(block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x))))))
            torch.testing.assert_close(without(images, stop=level + 1), x)
        found = without(images)
        torch.testing.assert_close(found, with_shortcuts(x, start=-2))
        assert (found - with_shortcuts(images)).abs().max() > 1e-3


def test_a_block_without_shortcut_forgets_its_input() -> None:
    """With zero weights in the second norm nothing is left but that norm's bias, where a shortcut would pass the input on."""
    with_shortcut, without = (build_network(model, 10, 0.125).blocks[1] for model in PLAIN[0])
    x = torch.rand(2, 8, 6, 6)
    for block in (with_shortcut, without):
        nn.init.zeros_([layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)][1].weight)
    assert torch.equal(with_shortcut(x), x)
    assert not without(x).any()


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (64, 32), (33, 39)])
@pytest.mark.parametrize("model", NEW, ids=str)
def test_levels_of_every_family_and_size(model: info_dicts.Choice, shape: tuple[int, int]) -> None:
    width = model.facts.get("width", 1)
    with torch.device("meta"):
        levels = build_network(model, 7).train().levels(torch.empty(2, 3, *shape))
    assert len(levels) == model.blocks
    assert levels[-1].shape == (2, 7)
    maps = [level for level in levels if level.ndim == 4]
    assert len(maps) == model.blocks - (3 if model.startswith("VGG") else 2)
    name = model.partition("_")[0]
    if model.startswith("VGG"):
        # Each pool halves the side and drops a last odd row.
        stages = [(channels * width, stage) for stage, channels in enumerate((64, 128, 256, 512, 512))]
        expected = [
            (channels, *(length >> (stage + (place == number - 1)) for length in shape))
            for (channels, stage), number in zip(stages, CONFIGURATIONS[name], strict=True)
            for place in range(number)
        ]
        assert [tuple(level.shape[1:]) for level in levels[-3:]] == [(512 * width,), (256 * width,), (7,)]
    else:
        # Each stride of 2 keeps a last odd row.
        design = DESIGNS[name]
        stem, expansion = 2 if design.large_stem else 0, 4 if design.block == "Bottleneck" else 1
        sides = [[-(-length // 2 ** (stem + stage)) for length in shape] for stage in range(4)]
        expected = [(64 * width, *sides[0])] + [
            (64 * width * 2**stage * expansion, *sides[stage]) for stage, number in enumerate(design.numbers) for _ in range(number)
        ]
        assert tuple(levels[-2].shape[1:]) == (512 * width * expansion,)
    assert [tuple(level.shape[1:]) for level in maps] == expected


def test_the_menu_has_the_four_narrow_variants_of_each_family() -> None:
    families = [*CONFIGURATIONS, "ResNet18", "ResNet34"]
    assert {str(choice): choice.width for choice in NARROW} == {
        family + variant: 0.5**halvings for family in families for halvings, variant in enumerate(VARIANTS) if halvings
    }


@pytest.mark.parametrize("model", NARROW, ids=str)
def test_narrow_variants_are_their_networks_at_that_width(model: info_dicts.Choice) -> None:
    family = model.partition("_")[0]
    assert shapes(on_meta(model)) == shapes(on_meta(family, model.width))
    # A width that is asked for is one of the variant.
    assert shapes(on_meta(model, 4.0)) == shapes(on_meta(family, 4 * model.width))


def test_narrow_variants_draw_the_weights_of_that_width_and_are_matched_from_there() -> None:
    torch.manual_seed(2)
    variant = build_network("ResNet18_XXS", 10).state_dict()
    torch.manual_seed(2)
    narrow = build_network("ResNet18", 10, 0.125).state_dict()
    assert variant.keys() == narrow.keys()
    assert all(torch.equal(value, narrow[name]) for name, value in variant.items())
    assert width_for("VGG11_S", 10, count_parameters(on_meta("VGG11"))) == 2


def test_dropout_of_vggs_acts_in_training_alone() -> None:
    network = build_network("VGG11_XXS", 10)
    assert [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)] == [0.25, 0.25]
    vectors = torch.rand(400, 64)
    head = network.blocks[-2]
    head.train()
    first, second = head(vectors), head(vectors)
    # The last layer of the block: a quarter of its units are 0, whatever the norm made of them, the others 4/3 of it.
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(first, second)
    head.eval()
    assert torch.equal(head(vectors), head(vectors))
    assert not (head(vectors) == 0).any()


@pytest.mark.parametrize("model", ["VGG11_XXS", "ResNet18-noskip", "ResNet18-stem3-w64"])
def test_statistics_of_batch_norms_move_in_training_alone(model: str) -> None:
    network = build_network(model, 10, 0.25)
    images = torch.rand(4, 3, 32, 32) + 1
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.eval()(images)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.train()(images)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {name for name in before if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")}
    assert moved == statistics
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(statistics) == 3 * len(norms) > 0
