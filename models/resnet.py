"""ResNet18-stem7-w64: torchvision's ResNet-18 for 32x32 images, without the max-pool after the stem."""

from torch import nn

from data.torchvision_import import import_torchvision
from models.networks import Network, autoencoder, module, network, scaled

# Channels of levels 1..8, the input maps of blocks 1..8, and of the map that is pooled.
_CHANNELS = (64, 64, 64, 128, 128, 256, 256, 512, 512)


@network("ResNet18-stem7-w64")
def resnet18(classes: int, width: float) -> Network:
    """Ten blocks for standardised (N, 3, 32, 32) images; 11,181,642 parameters with 10 classes (He et al., arXiv 1512.03385).

    Levels 1..9 are (64, 16, 16) three times, (128, 8, 8) twice, (256, 4, 4) twice, (512, 2, 2) and the pooled (512,).
    Initialised like torchvision's ResNet: convolutions Kaiming normal by fan-out, batch norms 1 and 0, the classifier torch's default.
    """
    channels = [scaled(number, width) for number in _CHANNELS]
    stem = nn.Sequential(nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU())
    strides = (1, 1, 2, 1, 2, 1, 2, 1)
    blocks = [_basic_block(inputs, outputs, stride) for inputs, outputs, stride in zip(channels[:-1], channels[1:], strides, strict=True)]
    blocks[-1] = nn.Sequential(blocks[-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = Network([stem, *blocks, nn.Linear(channels[-1], classes)])
    _init_convolutions(backbone)
    return backbone


@module("ResNet18-stem7-w64")
def resnet18_module(level: int, width: float, max_kernel: int) -> nn.Module:
    """The study's modules (arXiv 2306.09005): an image autoencoder at level 0, a residual basic block at 1..8, two linear layers at 9.

    Parameters: 113,091 at level 0; 73,984 at 1..3; 295,424 at 4, 5; 1,180,672 at 6, 7; 4,720,640 at 8; 527,360 at 9.
    Residual blocks are initialised like the network, levels 0 and 9 by torch's default; batch norms are 1 and 0 everywhere.
    `max_kernel` cuts none of them.
    """
    if level == 0:
        return _image_autoencoder(scaled(32, width), scaled(64, width))
    channels = scaled(_CHANNELS[level - 1], width)
    if level < len(_CHANNELS):
        block = _basic_block(channels, channels, stride=1)
        _init_convolutions(block)
        return block
    return nn.Sequential(*(layer for _ in range(2) for layer in (nn.Linear(channels, channels), nn.BatchNorm1d(channels), nn.ReLU())))


@autoencoder("ResNet18-stem7-w64")
def resnet18_autoencoder(size: int, width: float) -> Network:
    """The study's autoencoder (arXiv 2306.09005): sides 34, 18, 20, 22, 24 and back to 32, linear output; 261,315 parameters.

    All kernels are 3x3, padded by 2. Torch's default initialisation.
    """
    narrow, wide = scaled(32, width), scaled(64, width)
    return Network(
        [
            nn.Sequential(
                _activated(nn.Conv2d(3, narrow, 3, padding=2)),
                _activated(nn.Conv2d(narrow, wide, 3, stride=2, padding=2)),
                *(_activated(nn.Conv2d(wide, wide, 3, padding=2)) for _ in range(3)),
            ),
            nn.Sequential(
                *(_activated(nn.ConvTranspose2d(wide, wide, 3, padding=2)) for _ in range(3)),
                _activated(nn.ConvTranspose2d(wide, narrow, 3, stride=2, padding=2, output_padding=1)),
                nn.ConvTranspose2d(narrow, 3, 3, padding=2),
            ),
        ]
    )


def _basic_block(inputs: int, outputs: int, stride: int) -> nn.Module:
    import_torchvision()
    from torchvision.models.resnet import BasicBlock

    # Channels change only where the stride does, so the stride alone says where the shortcut is projected.
    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut)


def _image_autoencoder(narrow: int, wide: int) -> nn.Sequential:
    # 3x3 kernels padded by 2: for 32x32 images the sides are 34, 18, 20, 18, 34, 32.
    return nn.Sequential(
        _activated(nn.Conv2d(3, narrow, 3, padding=2)),
        _activated(nn.Conv2d(narrow, wide, 3, stride=2, padding=2)),
        _activated(nn.Conv2d(wide, wide, 3, padding=2)),
        _activated(nn.ConvTranspose2d(wide, wide, 3, padding=2)),
        _activated(nn.ConvTranspose2d(wide, narrow, 3, stride=2, padding=2, output_padding=1)),
        nn.ConvTranspose2d(narrow, 3, 3, padding=2),
    )


def _activated(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


def _init_convolutions(part: nn.Module) -> None:
    for layer in part.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
