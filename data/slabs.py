"""Slabs (Shah et al., "The Pitfalls of Simplicity Bias", NeurIPS 2020): points of three features, each of which tells the class by itself.

The first is simple: its sign. The others are complex: the class alternates over four and over seven blocks.
"""

import numpy as np
from numpy.typing import NDArray

BLOCKS = (4, 7)


def block_feature(labels: NDArray[np.int64], blocks: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """A feature (N,) in -1..1 in equal blocks: class 1 has the even ones (0, 2, ...), class 0 the odd ones; each uniform."""
    own = [np.arange(1, blocks, 2), np.arange(0, blocks, 2)]
    chosen = np.where(labels == 1, generator.choice(own[1], len(labels)), generator.choice(own[0], len(labels)))
    return -1 + 2 / blocks * (chosen + generator.random(len(labels)))


def slabs(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (N, 3, 1, 1) float32 and labels (N,) of `count` points, half of each class up to chance; the same for one seed.

    Features are the simple one (uniform in 0..1 for class 1, in -1..0 for class 0) and those of four and of seven blocks.
    """
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, count)
    simple = generator.random(count) - (labels == 0)
    features = np.stack([simple, *(block_feature(labels, blocks, generator) for blocks in BLOCKS)], axis=1)
    return features.astype(np.float32)[:, :, None, None], labels.astype(np.int64)
