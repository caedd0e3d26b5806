"""SmallNet: a network for 28x28 images that trains in seconds on a laptop's core; it and each of its modules cost at most 4 MFLOP an image."""

from torch import nn

from models.networks import Network, module, network, scaled

# Channels of levels 1..3: multiples of 16, which the CPU's convolution kernels run two to three times faster than the numbers between.
_CHANNELS = (16, 32, 64)
# Kernel side and hidden channels of the modules of levels 1..3, within 4 MFLOP.
_KERNELS = (3, 5, 5)
_HIDDEN = (16, 16, 32)
_UNITS = 128


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
