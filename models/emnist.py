"""EMNISTNet: the network of the compositional-robustness study for 28x28 images, after the DTN of domain adaptation, without batch norm."""

from torch import nn

from models.networks import Network, autoencoder, module, network, scaled

# Channels of levels 0..3 after the image, and of the map that is flattened.
_CHANNELS = (64, 128, 256, 256)
_UNITS = 512


@network("EMNISTNet")
def emnist_net(classes: int, width: float) -> Network:
    """Six blocks for (N, 3, 28, 28) images in [-1, 1]; 3,216,815 parameters with 47 classes (arXiv 2306.09005). Torch's default initialisation.

    Levels 1..5 are (64, 14, 14), (128, 7, 7), (256, 4, 4), (256, 2, 2) and (512,), all after a ReLU.
    """
    c1, c2, c3, c4 = (scaled(channels, width) for channels in _CHANNELS)
    units = scaled(_UNITS, width)
    return Network(
        [
            _conv(3, c1, stride=2, drop=0.1),
            _conv(c1, c2, stride=2, drop=0.3),
            _conv(c2, c3, stride=2, drop=0.5),
            _conv(c3, c4, stride=2, drop=0.5),
            nn.Sequential(nn.Flatten(), *_linear(4 * c4, units)),
            nn.Linear(units, classes),
        ]
    )


@module("EMNISTNet")
def emnist_module(level: int, width: float, max_kernel: int) -> nn.Module:
    """The study's modules: an image autoencoder that ends in tanh at level 0, two 5x5 convolutions at 1..4, two linear layers at 5.

    Parameters at levels 0..5: 214,595, 204,928, 819,456, 3,277,312, 3,277,312, 525,312. Torch's default initialisation.
    """
    if level == 0:
        hidden = scaled(64, width)
        return nn.Sequential(
            _conv(3, hidden, stride=2, drop=0.1),
            _conv(hidden, hidden, stride=2, drop=0.3),
            nn.ConvTranspose2d(hidden, hidden, 5, stride=2, padding=2, output_padding=1),
            nn.Dropout2d(0.3),
            nn.ReLU(),
            nn.ConvTranspose2d(hidden, 3, 5, stride=2, padding=2, output_padding=1),
            nn.Tanh(),
        )
    if level <= len(_CHANNELS):
        channels, drop, kernel = scaled(_CHANNELS[level - 1], width), 0.3 if level <= 2 else 0.5, min(5, max_kernel)
        return nn.Sequential(*(_conv(channels, channels, stride=1, drop=drop, kernel=kernel) for _ in range(2)))
    units = scaled(_UNITS, width)
    return nn.Sequential(*_linear(units, units), *_linear(units, units))


@autoencoder("EMNISTNet")
def emnist_autoencoder(size: int, width: float) -> Network:
    """The study's autoencoder (arXiv 2306.09005): sides 28, 14, 7, 4 and back, ends in tanh; 2,058,243 parameters.

    Torch's default initialisation.
    """
    c1, c2, c3 = (scaled(channels, width) for channels in _CHANNELS[:3])
    return Network(
        [
            nn.Sequential(_conv(3, c1, stride=2, drop=0.1), _conv(c1, c2, stride=2, drop=0.3), _conv(c2, c3, stride=2, drop=0.5)),
            nn.Sequential(
                _transposed(c3, c2, output_padding=0, drop=0.5),
                _transposed(c2, c1, output_padding=1, drop=0.3),
                nn.ConvTranspose2d(c1, 3, 5, stride=2, padding=2, output_padding=1),
                nn.Tanh(),
            ),
        ]
    )


def _conv(inputs: int, outputs: int, stride: int, drop: float, kernel: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2), nn.Dropout2d(drop), nn.ReLU())


def _transposed(inputs: int, outputs: int, output_padding: int, drop: float) -> nn.Sequential:
    convolution = nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=output_padding)
    return nn.Sequential(convolution, nn.Dropout2d(drop), nn.ReLU())


def _linear(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Dropout(0.5), nn.ReLU())
