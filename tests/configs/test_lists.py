"""The committed lists: they are what `python -m configs` writes, and every entry builds its networks and takes a real step on tiny data."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

import info_dicts
from configs.__main__ import FOLDER, committed, main
from configs.distillation import RECIPES as CUE_RECIPES
from configs.lists import LISTS
from configs.recipes import PUBLISHED, RECIPES
from data import datasets
from data.composed import COMPOSED
from data.compositions import ELEMENTALS
from data.polynomials import points
from models.networks import build_autoencoder, build_module, build_network
from tests.train.runs import CPU, pretend
from tests.train.test_published_networks import takes_a_step
from train.build import build
from train.cue_experiments import UnderCues
from train.entry import SEEDS
from train.evaluation import evaluate, load_systems
from train.fields import Evaluation
from train.lists import read
from train.method import method_class
from train.run import finished

ENTRIES = {name: [entry.experiment for entry in read(FOLDER / f"{name}.yaml")] for name in LISTS}


def network_of(fields):
    """An entry's canonical form without what changes no network."""
    changes_none = ("seed", "epochs", "precision", "lr", "weight", "search_epochs")
    return {key: network_of(value) if isinstance(value, dict) else value for key, value in fields.items() if key not in changes_none}


DISTINCT = {
    json.dumps(network_of(e.canonical()), sort_keys=True): e
    for experiments in reversed(ENTRIES.values())
    for e in reversed(experiments)
    # Teachers and students take theirs in tests/configs/test_cue_lists.py.
    if not isinstance(e, UnderCues)
}


def test_the_committed_lists_are_those_that_are_written():
    assert {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml") if path.parent.name != "sweeps"} == set(
        LISTS
    )
    for name in LISTS:
        assert (FOLDER / f"{name}.yaml").read_text() == committed(name), f"{name}: write it again with: python -m configs"


@pytest.mark.parametrize("name", LISTS)
def test_three_header_lines_say_command_time_and_numbers(name):
    first, second, third = (FOLDER / f"{name}.yaml").read_text().splitlines()[:3]
    assert first == f"# bash submit_array.sh configs/{name}.yaml"
    assert re.search(r"\d.* (s|min|minutes|hours?|h|days)\b", second)
    assert third.startswith("# Expect")
    assert max(map(len, (first, second, third))) < 400


@pytest.mark.parametrize("name", LISTS)
def test_the_comment_above_a_block_names_its_indices(name):
    index = 0
    for line in (FOLDER / f"{name}.yaml").read_text().splitlines()[3:]:
        if match := re.match(r"# (\d+)(?: to (\d+))?: (\S+), seed (\d+)", line):
            assert int(match[1]) == index
            last = int(match[2] or match[1])
            assert {(e.dataset, e.seed) for e in ENTRIES[name][index : last + 1]} == {(match[3], int(match[4]))}
        index += line.startswith("- ")
    assert index == len(ENTRIES[name])


def test_the_published_hyperparameters():
    """Section 4 of the paper's appendix, as (data set, method) -> learning rates and weights."""
    lrs = {"EMNIST": (0.01, 0.01), "CIFAR10": (0.1, 0.1), "FaceScrub": (0.1, 0.1)}
    weights = {"EMNIST": (0.1, 1.0), "CIFAR10": (0.1, 1.0), "FaceScrub": (0.01, 0.1)}
    by_hand = {"EMNIST": 4, "CIFAR10": 9, "FaceScrub": 16}
    for dataset in PUBLISHED:

        def all_of(name, method, dataset=dataset):
            return [e for e in ENTRIES[name] if (e.dataset, e.method) == (dataset, method)]

        (one_step, classifier), (contrastive, module) = lrs[dataset], weights[dataset]
        assert {e.lr for e in all_of("identity", "Identity")} == {0.1}
        assert {e.lr for e in all_of("crossentropy", "CrossEntropy")} == {one_step}
        assert {(e.lr, e.weight, e.temperature) for e in all_of("contrastive", "Contrastive")} == {(one_step, contrastive, 0.15)}
        assert {(e.lr, e.weight, e.level, e.backbone.lr) for e in all_of("modules", "Module")} == {(0.01, module, "auto", 0.1)}
        levels = {e.corruption: e.level for e in all_of("manual_modules", "Module")}
        assert levels == dict.fromkeys(ELEMENTALS[:4], 1) | dict.fromkeys(ELEMENTALS[4:], by_hand[dataset])
        assert {e.lr for e in all_of("imgspace", "Autoencoder")} == {0.1}
        assert {e.lr for e in all_of("imgspace", "Identity") + all_of("imgspace", "JointClassifier")} == {classifier}
    for name in ("identity", "crossentropy", "contrastive", "modules", "manual_modules", "imgspace", "routing"):
        assert {(e.dataset, e.seed) for e in ENTRIES[name]} == {(dataset, seed) for dataset in PUBLISHED for seed in SEEDS}
        trained = [e for e in ENTRIES[name] if hasattr(e, "epochs")]
        assert {(e.epochs, e.batch_size, e.momentum, e.weight_decay) for e in trained} <= {(200, 256, 0.9, 5e-4)}
    assert SEEDS == (38164641, 13579111, 24681012)


