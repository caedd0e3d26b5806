import hashlib
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import info_dicts
from data import datasets, files
from data.content import SPLITS, Split, content_checksum
from data.datasets import class_balanced, load, prepare, split_by_class
from data.torchvision_import import import_torchvision
from errors import InputError
from tests.data.synthetic import add_tiny, glyphs, shrink_emnist, shrink_mnist, tiny_splits, write_idx


def prepared(name: str) -> datasets.DataSet:
    if not datasets.cache_path(name).exists():
        pytest.skip(f"{name} is not prepared")
    return load(name)


def assert_equal_splits(left: Split, right: Split) -> None:
    for field in datasets.ARRAYS:
        assert getattr(left, field).dtype == getattr(right, field).dtype
        np.testing.assert_array_equal(getattr(left, field), getattr(right, field))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 3))
def test_split_by_class_is_the_plain_loop(labels, valid_per_class):
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    members = {label: [index for index, other in enumerate(labels) if other == label] for label in sorted(set(labels))}
    if any(len(ids) <= valid_per_class for ids in members.values()):
        with pytest.raises(InputError, match="training images"):
            split_by_class(images, np.array(labels), valid_per_class)
        return
    train, valid = split_by_class(images, np.array(labels), valid_per_class)
    for split, part in (
        (train, [ids[: len(ids) - valid_per_class] for ids in members.values()]),
        (valid, [ids[len(ids) - valid_per_class :] for ids in members.values()]),
    ):
        expected = [index for ids in part for index in ids]
        assert split.ids.tolist() == expected
        assert split.labels.tolist() == [labels[index] for index in expected]
        assert split.images.reshape(-1).tolist() == expected
        assert split.labels.dtype == split.ids.dtype == np.int64


@given(st.permutations([0] * 4 + [1] * 3 + [2] * 5), st.integers(-3, 14))
def test_class_balanced_is_the_plain_loop(labels, n):
    split = Split(np.zeros((12, 1, 1, 1), np.uint8), np.array(labels), np.arange(12))
    if n not in (3, 6, 9):
        with pytest.raises(InputError, match=f"{n} images"):
            class_balanced(split, n)
        return
    expected = [[index for index in range(12) if labels[index] == label][: n // 3] for label in range(3)]
    assert class_balanced(split, n).tolist() == [index for ids in expected for index in ids]


def test_checksum_is_sha256_of_names_types_shapes_and_bytes():
    splits = tiny_splits()
    digest = hashlib.sha256()
    for split in ("train", "valid", "test"):
        for field, kind in (("images", "|u1"), ("labels", "<i8"), ("ids", "<i8")):
            array = getattr(splits[split], field)
            digest.update(f"{split}/{field} {kind} {tuple(array.shape)}\n".encode() + array.tobytes())
    assert content_checksum(splits) == digest.hexdigest()
    for split in SPLITS:
        for field in datasets.ARRAYS:
            changed = tiny_splits()
            getattr(changed[split], field).flat[-1] ^= 1
            assert content_checksum(changed) != digest.hexdigest()


def test_every_data_set_on_the_menu_can_be_made():
    assert {
        str(choice) for choice in info_dicts.DATASETS.values()
    } == datasets.RECIPES.keys() | datasets.EMBEDDED.keys() | datasets.MAPPED.keys()


@pytest.mark.parametrize("name", [name for name, recipe in datasets.RECIPES.items() if recipe.needs_source])
def test_what_is_not_prepared_names_a_command_with_a_source_that_exists(tmp_path, name):
    with pytest.raises(InputError) as error:
        load(name, tmp_path)
    line = str(error.value)
    assert line.startswith(f"{name}: {tmp_path / name}.h5 is missing; run `python -m data prepare {name}")
    assert "\n" not in line
    official, packages = (f"prepare {name}`" in line, "--source packages" in line)
    assert official == (name not in ("FaceScrub", "ORL"))
    assert packages == (name in {*datasets.PACKAGES, "Dominoes"})
    assert official or packages or "--source DIR" in line


def test_prepare_then_load(monkeypatch, tmp_path):
    add_tiny(monkeypatch)
    with pytest.raises(InputError, match=r"Tiny\.h5 is missing; run `python -m data prepare Tiny`") as error:
        load("Tiny", tmp_path)
    assert "\n" not in str(error.value)
    first = prepare("Tiny", "packages", tmp_path)
    again = load("Tiny", tmp_path)
    assert first.checksum == again.checksum == content_checksum(tiny_splits())
    for split in SPLITS:
        assert_equal_splits(again.split(split), tiny_splits()[split])
    with pytest.raises(ValueError, match="allowed: train, valid, test"):
        again.split("dev")
    with h5py.File(tmp_path / "Tiny.h5") as file:
        assert file.attrs["name"] == "Tiny"
        assert file.attrs["source"] == "packages"
        assert file.attrs["checksum"] == first.checksum
        assert h5py.__version__ in file.attrs["versions"]
    assert [path.name for path in tmp_path.iterdir()] == ["Tiny.h5"]


def test_the_environment_names_the_folder(monkeypatch, tmp_path):
    add_tiny(monkeypatch)
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path / "elsewhere"))
    prepare("Tiny")
    assert (tmp_path / "elsewhere" / "Tiny.h5").is_file()
    monkeypatch.delenv("PALIMPSEST_DATA")
    assert datasets.data_root() == Path(datasets.__file__).parent.parent / "datasets"


