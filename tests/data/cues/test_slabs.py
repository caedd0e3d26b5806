"""Slabs under mechanisms: a feature tells the class, or as much as a coin does."""

import numpy as np
import pytest
import torch

from data import datasets
from data.batches import ToNetwork
from data.cues.scene import make_cues
from data.mechanisms import read_mechanism
from data.slabs import slabs

CPU = torch.device("cpu")


def told(features, labels):
    """For every feature the share of points whose class it tells."""
    simple = features[:, 0] > 0
    guesses = [simple, *(np.floor((features[:, column] + 1) / 2 * blocks).astype(int) % 2 == 0 for column, blocks in ((1, 4), (2, 7)))]
    return [float((guess == (labels == 1)).mean()) for guess in guesses]


def test_each_feature_tells_the_class_by_itself():
    features, labels = slabs(5000, 3)
    features = features[:, :, 0, 0]
    assert (features.dtype, features.shape) == (np.float32, (5000, 3))
    assert told(features, labels) == [1, 1, 1]
    assert abs(labels.mean() - 0.5) < 0.03
    assert np.abs(features).max() <= 1
    for column, blocks in ((1, 4), (2, 7)):
        used = np.floor((features[:, column] + 1) / 2 * blocks).astype(int)
        counts = np.bincount(used, minlength=blocks)
        # Of class 1 there are the even blocks, of class 0 the odd ones; all of a class alike.
        per_class = [2500 / ((blocks + 1) // 2) if block % 2 == 0 else 2500 / (blocks // 2) for block in range(blocks)]
        assert np.abs(counts / per_class - 1).max() < 0.15


@pytest.mark.parametrize(
    ("mechanism", "expected"),
    [
        ("Simple", [1, 0.5, 0.5]), ("Blocks4_Blocks7", [0.5, 1, 1]), ("Simple_Blocks4_Blocks7", [1, 1, 1]), ("Simple_HalfBlocks", [1, 0.75, 0.75]),
        ([0.9, 0.5, 0.5, 0, 0, 0], [0.95, 0.75, 0.75]), ([1, 1, 1, 1, 0, 0], [0.5, 1, 1]),
    ],
)  # fmt: skip
def test_a_feature_without_its_information_is_a_coin(mechanism, expected):
    cues = make_cues(datasets.load("Slabs"), "train", CPU)
    scene = cues.scene(read_mechanism("Slabs", mechanism), 1)
    features = cues.render(scene)
    assert features.shape == (3000, 3, 1, 1)
    assert told(features[:, :, 0, 0].numpy(), scene.labels.numpy()) == pytest.approx(expected, abs=0.03)
    torch.testing.assert_close(ToNetwork("Slabs", CPU)(features), features, rtol=1e-6, atol=1e-6)
