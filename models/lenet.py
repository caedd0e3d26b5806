"""LeNet5 (LeCun et al. 1998) for colour images of any size, with batch norm, tanh and average pooling, as distillation studies use it."""

from torch import Tensor, nn
from torch.nn.functional import pad

from models.networks import Network, network, scaled

# The least side of an image: smaller ones are padded.
SIDE = 32


class AtLeast(nn.Module):
    """Images (N, C, H, W) with zeros around them, evenly, where a side is shorter than `side`."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, images_nchw: Tensor) -> Tensor:
        down, across = (max(0, self.side - length) for length in images_nchw.shape[2:])
        return pad(images_nchw, (across // 2, across - across // 2, down // 2, down - down // 2)) if down or across else images_nchw


@network("LeNet5")
def lenet5(classes: int, width: float) -> Network:
    """Six blocks: three 5x5 convolutions, the mean over what is left of the map, two linear layers; 549,730 parameters with 10 classes.

    Of 32x32 images (28x28 are padded to that) levels 1..5 are (18, 14, 14), (48, 5, 5), (360, 1, 1), (360,) and (252,). Torch's default initialisation.
    """
    c1, c2, c3, units = (scaled(channels, width) for channels in (18, 48, 360, 252))
    return Network(
        [
            nn.Sequential(AtLeast(SIDE), nn.Conv2d(3, c1, 5), nn.BatchNorm2d(c1), nn.Tanh(), nn.AvgPool2d(2)),
            nn.Sequential(nn.Conv2d(c1, c2, 5), nn.BatchNorm2d(c2), nn.Tanh(), nn.AvgPool2d(2)),
            nn.Sequential(nn.Conv2d(c2, c3, 5), nn.BatchNorm2d(c3), nn.Tanh()),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Sequential(nn.Linear(c3, units), nn.Tanh()),
            nn.Linear(units, classes),
        ]
    )
