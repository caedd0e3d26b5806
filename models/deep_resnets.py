"""ResNets of 18 to 152 layers (He et al., arXiv 1512.03385) as torchvision builds them, for images of any size; narrow variants, other stems, none without shortcuts."""

import functools
from typing import Any, NamedTuple

from torch import nn

from data.torchvision_import import import_torchvision
from models.networks import VARIANTS, Network, network, scaled

_PLANES = (64, 128, 256, 512)


class Design(NamedTuple):
    """What tells one ResNet from another: torchvision's block, or "Plain"; how many a stage has; whether the stem is for large images; whether it has narrow variants."""

    block: str
    numbers: tuple[int, int, int, int]
    large_stem: bool = True
    variants: tuple[str, ...] = ("",)


DESIGNS = {
    "ResNet18": Design("BasicBlock", (2, 2, 2, 2), variants=VARIANTS),
    "ResNet34": Design("BasicBlock", (3, 4, 6, 3), variants=VARIANTS),
    "ResNet50": Design("Bottleneck", (3, 4, 6, 3)),
    "ResNet101": Design("Bottleneck", (3, 4, 23, 3)),
    "ResNet152": Design("Bottleneck", (3, 8, 36, 3)),
    "ResNet18-noskip": Design("Plain", (2, 2, 2, 2)),
    "ResNet34-noskip": Design("Plain", (3, 4, 6, 3)),
    "ResNet18-stem3-w64": Design("BasicBlock", (2, 2, 2, 2), large_stem=False),
}


class Plain(nn.Sequential):
    """Two 3x3 convolutions with batch norm and ReLU: torchvision's BasicBlock, called like it, without its shortcut."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, shortcut: None = None) -> None:
        super().__init__(
            *(nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(planes), nn.ReLU()),
            *(nn.Conv2d(planes, planes, 3, padding=1, bias=False), nn.BatchNorm2d(planes), nn.ReLU()),
        )


def resnet(design: Design, classes: int, width: float) -> Network:
    """Stem, one block per residual block, the mean over the map, the classifier.

    ResNet18 has eleven blocks and 11,181,642 parameters with 10 classes, ResNet50 nineteen and 23,528,522. The stem for large images is a
    7x7 convolution of stride 2 and a max-pool, the other a 3x3 convolution of stride 1, as the paper has for images of 32 px. Initialised like
    torchvision's: convolutions Kaiming normal by fan-out, batch norms 1 and 0, the classifier torch's default.
    """
    block = _block(design.block)
    channels = scaled(_PLANES[0], width)
    kernel, stride = (7, 2) if design.large_stem else (3, 1)
    stem = nn.Sequential(
        nn.Conv2d(3, channels, kernel, stride=stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )
    if design.large_stem:
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    blocks: list[nn.Module] = []
    for stage, number in enumerate(design.numbers):
        planes = scaled(_PLANES[stage], width)
        outputs = planes * block.expansion
        for place in range(number):
            stride = 2 if stage > 0 and place == 0 else 1
            shortcut = None
            if block is not Plain and (stride != 1 or channels != outputs):
                shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
            blocks.append(block(channels, planes, stride, shortcut))
            channels = outputs
    built = Network([stem, *blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(channels, classes)])
    for layer in built.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return built


def _block(name: str) -> Any:
    if name == Plain.__name__:
        return Plain
    import_torchvision()
    from torchvision.models import resnet as torchvision_resnet

    return getattr(torchvision_resnet, name)


for _name, _design in DESIGNS.items():
    for _variant in _design.variants:
        network(_name + _variant)(functools.partial(resnet, _design))
