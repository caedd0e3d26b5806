"""ResNet18 and ResNet50 (He et al., arXiv 1512.03385) as torchvision builds them, for images of any size, with the max-pool after the stem."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from data.torchvision_import import import_torchvision
from models.networks import Network, network, scaled

_PLANES = (64, 128, 256, 512)


@network("ResNet18")
def resnet18(classes: int, width: float) -> Network:
    """Eleven blocks: stem, eight basic blocks, the mean over the map, the classifier; 11,181,642 parameters with 10 classes."""
    import_torchvision()
    from torchvision.models.resnet import BasicBlock

    return _resnet(BasicBlock, (2, 2, 2, 2), classes, width)


@network("ResNet50")
def resnet50(classes: int, width: float) -> Network:
    """Nineteen blocks: stem, sixteen bottlenecks, the mean over the map, the classifier; 23,528,522 parameters with 10 classes."""
    import_torchvision()
    from torchvision.models.resnet import Bottleneck

    return _resnet(Bottleneck, (3, 4, 6, 3), classes, width)


def _resnet(block: Any, numbers: Sequence[int], classes: int, width: float) -> Network:
    """Stages of torchvision's blocks. Initialised like torchvision's: convolutions Kaiming normal by fan-out, batch norms 1 and 0, the classifier torch's default."""
    channels = scaled(_PLANES[0], width)
    stem = nn.Sequential(
        nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    blocks: list[nn.Module] = []
    for stage, number in enumerate(numbers):
        planes = scaled(_PLANES[stage], width)
        outputs = planes * block.expansion
        for place in range(number):
            stride = 2 if stage > 0 and place == 0 else 1
            shortcut = None
            if stride != 1 or channels != outputs:
                shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
            blocks.append(block(channels, planes, stride, shortcut))
            channels = outputs
    resnet = Network([stem, *blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(channels, classes)])
    for layer in resnet.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return resnet
