"""Evaluation: the shared walk gives what each composition from scratch gives, whatever the parts; the files and the command."""

import dataclasses
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from data import datasets
from data.compositions import abbreviate, compositions
from data.corruptions import corrupt
from data.keys import evaluation_seed
from models.networks import build_module, build_network
from train import entry, evaluation
from train.build import build
from train.evaluation import evaluate, load_systems, select_images
from train.fields import Evaluation
from train.lists import read
from train.method import PlainSystem
from train.modular_system import ModularNetwork
from train.routing import Routing
from train.run import state
from train.runner import run_experiment

CPU = torch.device("cpu")
NAME = "FashionMNIST-mini"
COMMON = {"dataset": 0, "seed": 4, "batch_size": 64, "epochs": 1, "lr": 0.05}
LEVELS = {"Contrast": 1, "GaussianBlur": 0, "ImpulseNoise": 0, "Invert": 2, "Rotate90": 3, "Swirl": 4}


@pytest.fixture(scope="module")
def dataset():
    """The data set with 300 training and 50 validation images."""
    full = datasets.load(NAME)

    def first(split, count):
        chosen = datasets.class_balanced(split, count)
        return datasets.Split(split.images[chosen], split.labels[chosen], split.ids[chosen])

    return dataclasses.replace(full, train=first(full.train, 300), valid=first(full.valid, 50))


@pytest.fixture(autouse=True)
def _runs(tmp_path, monkeypatch, dataset):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(datasets, "load", lambda name, root=None: dataset)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def systems(dataset):
    """A plain and a modular system that are better than chance, since they fit a hundred images."""
    torch.manual_seed(0)
    images = torch.from_numpy(dataset.test.images[::20])
    inputs = (images.float() / 127.5 - 1).expand(-1, 3, -1, -1)
    labels = torch.from_numpy(dataset.test.labels[::20])
    network = build_network("SmallNet", 10)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        cross_entropy(network(inputs), labels).backward()
        optimizer.step()
    modules = {name: build_module("SmallNet", level) for name, level in LEVELS.items()}
    return [PlainSystem(network).eval(), ModularNetwork(network, modules, LEVELS, Routing()).eval()]


def slowly(system, dataset, wanted, positions):
    """Correctness (C, N) and mean losses (C,) of one system, every composition made from the clean images."""
    split = dataset.split(wanted.split)
    ids, labels = torch.from_numpy(split.ids[positions]), torch.from_numpy(split.labels[positions])
    correct, losses = [], []
    for composition in compositions(wanted.compositions):
        images = corrupt(
            torch.from_numpy(split.images[positions]),
            composition,
            ids=ids,
            seed=evaluation_seed(dataset.name, wanted.split),
            severities=wanted.severities,
        )
        inputs = (images.to(torch.uint8).float() / 127.5 - 1).repeat(1, 3, 1, 1)
        with torch.no_grad():
            logits = system(inputs, composition)
        correct.append((logits.argmax(1) == labels).numpy())
        losses.append(cross_entropy(logits.double(), labels).item())
    return np.stack(correct), np.array(losses)


