"""Latents in the file are the activations, part by part; a killed extraction goes on; a disk that cannot hold them is refused before."""

import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from analysis import latents
from analysis.latents import run
from analysis.options import Latents
from analysis.taps import tapped
from errors import InputError
from tests.analysis.looked_at import inputs, seen, small_convolutions

COMPOSITIONS = [("Identity",), ("Invert", "ImpulseNoise")]
NAMES = ["Identity", "Invert-ImpulseNoise"]
LAYERS = ["blocks.0.conv", "blocks.1.conv", "blocks.2.linear", "blocks.3"]


@pytest.fixture(params=[2000, 15, 7], ids="parts of {}".format)
def part(request, monkeypatch):
    """How many images are in a part, and in the chunks that the network sees."""
    monkeypatch.setattr(latents, "PART", request.param)
    monkeypatch.setattr("analysis.pictures.CHUNK", 6)


def by_hand(found, split, condition, images, at="layers"):
    taken = {}
    with torch.no_grad(), tapped(found.network, taken.__setitem__, at):
        found.network(inputs(found, split, condition, images))
    return taken


def read(path):
    """Every array of latents.h5 by its path."""
    with h5py.File(path) as file:
        arrays = {}
        file.visititems(lambda name, own: arrays.update({name: own[()]}) if isinstance(own, h5py.Dataset) else None)
    return arrays


@pytest.mark.usefixtures("part")
@pytest.mark.parametrize("pooling", [None, 2, 1])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_file_has_the_activations(tmp_path, pooling, dtype):
    found = seen(small_convolutions(), COMPOSITIONS)
    options = Latents(compositions=NAMES, pooling=pooling, dtype=dtype, images=40)
    rows = run(found, options, tmp_path)
    arrays = read(tmp_path / "latents.h5")
    assert {tuple(name.split("/")) for name in arrays} == {
        (split, condition, layer) for split in ("train", "test") for condition in NAMES for layer in (*LAYERS, "label")
    }
    for split in ("train", "test"):
        for condition in NAMES:
            labels = arrays[f"{split}/{condition}/label"]
            np.testing.assert_array_equal(labels, found.pictures.labels(split, condition, 40).numpy())
            assert len(labels) == 40
            for layer, maps in by_hand(found, split, condition, 40).items():
                expected = (adaptive_avg_pool2d(maps, pooling) if maps.ndim == 4 and pooling else maps).flatten(1).numpy()
                stored = arrays[f"{split}/{condition}/{layer}"]
                assert stored.dtype == dtype
                tolerance = {"float32": 1e-5, "float16": 1e-3}[dtype]
                np.testing.assert_allclose(stored.astype(np.float64), expected, rtol=tolerance, atol=tolerance)
    sides = {None: (49, 16), 2: (4, 4), 1: (1, 1)}[pooling]
    assert [(row.metric, row.layer, row.value) for row in rows] == [
        ("latent_dimension", layer, value) for layer, value in zip(LAYERS, (6 * sides[0], 8 * sides[1], 12, 10))
    ]


def test_values_beyond_half_precision_are_not_made_finite(tmp_path):
    network = small_convolutions()
    network.blocks[3].bias += 1e6
    found = seen(network)
    run(found, Latents(splits="test", dtype="float16"), tmp_path)
    arrays = read(tmp_path / "latents.h5")
    assert np.isinf(arrays["test/Identity/blocks.3"]).all()
    assert np.isfinite(arrays["test/Identity/blocks.2.linear"]).all()


@pytest.mark.usefixtures("part")
def test_levels_are_stored_too(tmp_path):
    found = seen(small_convolutions())
    run(found, Latents(at="levels", splits="test", pooling=None), tmp_path)
    arrays = read(tmp_path / "latents.h5")
    expected = by_hand(found, "test", "Identity", None, "levels")
    assert {*arrays} == {f"test/Identity/{name}" for name in ("level0", "level1", "level2", "level3", "label")}
    for name, level in expected.items():
        np.testing.assert_allclose(arrays[f"test/Identity/{name.replace(' ', '')}"], level.flatten(1).numpy(), rtol=1e-5, atol=1e-5)


class Killed(Exception):
    """Comes where a process would be killed."""


@pytest.mark.parametrize(("at", "parts"), [(1, 0), (2, 0), (3, 1), (5, 2)])
def test_a_killed_extraction_goes_on_with_the_first_part_that_is_missing(tmp_path, monkeypatch, at, parts):
    monkeypatch.setattr(latents, "PART", 15)
    monkeypatch.setattr("analysis.pictures.CHUNK", 5)
    options = Latents(splits="test", images=40)
    network = small_convolutions()
    (tmp_path / "whole").mkdir()
    run(seen(network), options, tmp_path / "whole")
    ticks = 0

    def tick():
        nonlocal ticks
        ticks += 1
        if ticks == at:
            raise Killed

    folder = tmp_path / "killed"
    folder.mkdir()
    found = seen(network, tick=tick)
    with pytest.raises(Killed):
        run(found, options, folder)
    assert not (folder / "latents.h5").exists()
    done = {path.name: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}
    assert {*done} == {f"test-Identity-{number:05d}.h5" for number in range(len(done))}
    assert len(done) == parts
    run(seen(network), options, folder)
    assert {name: (folder / "parts" / name).stat().st_mtime_ns for name in done} == done
    first, second = read(tmp_path / "whole" / "latents.h5"), read(folder / "latents.h5")
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2)])
def test_a_disk_that_cannot_hold_them_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, dtype, size):
    found = seen(small_convolutions())
    # 6 * 4 * 4 + 8 * 4 * 4 + 12 + 10 values of each of 40 images.
    needed = 246 * 40 * size
    options = Latents(splits="test", dtype=dtype)
    free = SimpleNamespace(free=needed / 0.95 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(InputError, match="latents take up to") as raised:
        run(found, options, tmp_path)
    assert "\n" not in str(raised.value)
    assert "dtype: float16" in str(raised.value)
    assert "246 values of each of 40 images" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.h5"))
    free.free = needed / 0.95 + 1
    run(found, options, tmp_path)
    # What is there already needs no more room.
    free.free = 0
    run(found, options, tmp_path)
    assert len(read(tmp_path / "latents.h5")["test/Identity/label"]) == 40


def test_the_folder_may_be_moved(tmp_path):
    """The file finds its parts beside it: a finished analysis is renamed."""
    folder = tmp_path / "unfinished"
    folder.mkdir()
    run(seen(small_convolutions()), Latents(splits="test"), folder)
    before = read(folder / "latents.h5")
    folder.rename(tmp_path / "finished")
    after = read(tmp_path / "finished" / "latents.h5")
    assert all((array == after[name]).all() for name, array in before.items())
    assert after["test/Identity/blocks.3"].any()
