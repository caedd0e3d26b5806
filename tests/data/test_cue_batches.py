"""Batches under mechanisms and counterfactual sets: every image once, the same for one seed, mixed labels, first images of every class."""

import pytest
import torch

from data.cue_batches import CounterfactualSet, CueBatches, first_of_classes
from data.cues.scene import make_cues
from data.mechanisms import read_mechanism
from tests.data.cues.synthetic import coded

CPU = torch.device("cpu")


def batches(dataset="CIFAR10", mechanism="BC", seed=0, augmentation="None", size=16):
    return CueBatches(
        coded(dataset), read_mechanism(dataset, mechanism), size, seed=seed, device=CPU, augmentation=augmentation, padding=4
    )  # fmt: skip


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(one.images_nchw, other.images_nchw) and torch.equal(one.labels_n, other.labels_n) for one, other in zip(first, second)
    )


@pytest.mark.parametrize("augmentation", ["None", "CropFlip", "CropFlipRotate", "Mixup", "Union"])
def test_an_epoch_has_every_image_once_and_is_the_same_from_any_batch_on(augmentation):
    own = batches(augmentation=augmentation)
    epoch = list(own.epoch(2))
    assert len(epoch) == own.steps()
    rows = torch.cat([batch.rows_n for batch in epoch])
    assert torch.equal(rows.sort().values, torch.arange(own.size))
    assert own.size == (240 if augmentation == "Union" else 120)
    assert equal(epoch, list(batches(augmentation=augmentation).epoch(2)))
    assert equal(epoch[5:], list(batches(augmentation=augmentation).epoch(2, 5)))
    assert not equal(epoch, list(own.epoch(3)))
    assert not equal(epoch, list(batches(augmentation=augmentation, seed=1).epoch(2)))
    assert not equal(list(own.epoch(0)), list(own.epoch(1)))


def test_a_batch_shows_what_its_rows_of_the_scene_show():
    own = batches()
    cues = make_cues(coded("CIFAR10"), "train", CPU)
    scene = cues.scene(read_mechanism("CIFAR10", "BC"), 0, 1)
    for batch in own.epoch(1):
        assert torch.equal(batch.images_nchw, own.to_network(cues.render(scene.take(batch.rows_n))))
        assert torch.equal(batch.labels_n, scene.labels[batch.rows_n])


def test_union_is_the_mechanism_and_the_plain_images():
    own = batches(mechanism="B", augmentation="Union")
    boxed = {True: 0, False: 0}
    for batch in own.epoch(0):
        green = (batch.images_nchw[:, 1] > 2).flatten(1).any(1)
        for has_box, row, label in zip(green.tolist(), batch.rows_n.tolist(), batch.labels_n.tolist()):
            assert has_box == (row < 120 and label != 9)
            boxed[has_box] += 1
    assert boxed == {True: 108, False: 132}


def test_augmentation_moves_contents_and_not_cues():
    plain, moved = batches(mechanism="B"), batches(mechanism="B", augmentation="CropFlip")
    changed = 0
    for one, other in zip(plain.epoch(0), moved.epoch(0)):
        box = (one.images_nchw[:, 1] > 0.99) & (one.images_nchw[:, 0] < -0.99)
        assert torch.equal(one.images_nchw.movedim(1, -1)[box], other.images_nchw.movedim(1, -1)[box])
        changed += int((one.images_nchw != other.images_nchw).flatten(1).any(1).sum())
    assert changed > 60


def test_mixup_mixes_images_and_labels_alike():
    plain, mixed = batches(mechanism="P"), batches(mechanism="P", augmentation="Mixup")
    shares = []
    for one, other in zip(plain.epoch(0), mixed.epoch(0)):
        assert torch.equal(one.labels_n, other.labels_n)
        # The images' codes tell who the other one was: constant images, mixed as their values are.
        value, was = other.images_nchw[:, 0, 9, 9], one.images_nchw[:, 0, 9, 9]
        for place in range(len(value)):
            share = other.share_n[place]
            if share == 1:
                assert value[place] == was[place]
                continue
            partner = (value[place] - share * was[place]) / (1 - share)
            near = (was - partner).abs() < 1e-3
            assert (one.labels_n[near] == other.others_n[place]).any()
        shares += other.share_n.tolist()
    assert 0.4 < sum(share < 1 for share in shares) / len(shares) < 0.8
    assert all(0 <= share <= 1 for share in shares)


def test_validation_is_the_same_for_all_seeds_and_epochs_and_not_augmented():
    first, second = (batches(seed=seed, augmentation=kind, mechanism="BR") for seed, kind in ((0, "None"), (1, "Mixup")))
    assert equal(list(first.validation()), list(second.validation()))
    assert sum(len(batch.labels_n) for batch in first.validation()) == 120


def test_counterfactual_sets_are_all_images_and_the_first_of_every_class():
    own = CounterfactualSet(coded("Dominoes"), read_mechanism("Dominoes", "RandomBox"), CPU, fast=30)
    images = torch.cat(list(own.batches()))
    assert (len(own), images.shape) == (120, (120, 3, 64, 32))
    assert torch.equal(torch.cat(list(own.fast())), images[own.chosen])
    assert torch.equal(torch.cat(list(own.fast())), own.to_network(own.levels()))
    labels = own.scene.labels
    for label in range(10):
        assert torch.equal(own.chosen[labels[own.chosen] == label], (labels == label).nonzero().squeeze(1)[:3])
    again = CounterfactualSet(coded("Dominoes"), read_mechanism("Dominoes", "RandomBox"), CPU, fast=30)
    assert torch.equal(again.levels(), own.levels())


@pytest.mark.parametrize(("n", "rows"), [(4, [0, 1, 2, 4]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 2, 3, 4]), (50, [0, 1, 2, 3, 4])])
def test_first_of_classes(n, rows):
    assert first_of_classes(torch.tensor([1, 1, 0, 1, 0]), n).tolist() == rows