@pytest.mark.parametrize(
    "wanted",
    [
        Evaluation(),
        Evaluation(split="valid", compositions="elementals"),
        Evaluation(compositions=("GaussianBlur-ImpulseNoise", "ImpulseNoise-GaussianBlur"), severities={"GaussianBlur": 5}),
    ],
    ids=["167", "valid", "severities"],
)
def test_the_shared_walk_gives_what_the_slow_way_gives(systems, dataset, wanted):
    count = len(dataset.split(wanted.split).labels)
    positions = np.arange(0, count, count // 25)
    done = []
    outcomes = evaluate(systems, dataset, wanted, positions, CPU, done.append)
    assert sum(done) == len(compositions(wanted.compositions))
    accuracies = []
    for system, outcome in zip(systems, outcomes, strict=True):
        correct, losses = slowly(system, dataset, wanted, positions)
        np.testing.assert_array_equal(outcome.correct_cn, correct)
        np.testing.assert_allclose(outcome.loss_c / len(positions), losses, rtol=1e-5)
        accuracies.append(correct.mean(axis=1))
    if wanted.split == "test" and wanted.compositions == "167":
        assert 0.4 < accuracies[0][0] == accuracies[1][0]
        assert len(set(accuracies[0])) > 8


@pytest.mark.parametrize(("part", "chunk"), [(7, 250), (40, 9), (1, 1), (100, 3)])
def test_parts_and_chunks_of_other_sizes_give_the_same(systems, dataset, monkeypatch, part, chunk):
    wanted = Evaluation(compositions=("ID", "CO", "IM-SW", "GB-IM-IN-R90"), images=40)
    positions = select_images(wanted, dataset)
    assert len(positions) == 40
    assert np.bincount(dataset.test.labels[positions]).tolist() == [4] * 10
    whole = evaluate(systems, dataset, wanted, positions, CPU)
    monkeypatch.setattr(evaluation, "PART", part)
    monkeypatch.setattr(evaluation, "CHUNK", chunk)
    bounds = evaluation.parts(wanted, dataset)
    assert len(bounds) == -(-40 // part)
    pieces = [evaluate(systems, dataset, wanted, positions[start:stop], CPU) for start, stop in bounds]
    for number, outcome in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([piece[number].correct_cn for piece in pieces], axis=1), outcome.correct_cn)
        np.testing.assert_allclose(sum(piece[number].loss_c for piece in pieces), outcome.loss_c, rtol=1e-5)


def read_file(experiment):
    with h5py.File(experiment.directory / "evaluation" / f"{experiment.testing.key}.h5") as file:
        return {key: file[key][()] for key in file} | dict(file.attrs)


def test_the_file_of_an_evaluation(dataset, monkeypatch):
    monkeypatch.setattr(evaluation, "PART", 30)
    monkeypatch.setattr(entry, "PART", 30)
    experiment = build(COMMON | {"method": "CrossEntropy", "evaluation": {"images": 110}})
    run_experiment(experiment)
    assert [path.name for path in (experiment.directory / "evaluation").iterdir()] == ["test-167-110.h5"]
    file = read_file(experiment)
    assert [name.decode().split("-") for name in file["composition"]] == [list(names) for names in compositions("167")]
    correct = np.unpackbits(file["correct"], axis=1)[:, :110]
    assert file["correct"].shape == (167, 14)
    np.testing.assert_allclose(file["accuracy"], correct.mean(axis=1), rtol=1e-12)
    assert len(set(file["accuracy"])) > 5
    positions = datasets.class_balanced(dataset.test, 110)
    np.testing.assert_array_equal(file["ids"], dataset.test.ids[positions])
    assert (file["n"], file["split"], file["data"], file["severities"]) == (110, "test", dataset.checksum, "{}")
    assert file["trained_parameters"] == file["total_parameters"] == 156_842
    system = load_systems([experiment], CPU)[0]
    slow, losses = slowly(system, dataset, Evaluation(compositions="elementals"), positions)
    np.testing.assert_array_equal(correct[:7], slow)
    np.testing.assert_allclose(file["loss"][:7], losses, rtol=1e-5)


def test_severities_that_are_held_out_of_training_change_pixels_and_the_name():
    trained = build(COMMON | {"method": "CrossEntropy", "corruptions": [1, 2], "evaluation": {"images": 50}})
    run_experiment(trained)
    held_out = build(COMMON | {"method": 1, "corruptions": [1, 2], "evaluation": {"images": 50, "severities": {"GaussianBlur": 5}}})
    assert held_out.hash == trained.hash
    assert state(held_out).name == "trained"
    run_experiment(held_out)
    assert (trained.testing.key, held_out.testing.key) == ("test-167-50", "test-167-50-GB5")
    published, severe = read_file(trained), read_file(held_out)
    for index, composition in enumerate(compositions("167")):
        assert (published["loss"][index] != severe["loss"][index]) is np.bool_("GaussianBlur" in composition), abbreviate(composition)
    assert severe["severities"] == "{'GaussianBlur': 5}"
    at_training = build(COMMON | {"method": 1, "severities": {"GaussianBlur": 5}, "evaluation": {"images": 50}})
    assert at_training.hash != trained.hash
    assert at_training.testing.key == "test-167-50-GB5"


LIST = """
- &base {dataset: 0, seed: 4, batch_size: 64, epochs: 1, lr: 0.05, method: CrossEntropy, evaluation: {images: 20, compositions: [ID, CO-SW, IM]}}
- {<<: *base, method: Contrastive, weight: 0.1}
- {<<: *base, method: Module, corruption: Swirl, level: 1, weight: 0.1, backbone: {lr: 0.05}}
"""


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "train.evaluate", *map(str, arguments)], capture_output=True, text=True, env=os.environ, timeout=120
    )


def test_the_command_evaluates_what_is_finished_and_names_the_rest(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(LIST)
    refused = command(path, "--workers", 1)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"error: {path}: no finished system to evaluate; train them with: python -m train {path}",
    ]
    assert not (tmp_path / "runs").exists()
    finished, missing, module = (entry.experiment for entry in read(path))
    run_experiment(finished, evaluation=False)
    assert state(finished).name == "trained"
    ended = command(path, "--workers", 1)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert [line for line in ended.stdout.splitlines() if "left out" in line] == [
        f"new      {missing.name}  left out: it has to be trained first",
    ]
    assert module.name not in ended.stdout
    assert (state(finished).name, state(missing).name) == ("done", "new")
    assert read_file(finished)["composition"].tolist() == [b"Identity", b"Contrast-Swirl", b"ImpulseNoise"]
    before = (finished.directory / "evaluation").stat().st_mtime_ns
    again = command(path, "--workers", 1)
    assert again.returncode == 0
    assert f"done     {finished.name}" in again.stdout
    assert (finished.directory / "evaluation").stat().st_mtime_ns == before


PEAK = """
import resource, sys
import numpy as np, torch
from data import datasets
from models.networks import Network
from train.evaluation import evaluate
from train.fields import Evaluation
from train.method import PlainSystem

torch.set_num_threads(1)
images = np.zeros((500, 3, 32, 32), np.uint8)
split = datasets.Split(images, np.arange(500) % 10, np.arange(500))
dataset = datasets.DataSet("CIFAR10", split, split, split, "")
system = PlainSystem(Network([torch.nn.Flatten(), torch.nn.Linear(3072, 10)]))
evaluate([system] * 2, dataset, Evaluation(compositions=sys.argv[1]), np.arange(500), torch.device("cpu"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_compositions():
    """167 batches of 250 images of 12 kB would be 490 MiB; the walk down the tree keeps one for each of six steps."""
    few, many = (
        float(subprocess.run([sys.executable, "-c", PEAK, spec], capture_output=True, text=True, check=True, timeout=120).stdout)
        for spec in ("elementals", "167")
    )
    assert many - few < 100, (few, many)
