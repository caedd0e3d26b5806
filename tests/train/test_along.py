"""Saturation that is followed along a training: the training does not notice, every batch counts as asked, and a stopped run tells the same."""

import copy
import itertools
import json
import shutil
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import info_dicts
from analysis.saturation import Covariances
from errors import Diverged, Interrupted, RunError
from plots.results import load
from tests.analysis.systems import finish
from tests.train.runs import COMMON, equal, metrics, train, weights
from tests.wandb_server.server import WandbServer
from train import interrupt, loop, tracking
from train.along import Along
from train.build import build
from train.checkpoint import load_checkpoint
from train.fields import FieldError
from train.runner import run_experiment
from train.subject import ExperimentSubject, row_of, values_of

LAYERS = ["blocks.0.0", "blocks.1.0", "blocks.2.0", "blocks.3.1", "blocks.4"]
IDENTITY = COMMON | {"method": "Identity", "lr": 0.05}
ENTRIES = {
    "Identity": IDENTITY,
    "bfloat16": IDENTITY | {"precision": "bfloat16"},
    "CrossEntropy": IDENTITY | {"method": "CrossEntropy"},
    "Contrastive": IDENTITY | {"method": "Contrastive", "weight": 0.1},
    "LeNet5": IDENTITY | {"model": "LeNet5", "epochs": 1},
    "Teacher": COMMON | {"method": "Teacher", "mechanism": "B", "lr": 0.05, "evaluate_every": 1000},
}


def followed(entry, every=1, **options):
    return entry | {"analyses": {"saturation": {"along": every, **options}}}


def spectra(experiment, epoch, stage=""):
    return dict(np.load(experiment.directory / "analyses" / "saturation" / "along" / f"{stage}epoch-{epoch:04d}.npz"))


def plain(rows):
    """Rows without what was followed."""
    return [{key: value for key, value in row.items() if key not in ("layers", "layers_every")} for row in rows]


@pytest.fixture
def counted(monkeypatch):
    """How many rows every layer's covariance had at the end of an epoch, by split: a list of dicts."""
    counts = []
    end_epoch = Along.end_epoch

    def counting(self, *arguments):
        counts.append({split: {layer: own.n for layer, own in found.of.items()} for split, found in self.covariances.items()})
        return end_epoch(self, *arguments)

    monkeypatch.setattr(Along, "end_epoch", counting)
    return counts


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("kind", ENTRIES)
def test_a_training_that_is_followed_has_the_bits_of_one_that_is_not(kind, tmp_path, monkeypatch):
    entry = ENTRIES[kind]
    experiment = train(followed(entry))
    rows, kept, layers = metrics(experiment), weights(experiment), [name for name in spectra(experiment, 1) if name.startswith("train/")]
    assert experiment.hash == build(entry).hash
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "other"))
    other = train(entry)
    assert not (other.directory / "analyses").exists()
    assert equal(kept, weights(other))
    assert plain(rows) == metrics(other)
    own = [row for row in rows if "layers" in row]
    assert len(own) == entry["epochs"]
    for row in own:
        assert row["layers_every"] == 1
        assert {*row["layers"]} == {"train", "valid"}
        for found in row["layers"].values():
            assert [f"train/{layer}" for layer in found] == sorted(layers)
            for values in found.values():
                assert values["saturation_0.99"] == values["intrinsic_dimension_0.99"] / values["dimension"]
                assert 0 < values["saturation_0.99"] <= 1


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize(("every", "batches"), [(1, 4), (2, 2), (3, 2), (100, 1)])
def test_every_batch_counts_or_every_nth(every, batches, counted):
    experiment = train(followed(IDENTITY, every))
    # 200 images in 4 batches of 50; 50 to validate.
    positions = {"blocks.0.0": 14 * 14, "blocks.1.0": 7 * 7, "blocks.2.0": 4 * 4, "blocks.3.1": 1, "blocks.4": 1}
    assert counted == 2 * [
        {split: {layer: images * own for layer, own in positions.items()} for split, images in (("train", 50 * batches), ("valid", 50))}
    ]
    assert {row["layers_every"] for row in metrics(experiment)} == {every}


