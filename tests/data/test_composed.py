"""Composed data sets: labels are what the images say, measured in the pixels; splits differ, draws repeat, the menu and the pins hold, and a missing base is named."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage, stats

import info_dicts
from data import datasets
from data.__main__ import main
from data.composed import COMPOSED, compose, halved
from data.content import SPLITS, Split, content_checksum
from data.datasets import compose_splits, load, verify, write
from data.sources import Source
from errors import InputError
from tests.data.test_datasets import assert_equal_splits, prepared

DRAWN = ["Lines", "Circles", "Noise"]
MADE = [name for name, own in COMPOSED.items() if own.bases]
PAIRS = [name for name in MADE if name.startswith(("Halves", "Stacked"))]
MIXED = [name for name in MADE if "+" in name]
EACH = 3
# The classes of the official parts, as published; 1000 of each are for validation. Every other data set is balanced.
MNIST_TRAIN = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
MNIST_TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)


def told(first=0, classes=range(10)):
    """EACH plain images of every class, in mixed order: their grey level is 25 label + first, + 1, ..."""
    levels = np.random.default_rng(first).permutation([25 * label + first + number for label in classes for number in range(EACH)])
    return np.broadcast_to(levels[:, None, None, None], (len(levels), 1, 28, 28)).astype(np.uint8), levels // 25


def bases_of(name):
    return [told(10 * place) for place in range(len(COMPOSED[name].bases))]


@functools.lru_cache
def made(name, split="train", count=400):
    """Images, labels and ids of a data set made of images that tell their label."""
    return compose(name, split, count, bases_of(name))


def levels(part):
    """The grey level of every image of a part (N, H, W) that has but one."""
    flat = part.reshape(len(part), -1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].astype(int)


@pytest.mark.parametrize("name", COMPOSED)
def test_images_are_grey_levels_sorted_by_class_with_the_menus_shape(name):
    images, labels, ids = made(name)
    (choice,) = [own for own in info_dicts.DATASETS.values() if own == name]
    count = 400 if name not in MIXED else 60 if "separated" not in name else 30
    assert images.dtype == np.uint8
    assert labels.dtype == ids.dtype == np.int64
    assert images.shape == (count, *choice.shape)
    assert images.flags.c_contiguous
    assert (np.diff(labels) >= 0).all()
    assert np.unique(labels).tolist() == list(range(10)) == list(range(choice.classes))
    assert sorted(ids) == list(range(count))
    # Within a class the order is that in which they were made.
    assert (np.diff(ids)[np.diff(labels) == 0] > 0).all()


@pytest.mark.parametrize("name", COMPOSED)
def test_the_same_is_made_twice(name):
    for first, second in zip(made(name), compose(name, "train", 400, bases_of(name)), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", DRAWN + PAIRS)
def test_splits_are_drawn_for_themselves(name):
    by_split = [made(name, split) for split in SPLITS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not np.array_equal(by_split[one][0], by_split[other][0])
        differ = (by_split[one][0] != by_split[other][0]).any(axis=(1, 2, 3))
        assert differ.mean() > 0.5


@pytest.mark.parametrize("name", [name for name in PAIRS if name.endswith("-MNIST")])
def test_data_sets_of_the_same_kind_are_drawn_for_themselves(name):
    other = name.replace("MNIST", "FashionMNIST")
    assert COMPOSED[other].bases == ("FashionMNIST",)
    assert not np.array_equal(made(name)[0], made(other)[0])


def test_the_label_of_lines_is_their_number_less_one():
    images, labels, _ = made("Lines")
    assert np.isin(images, (0, 255)).all()
    columns = images[:, 0, 0] == 255
    # Vertical: every row is the first.
    assert (images[:, 0] == images[:, 0, :1]).all()
    assert (columns.sum(1) == labels + 1).all()
    assert (np.bincount(labels) == 40).all()
    # Anywhere: 2,200 lines in 28 columns.
    assert stats.chisquare(columns.sum(0)).pvalue > 1e-3


def test_the_label_of_a_circle_is_its_radius_less_3():
    images, labels, _ = made("Circles")
    assert np.isin(images, (0, 255)).all()
    assert (np.bincount(labels) == 40).all()
    middles = []
    for image, label in zip(images[:, 0], labels):
        rows, columns = np.nonzero(image)
        # The circle that fits best: x^2 + y^2 = 2 a x + 2 b y + r^2 - a^2 - b^2.
        a, b, rest = np.linalg.lstsq(np.stack([2 * rows, 2 * columns, np.ones(len(rows))], 1), rows**2 + columns**2, rcond=None)[0]
        assert np.sqrt(rest + a**2 + b**2) == pytest.approx(label + 3, abs=0.25)
        # One pixel wide, closed, and all of it inside the image.
        assert np.abs(np.hypot(rows - a, columns - b) - (label + 3)).max() < 0.75
        assert ndimage.label(image, np.ones((3, 3)))[1] == 1
        inside = ndimage.binary_fill_holes(image) & (image == 0)
        assert inside.sum() == pytest.approx(np.pi * (label + 2.5) ** 2, rel=0.2)
        middles.append((a, b))
    white = np.bincount(labels, (images == 255).sum(axis=(1, 2, 3))) / 40
    np.testing.assert_allclose(white, 2 * np.pi * np.arange(3, 13), rtol=0.05)
    small = np.array(middles)[labels == 0]
    assert small.min() < 6
    assert small.max() > 21


def test_noise_is_uniform_and_tells_nothing_of_its_label():
    images, labels, _ = made("Noise", count=1000)
    assert stats.chisquare(np.bincount(images.ravel(), minlength=256)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(labels, minlength=10)).pvalue > 1e-3
    assert len(set(np.bincount(labels))) > 1
    means = images.mean(axis=(1, 2, 3))
    assert stats.f_oneway(*(means[labels == label] for label in range(10))).pvalue > 1e-3


def both(name):
    """The grey levels of the two images that were put together, and the labels."""
    images, labels, _ = made(name)
    if name.startswith("Halves"):
        return levels(images[:, 0, :, :14]), levels(images[:, 0, :, 14:]), labels
    return levels(images[:, 0]), levels(images[:, 1]), labels


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_of_any_two_images_or_of_any_two_of_a_class(name):
    first, second, labels = both(name)
    if "Same" in name:
        assert (first // 25 == labels).all()
        assert (second // 25 == labels).all()
        assert len({*zip(first, second)}) > 0.9 * 10 * EACH**2
    else:
        assert ((first // 25 + second // 25) % 10 == labels).all()
        assert stats.chisquare(np.bincount(10 * (first // 25) + second // 25, minlength=100)).pvalue > 1e-3
    known = np.unique(levels(told()[0]))
    for own in (first, second):
        assert np.unique(own).tolist() == known.tolist()
        assert stats.chisquare(np.unique(own, return_counts=True)[1]).pvalue > 1e-3


@pytest.mark.parametrize("name", [name for name in PAIRS if name.startswith("Stacked")])
def test_the_third_channel_of_stacked_images_is_black(name):
    images, _, _ = made(name)
    assert (images[:, 2] == 0).all()
    assert images[:, :2].any()


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(1), st.just(28), st.just(28))))
def test_half_the_width_is_the_mean_of_two_columns(images):
    found = halved(images)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.floor(images.reshape(*images.shape[:3], 14, 2).mean(-1) + 0.5))


def test_halves_stand_side_by_side_as_the_images_are():
    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (20, 1, 28, 28), dtype=np.uint8), np.arange(20) % 10
    known = {halved(image[None]).tobytes() for image in base[0]}
    images, _, _ = compose("Halves-MNIST", "test", 50, [base])
    for image in images:
        assert {image[None, :, :, :14].tobytes(), image[None, :, :, 14:].tobytes()} <= known


@pytest.mark.parametrize("name", MIXED)
def test_mixed_are_all_images_of_both_or_five_classes_of_each(name):
    images, labels, ids = made(name)
    found = levels(images)
    assert (found // 25 == labels).all()
    one, other = (levels(own) for own, _ in bases_of(name))
    if "separated" in name:
        one, other = one[one // 25 < 5], other[other // 25 >= 5]
        assert (found[labels < 5] % 25 < EACH).all()
        assert (found[labels >= 5] % 25 >= 10).all()
    assert sorted(found) == sorted([*one, *other])
    # An id is the place in the first one's images, followed by the second one's.
    assert found.tolist() == np.concatenate([one, other])[ids].tolist()


def class_counts(base, split):
    """How many images of every class a base has."""
    published = {"train": np.array(MNIST_TRAIN) - 1000, "valid": np.full(10, 1000), "test": np.array(MNIST_TEST)}
    return published[split] if base == "MNIST" else np.full(10, {"train": 5000, "valid": 1000, "test": 1000}[split])


@pytest.mark.parametrize("name", COMPOSED)
def test_every_one_is_on_the_menu_with_its_counts_and_is_pinned(name):
    (choice,) = [own for own in info_dicts.DATASETS.values() if own == name]
    expected = (50_000, 10_000, 10_000)
    if name in MIXED:
        by_split = [[class_counts(base, split) for base in COMPOSED[name].bases] for split in SPLITS]
        expected = tuple(
            int(one[:5].sum() + other[5:].sum()) if name.endswith("-separated") else int(one.sum() + other.sum()) for one, other in by_split
        )
    assert choice.counts == expected
    assert choice.classes == 10
    assert len(bytes.fromhex(datasets.CONTENT_SHA256[name])) == 32
    pins = list(datasets.CONTENT_SHA256.values())
    assert pins.count(datasets.CONTENT_SHA256[name]) == 1
    assert not datasets.RECIPES[name].needs_source
    model = next(own for own in info_dicts.MODELS.values() if own == choice.model)
    assert choice.shape[-1] in model.sizes


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_is_what_is_pinned(name, tmp_path):
    splits = compose_splits(name, Source(name, "official", tmp_path / "downloads" / name))
    assert verify(name, splits, "here") == datasets.CONTENT_SHA256[name]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["HalvesSame-MNIST", "MNIST+FashionMNIST-separated"])
def test_what_is_made_of_others_is_what_is_pinned(name):
    for base in COMPOSED[name].bases:
        prepared(base)
    splits = compose_splits(name, Source(name, "official", datasets.data_root() / "downloads" / name))
    assert verify(name, splits, "here") == datasets.CONTENT_SHA256[name]


@pytest.mark.parametrize("name", MADE)
def test_a_base_that_is_missing_is_named_with_the_command_that_prepares_it(name, tmp_path, monkeypatch, capsys):
    fetched = [base for base in COMPOSED[name].bases if base not in DRAWN]
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path))
    line = f"{fetched[0]}: {tmp_path / fetched[0]}.h5 is missing; run `python -m data prepare {fetched[0]}`"
    with pytest.raises(InputError) as error:
        load(name)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    assert main(["check", name]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    # Nothing was made in vain.
    assert not any(tmp_path.iterdir())
    for there, missing in itertools.pairwise(fetched):
        (tmp_path / f"{there}.h5").touch()
        with pytest.raises(InputError, match=rf"^{missing}: .* is missing; run `python -m data prepare {missing}`"):
            load(name)


def test_preparing_one_without_its_base_names_the_base(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path))
    assert main(["prepare", "Halves-FashionMNIST"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"FashionMNIST: {tmp_path}/FashionMNIST.h5 is missing; run `python -m data prepare FashionMNIST`" in said
    assert not any(tmp_path.iterdir())


def test_one_is_made_of_the_bases_beside_it_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "CONTENT_SHA256", {})
    (choice,) = [own for own in info_dicts.DATASETS.values() if own == "MNIST+FashionMNIST"]
    monkeypatch.setitem(choice.facts, "counts", (6 * 10,) * 3)
    for place, base in enumerate(COMPOSED["MNIST+FashionMNIST"].bases):
        images, labels = told(10 * place)
        splits = dict.fromkeys(SPLITS, Split(np.ascontiguousarray(images), labels, np.arange(len(labels))))
        write(tmp_path / f"{base}.h5", base, splits, content_checksum(splits), "here")
    first = load("MNIST+FashionMNIST", tmp_path)
    assert (tmp_path / "MNIST-FashionMNIST.h5").exists()
    again = load("MNIST+FashionMNIST", tmp_path)
    for split in SPLITS:
        assert_equal_splits(first.split(split), again.split(split))
        assert_equal_splits(first.split(split), Split(*made("MNIST+FashionMNIST", split)))
