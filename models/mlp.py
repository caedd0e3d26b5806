"""MLPs: for vectors of three features (N, 3, 1, 1), the nets of one-dimensional slabs (Shah et al., NeurIPS 2020); and for small images, the nets of
studies of clusterability (Filan et al., arXiv 2003.04881)."""

import functools
import itertools

from torch import Tensor, nn

from models.networks import Network, network, scaled

_FEATURES = 3


@network("MLP-100-200-100")
def mlp_100_200_100(classes: int, width: float) -> Network:
    """Four blocks, three of them hidden; 40,902 parameters with 2 classes."""
    return _mlp((100, 200, 100), classes, width)


@network("MLP-10")
def mlp_10(classes: int, width: float) -> Network:
    """Two blocks; 62 parameters with 2 classes."""
    return _mlp((10,), classes, width)


@network("MLP-50")
def mlp_50(classes: int, width: float) -> Network:
    """Two blocks; 302 parameters with 2 classes."""
    return _mlp((50,), classes, width)


def _mlp(hidden: tuple[int, ...], classes: int, width: float) -> Network:
    """Linear layers with ReLU, torch's default initialisation; the first block flattens."""
    units = [_FEATURES, *(scaled(number, width) for number in hidden)]
    layers = [nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU()) for inputs, outputs in itertools.pairwise(units)]
    return Network([nn.Sequential(nn.Flatten(), *layers[0]), *layers[1:], nn.Linear(units[-1], classes)])


class Grey(nn.Module):
    """The mean over channels: (N, C, H, W) to (N, 1, H, W)."""

    def forward(self, x_nchw: Tensor) -> Tensor:
        # Channels that are one and the same need no mean.
        return x_nchw[:, :1] if x_nchw.stride(1) == 0 and x_nchw.shape[1] > 1 else x_nchw.mean(1, keepdim=True)


def glorot(network: Network) -> Network:
    """Initialises the weights of convolutions and linear layers Glorot-uniform and their biases 0, as Keras does."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def image_mlp(inputs: int, hidden: tuple[int, ...], drop: float, grey: bool, classes: int, width: float) -> Network:
    """A block per linear layer, each with ReLU and, with `drop` > 0, dropout; of the mean over channels (`grey`) or of all. Glorot-uniform."""
    units = [inputs, *(scaled(number, width) for number in hidden)]
    blocks = [
        nn.Sequential(nn.Linear(before, after), nn.ReLU(), *([nn.Dropout(drop)] if drop else []))
        for before, after in itertools.pairwise(units)
    ]
    first = nn.Sequential(*([Grey()] if grey else []), nn.Flatten(), *blocks[0])
    return glorot(Network([first, *blocks[1:], nn.Linear(units[-1], classes)]))


class FirstTwo(nn.Module):
    """The first two channels: (N, C, H, W) to (N, 2, H, W)."""

    def forward(self, x_nchw: Tensor) -> Tensor:
        return x_nchw[:, :2]


def points_mlp(classes: int, width: float) -> Network:
    """2-256-256-256-256-outputs, for points of two features (N, 3, 1, 1). Glorot-uniform; 328,192 weights with 512 outputs."""
    first, *others = image_mlp(2, (256,) * 4, 0.0, False, classes, width).blocks
    return Network([nn.Sequential(FirstTwo(), first), *others])


# 784-256-256-256-256-10: 399,872 weights with 10 classes.
network("MLP-256x4")(functools.partial(image_mlp, 28 * 28, (256,) * 4, 0.0, True))
network("MLP-256x4-dropout")(functools.partial(image_mlp, 28 * 28, (256,) * 4, 0.5, True))
network("MLP-256x4-dropout0.2")(functools.partial(image_mlp, 28 * 28, (256,) * 4, 0.2, True))
# Of colour images: 3,072 inputs.
network("MLP-256x4-colour")(functools.partial(image_mlp, 3 * 32 * 32, (256,) * 4, 0.0, False))
network("MLP-256x4-points")(points_mlp)
# 49-64-64-64-10, for images of 7 px.
network("MLP-64x3")(functools.partial(image_mlp, 7 * 7, (64,) * 3, 0.0, True))