@pytest.mark.usefixtures("small_runs")
def test_spectra_are_those_of_the_outputs_in_every_step(monkeypatch):
    """Of the weights as they are in that step, in train mode; of the validation images, of the weights at the epoch's end."""
    options = {"delta": [0.9, 0.99], "conv": "mean"}
    own = Covariances("mean")
    step = loop.Loop.step

    def beside(self, network, batch):
        twin = copy.deepcopy(network)
        # The same dropout.
        with torch.random.fork_rng(), torch.no_grad(), own.watching(twin):
            twin(batch.images_nchw)
        return step(self, network, batch)

    monkeypatch.setattr(loop.Loop, "step", beside)
    experiment = train(followed(IDENTITY | {"epochs": 1}, **options))
    found = spectra(experiment, 1)
    assert list(found) == [f"{split}/{layer}" for split in ("train", "valid") for layer in LAYERS]
    for layer, values in own.spectra().items():
        np.testing.assert_allclose(found[f"train/{layer}"], values, rtol=1e-5, atol=1e-6 * values[0])
        assert not np.allclose(found[f"valid/{layer}"], values, rtol=1e-3)
    (row,) = metrics(experiment)
    for split in ("train", "valid"):
        for layer in LAYERS:
            values = row["layers"][split][layer]
            shares = np.cumsum(found[f"{split}/{layer}"]) / found[f"{split}/{layer}"].sum()
            for delta in (0.9, 0.99):
                assert values[f"intrinsic_dimension_{delta:g}"] == max(1, (shares < delta).sum())
            assert values["dimension"] == len(shares)
            assert values["trace"] == pytest.approx(found[f"{split}/{layer}"].sum())


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("at", [1, 3, 6, 8, 13])
def test_a_run_that_is_stopped_in_the_middle_of_an_epoch_ends_with_the_same_rows(tmp_path, monkeypatch, at):
    """Asked after every step and validation batch: 4 and 1 in each of 3 epochs."""
    entry = followed(IDENTITY | {"epochs": 3}, 2)
    experiment = train(entry)
    whole, last = metrics(experiment), [spectra(experiment, epoch) for epoch in (1, 2, 3)]
    kept = weights(experiment)
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "stopped"))
    experiment = build(entry)
    asked = itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "told", lambda: next(asked) >= at)
        with pytest.raises(Interrupted):
            run_experiment(experiment, evaluation=False)
    run_experiment(experiment, evaluation=False)
    assert metrics(experiment) == whole
    assert equal(weights(experiment), kept)
    for epoch, expected in zip((1, 2, 3), last):
        found = spectra(experiment, epoch)
        assert found.keys() == expected.keys()
        assert all((found[name] == expected[name]).all() for name in found)


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize(("at", "where"), [(20, "epoch 1, after step 4"), (30, "epoch 2, after step 1"), (36, "epoch 2, after step 4")])
def test_a_teacher_that_is_stopped_while_it_is_tested_ends_with_the_same_rows(tmp_path, monkeypatch, at, where):
    """Also in its test on all images, where nothing is trained on any more in the epoch."""
    entry = followed(ENTRIES["Teacher"])
    experiment = train(entry)
    whole, last = metrics(experiment), spectra(experiment, 1)
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "stopped"))
    experiment = build(entry)
    asked = itertools.count(1)
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "told", lambda: next(asked) >= at)
        with pytest.raises(Interrupted, match=where):
            run_experiment(experiment, evaluation=False)
    run_experiment(experiment, evaluation=False)
    assert metrics(experiment) == whole
    assert all((found == last[name]).all() for name, found in spectra(experiment, 1).items())


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("loss", info_dicts.LOSSES.values(), ids=str)
def test_students_are_followed_whatever_is_trained_beside_them(loss):
    entry = ENTRIES["Teacher"] | {"method": "Student", "mechanism": "P", "loss": str(loss), "epochs": 1}
    if loss.teacher:
        entry |= {"teacher": {"mechanism": "B", "lr": 0.05, "epochs": 1, "evaluate_every": 1000}}
        finish(build(entry))
        shutil.rmtree(build(entry).directory)
    experiment = train(followed(entry))
    (row,) = [own for own in metrics(experiment) if "train_loss" in own]
    assert [*row["layers"]["train"]] == [*row["layers"]["valid"]] == LAYERS
    kept = weights(experiment)
    shutil.rmtree(experiment.directory)
    other = train(entry)
    assert equal(weights(other), kept)
    assert [own for own in metrics(other) if "train_loss" in own] == plain([row])


