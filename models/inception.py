"""InceptionV3: torchvision's Inception-v3 in blocks, for faces of 100 or 112 pixels, without the auxiliary head and the final dropout."""

import functools
import itertools
import math
from typing import Any

from torch import nn

from data.torchvision_import import import_torchvision
from models.networks import Network, autoencoder, module, network, scaled

# Channels of levels 1..16.
_CHANNELS = (32, 32, 64, 80, 192, 256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048)
# The mixed blocks: torchvision's class and its arguments, all of them channels.
_MIXED: dict[str, tuple[str, tuple[int, ...]]] = {
    "5b": ("InceptionA", (192, 32)),
    "5c": ("InceptionA", (256, 64)),
    "5d": ("InceptionA", (288, 64)),
    "6a": ("InceptionB", (288,)),
    "6b": ("InceptionC", (768, 128)),
    "6c": ("InceptionC", (768, 160)),
    "6d": ("InceptionC", (768, 160)),
    "6e": ("InceptionC", (768, 192)),
    "7a": ("InceptionD", (768,)),
    "7b": ("InceptionE", (1280,)),
    "7c": ("InceptionE", (2048,)),
}
# The levels whose module is a mixed block.
_MIXED_MODULES = {7: "5d", 8: "5d", 9: "6b", 10: "6c", 11: "6d", 12: "6e", 13: "6e", 15: "7c"}


@network("InceptionV3")
def inception_v3(classes: int, width: float) -> Network:
    """17 blocks for standardised images (N, 3, S, S), S = 100 or 112 (arXiv 1512.00567); 22,580,580 parameters with 388 classes.

    Levels 1..16 at S = 100: (32, 49, 49), (32, 47, 47), (64, 47, 47), (80, 23, 23), (192, 21, 21), (256, 10, 10), (288, 10, 10) twice,
    (768, 4, 4) five times, (1280, 1, 1), (2048, 1, 1) and the pooled (2048,). The width is rounded up to a multiple of 1/16, so that
    concatenated branches add up. Initialised like torchvision's Inception3: weights truncated normal (0.1, within 2), batch norms 1 and 0.
    """
    width = _sixteenths(width)
    conv, mixed = functools.partial(_conv, width), functools.partial(_mixed, width)
    backbone = Network(
        [
            conv(3, 32, kernel_size=3, stride=2),
            conv(32, 32, kernel_size=3),
            conv(32, 64, kernel_size=3, padding=1),
            nn.Sequential(nn.MaxPool2d(3, stride=2), conv(64, 80, kernel_size=1)),
            conv(80, 192, kernel_size=3),
            nn.Sequential(nn.MaxPool2d(3, stride=2), mixed("5b")),
            *(mixed(name) for name in ("5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b")),
            nn.Sequential(mixed("7c"), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(scaled(_CHANNELS[-1], width), classes),
        ]
    )
    _init_like_torchvision(backbone)
    return backbone


@module("InceptionV3")
def inception_module(level: int, width: float, max_kernel: int) -> nn.Module:
    """The study's modules (arXiv 2306.09005): an image autoencoder at level 0, three 5x5 convolutions at 1..6 and 14,
    a mixed block at 7..13 and 15, three linear layers at 16, all with batch norm.

    Parameters: 312,771 at level 0; 77,088 at 1, 2; 307,776, 480,720, 2,766,528, 4,917,504 at 3..6; 122,891,520 at 14; 12,601,344 at 16.
    Mixed blocks are initialised like the network, the others by torch's default.
    """
    width = _sixteenths(width)
    if level == 0:
        return _image_autoencoder(scaled(32, width), scaled(64, width))
    if level in _MIXED_MODULES:
        block = _mixed(width, _MIXED_MODULES[level])
        _init_like_torchvision(block)
        return block
    channels = scaled(_CHANNELS[level - 1], width)
    if level < len(_CHANNELS):
        kernel = min(5, max_kernel)
        return nn.Sequential(*(_activated(nn.Conv2d(channels, channels, kernel, padding="same")) for _ in range(3)))
    return nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(channels, channels), nn.BatchNorm1d(channels), nn.ReLU())))


@autoencoder("InceptionV3")
def inception_autoencoder(size: int, width: float) -> Network:
    """The study's autoencoder (arXiv 2306.09005): five stride-2 convolutions and back, linear output; 11,893,763 parameters.

    The map of images of 100 pixels has side 4, then 7, 13, 25, 50, 100 on the way back. Torch's default initialisation.
    """
    channels = [3, *(scaled(number, _sixteenths(width)) for number in (64, 128, 256, 256, 512))]
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    side = size
    for inputs, outputs in itertools.pairwise(channels):
        encoder.append(_activated(nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)))
        # An odd side is 2n - 1 for its half n, an even one 2n.
        back = nn.ConvTranspose2d(outputs, inputs, 5, stride=2, padding=2, output_padding=1 - side % 2)
        decoder.insert(0, _activated(back) if inputs != 3 else back)
        side = (side + 1) // 2
    return Network([nn.Sequential(*encoder), nn.Sequential(*decoder)])


def _sixteenths(width: float) -> float:
    """The width rounded up to a multiple of 1/16: all channel numbers of the network are multiples of 16."""
    return math.ceil(16 * width) / 16


def _conv(width: float, inputs: int, outputs: int, **options: Any) -> nn.Module:
    """torchvision's convolution, batch norm and ReLU, from published channels; the image's three are never scaled."""
    import_torchvision()
    from torchvision.models.inception import BasicConv2d

    return BasicConv2d(3 if inputs == 3 else scaled(inputs, width), scaled(outputs, width), **options)


def _mixed(width: float, name: str) -> nn.Module:
    import_torchvision()
    from torchvision.models import inception

    kind, channels = _MIXED[name]
    return getattr(inception, kind)(*channels, conv_block=functools.partial(_conv, width))


def _activated(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


def _image_autoencoder(narrow: int, wide: int) -> nn.Sequential:
    return nn.Sequential(
        _activated(nn.Conv2d(3, narrow, 5, padding=2)),
        _activated(nn.Conv2d(narrow, wide, 5, stride=2, padding=2)),
        _activated(nn.Conv2d(wide, wide, 5, stride=2, padding=2)),
        _activated(nn.ConvTranspose2d(wide, wide, 5, stride=2, padding=2, output_padding=1)),
        _activated(nn.ConvTranspose2d(wide, narrow, 5, stride=2, padding=2, output_padding=1)),
        nn.ConvTranspose2d(narrow, 3, 5, padding=2),
    )


def _init_like_torchvision(part: nn.Module) -> None:
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.1, a=-2, b=2)
