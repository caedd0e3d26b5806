"""MLPs for vectors of three features, (N, 3, 1, 1): the nets of one-dimensional slabs (Shah et al., NeurIPS 2020)."""

import itertools

from torch import nn

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