# Runs the real command with a checkpoint after every step, and kills itself at the so-manieth one.
KILLED = """
import os, signal, sys
import torch
import tests.train.tiny
from train import loop
from train.__main__ import main

count, step, calls = int(sys.argv[1]), loop.Loop.step, 0
loop.SAVE_SECONDS = 0

def counted(*arguments):
    global calls
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)

loop.Loop.step = counted
torch.set_num_threads(1)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.usefixtures("small_runs")
def test_a_run_that_is_killed_ends_with_the_same_rows(tmp_path, monkeypatch):
    entry = followed(IDENTITY | {"threads": 1}, 3)
    experiment = train(entry)
    whole, kept, last = metrics(experiment), weights(experiment), [spectra(experiment, epoch) for epoch in (1, 2)]
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "killed"))
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([entry]))
    # The third step of the second epoch.
    words = [sys.executable, "-c", KILLED, "7", str(tmp_path / "list.yaml"), "--index", "0"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    experiment = build(entry)
    assert load_checkpoint(experiment.directory)["along"]["train"]["blocks.4"]["n"] == 50
    run_experiment(experiment, evaluation=False)
    assert metrics(experiment) == whole
    assert equal(weights(experiment), kept)
    for epoch, expected in zip((1, 2), last):
        assert all((found == expected[name]).all() for name, found in spectra(experiment, epoch).items())


@pytest.mark.usefixtures("small_runs")
def test_a_training_that_diverges_says_so():
    with pytest.raises(Diverged, match="the loss is not finite"):
        train(followed(IDENTITY | {"lr": 1e12}))


@pytest.mark.usefixtures("small_runs")
def test_a_folder_that_cannot_be_written_is_named():
    experiment = build(followed(IDENTITY))
    (experiment.directory / "analyses").mkdir(parents=True)
    (experiment.directory / "analyses" / "saturation").write_text("in the way")
    with pytest.raises(RunError, match=r"epoch-0001.npz: cannot be written") as raised:
        run_experiment(experiment, evaluation=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("along", [0, -1, 1.5, True, "all"])
def test_what_along_may_be(along):
    with pytest.raises(FieldError, match=r"^analyses: saturation\.along: "):
        build(followed(IDENTITY, along))


@pytest.mark.usefixtures("small_runs")
def test_rows_come_back_from_w_and_b():
    experiment = train(followed(IDENTITY | {"epochs": 1}, 2))
    (row,) = [json.loads(line) for line in (experiment.directory / "metrics.jsonl").read_text().splitlines()]
    values = values_of(row)
    assert values["layers/train/blocks.3.1/saturation_0.99"] == row["layers"]["train"]["blocks.3.1"]["saturation_0.99"]
    assert all(isinstance(value, int | float) for value in values.values())
    back = row_of(values)
    assert back == {key: value for key, value in row.items() if key not in ("seconds", "left")}


ORDER = ["run", "metric", "split", "composition", "layer", "epoch"]


def assert_same(table, other):
    first, second = (one.sort_values(ORDER, ignore_index=True) for one in (table, other))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_analyses_and_what_was_followed_are_the_same_wherever_they_are_read(small_runs, online: WandbServer, tmp_path, monkeypatch):
    entry = IDENTITY | {
        "evaluation": {"images": 20, "compositions": ["ID", "CO"]},
        "analyses": {"saturation": {"along": 2, "images": 20, "compositions": ["Identity", "Invert-Contrast"]}, "cost": {}},
    }
    path = tmp_path / "followed.yaml"
    path.write_text(yaml.safe_dump([entry]))
    experiment = build(entry)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_experiment(experiment)
    local = load(path)
    followed_rows = local.query("metric == 'saturation_0.99' and epoch == 2")
    assert sorted(followed_rows["split"].unique()) == ["train", "valid"]
    assert followed_rows.query("split == 'train'")["layer"].tolist() == LAYERS
    later = local[(local["metric"] == "saturation_0.99") & local["epoch"].isna()]
    assert later["composition"].unique().tolist() == ["Identity", "Invert-Contrast"]
    assert later["n_corruptions"].unique().tolist() == [0, 2]
    assert local.query("metric == 'layers_every'")["value"].tolist() == [2, 2]
    assert "parameters" in set(local["metric"])
    for mode in ("offline", "online"):
        monkeypatch.setenv("WANDB_MODE", mode)
        tracking.Tracker(ExperimentSubject(experiment, ("followed",))).finish()
    files = tmp_path / "files"
    for folder in (tmp_path / "runs").rglob("offline-run-*"):
        shutil.copytree(folder, files / folder.name)
    for source in (str(files), "local/palimpsest"):
        assert_same(load(source), local)
        assert_same(load(path, origin=source), local)
