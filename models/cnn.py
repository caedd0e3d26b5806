"""Small convolutional networks of studies of clusterability: three layers of 64 channels (Filan et al., arXiv 2103.03386), two of 32 (arXiv 2003.04881)."""

import functools

from torch import nn

from models.mlp import glorot
from models.networks import Network, network, scaled

_UNITS = 128
_DROP, _DROP_UNITS = 0.25, 0.5


def cnn(channels: int, layers: int, pooled: tuple[int, ...], dropout: bool, classes: int, width: float) -> Network:
    """3x3 convolutions that keep the size of images (N, 3, H, W), those numbered in `pooled` with a max-pool behind them; a linear layer of 128 units; the classifier.

    ReLU behind each; with `dropout` 0.25 of the channels' places behind convolutions and 0.5 of the units. Glorot-uniform. The linear layer is made for 28 px.
    """
    wide, units, side = scaled(channels, width), scaled(_UNITS, width), 28
    blocks: list[nn.Module] = []
    for number in range(layers):
        parts: list[nn.Module] = [nn.Conv2d(3 if number == 0 else wide, wide, 3, padding=1), nn.ReLU()]
        if number in pooled:
            parts.append(nn.MaxPool2d(2))
            side //= 2
        blocks.append(nn.Sequential(*parts, *([nn.Dropout(_DROP)] if dropout else [])))
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(wide * side**2, units), nn.ReLU(), *([nn.Dropout(_DROP_UNITS)] if dropout else []))
    return glorot(Network([*blocks, hidden, nn.Linear(units, classes)]))


network("CNN-64x3")(functools.partial(cnn, 64, 3, (1, 2), False))
network("CNN-64x3-dropout")(functools.partial(cnn, 64, 3, (1, 2), True))
network("CNN-32x2")(functools.partial(cnn, 32, 2, (1,), False))
network("CNN-32x2-dropout")(functools.partial(cnn, 32, 2, (1,), True))
