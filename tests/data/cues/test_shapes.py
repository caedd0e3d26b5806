"""3D Shapes under mechanisms: which images are kept, by what the factors of the whole published grid say; rendered images for the rest."""

import numpy as np
import pytest
import torch

import info_dicts
from data import datasets
from data.content import DataSet, Split
from data.cues.scene import make_cues
from data.cues.shapes import matching
from data.mechanisms import read_mechanism
from data.shapes import factors_of, labels_of

CPU = torch.device("cpu")
SIZES = next(choice for choice in info_dicts.DATASETS.values() if choice == "3DShapes").factors


@pytest.fixture(scope="module")
def cues():
    """The whole published grid as one split; its images are never looked at."""
    ids = np.arange(480_000)
    images = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (len(ids), 3, 64, 64), (0, 0, 0, 0))
    split = Split(images, labels_of(ids, SIZES), ids)
    return make_cues(DataSet("3DShapes", split, split, split, ""), "test", CPU)


def factors(cues, scene):
    return torch.from_numpy(factors_of(cues.ids[scene.content].numpy(), SIZES))


def test_the_class_is_shape_and_half_of_the_objects_hues(cues):
    own = factors_of(cues.ids.numpy(), SIZES)
    assert np.array_equal(cues.labels.numpy(), own[:, 4] + 4 * (own[:, 2] / 10 >= 0.5))
    assert np.bincount(cues.labels).tolist() == [60_000] * 8


@pytest.mark.parametrize(
    ("mechanism", "images"),
    [("Shape_Color", 480_000), ("Shape_Color_Floor", 48_000), ("Shape_Color_Scale", 60_000), ("Shape_Color_Floor_Scale", 6_000)],
)
def test_sizes_of_the_published_grid_under_full_cues(cues, mechanism, images):
    scene = cues.scene(read_mechanism("3DShapes", mechanism))
    assert len(scene) == images
    own = factors(cues, scene)
    assert torch.equal(scene.labels, cues.labels[scene.content])
    assert ("Floor" in mechanism) == torch.equal(own[:, 0], scene.labels)
    assert ("Scale" in mechanism) == torch.equal(own[:, 3], scene.labels)


@pytest.mark.parametrize(("mechanism", "column"), [("Floor", 0), ("Scale", 3)])
def test_random_contents_leave_the_cue_alone_to_tell_the_class(cues, mechanism, column):
    scene = cues.scene(read_mechanism("3DShapes", mechanism))
    own = factors(cues, scene)
    assert torch.equal(own[:, column], scene.labels)
    agree = (cues.labels[scene.content] == scene.labels).double().mean()
    assert abs(agree - 1 / 8) < 0.01
    other = (own[:, 3 - column] == scene.labels).double().mean()
    assert abs(other - (1 / 8 if column == 0 else 1 / 10)) < 0.01


@pytest.mark.parametrize("fraction", [0.15, 0.5, 0.9])
def test_a_fraction_is_the_share_of_images_that_match(cues, fraction):
    scene = cues.scene(read_mechanism("3DShapes", [1, fraction, 0, 0, 0, 0]))
    match = (factors(cues, scene)[:, 0] == scene.labels).double()
    assert int(match.sum()) == 48_000
    assert abs(float(match.mean()) - fraction) < 1e-4


def test_both_fractions_hold_together(cues):
    scene = cues.scene(read_mechanism("3DShapes", [1, 0.5, 0.4, 0, 0, 0]))
    own = factors(cues, scene)
    floor, scale = ((own[:, column] == scene.labels).double() for column in (0, 3))
    assert abs(floor.mean() - 0.5) < 0.02
    assert abs(scale.mean() - 0.4) < 0.02
    assert abs((floor * scale).mean() - 0.2) < 0.02


@pytest.mark.parametrize(("cue", "chance"), [(1, "0.1"), (2, "0.125")])
def test_a_cue_that_is_rarer_than_by_chance_cannot_be_had(cue, chance):
    numbers = [1, 0, 0, 0, 0, 0]
    numbers[cue] = 0.05
    with pytest.raises(
        ValueError, match=f"0.05 of 3DShapes cannot carry the cue .*: {chance} match by chance; allowed: 0, or {chance} to 1"
    ):
        read_mechanism("3DShapes", numbers)


def test_matching_keeps_all_that_match_and_as_many_others_as_the_fraction_takes():
    match = torch.tensor([True, False, False, False, True, False])
    assert matching(match, 0.5, torch.tensor([5, 3, 1, 0, 2, 4])).tolist() == [True, False, False, True, True, True]
    assert matching(match, 1.0, torch.arange(6)).equal(match)


def test_rendered_images_are_those_of_the_scene():
    dataset = datasets.load("3DShapes-small")
    cues = make_cues(dataset, "test", CPU)
    scene = cues.scene(read_mechanism("3DShapes-small", "Shape_Color_Floor"))
    assert 0 < len(scene) < len(dataset.test)
    assert torch.equal(cues.render(scene), torch.from_numpy(np.array(dataset.test.images))[scene.content])
