"""Data sets and networks that users bring along: an entry names their functions, which are trained, evaluated and found again."""

import importlib
import linecache
import shutil
import sys

import numpy as np
import pytest

from data import datasets
from data.facts import dataset_choice
from errors import InputError
from plots.results import load
from train.build import build
from train.fields import FieldError
from train.runner import run_experiment

DATA = """
import numpy as np
from data.content import Split
from data.datasets import described

@described(classes=2, shape=(1, 28, 28), mean=(0.4,))
def stripes():
    generator = np.random.default_rng(0)

    def split(count):
        images, labels = generator.integers(0, 128, (count, 1, 28, 28), dtype=np.uint8), np.arange(count) % 2
        images[labels == 0, :, ::4] += 128
        images[labels == 1, :, :, ::4] += SIZE
        return Split(images, labels, np.arange(count))

    return {"train": split(80), "valid": split(20), "test": split(20)}

def plain():
    return {}

@described(classes=2, shape=(1, 28, 28))
def broken():
    raise OSError("no disk")

@described(classes=2, shape=(1, 28, 28))
def nothing():
    return {"train": 1}

@described(classes=3, shape=(1, 28, 28))
def lacking():
    return stripes()

value = 3
"""
NETS = """
from torch import nn

def tiny(classes):
    return [nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU()), nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), nn.Linear(16, classes)]
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A package on Python's path, and folders for data and runs."""
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "minedata.py").write_text(DATA.replace("SIZE", "128"))
    (tmp_path / "lab" / "minenets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path / "lab"))
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    yield tmp_path
    for name in ("minedata", "minenets"):
        sys.modules.pop(name, None)


def test_it_is_made_once_and_kept(mine, monkeypatch):
    choice = dataset_choice("minedata:stripes")
    assert (choice.classes, choice.shape, choice.mean, choice.std, choice.counts, choice.model) == (
        2,
        (1, 28, 28),
        (0.4,),
        (0.5,),
        (),
        "ResNet18",
    )
    first = datasets.load("minedata:stripes")
    assert (mine / "data" / "minedata-stripes.h5").exists()
    monkeypatch.setattr("minedata.np.random.default_rng", None)  # made again, it would fail
    again = datasets.load("minedata:stripes")
    assert again.checksum == first.checksum
    assert np.array_equal(again.train.images, first.train.images)
    assert datasets.split_count("minedata:stripes", "test") == 20


def test_one_that_has_changed_is_made_again(mine, capsys):
    first = datasets.load("minedata:stripes")
    (mine / "lab" / "minedata.py").write_text(DATA.replace("SIZE", "64").replace("count) % 2", "count)  % 2"))
    import minedata

    linecache.clearcache()
    shutil.rmtree(mine / "lab" / "__pycache__", ignore_errors=True)
    importlib.reload(minedata)
    second = datasets.load("minedata:stripes")
    assert "minedata:stripes: has changed since" in capsys.readouterr().err
    assert second.checksum != first.checksum


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("minedata:plain", "says nothing of its images"),
        ("minedata:absent", "cannot be imported"),
        ("gone:stripes", "cannot be imported"),
        ("minedata:value", "is a int, not a function"),
        ("minedata:broken", "failed (OSError: no disk)"),
        ("minedata:nothing", "must return a mapping of train, valid and test"),
        ("minedata:lacking", "does not have every label 0..2"),
    ],
)
def test_what_is_wrong_is_one_line(mine, name, said):
    with pytest.raises(InputError) as error:
        datasets.load(name)
    assert said in str(error.value)
    assert name.partition(":")[0] in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((mine / "data").glob("*"))


def test_an_entry_of_both_is_trained_evaluated_and_found_again(mine):
    entry = {"dataset": "minedata:stripes", "model": "minenets:tiny", "method": "CrossEntropy", "lr": 0.05, "epochs": 1, "device": "cpu"}
    experiment = build(entry | {"evaluation": {"compositions": "elementals"}, "analyses": ["saturation", "receptive_field"]})
    run_experiment(experiment)
    assert experiment.directory.parent == mine / "runs" / "minedata-stripes"
    table = load(mine / "runs")
    assert set(table["dataset"]) == {"minedata:stripes"}
    assert set(table["model"]) == {"minenets:tiny"}
    assert set(table[table["metric"] == "accuracy"]["composition"]) > {"Identity", "Swirl"}
    assert table[table["metric"] == "saturation_0.99"]["layer"].drop_duplicates().tolist() == ["blocks.0.0", "blocks.2"]
    assert build(entry).hash == experiment.hash != build(entry | {"model": "SmallNet"}).hash


@pytest.mark.parametrize("key", ["dataset", "model"])
def test_an_entry_that_names_what_is_not_there_says_so(mine, key):
    entry = {"dataset": "minedata:stripes", "model": "minenets:tiny", "method": "Identity", "lr": 0.1}
    with pytest.raises(FieldError, match=f"{key}: gone:it: cannot be imported"):
        build(entry | {key: "gone:it"})
