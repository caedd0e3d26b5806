"""3D Shapes: the published file's layout, its conversion into a file that is mapped, and what damage is told."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

import info_dicts
from data import datasets, mapped, shapes, shapes_render
from data.__main__ import main
from errors import InputError

SMALL = next(choice for choice in info_dicts.DATASETS.values() if choice == "3DShapes-small").factors
TINY = (10, 1, 2, 8, 4, 1)


@pytest.fixture
def published(tmp_path):
    """A tiny grid in the published layout."""
    path = tmp_path / "3dshapes.h5"
    shapes_render.write_rendered(path, TINY)
    return path


def test_splits_are_disjoint_fixed_and_complete():
    parts = shapes.split_ids(480_000)
    assert [len(part) for part in parts] == [384_000, 48_000, 48_000]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(480_000))
    assert [int(part[0]) for part in parts] == [int(part[0]) for part in shapes.split_ids(480_000)]
    # Every class is in every split by its share: standard deviation of the smallest 73.
    labels = shapes.labels_of(parts[2], (10, 10, 10, 8, 4, 15))
    assert np.abs(np.bincount(labels) - 6000).max() < 350


def test_factors_are_mixed_radix_with_orientation_fastest():
    found = shapes.factors_of(np.array([0, 1, 15, 479_999]), (10, 10, 10, 8, 4, 15))
    assert found.tolist() == [[0] * 6, [0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0], [9, 9, 9, 7, 3, 14]]
    with pytest.raises(ValueError, match="out of bounds"):
        shapes.factors_of(np.array([480_000]), (10, 10, 10, 8, 4, 15))


def test_what_is_written_in_the_published_layout_is_read_and_mapped_as_it_is(published, tmp_path):
    with h5py.File(published) as file:
        images, labels = file["images"][()], file["labels"][()]
        assert "not the published" in file.attrs["origin"]
    assert (images.dtype, images.shape, labels.shape) == (np.uint8, (640, 64, 64, 3), (640, 6))
    assert sorted(set(labels[:, 3])) == pytest.approx(np.linspace(0.75, 1.25, 8))
    mapped.write_mapped(tmp_path / "mapped.h5", "3DShapes", TINY, shapes.read_published(published, TINY), "here")
    splits, checksum = mapped.read_mapped(tmp_path / "mapped.h5", TINY)
    assert checksum == ""
    for own, own_labels, ids in splits.values():
        assert isinstance(own, np.memmap)
        assert np.array_equal(own, images[ids].transpose(0, 3, 1, 2))
        assert np.array_equal(own_labels, shapes.labels_of(ids, TINY))
    # Nothing gets into the file.
    splits["train"][0][0] = 7
    assert not np.array_equal(splits["train"][0][0], mapped.read_mapped(tmp_path / "mapped.h5", TINY)[0]["train"][0][0])


def cut(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def change(name, value):
    def write(path):
        with h5py.File(path, "r+") as file:
            del file[name]
            if value is not None:
                file[name] = value(file)

    return write


def swap(path):
    with h5py.File(path, "r+") as file:
        rows = file["labels"][()]
        rows[[3, 4]] = rows[[4, 3]]
        file["labels"][...] = rows


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "cannot be read"),
        (lambda path: path.write_text("no HDF5"), "cannot be read"),
        (change("images", None), "has no array images"),
        (change("labels", None), "has no array labels"),
        (change("labels", lambda file: np.zeros((3, 6))), r"labels are float64 \(3, 6\), expected floating \(640, 6\)"),
        (change("labels", lambda file: np.zeros((640, 6))), "labels have 1 values of floor hue, expected 10"),
        (change("images", lambda file: np.zeros((640, 64, 64, 3), np.float32)), "images are float32"),
        (swap, "of image 3 is not in the published order"),
    ],
)
def test_a_damaged_file_is_one_line(published, damage, words):
    damage(published)
    with pytest.raises(InputError, match=words) as caught:
        list(shapes.read_published(published, TINY))
    assert "\n" not in str(caught.value)
    assert str(published) in str(caught.value)


def test_a_source_without_the_file_or_with_another_grid_is_refused(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path / "data"))
    for source, words in (
        (str(tmp_path), "images are uint8 (640, 64, 64, 3), expected uint8 (480000, 64, 64, 3)"),
        ("packages", "there is no package of it"),
    ):
        assert main(["prepare", "3DShapes", "--source", source]) == 2
        assert words in capsys.readouterr().err
    published.rename(tmp_path / "other.h5")
    assert main(["prepare", "3DShapes", "--source", str(tmp_path)]) == 2
    assert "has no 3dshapes.h5" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"3DShapes: .* is missing; run `python -m data prepare 3DShapes`"):
        datasets.require("3DShapes")


def test_the_small_set_renders_itself_to_the_pinned_bits_and_a_damaged_copy_is_made_again(tmp_path, capsys):
    data = datasets.load("3DShapes-small", tmp_path)
    assert data.checksum == datasets.CONTENT_SHA256["3DShapes-small"]
    assert [len(data.split(split)) for split in ("train", "valid", "test")] == [6144, 768, 768]
    cut(tmp_path / "3DShapes-small.h5")
    assert datasets.load("3DShapes-small", tmp_path).checksum == data.checksum
    assert "is damaged" in capsys.readouterr().err


def test_a_changed_pixel_is_found_by_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path))
    datasets.load("3DShapes-small")
    assert main(["check", "3DShapes-small"]) == 0
    with h5py.File(tmp_path / "3DShapes-small.h5", "r+") as file:
        file["images"][5, 0, 3, 3] ^= 1
    capsys.readouterr()
    assert main(["check", "3DShapes-small"]) == 2
    assert "another checksum" in capsys.readouterr().err


def test_a_mapped_data_set_is_not_read_into_memory(tmp_path):
    """94 MB of images: opening them and looking at one takes a fraction of that."""
    datasets.load("3DShapes-small", tmp_path)
    script = f"""
import resource
from pathlib import Path
from data import datasets
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = datasets.load("3DShapes-small", Path({str(tmp_path)!r}))
print(int(data.train.images[7].sum()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert int(out[0]) > 0
    assert int(out[1]) < 30_000  # kB


def test_objects_differ_in_shape_size_place_and_hue():
    images = np.concatenate(list(shapes_render.render(SMALL)))
    assert len(images) == 7680
    ranks = shapes.factors_of(np.arange(7680), SMALL)
    # One factor changed at a time changes the picture.
    for number, size in enumerate(SMALL):
        strides = int(np.prod(SMALL[number + 1 :]))
        first = np.flatnonzero(ranks[:, number] == 0)[::97]
        assert all((images[first] != images[first + strides]).any(axis=(1, 2, 3))), size
    # A larger scale shows more of the object: pixels that the object's hue changes.
    base = [0, 0, 0, 0, 2, 1]
    areas = []
    for scale in range(8):
        place = [np.ravel_multi_index((*base[:2], hue, scale, *base[4:]), SMALL) for hue in (0, 2)]
        areas.append(int((images[place[0]] != images[place[1]]).any(axis=2).sum()))
    assert areas == sorted(areas)
    assert areas[-1] > 2 * areas[0]
