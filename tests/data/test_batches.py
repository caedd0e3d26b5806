"""Batches: every image in every view once an epoch, drawn by key and not by call order, on the pixels that `corrupt` gives."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import info_dicts
from data import batches
from data.batches import Batches, ToNetwork, crop_flip, spread
from data.content import DataSet, Split
from data.corruptions import corrupt
from data.keys import evaluation_seed

CPU = torch.device("cpu")
ALL = ("Contrast", "GaussianBlur", "ImpulseNoise", "Invert", "Rotate90", "Swirl", "Identity")
# Three views that can be told apart, and undone, in the images of `marked`.
TELLING = ("Invert", "Rotate90", "Identity")
FACTS = {str(choice): choice for choice in info_dicts.DATASETS.values()}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noisy(name="FashionMNIST-mini", train=23, valid=17):
    """Random images in the shape of a data set."""
    generator = np.random.default_rng(0)

    def split(count):
        images = generator.integers(0, 256, (count, *FACTS[name].shape), dtype=np.uint8)
        return Split(images, generator.integers(0, 10, count), generator.permutation(10 * count)[:count])

    return DataSet(name, split(train), split(valid), split(10), "")


def marked(count=50):
    """Image i has the level i everywhere but in its upper left corner, which has i + 60; its label is i % 10."""
    images = np.empty((count, 1, 28, 28), np.uint8)
    images[:] = np.arange(count)[:, None, None, None]
    images[..., 0, 0] += 60
    split = Split(images, np.arange(count) % 10, np.arange(count))
    return DataSet("FashionMNIST-mini", split, split, split, "")


def grey_levels(images_nchw, name="FashionMNIST-mini"):
    """What ToNetwork was given, as stored (N, C, H, W), by its definition in float64."""
    channels = FACTS[name].shape[0]
    mean, std = (np.reshape(values, (1, channels, 1, 1)) for values in (FACTS[name].mean, FACTS[name].std))
    return np.rint((images_nchw[:, :channels].double().numpy() * std + mean) * 255).astype(np.uint8)


def recognise(images_nchw):
    """(image, view) of every row of a batch of `marked` images in the views of TELLING."""
    levels = grey_levels(images_nchw)[:, 0]
    found = []
    for level in levels:
        view = "Identity"
        if level[14, 14] > 127:
            view, level = "Invert", 255 - level
        elif level[-1, 0] == level[14, 14] + 60:
            view, level = "Rotate90", np.rot90(level, -1)
        assert level[0, 0] == level[14, 14] + 60
        found.append((int(level[14, 14]), view))
    return found


def make(dataset, views=TELLING, batch_size=32, seed=0, **options):
    return Batches(dataset, views, batch_size, seed=seed, device=CPU, **options)


@given(st.integers(1, 10_000), st.integers(1, 600))
def test_spread_covers_every_row_once_in_even_batches(count, size):
    bounds = spread(count, size)
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(count))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size
    assert len(sizes) == -(-count // size)


@pytest.mark.parametrize("batch_size", [1, 2, 32, 1000])
def test_an_epoch_of_paired_batches_meets_every_image_once_in_every_view_in_view_major_order(batch_size):
    made = make(marked(), batch_size=batch_size)
    met, rows = [], 0
    for batch in made.epoch(0):
        each = len(batch.labels_n) // 3
        assert batch.num_views == 3
        assert each <= max(1, batch_size // 3)
        found = recognise(batch.images_nchw)
        images = [image for image, _ in found[:each]]
        assert found == [(image, view) for view in TELLING for image in images]
        assert batch.labels_n.tolist() == [image % 10 for image in images] * 3
        met += images
        rows += len(found)
    assert sorted(met) == list(range(50))
    assert met != sorted(met)
    assert rows == made.rows_per_epoch() == 150


@pytest.mark.parametrize("batch_size", [1, 32, 1000])
def test_an_epoch_of_independent_batches_meets_every_pair_of_image_and_view_once(batch_size):
    pairs, mixed = [], []
    for batch in make(marked(), batch_size=batch_size, paired=False).epoch(0):
        found = recognise(batch.images_nchw)
        assert len(found) <= batch_size
        assert batch.num_views == 1
        assert batch.labels_n.tolist() == [image % 10 for image, _ in found]
        mixed.append(len({view for _, view in found}) == 3 and len({image for image, _ in found}) > len(found) / 3)
        pairs += found
    assert sorted(pairs) == sorted((image, view) for image in range(50) for view in TELLING)
    assert batch_size != 32 or all(mixed)


def order(made, epoch):
    """The images of an epoch in the order in which they are met."""
    met = []
    for batch in made.epoch(epoch):
        met += [image for image, _ in recognise(batch.images_nchw)][: len(batch.labels_n) // batch.num_views]
    return met


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    first = make(marked())
    expected = order(first, 3)
    again = make(marked(), views=("Identity",), batch_size=7, severities={"Swirl": 5})
    list(again.validation())
    torch.manual_seed(99)
    torch.rand(10)
    assert order(again, 3) == expected
    assert order(again, 1) == order(first, 1) != expected
    assert order(first, 3) == expected
    assert order(make(marked(), seed=1), 3) != expected
    of_pairs = [batch.images_nchw for batch in make(marked(), paired=False).epoch(3)]
    assert all(torch.equal(a, b.images_nchw) for a, b in zip(of_pairs, make(marked(), paired=False).epoch(3)))
    assert not all(torch.equal(a, b.images_nchw) for a, b in zip(of_pairs, make(marked(), paired=False).epoch(4)))


def by_view(dataset, made_batches):
    """(views, N, C, H, W) grey levels and (N,) labels of view-major batches put together."""
    levels, labels = [], []
    for batch in made_batches:
        flat = grey_levels(batch.images_nchw, dataset.name)
        levels.append(flat.reshape(batch.num_views, -1, *flat.shape[1:]))
        labels.append(batch.labels_n.reshape(batch.num_views, -1))
    return np.concatenate(levels, axis=1), torch.cat(labels, dim=1).numpy()


def plain(images, view, ids, seed, **severities):
    """`corrupt` and the cut to uint8, for arrays."""
    return corrupt(torch.from_numpy(images), view, ids=torch.from_numpy(ids), seed=seed, severities=severities).floor().numpy()


@pytest.mark.parametrize("name", ["FashionMNIST-mini", "CIFAR10"])
def test_validation_batches_are_all_images_as_corrupt_gives_them(name, monkeypatch):
    dataset = noisy(name, valid=83)
    options = {"views": ALL, "augmentation": "CropFlip", "severities": {"GaussianBlur": 5}}
    kept = make(dataset, **options)
    levels, labels = by_view(dataset, kept.validation())
    seed = evaluation_seed(name, "valid")
    for view, own in zip(ALL, levels, strict=True):
        expected = plain(dataset.valid.images, view, dataset.valid.ids, seed, GaussianBlur=5)
        np.testing.assert_array_equal(own, expected)
    assert (labels == dataset.valid.labels).all()
    first = list(kept.validation())
    assert len(first) > 1
    list(kept.epoch(0))
    monkeypatch.setattr(batches, "CACHE_BYTES", 0)
    fresh = make(dataset, **options, seed=7, batch_size=5)
    for other in (kept.validation(), fresh.validation(), fresh.validation()):
        for a, b in zip(first, other, strict=True):
            assert torch.equal(a.images_nchw, b.images_nchw)
            assert torch.equal(a.labels_n, b.labels_n)
    assert fresh._valid_cache is None
    assert kept._valid_cache is not None


def noise_of(dataset, views, epoch, seed=0, batch_size=32):
    """The ImpulseNoise view of every training image, by position in the split."""
    found = {}
    clean = {image.tobytes(): position for position, image in enumerate(dataset.train.images)}
    levels, _ = by_view(dataset, make(dataset, views, batch_size, seed).epoch(epoch))
    for identity, noised in zip(levels[views.index("Identity")], levels[views.index("ImpulseNoise")]):
        found[clean[identity.tobytes()]] = noised
    return np.stack([found[i] for i in range(len(clean))])


def test_training_noise_changes_with_epoch_and_seed_and_not_with_the_method():
    dataset = noisy()
    first = noise_of(dataset, ALL, epoch=0)
    assert np.array_equal(first, noise_of(dataset, ("ImpulseNoise", "Identity"), epoch=0, batch_size=9))
    share = (first != dataset.train.images).mean()
    assert 0.2 < share < 0.3
    for other in (noise_of(dataset, ALL, epoch=1), noise_of(dataset, ALL, epoch=0, seed=1)):
        assert ((other != dataset.train.images) & (first != dataset.train.images)).mean() == pytest.approx(share**2, abs=0.02)


def crop_flip_by_loops(images, offsets, flips, padding):
    """Pads, crops and mirrors image by image."""
    n, channels, height, width = images.shape
    result = np.empty_like(images)
    for i in range(n):
        padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), images.dtype)
        padded[:, padding : padding + height, padding : padding + width] = images[i]
        row, column = offsets[i]
        cropped = padded[:, row : row + height, column : column + width]
        result[i] = cropped[:, :, ::-1] if flips[i] else cropped
    return result


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]), st.integers(0, 4), st.tuples(st.integers(1, 9), st.integers(1, 9)))
def test_crop_flip_is_what_loops_over_images_do(seed, channels, padding, size):
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (6, channels, *size), dtype=np.uint8)
    offsets, flips = generator.integers(0, 2 * padding + 1, (6, 2)), generator.random(6) < 0.5
    expected = crop_flip_by_loops(images, offsets, flips, padding)
    assert np.array_equal(crop_flip(*map(torch.from_numpy, (images, offsets, flips)), padding).numpy(), expected)


@pytest.mark.parametrize("paired", [True, False])
def test_all_views_of_an_image_share_crop_and_flip(paired):
    dataset = noisy("CIFAR10", train=60)
    made = make(dataset, ("Invert", "Identity"), batch_size=16, augmentation="CropFlip", paired=paired)
    seen = []
    for epoch in (0, 1):
        levels = np.concatenate([grey_levels(batch.images_nchw, "CIFAR10") for batch in made.epoch(epoch)])
        inverted = {(255 - image).tobytes() for image in levels}
        assert all(image.tobytes() in inverted for image in levels)
        # Every augmented image is one of the crops of one of the images.
        crops = {
            crop_flip_by_loops(image[None], [(row, column)], [flip], 4).tobytes(): (number, (row, column, flip))
            for number, image in enumerate(dataset.train.images)
            for row in range(9)
            for column in range(9)
            for flip in (False, True)
        }
        met = dict(crops[image.tobytes()] for image in levels if image.tobytes() in crops)
        assert sorted(met) == list(range(60))
        seen.append(met)
    rows, columns, flips = map(set, zip(*seen[0].values(), *seen[1].values()))
    assert rows == columns == set(range(9))
    assert flips == {False, True}
    # One in 162 images is cropped alike in both epochs.
    assert sum(seen[0][number] == seen[1][number] for number in range(60)) < 5


def test_augmentation_comes_before_the_corruption_and_none_leaves_images_whole():
    dataset = noisy("CIFAR10")
    levels, _ = by_view(dataset, make(dataset, ("Rotate90", "Identity"), augmentation="CropFlip").epoch(0))
    assert np.array_equal(levels[0], np.rot90(levels[1], axes=(2, 3)))
    whole, _ = by_view(dataset, make(dataset, ("Identity",)).epoch(0))
    assert {image.tobytes() for image in whole[0]} == {image.tobytes() for image in dataset.train.images}


@pytest.mark.parametrize("name", FACTS)
def test_to_network_standardises_and_repeats_grey(name):
    facts = FACTS[name]
    levels = np.random.default_rng(0).integers(0, 256, (5, *facts.shape), dtype=np.uint8)
    images = ToNetwork(name, CPU)(torch.from_numpy(levels))
    mean, std = (np.reshape(values, (1, -1, 1, 1)) for values in (facts.mean, facts.std))
    expected = np.broadcast_to((levels / 255 - mean) / std, (5, 3, *facts.shape[1:]))
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images.numpy(), expected, rtol=0, atol=1e-6)
