"""Analyses of teachers and students: saliency and features of both networks on counterfactual images."""

import dataclasses
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from analysis.__main__ import main
from analysis.saliency import saliency
from data import datasets
from data.cue_batches import CounterfactualSet
from data.mechanisms import read_mechanism
from models.networks import build_network
from tests.train.runs import CPU, pretend
from train.build import build

TEACHER = {"dataset": 0, "method": "Teacher", "mechanism": "B", "lr": 0.1}
STUDENT = TEACHER | {"method": "Student", "mechanism": "P", "loss": "Base", "teacher": {"mechanism": "B", "lr": 0.1}}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The list of a teacher, its student, and one that is not trained; fresh weights, few test images."""
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    full = datasets.load("FashionMNIST-mini")
    chosen = datasets.class_balanced(full.test, 60)
    test = datasets.Split(full.test.images[chosen], full.test.labels[chosen], full.test.ids[chosen])
    small = dataclasses.replace(full, test=test)
    monkeypatch.setattr(datasets, "load", lambda name, root=None: small)
    torch.manual_seed(0)
    for entry in (TEACHER, STUDENT):
        pretend(build(entry), build_network("SmallNet", 10), {})
    path = tmp_path / "cues.yaml"
    path.write_text(yaml.safe_dump([TEACHER, STUDENT, STUDENT | {"mechanism": "B"}, {"dataset": 0, "method": "Identity", "lr": 0.1}]))
    return path


def weights(experiment):
    from train.method import load_network

    return load_network(experiment, CPU)


def test_saliency_is_the_largest_gradient_of_the_largest_logit():
    torch.manual_seed(1)
    network = build_network("SmallNet", 10).double().eval()
    images = torch.rand(3, 3, 28, 28, dtype=torch.float64)
    found = saliency(network, images)
    assert found.shape == (3, 28, 28)
    for place in range(3):
        own = images[place : place + 1].clone().requires_grad_()
        network(own)[0].max().backward()
        torch.testing.assert_close(found[place], own.grad[0].abs().amax(0))


@pytest.mark.parametrize("analysis", ["saliency", "features"])
def test_both_networks_are_analysed_on_every_set_and_what_is_there_is_kept(config, capsys, analysis):
    assert main([analysis, str(config), "--images", "20"]) == 0
    out = capsys.readouterr().out
    experiment = build(STUDENT)
    folder = experiment.directory / "analyses" / analysis / "test-20"
    assert f"{experiment.name}: done, in {folder}" in out
    assert "left out, it is new" in out
    data = datasets.load("FashionMNIST-mini")
    networks = {"student": weights(experiment), "teacher": weights(experiment.teacher)}
    with h5py.File(folder / f"{analysis}.h5") as file:
        assert set(file) == {"P", "B", "BR", "BoxOnly"}
        for name in file:
            own = CounterfactualSet(data, read_mechanism("FashionMNIST-mini", name), CPU, fast=20)
            inputs = own.to_network(own.levels())
            assert np.array_equal(file[name]["label"], own.scene.labels[own.chosen])
            for key, network in networks.items():
                expected = saliency(network, inputs) if analysis == "saliency" else network.activate(inputs).penultimate_nu
                np.testing.assert_allclose(file[name][key][()], expected.numpy(), rtol=1e-4, atol=1e-6)
    with h5py.File(build(TEACHER).directory / "analyses" / analysis / "test-20" / f"{analysis}.h5") as file:
        assert "student" not in file["P"]
    if analysis == "saliency":
        with Image.open(folder / "saliency.png") as picture:
            assert min(picture.size) > 400
    before = (folder / f"{analysis}.h5").stat().st_mtime_ns
    (folder.parent / ".test-9.1.tmp").mkdir()
    assert main([analysis, str(config), "--images", "20", "--index", "1"]) == 0
    assert "done already" in capsys.readouterr().out
    assert (folder / f"{analysis}.h5").stat().st_mtime_ns == before
    assert main([analysis, str(config), "--images", "10", "--index", "1"]) == 0
    assert sorted(path.name for path in Path(folder.parent).iterdir()) == ["test-10", "test-20"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["saliency", "--index", "3"], "entry 3: Identity-lr0.1-.* is no teacher or student; saliency takes those"),
        (["features", "--index", "2"], "no finished run to analyse; train them with: python -m train"),
        (["features", "--images", "none"], "--images none: must be a whole number from 1"),
        (["invariance", "--index", "1"], "entry 1: Student-.* is a part"),
    ],
)
def test_mistakes_are_one_line(config, capsys, arguments, words):
    assert main([arguments[0], str(config), *arguments[1:]]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1

    assert re.search(words, error)
