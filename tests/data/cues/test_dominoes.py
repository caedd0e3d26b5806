"""Dominoes: which half shows what under every mechanism."""

import numpy as np
import pytest
import torch

import info_dicts
from data.cues.scene import make_cues
from data.datasets import grow
from data.mechanisms import read_mechanism
from tests.data.cues.synthetic import coded

CPU = torch.device("cpu")
MENU = info_dicts.MECHANISMS["Dominoes"]


def halves(mechanism, per_class=40):
    """Labels, the classes of upper and lower halves by their codes (-1: black), and whether there is a box, of the test split."""
    cues = make_cues(coded("Dominoes", per_class), "test", CPU)
    scene = cues.scene(read_mechanism("Dominoes", mechanism))
    images = cues.render(scene)
    assert images.shape == (10 * per_class, 3, 64, 32)
    upper, lower = images[:, 0, 5, 5].long() - 1, images[:, 0, 42, 5].long() - 100
    boxed = (images[:, 1] == 255).flatten(1).any(1)
    return scene.labels, upper, torch.where(lower < 0, -1, lower), boxed


@pytest.mark.parametrize("number", range(7))
def test_each_half_and_the_box_tell_the_class_or_nothing(number):
    labels, upper, lower, boxed = halves(number)
    name = MENU[number]
    assert torch.equal(upper, labels) if "FashionMNIST" in name else (upper == -1).all()
    assert torch.equal(boxed, labels != 9) if "Box" in name else not boxed.any()
    assert (lower >= 0).all()
    if "CIFAR10" in name:
        assert torch.equal(lower, labels)
    else:
        # Random contents: a tenth agrees.
        assert 0.04 < (lower == labels).double().mean() < 0.17


def test_random_and_blank_features():
    labels, upper, lower, _ = halves("RandomFashionMNIST")
    assert torch.equal(lower, labels)
    assert 0.04 < (upper == labels).double().mean() < 0.17
    labels, upper, lower, boxed = halves("NoCIFAR10")
    assert torch.equal(upper, labels)
    assert (lower == -1).all()
    assert torch.equal(boxed, labels != 9)


def test_parts_of_the_images_carry_cues():
    labels, upper, _, boxed = halves("CIFAR10_Box30_FashionMNIST60")
    assert float((upper == labels).double().mean()) == 0.6
    assert float(boxed[labels != 9].double().mean()) == 0.3
    both = float(((upper == labels) & boxed)[labels != 9].double().mean())
    assert 0.11 < both < 0.25  # independent: 0.18; nested: 0.3


def test_the_box_stands_on_the_lower_half():
    cues = make_cues(coded("Dominoes"), "test", CPU)
    image = cues.render(cues.scene(read_mechanism("Dominoes", "CIFAR10_Box")))[cues.labels == 4][0]
    rows, columns = np.nonzero((image[1] == 255).numpy())
    assert (set(rows), set(columns)) == ({46, 47, 48}, {14, 15, 16})


def test_upper_halves_change_with_the_epoch_of_training_alone():
    cues = make_cues(coded("Dominoes"), "train", CPU)
    both = read_mechanism("Dominoes", "CIFAR10_FashionMNIST")
    first, later = cues.scene(both, 0, 0), cues.scene(both, 0, 1)
    assert not torch.equal(first.cue_2, later.cue_2)
    assert torch.equal(cues.labels[later.cue_2], later.labels)


def test_growing_is_bilinear_between_the_centres_of_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8)
    expected = torch.nn.functional.interpolate(torch.from_numpy(images).double(), size=32, mode="bilinear", align_corners=False)
    assert np.abs(grow(images, 32) - expected.numpy()).max() <= 0.5 + 1e-9
    assert np.array_equal(grow(np.full((1, 1, 28, 28), 77, np.uint8), 32), np.full((1, 1, 32, 32), 77))
