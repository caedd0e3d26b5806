"""Features of layers as rows for a probe or a file: maps are averaged to d x d first."""

import math

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d


def pool(features: Tensor, side: int | None) -> Tensor:
    """Maps (N, C, H, W) averaged to side x side (None keeps them), as (N, C * h * w); features (N, ..., C) without a map as (N, -1).

    A map that is smaller is not enlarged: values that would be repeated r times stand once, times sqrt(r), which for a penalised linear classifier
    is the same; where sides do not divide, they are enlarged as the pooling does it.
    """
    if features.ndim != 4:
        return features.flatten(1)
    if side is None:
        return features.flatten(1)
    size = [length if side % length == 0 else side for length in features.shape[2:]]
    factor = math.sqrt(side**2 / (size[0] * size[1]))
    pooled = adaptive_avg_pool2d(features, (size[0], size[1]))
    return (pooled if factor == 1 else pooled * factor).flatten(1)


def pooled_size(shape: tuple[int, ...], side: int | None) -> int:
    """How many values `pool` makes of features of shape (C, H, W) or (..., C)."""
    if len(shape) != 3 or side is None:
        return math.prod(shape)
    return shape[0] * math.prod(length if side % length == 0 else side for length in shape[1:])
