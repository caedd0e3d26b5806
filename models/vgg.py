"""VGG11, VGG13, VGG16 and VGG19 (Simonyan and Zisserman, arXiv 1409.1556) with batch norm, for images of any size from 32 px, and narrow variants of them."""

import functools
from collections.abc import Sequence

from torch import nn

from models.networks import VARIANTS, Network, network, scaled

# Convolutions of the stages, each of which ends in a max-pool; configurations A, B, D and E of the paper.
CONFIGURATIONS = {
    "VGG11": (1, 1, 2, 2, 2),
    "VGG13": (2, 2, 2, 2, 2),
    "VGG16": (2, 2, 3, 3, 3),
    "VGG19": (2, 2, 4, 4, 4),
}
_CHANNELS = (64, 128, 256, 512, 512)
_UNITS = 256
_DROP = 0.25


def vgg(convolutions: Sequence[int], classes: int, width: float) -> Network:
    """One block per convolution, of (N, 3, H, W) images of at least 32 px, then the mean over the map, a hidden layer, the classifier.

    The three linear layers of 4,096 units of the paper are two, of 256 units and of the classes, as in studies of saturation (Richter et al.,
    arXiv 2006.08679). Initialised like torchvision's: convolutions Kaiming normal by fan-out, batch norms 1 and 0, linear layers normal (0.01), biases 0.
    """
    blocks: list[nn.Module] = []
    inputs = 3
    for channels, number in zip(_CHANNELS, convolutions, strict=True):
        outputs = scaled(channels, width)
        for place in range(number):
            layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            blocks.append(nn.Sequential(*layers, *([nn.MaxPool2d(2)] if place == number - 1 else [])))
            inputs = outputs
    units = scaled(_UNITS, width)
    hidden = nn.Sequential(
        *(nn.BatchNorm1d(inputs), nn.Dropout(_DROP), nn.Linear(inputs, units), nn.ReLU()),
        *(nn.BatchNorm1d(units), nn.Dropout(_DROP)),
    )
    built = Network([*blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), hidden, nn.Linear(units, classes)])
    for layer in built.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    return built


for _name, _convolutions in CONFIGURATIONS.items():
    for _variant in VARIANTS:
        network(_name + _variant)(functools.partial(vgg, _convolutions))
