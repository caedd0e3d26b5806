"""SmallNet: a network for 28x28 images that trains in seconds on a laptop's core; it, its autoencoder and each of its modules cost at most 4 MFLOP an image."""

import torch
from torch import Tensor, nn

from models.networks import Network, autoencoder, module, network, scaled

# Channels of levels 1..3: multiples of 16, which the CPU's convolution kernels run two to three times faster than the numbers between.
_CHANNELS = (16, 32, 64)
# Kernel side and hidden channels of the modules of levels 1..3, within 4 MFLOP.
_KERNELS = (3, 5, 5)
_HIDDEN = (16, 16, 32)
_UNITS = 128
# The autoencoder's patches: side and values; its hidden channels; those of the linear layer that sees the whole map.
_PATCH = 4
_PATCH_VALUES = 3 * _PATCH**2
_FEATURES = 64
_MIXED = 16


@network("SmallNet")
def small_net(classes: int, width: float) -> Network:
    """Five blocks for (N, 3, 28, 28) images in [-1, 1]: three stride-2 convolutions, a linear layer, the classifier. Torch's default initialisation.

    Levels 1..4 are (16, 14, 14), (32, 7, 7), (64, 4, 4) and (128,), all after a ReLU; 156,842 parameters with 10 classes.
    """
    c1, c2, c3 = (scaled(channels, width) for channels in _CHANNELS)
    units = scaled(_UNITS, width)
    return Network(
        [
            nn.Sequential(nn.Conv2d(3, c1, 5, stride=2, padding=2), nn.ReLU()),
            nn.Sequential(nn.Conv2d(c1, c2, 3, stride=2, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(c2, c3, 3, stride=2, padding=1), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Linear(16 * c3, units), nn.Dropout(0.2), nn.ReLU()),
            nn.Linear(units, classes),
        ]
    )


@module("SmallNet")
def small_module(level: int, width: float, max_kernel: int) -> nn.Module:
    """An image autoencoder that ends in tanh at level 0, two convolutions at 1 (3x3), 2 and 3 (5x5), two linear layers at 4.

    Parameters at levels 0..4: 11,251, 4,640, 25,648, 102,496, 33,024. Torch's default initialisation.
    At level 3 the two kernels together see the whole map from every place, so rotation and swirl can be undone there.
    Plain, not residual: for rotation, swirl, noise and inversion, zero-initialised residual forms were no better after five epochs.
    """
    if level == 0:
        c1, c2 = (scaled(channels, width) for channels in _CHANNELS[:2])
        return nn.Sequential(
            nn.Conv2d(3, c1, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(c1, c2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(c2, c1, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(c1, 3, 4, stride=2, padding=1),
            nn.Tanh(),
        )
    if level <= len(_CHANNELS):
        channels, hidden = scaled(_CHANNELS[level - 1], width), scaled(_HIDDEN[level - 1], width)
        side = min(_KERNELS[level - 1], max_kernel)
        return nn.Sequential(
            nn.Conv2d(channels, hidden, side, padding="same"), nn.ReLU(), nn.Conv2d(hidden, channels, side, padding="same"), nn.ReLU()
        )
    units = scaled(_UNITS, width)
    return nn.Sequential(nn.Linear(units, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU())


@autoencoder("SmallNet")
def small_autoencoder(size: int, width: float) -> Network:
    """Autoencoder for images in [-1, 1], ends in tanh: 1.3 million multiply-adds an image, 630,544 parameters, sides 28, 7, 28.

    The image is cut into 4x4 patches; a linear layer over the whole map of 16 channels moves what rotation and swirl have moved; the
    decoder makes each patch from its features and its own pixels, with which it begins.
    """
    features, mixed, side = scaled(_FEATURES, width), scaled(_MIXED, width), size // _PATCH
    mix = nn.Sequential(
        _activated(nn.Conv2d(features, mixed, 1)),
        nn.Flatten(),
        nn.Linear(mixed * side**2, mixed * side**2),
        nn.Unflatten(1, (mixed, side, side)),
        nn.BatchNorm2d(mixed),
        nn.ReLU(),
    )
    describe = nn.Sequential(
        _activated(nn.Conv2d(_PATCH_VALUES, features, 1)), _Beside(mix), _activated(nn.Conv2d(features + mixed, features, 1))
    )
    draw = nn.Conv2d(features + _PATCH_VALUES, _PATCH_VALUES, 1)
    with torch.no_grad():
        # Batch norm makes the scale indifferent to the output, but small weights turn faster: 40 % less error after 12 epochs.
        for layer in describe.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight *= 0.2
        nn.init.dirac_(draw.weight[:, features:])
    return Network([nn.Sequential(nn.PixelUnshuffle(_PATCH), _Beside(describe)), nn.Sequential(draw, nn.PixelShuffle(_PATCH), nn.Tanh())])


class _Beside(nn.Module):
    """The output of a part, and the input behind it: (N, C, S, S) to (N, D + C, S, S)."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, x_nchw: Tensor) -> Tensor:
        return torch.cat([self.part(x_nchw), x_nchw], 1)


def _activated(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())