def test_a_set_that_needs_no_source_is_made_by_load(monkeypatch, tmp_path):
    add_tiny(monkeypatch, needs_source=False)
    assert_equal_splits(load("Tiny", tmp_path).test, tiny_splits()["test"])
    assert (tmp_path / "Tiny.h5").is_file()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(tiny_splits()["valid"].images.tobytes()) + 3] ^= 1
    path.write_bytes(content)


def overwrite(path: Path) -> None:
    path.write_bytes(b"no HDF5 at all")


def remove_an_array(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["test/labels"]


def put_a_group_for_an_array(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["test/labels"]
        file.create_group("test/labels")


@pytest.mark.parametrize("damage", [cut, flip_a_pixel, overwrite, remove_an_array, put_a_group_for_an_array])
def test_a_damaged_cache_is_rebuilt_and_reported(monkeypatch, tmp_path, capsys, damage):
    sources = []

    def make(source):
        sources.append(source.kind)
        return tiny_splits()

    add_tiny(monkeypatch, make)
    prepare("Tiny", "/some/folder", tmp_path)
    damage(tmp_path / "Tiny.h5")
    rebuilt = load("Tiny", tmp_path)
    for split in SPLITS:
        assert_equal_splits(rebuilt.split(split), tiny_splits()[split])
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert "Tiny.h5 is damaged" in errors
    assert sources == ["/some/folder", "official" if damage in (cut, overwrite) else "/some/folder"]
    load("Tiny", tmp_path)
    assert capsys.readouterr().err == ""


def test_the_kept_archive_tells_the_source_of_an_unreadable_cache(monkeypatch, tmp_path):
    package = datasets.PACKAGES["MNIST"]
    kept = tmp_path / "downloads" / "MNIST" / package.file
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"")
    (tmp_path / "MNIST.h5").write_bytes(b"damaged")
    asked = []
    monkeypatch.setattr(datasets, "prepare", lambda name, source, root: asked.append(source))
    load("MNIST", tmp_path)
    assert asked == ["packages"]


def test_a_failing_rebuild_is_an_input_error(monkeypatch, tmp_path):
    add_tiny(monkeypatch)
    prepare("Tiny", "official", tmp_path)
    overwrite(tmp_path / "Tiny.h5")

    def fail(source):
        raise InputError("the host is away")

    datasets.dataset("Tiny")(fail)
    with pytest.raises(InputError, match="the host is away"):
        load("Tiny", tmp_path)


def test_a_cache_is_replaced_in_one_step(monkeypatch, tmp_path):
    add_tiny(monkeypatch)
    prepare("Tiny", "official", tmp_path)
    before = (tmp_path / "Tiny.h5").read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(InputError, match="No space left"):
        prepare("Tiny", "official", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["Tiny.h5"]
    assert (tmp_path / "Tiny.h5").read_bytes() == before


def test_arrays_that_are_not_the_pinned_ones_are_refused(monkeypatch, tmp_path, capsys):
    add_tiny(monkeypatch)
    prepare("Tiny", "official", tmp_path)
    monkeypatch.setitem(datasets.CONTENT_SHA256, "Tiny", content_checksum(tiny_splits(seed=1)))
    with pytest.raises(InputError, match="not the published ones"):
        prepare("Tiny", "official", tmp_path)
    with pytest.raises(InputError, match="not the published ones"):
        load("Tiny", tmp_path)
    datasets.dataset("Tiny")(lambda source: tiny_splits(seed=1))
    assert load("Tiny", tmp_path).checksum == datasets.CONTENT_SHA256["Tiny"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: Split(s.images[:-1], s.labels[:-1], s.ids[:-1]), InputError, "test has shape"),
        (lambda s: Split(s.images, s.labels + 1, s.ids), InputError, "every label 0..2"),
        (lambda s: Split(s.images.astype(np.float32), s.labels, s.ids), ValueError, "uint8"),
        (lambda s: Split(s.images, s.labels, s.ids[:-1]), ValueError, "ids int64"),
    ],
)
def test_what_differs_from_the_menu_is_refused(monkeypatch, tmp_path, change, error, message):
    add_tiny(monkeypatch, lambda source: {**tiny_splits(), "test": change(tiny_splits()["test"])})
    with pytest.raises(error, match=message):
        prepare("Tiny", "official", tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_names(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="allowed: 0 FashionMNIST-mini, 1 MNIST"):
        load("MNITS", tmp_path)
    monkeypatch.setitem(info_dicts.DATASETS, 901, info_dicts.Choice("Absent"))
    with pytest.raises(InputError, match=r"no function in data/datasets\.py"):
        prepare("Absent", "official", tmp_path)


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist_from_a_directory(monkeypatch, tmp_path, compressed):
    arrays = shrink_mnist(monkeypatch)
    write_idx(tmp_path / "in" / "MNIST" / "raw", arrays, compressed)
    prepare("MNIST", str(tmp_path / "in"), tmp_path)
    data = load("MNIST", tmp_path)
    train_images, train_labels, test_images, test_labels = arrays.values()
    for split, images, labels in (
        (data.train, train_images, train_labels),
        (data.valid, train_images, train_labels),
        (data.test, test_images, test_labels),
    ):
        np.testing.assert_array_equal(split.images[:, 0], images[split.ids])
        np.testing.assert_array_equal(split.labels, labels[split.ids])
    for label in range(10):
        ids = [index for index, other in enumerate(train_labels) if other == label]
        assert data.train.ids[data.train.labels == label].tolist() == ids[:3]
        assert data.valid.ids[data.valid.labels == label].tolist() == ids[3:]
        assert data.test.ids[data.test.labels == label].tolist() == [index for index, other in enumerate(test_labels) if other == label]


def test_emnist_stands_upright(monkeypatch, tmp_path):
    arrays = shrink_emnist(monkeypatch)
    write_idx(tmp_path / "in" / "EMNIST" / "raw", arrays)
    prepare("EMNIST", str(tmp_path / "in"), tmp_path)
    data = load("EMNIST", tmp_path)
    _, train_labels, _, test_labels = arrays.values()
    for split, labels in ((data.train, train_labels), (data.valid, train_labels), (data.test, test_labels)):
        np.testing.assert_array_equal(split.images[:, 0], glyphs(len(labels))[split.ids])
        np.testing.assert_array_equal(split.labels, labels[split.ids])
    for label in range(47):
        ids = np.flatnonzero(train_labels == label).tolist()
        assert data.train.ids[data.train.labels == label].tolist() == ids[:2]
        assert data.valid.ids[data.valid.labels == label].tolist() == ids[2:]
    write_idx(tmp_path / "oracle" / "EMNIST" / "raw", arrays)
    oracle = import_torchvision().datasets.EMNIST(tmp_path / "oracle", split="balanced", train=False, download=False)
    np.testing.assert_array_equal(data.test.images[:, 0], oracle.data.transpose(1, 2).numpy()[data.test.ids])


def test_the_embedded_set_is_balanced_and_small():
    data = load("FashionMNIST-mini")
    assert data.train.images.shape == (6000, 1, 28, 28)
    for split, each in (("train", 600), ("valid", 100), ("test", 200)):
        np.testing.assert_array_equal(data.split(split).labels, np.repeat(np.arange(10), each))
        assert len(np.unique(data.split(split).ids)) == 10 * each
    assert not np.intersect1d(data.train.ids, data.valid.ids).size
    assert datasets.EMBEDDED["FashionMNIST-mini"].stat().st_size < 5_000_000
    assert "Zalando SE" in datasets.EMBEDDED["FashionMNIST-mini"].with_name("LICENSE").read_text()


def test_the_embedded_set_is_a_part_of_fashion_mnist():
    full, mini = prepared("FashionMNIST"), load("FashionMNIST-mini")
    for split, each in (("train", 600), ("valid", 100), ("test", 200)):
        for label in range(10):
            rows = np.flatnonzero(full.split(split).labels == label)[:each]
            chosen = mini.split(split).labels == label
            np.testing.assert_array_equal(mini.split(split).images[chosen], full.split(split).images[rows])
            np.testing.assert_array_equal(mini.split(split).ids[chosen], full.split(split).ids[rows])


def test_make_writes_the_embedded_set_again(monkeypatch, tmp_path):
    prepared("FashionMNIST")
    from data.embedded import make

    original = datasets.EMBEDDED["FashionMNIST-mini"]
    monkeypatch.setitem(datasets.EMBEDDED, "FashionMNIST-mini", tmp_path / "mini.h5")
    assert make.main() == 0
    copy = load("FashionMNIST-mini")
    monkeypatch.setitem(datasets.EMBEDDED, "FashionMNIST-mini", original)
    assert_equal_splits(copy.train, load("FashionMNIST-mini").train)


@pytest.mark.parametrize("damage", [cut, overwrite, Path.unlink])
def test_a_damaged_embedded_file_names_the_remedy(monkeypatch, tmp_path, damage):
    copy = tmp_path / "FashionMNIST-mini.h5"
    copy.write_bytes(datasets.EMBEDDED["FashionMNIST-mini"].read_bytes())
    monkeypatch.setitem(datasets.EMBEDDED, "FashionMNIST-mini", copy)
    load("FashionMNIST-mini")
    damage(copy)
    for call in (load, prepare):
        with pytest.raises(InputError, match="git checkout -- data/embedded") as error:
            call("FashionMNIST-mini")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("MNIST", [0.1307], [0.3081]),
        ("FashionMNIST", [0.2860], [0.3530]),
        ("CIFAR10", [0.49139968, 0.48215841, 0.44653091], [0.24703223, 0.24348513, 0.26158784]),
    ],
)
def test_pixels_have_the_published_mean_and_deviation(name, mean, std):
    data = prepared(name)
    histograms = [
        np.stack([np.bincount(split.images[:, channel].reshape(-1), minlength=256) for channel in range(len(mean))])
        for split in (data.train, data.valid)
    ]
    counts = histograms[0] + histograms[1]
    grey = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(share @ grey, mean, atol=6e-5)
    np.testing.assert_allclose(np.sqrt(share @ grey**2 - (share @ grey) ** 2), std, atol=6e-5)
    assert sorted(np.concatenate([data.train.ids, data.valid.ids])) == list(range(len(data.train) + len(data.valid)))


def test_reading_data_needs_no_torch():
    code = "import sys, data.datasets, data.__main__; data.datasets.load('FashionMNIST-mini'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=files.ROOT, check=False).returncode == 0
