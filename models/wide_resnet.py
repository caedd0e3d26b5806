"""ResNet20_Wide: wide residual networks (Zagoruyko and Komodakis, arXiv 1605.07146) of any width and depth 6n + 2, for images of any size."""

from torch import Tensor, nn

from models.networks import Network, network, scaled

_CHANNELS = (16, 32, 64)


class PreActivation(nn.Module):
    """A residual block that normalises and activates before each of its two convolutions; a strided one has a 1x1 convolution as its shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            *(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)),
            *(nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)),
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x_nchw: Tensor) -> Tensor:
        return self.residual(x_nchw) + self.shortcut(x_nchw)


@network("ResNet20_Wide")
def wide_resnet(classes: int, width: float, depth: int) -> Network:
    """Six blocks: stem, three stages of (depth - 2) / 6 pre-activation blocks, the mean over the map, the classifier.

    At depth 20 and width 1 272,186 parameters with 10 classes. Nothing normalises the last stage's map, as in the study of distillation that it comes
    from (Wu et al., PMLR 243:60-75). Convolutions are Kaiming normal by fan-out, without biases. ValueError for a depth that is not 6n + 2.
    """
    blocks, rest = divmod(depth - 2, 6)
    if blocks < 1 or rest:
        raise ValueError(f"ResNet20_Wide has depths 8, 14, 20, ... (6 n + 2), not {depth}")
    channels = [scaled(number, width) for number in _CHANNELS]
    stem = nn.Sequential(nn.Conv2d(3, channels[0], 3, padding=1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU())
    stages = [_stage(inputs, outputs, stride, blocks) for inputs, outputs, stride in zip((channels[0], *channels), channels, (1, 2, 2))]
    resnet = Network([stem, *stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(channels[-1], classes)])
    for layer in resnet.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return resnet


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(PreActivation(inputs, outputs, stride), *(PreActivation(outputs, outputs, 1) for _ in range(blocks - 1)))