@pytest.mark.parametrize("name", ["modules", "manual_modules", "imgspace", "demo", "fashionmnist"])
def test_a_list_of_systems_holds_all_their_parts(name):
    hashes = {e.hash for e in ENTRIES[name]}
    systems = [e for e in ENTRIES[name] if e.requires()]
    assert systems
    assert all(part.hash in hashes for e in systems for part in e.requires())
    assert len(hashes) == len(ENTRIES[name])


def test_routing_has_a_system_told_the_truth_beside_each_that_is_not():
    told = {e.hash for e in ENTRIES["routing"] if e.routing == "told"}
    for e in ENTRIES["routing"]:
        fields = {key: value for key, value in e.canonical().items() if key not in ("routing", "router", "order")}
        assert build(fields).hash in told
    assert {e.routing for e in ENTRIES["routing"]} == {"told", "wrong_order", "random", "router"}


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "configs", *arguments], capture_output=True, text=True, timeout=60)


def test_a_grid_of_choices(tmp_path):
    path = tmp_path / "mine.yaml"
    ended = run("modules", "--dataset=EMNIST,1", "--seed=1,2,3", "--module.lr=0.1,0.01", "--epochs=7", "--out", str(path))
    assert (ended.returncode, ended.stdout) == (0, f"{path}\n")
    experiments = [entry.experiment for entry in read(path)]
    # A backbone and 2 x (6 modules and a system) for each data set and seed.
    assert len(experiments) == len({e.hash for e in experiments}) == 2 * 3 * (1 + 2 * 7)
    assert {e.dataset for e in experiments} == {"EMNIST", "MNIST"}
    modules = [e for e in experiments if e.method == "Module"]
    assert {(e.seed, e.lr, e.epochs, e.backbone.lr) for e in modules} == {(s, lr, 7, 0.1) for s in (1, 2, 3) for lr in (0.1, 0.01)}
    assert {e.study for e in experiments} == {"mine"}
    assert (
        path.read_text().splitlines()[1]
        == f"# Written by: python -m configs modules --dataset=EMNIST,1 --seed=1,2,3 --module.lr=0.1,0.01 --epochs=7 --out {path}"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["modules"], r"--out is missing; write: python -m configs modules --out FILE"),
        (["modules", "--out", str(FOLDER / "demo.yaml")], r"--out must name a file of your own"),
        (["crossentropy", "--out", "x.yaml", "--module.lr=1"], r"--module\.lr: module is no part of this list; its parts: crossentropy"),
        (["--seed=1"], r"name the list to vary: python -m configs NAME --seed=1; allowed: demo, "),
        (["modules", "--out", "x.yaml", "--dataset=99"], r"--dataset: 99 is not on the menu"),
        (
            ["modules", "--out", "x.yaml", "--dataset=Dominoes"],
            r"--dataset=Dominoes: there are no hyperparameters of modules for it in configs/; there are some for FashionMNIST-mini",
        ),
        (["slabs", "--out", "x.yaml", "--dataset=EMNIST"], r"--dataset=EMNIST: there are no hyperparameters of slabs for it"),
        (["modules", "--out", "x.yaml", "--module.lrr=1"], r"modules: lrr: unknown key for Module; did you mean 'lr'\?"),
        (["modules", "--out", "x.yaml", "--epochs=0"], r"modules: epochs: input should be greater than or equal to 1"),
        (["modules", "--out", "x.yaml", "--epochs", "5"], r"unknown argument '--epochs'; choices have the form --key=value"),
        (["modules", "--out", "/nowhere/x.yaml"], r"/nowhere/x\.yaml: cannot be written: No such file"),
        (["nothing"], r"'nothing' is unknown; .*allowed: demo, "),
    ],
)
def test_mistakes_are_one_line(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1)
    assert re.search(words, error)
    assert not os.listdir(tmp_path)


