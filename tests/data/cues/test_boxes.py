"""Boxes: their places and colours by class, what carries them, and what random ones tell."""

import colorsys

import numpy as np
import pytest
import torch

import info_dicts
from data.cues.scene import ABSENT, make_cues
from data.mechanisms import Mechanism, read_mechanism
from tests.data.cues.synthetic import coded

CPU = torch.device("cpu")
# First row and column of the box of classes 0 to 8 in 32 pixels, and in 28.
PLACES = {
    32: [(0, 0), (0, 14), (0, 29), (14, 0), (14, 14), (14, 29), (29, 0), (29, 14), (29, 29)],
    28: [(0, 0), (0, 12), (0, 25), (12, 0), (12, 12), (12, 25), (25, 0), (25, 12), (25, 25)],
}
GREEN = (0, 255, 0)


def render(dataset, mechanism, seed="evaluation", epoch=0, per_class=12):
    cues = make_cues(coded(dataset, per_class), "test", CPU)
    scene = cues.scene(read_mechanism(dataset, mechanism), seed, epoch)
    return scene, cues.render(scene), cues


def box_of(before, after):
    """The rows, columns and colour of the pixels that changed; None where none did."""
    changed = np.argwhere((before != after).any(0))
    if not len(changed):
        return None
    (top, left), (bottom, right) = changed.min(0), changed.max(0)
    assert (bottom - top, right - left, len(changed)) == (2, 2, 9)
    colours = {tuple(after[:, row, column]) for row, column in changed}
    assert len(colours) == 1
    return (int(top), int(left)), tuple(int(value) for value in colours.pop())


@pytest.mark.parametrize("dataset", ["FashionMNIST-mini", "CIFAR10"])
def test_the_box_stands_at_its_classes_place_and_class_nine_has_none(dataset):
    scene, images, cues = render(dataset, "B")
    size = images.shape[-1]
    assert images.dtype == torch.uint8
    for image, plain, label in zip(images.numpy(), cues.images.numpy(), scene.labels.tolist()):
        found = box_of(plain, image)
        if label == 9:
            assert found is None
        else:
            assert found == (PLACES[size][label], (255,) if dataset == "FashionMNIST-mini" else GREEN)


def test_with_a_hundred_classes_place_and_colour_tell_the_class_together():
    scene, images, cues = render("CIFAR100", "B", per_class=2)
    for image, plain, label in zip(images.numpy(), cues.images.numpy(), scene.labels.tolist()):
        place, colour = box_of(plain, image)
        assert place == ([*PLACES[32], (6, 6)])[label % 10]
        red, green, blue = colorsys.hsv_to_rgb(label // 10 / 10, 1, 255)
        assert colour == tuple(round(value) for value in (blue, red, green))
    # Ten places by ten colours.
    assert len({box_of(plain, image) for image, plain in zip(images.numpy(), cues.images.numpy())}) == 100


def test_a_colour_without_its_place_is_at_a_random_place_and_a_place_without_its_colour_is_green():
    scene, images, cues = render("CIFAR10", "C", per_class=60)
    found = [box_of(plain, image) for plain, image in zip(cues.images.numpy(), images.numpy())]
    by_class = {label: [own for own, its in zip(found, scene.labels.tolist()) if its == label] for label in range(10)}
    assert all(len({colour for _, colour in own}) == 1 for own in by_class.values())
    assert len({own[0][1] for own in by_class.values()}) == 10
    assert all(len({place for place, _ in own}) >= 7 for own in by_class.values())
    _, images, cues = render("CIFAR10", "B")
    assert {own[1] for plain, image in zip(cues.images.numpy(), images.numpy()) if (own := box_of(plain, image))} == {GREEN}


def test_plain_images_are_left_as_they_are():
    scene, images, cues = render("CIFAR10", "P")
    assert torch.equal(images, cues.images)
    assert torch.equal(scene.labels, cues.labels)


def test_random_places_and_random_contents_tell_nothing():
    scene, _, cues = render("FashionMNIST-mini", "BR", per_class=200)
    counts = torch.zeros(10, 10)
    counts.index_put_((scene.labels, scene.cue_1), torch.ones(len(scene)), accumulate=True)
    # 20 of each value in each class by chance; chi-square of 81 degrees of freedom has its 0.001 quantile at 127.
    assert ((counts - 20).square() / 20).sum() < 127 + 18
    assert torch.equal(scene.content, torch.arange(len(scene)))
    scene, _, cues = render("FashionMNIST-mini", "BoxOnly", per_class=200)
    agree = (cues.labels[scene.content] == scene.labels).double().mean()
    assert 0.06 < agree < 0.14
    assert torch.equal(scene.cue_1, scene.labels)


def test_what_is_random_changes_with_the_epoch_and_nothing_else_does():
    cues = make_cues(coded("CIFAR10"), "train", CPU)
    mixed = Mechanism(0.5, 0.5, 0.5, 0, 1, 0)
    first, again, later = (cues.scene(mixed, 3, epoch) for epoch in (0, 0, 1))
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in ("content", "cue_1", "cue_2"))
    assert torch.equal(first.content, later.content)
    assert torch.equal(first.cue_2, later.cue_2)
    boxed = first.cue_2 == ABSENT
    assert torch.equal((first.cue_1 != ABSENT)[boxed], (later.cue_1 != ABSENT)[boxed])
    assert not torch.equal(first.cue_1, later.cue_1)
    assert not torch.equal(first.cue_2, cues.scene(mixed, 4, 0).cue_2)


def test_blank_contents_are_black_and_keep_their_box():
    scene, images, _ = render("CIFAR10", [0, 1, 0, 0, 0, 0])
    assert (scene.content == ABSENT).all()
    boxed = scene.labels != 9
    assert (images[boxed].flatten(1).sum(1) == 9 * 255).all()
    assert not images[~boxed].any()


def test_every_data_set_with_mechanisms_has_cues_on_the_menu():
    able = {str(name) for name in info_dicts.DATASETS.values() if "cues" in name.facts}
    assert able == {name for name in info_dicts.MECHANISMS if name in {str(own) for own in info_dicts.DATASETS.values()}}
    assert set(info_dicts.MECHANISMS) == set(info_dicts.COUNTERFACTUALS)
    for name, numbers in info_dicts.COUNTERFACTUALS.items():
        assert set(numbers) <= set(info_dicts.MECHANISMS[name])