def test_a_level_that_is_chosen_is_not_searched(tmp_path):
    path = tmp_path / "mine.yaml"
    assert main(["modules", "--dataset=FashionMNIST-mini", "--seed=1", "--module.level=1,2", "--out", str(path)]) == 0
    assert {entry.experiment.level for entry in read(path) if entry.experiment.method == "Module"} == {1, 2}


def test_every_data_set_on_the_menu_has_a_recipe():
    # Those that are composed stand in lists of their own.
    assert {*RECIPES, *CUE_RECIPES, *COMPOSED, "Polynomials"} == set(map(str, info_dicts.DATASETS.values()))


# Steps.


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder of run directories for all entries, so that a prerequisite is made once."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_RUNS", str(folder))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield folder
        torch.set_num_threads(threads)


def tiny(name):
    """Three embedded images in the shape and with labels of a data set, or three points."""
    facts = next(choice for choice in info_dicts.DATASETS.values() if choice == name)
    split = datasets.load("FashionMNIST-mini").train
    images = interpolate(torch.from_numpy(split.images[::2000]).float(), facts.shape[1:]).expand(-1, facts.shape[0], -1, -1)
    labels = np.array([0, facts.classes // 2, facts.classes - 1])
    few = datasets.Split(np.ascontiguousarray(images.numpy().astype(np.uint8)), labels, np.arange(3))
    if facts.facts.get("values"):
        few = datasets.Split(points("train", 3), np.zeros(3, np.int64), np.arange(3))
    return datasets.DataSet(str(name), few, few, few, "")


def finish(experiment, level=1):
    """Finished runs of an experiment and of all that it rests on, with fresh weights; modules at a cheap level where a search would find one."""
    for number, part in enumerate(experiment.requires()):
        finish(part, 1 + number % (part.choice("model").blocks - 1))
    if finished(experiment):
        return
    torch.manual_seed(0)
    classes, size = experiment.choice("dataset").classes, experiment.choice("dataset").shape[-1]
    if experiment.is_system and experiment.requires():
        pretend(experiment, torch.nn.Identity(), {})
    elif experiment.method == "Module":
        own = level if experiment.own_level == "auto" else experiment.own_level
        pretend(experiment, build_module(experiment.model, own), {"level": own})
    elif experiment.method == "Autoencoder":
        pretend(experiment, build_autoencoder(experiment.model, size), {})
    else:
        pretend(experiment, build_network(experiment.model, len(ELEMENTALS) if experiment.method == "Router" else classes), {})


@pytest.mark.parametrize("experiment", DISTINCT.values(), ids=lambda e: f"{e.dataset}-{e.name.rsplit('-', 2)[0]}")
def test_every_entry_builds_its_networks_and_takes_a_step(experiment, runs):
    dataset = tiny(experiment.dataset)
    for part in experiment.requires():
        finish(part)
    if not hasattr(experiment, "lr"):
        finish(experiment)
        [outcome] = evaluate(
            load_systems([experiment], CPU), dataset, Evaluation(compositions=("ID", "CO-SW", "R90-IM-GB-IN")), np.arange(3), CPU
        )
        assert outcome.correct_cn.shape == (3, 3)
        assert np.isfinite(outcome.loss_c).all()
        # Fresh autoencoders make the same of any corrupted image, but leave alone what is clean, unless a fresh router names something there too.
        assert len(set(outcome.loss_c)) > 1 or experiment.routing == "router"
        return
    method = method_class(experiment.method)(experiment, dataset, CPU)
    assert method.stages()[-1].epochs == experiment.epochs
    # A search tries every level: over the six corruptions of a list, so does this.
    levels = (
        range(ELEMENTALS.index(experiment.corruption), len(method.backbone.blocks), 6)
        if getattr(experiment, "level", 0) == "auto"
        else [None]
    )
    for level in levels:
        takes_a_step(method, "train" if level is None else f"search-level{level}")


def test_the_steps_cover_every_published_level():
    auto = [e for e in DISTINCT.values() if getattr(e, "level", None) == "auto"]
    for dataset in PUBLISHED:
        assert {e.corruption for e in auto if e.dataset == dataset} == set(ELEMENTALS)
