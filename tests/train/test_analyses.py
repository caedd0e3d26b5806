"""Analyses that an entry asks for: they are run once its run is trained, or later by a command, and change nothing of what the run is."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from analysis import cost
from analysis.__main__ import main as analyse
from analysis.covariance import intrinsic_dimension
from analysis.options import OPTIONS
from analysis.saturation import Covariances
from analysis.table import TABLE, read_table
from errors import InputError, RunError
from tests.analysis.systems import entry as system_entry
from tests.analysis.systems import finish
from tests.train.runs import COMMON, CPU, train
from train import analyses
from train.__main__ import main
from train.analysed import analyses_of, analysis_folder, missing_analyses
from train.build import build
from train.entry import ROOT
from train.fields import FieldError
from train.lists import read
from train.method import load_network
from train.run import locked, state

EVALUATION = {"images": 20, "compositions": ["ID"]}
QUICK = {"images": 20, "compositions": ["Identity", "Invert"]}
IDENTITY = COMMON | {"method": "Identity", "lr": 0.05, "epochs": 1, "evaluation": EVALUATION}
ASKED = IDENTITY | {"analyses": {"saturation": QUICK, "cost": {}}}
TEACHER = COMMON | {"method": "Teacher", "mechanism": "B", "lr": 0.05, "epochs": 1, "evaluate_every": 1000}


@pytest.fixture
def config(tmp_path, small_runs):
    """Writes a list."""

    def write(*entries):
        (tmp_path / "list.yaml").write_text(yaml.safe_dump(list(entries)))
        return str(tmp_path / "list.yaml")

    return write


def tables(experiment):
    return {name: read_table(path) for name, path in analyses_of(experiment).items()}


def test_an_entry_is_trained_until_its_analyses_are_there_and_then_done(config, capsys):
    experiment = build(ASKED)
    path = config(ASKED)
    train(ASKED)
    assert state(experiment).name == "trained"
    assert main([path, "--index", "0"]) == 0
    assert state(experiment).name == "done"
    assert {*tables(experiment)} == {"saturation", "cost"}
    assert missing_analyses(experiment) == {}
    for name in ("saturation", "cost"):
        folder = analysis_folder(experiment, name, experiment.analyses[name])
        assert (folder / TABLE).exists()
        assert not folder.with_name(f"{folder.name}.parts").exists()
    times = {path: path.stat().st_mtime_ns for path in experiment.directory.rglob("analyses/*/*/*")}
    capsys.readouterr()
    assert main([path, "--index", "0"]) == 0
    assert "done already" in capsys.readouterr().out
    # Whoever asks for another one has a run that lacks just that.
    more = build(ASKED | {"analyses": {"saturation": QUICK | {"delta": 0.9}, "cost": {}}})
    assert more.directory == experiment.directory
    assert (state(more).name, state(more).detail) == ("trained", "analysis saturation missing")
    assert state(build(IDENTITY)).name == "done"
    path = config(ASKED | {"analyses": {"saturation": QUICK | {"delta": 0.9}, "cost": {}}})
    before = (experiment.directory / "weights.safetensors").stat().st_mtime_ns
    assert main([path, "--index", "0"]) == 0
    assert state(more).name == state(experiment).name == "done"
    assert (experiment.directory / "weights.safetensors").stat().st_mtime_ns == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {row.metric for row in tables(more)["saturation"]} >= {"saturation_0.9"}
    assert {row.metric for row in tables(experiment)["saturation"]} >= {"saturation_0.99"}


def test_a_list_runs_the_analyses_of_its_entries(tmp_path, monkeypatch):
    """The real command and its processes, on few images."""
    other = ASKED | {"seed": 4, "analyses": ["cost"]}
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([ASKED, other, IDENTITY | {"seed": 5}]))
    environment = os.environ | {"PALIMPSEST_RUNS": str(tmp_path / "runs"), "WANDB_MODE": "disabled"}
    words = [sys.executable, "-m", "tests.train.tiny", str(tmp_path / "list.yaml"), "--workers", "1"]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    experiments = [entry.experiment for entry in read(str(tmp_path / "list.yaml"))]
    assert [{*analyses_of(experiment)} for experiment in experiments] == [{"saturation", "cost"}, {"cost"}, set()]
    assert {state(experiment).name for experiment in experiments} == {"done"}
    assert ended.stdout.count("analyses of Identity") == 2


def test_an_analysis_that_fails_is_named_and_the_run_stays_trained(config, monkeypatch, capsys):
    def broken(seen, options, folder):
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device", str(folder / "half"))

    monkeypatch.setattr(cost, "run", broken)
    path = config(ASKED)
    assert main([path, "--index", "0"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "half: cannot be written: No space left on device" in line
    experiment = build(ASKED)
    assert (experiment.directory / "done.json").exists()
    assert [*missing_analyses(experiment)] == ["cost"]
    monkeypatch.setattr(cost, "run", out_of_memory)
    with pytest.raises(RunError, match="out of GPU memory"):
        analyses.run_analyses(experiment, missing_analyses(experiment))


def out_of_memory(seen, options, folder):
    raise torch.OutOfMemoryError("much")


@pytest.mark.parametrize("asked", [{"saturation": QUICK}, ["probes", "latents"], "cost", 4, [9, "projection"]], ids=str)
def test_what_is_analysed_does_not_change_what_is_trained(asked):
    experiment, plain = build(IDENTITY | {"analyses": asked}), build(IDENTITY)
    assert (experiment.hash, experiment.name) == (plain.hash, plain.name)
    assert experiment.canonical() == plain.canonical()
    assert experiment.analyses
    # However it is said.
    again = build(IDENTITY | {"analyses": {name: options.model_dump() for name, options in experiment.analyses.items()}})
    assert again.analyses == experiment.analyses


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"saturate": {}}, "'saturate' is no analysis of a network's layers; allowed: 4 saturation, 5 projection"),
        (["invariance"], "'invariance' is no analysis of a network's layers"),
        (99, "99 is no analysis"),
        ({"saturation": {"deltas": 0.9}}, "saturation.deltas: unknown option of saturation; allowed: compositions, images, delta"),
        ({"saturation": {"delta": 1.5}}, "saturation.delta: "),
        ({"saturation": {"delta": []}}, "saturation.delta: "),
        ({"saturation": {"rule": "textbook"}}, "saturation.rule: "),
        ({"saturation": {"conv": "sum"}}, "saturation.conv: "),
        ({"saturation": {"compositions": "XX"}}, "saturation.compositions: "),
        ({"saturation": 3}, "saturation: must be a mapping of options"),
        ({"probes": {"C": 0}}, "probes.C: "),
        ({"probes": {"pooling": "half"}}, "probes.pooling: "),
        ({"probes": {"split": "train"}}, "probes.split: "),
        ({"latents": {"dtype": "int8"}}, "latents.dtype: "),
        ({"cost": {"images": 3}}, "cost.images: unknown option of cost; allowed: none"),
        (True, "must be a list of analyses, or map them to their options, got True"),
        (1.5, "must be a list of analyses"),
    ],
    ids=str,
)
def test_what_is_no_analysis_or_no_option_is_refused_in_one_line(asked, words):
    with pytest.raises(FieldError) as raised:
        build(IDENTITY | {"analyses": asked})
    assert f"analyses: {words}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "part",
    [
        {"method": "Module", "corruption": "Swirl", "level": 1, "lr": 0.05, "weight": 0.5, "backbone": {"lr": 0.05}},
        {"method": "Autoencoder", "corruption": "Swirl", "lr": 0.05},
        {"method": "Router", "lr": 0.05},
    ],
    ids=lambda part: part["method"],
)
def test_parts_are_refused_in_an_entry_and_by_the_command(config, capsys, part):
    with pytest.raises(FieldError, match=r"analyses: .* is a part, which classifies nothing by itself"):
        build(COMMON | part | {"analyses": ["cost"]})
    assert analyse(["cost", config(COMMON | part)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a part, which classifies nothing by itself; analyses take systems, teachers and students" in line


def test_options_have_a_folder_each_and_what_changes_nothing_has_none():
    assert {kind().key for kind in OPTIONS.values()} == {"default"}
    saturation, probes = OPTIONS["saturation"], OPTIONS["probes"]
    assert saturation(along=3).key == probes(memory=0.5).key == "default"
    keys = {saturation(delta=0.9).key, saturation(delta=[0.9, 0.99]).key, saturation(conv="mean").key, saturation(images=20).key, "default"}
    assert len(keys) == 5
    assert saturation(delta=[0.99], compositions="elementals").key == "default"
    experiment = build(IDENTITY | {"evaluation": EVALUATION | {"severities": {"GaussianBlur": 4}}})
    assert analysis_folder(experiment, "saturation", saturation()).name == "default-GB4"


def test_the_command_takes_options_and_the_entrys_own(config, capsys):
    experiment = train(IDENTITY)
    path = config(ASKED)
    assert analyse(["saturation", path, "--images", "30", "--delta=[0.8,0.9]"]) == 0
    printed = capsys.readouterr().out
    options = OPTIONS["saturation"](**QUICK | {"images": 30, "delta": [0.8, 0.9]})
    folder = analysis_folder(experiment, "saturation", options)
    assert f"{experiment.name}: done, in {folder}" in printed
    rows = read_table(folder)
    assert {row.composition for row in rows} == {"Identity", "Invert"}
    # Against the network itself, on the images of the evaluation.
    network, covariances = load_network(experiment, CPU), Covariances()
    found = analyses.see(experiment, options)
    assert len(found.pictures.labels("test", "Invert", 30)) == 30
    with torch.no_grad(), covariances.watching(network):
        for chunk in found.pictures.batches("test", "Invert", 30):
            network(chunk)
    value = {(row.metric, row.layer): row.value for row in rows if row.composition == "Invert"}
    for layer, covariance in covariances.of.items():
        for delta in (0.8, 0.9):
            dimension = intrinsic_dimension(covariance.eigenvalues(), delta)
            assert value[f"intrinsic_dimension_{delta:g}", layer] == dimension
            assert value[f"saturation_{delta:g}", layer] == dimension / covariance.dimension
    # Those of the entry are still to be made.
    assert [*missing_analyses(build(ASKED))] == ["saturation", "cost"]
    assert analyse(["saturation", path, "--images", "30", "--delta=[0.8,0.9]"]) == 0
    assert "done already" in capsys.readouterr().out
    assert analyse(["saturation", path, "--index", "0"]) == 0
    assert [*missing_analyses(build(ASKED))] == ["cost"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["saturation", "--delta=2"], "saturation: delta: "),
        (["saturation", "--images", "none"], "saturation: images: "),
        (["saturation", "--deltas=0.9"], "deltas"),
        (["saturation", "--index", "3"], "has entries 0 to 1"),
        (["cost", "--index", "1"], "no finished run to analyse; train them with: python -m train"),
        (["probes", "--seed=8", "--C=2"], "--seed=8"),
    ],
    ids=str,
)
def test_mistakes_of_a_command_are_one_line(config, capsys, arguments, words):
    finish(build(IDENTITY))
    path = config(IDENTITY, IDENTITY | {"seed": 8})
    assert analyse([arguments[0], path, *arguments[1:]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_runs_that_are_not_finished_are_named_and_left_out(config, capsys):
    experiment = finish(build(IDENTITY))
    path = config(IDENTITY, IDENTITY | {"seed": 8})
    assert analyse(["cost", path]) == 0
    printed = capsys.readouterr().out
    assert "entry 1: Identity-lr0.05-s8" in printed
    assert "left out, it is new" in printed
    assert [*analyses_of(experiment)] == ["cost"]


def test_who_else_is_at_it_is_named(config, capsys):
    experiment = finish(build(IDENTITY))
    with locked(experiment.directory / "analyses"):
        assert analyse(["cost", config(IDENTITY)]) == 2
    assert "held by" in capsys.readouterr().err


def test_a_damaged_table_is_named(config):
    experiment = finish(build(IDENTITY))
    assert analyse(["cost", config(IDENTITY)]) == 0
    (folder,) = analyses_of(experiment).values()
    (folder / TABLE).write_text("metric,value\ncost,much\n")
    with pytest.raises(InputError, match=r"damaged; delete .* and run the analysis again") as raised:
        tables(experiment)
    assert "\n" not in str(raised.value)


def test_teachers_are_looked_at_under_their_counterfactual_sets(config):
    experiment = train(TEACHER)
    path = config(TEACHER)
    assert analyse(["saturation", path, "--images", "40"]) == 0
    rows = tables(experiment)["saturation"]
    assert {row.composition for row in rows} == {""}
    # The set that has the mechanism of the training images comes first.
    assert [*dict.fromkeys(row.split for row in rows)] == ["test/B", "test/P", "test/BR", "test/BoxOnly"]
    (folder,) = analyses_of(experiment).values()
    spectra = np.load(folder / "spectra.npz")
    found = analyses.see(experiment, OPTIONS["saturation"](images=40))
    network = load_network(experiment, CPU)
    for name in ("B", "BoxOnly"):
        covariances = Covariances()
        with torch.no_grad(), covariances.watching(network):
            for chunk in found.pictures.batches("test", name, 40):
                network(chunk)
        for layer, values in covariances.spectra().items():
            np.testing.assert_allclose(spectra[f"{name}/{layer}"], values, rtol=1e-4, atol=1e-6 * values[0])
    # Pictures differ by the set, as do their labels where the cue decides them.
    first, second = (next(iter(found.pictures.batches("test", name, 40))) for name in ("B", "BoxOnly"))
    assert not torch.equal(first, second)


def test_probes_of_a_teacher_are_fitted_under_its_own_mechanism(config):
    experiment = train(TEACHER)
    quick = ["--images", "20", "--train_images=40", "--tolerance=0.3", "--untrained=false"]
    assert analyse(["probes", config(TEACHER), *quick]) == 0
    rows = tables(experiment)["probes"]
    value = {(row.metric, row.layer, row.split): row.value for row in rows}
    layers = [*dict.fromkeys(row.layer for row in rows)]
    assert len(layers) == 5
    for layer in layers:
        assert value["probe_accuracy_4x4", layer, "test/B"] == value["probe_accuracy_own_4x4", layer, "test/B"]
        for name in ("B", "P", "BR", "BoxOnly"):
            assert ("probe_fit_accuracy_4x4", layer, f"train/{name}") in value
    assert not any(row.metric.startswith("untrained") for row in rows)


def test_a_system_with_parts_is_analysed_by_its_backbone(config):
    entry = system_entry("ModularSystem", evaluation=EVALUATION)
    experiment = finish(build(entry))
    assert analyse(["saturation", config(entry), "--images=20", "--compositions=[Identity,Swirl]"]) == 0
    value = {(row.metric, row.layer, row.composition): row.value for row in tables(experiment)["saturation"]}
    found = analyses.see(experiment, OPTIONS["saturation"]())
    assert {layer for _, layer, _ in value} == {"blocks.0.0", "blocks.1.0", "blocks.2.0", "blocks.3.1", "blocks.4"}
    assert found.network is found.system.backbone
    # Its module for Swirl is at level 1: below it a swirled image goes as it is, above it is another one.
    swirled, covariances = found.system, Covariances()
    with torch.no_grad(), covariances.watching(found.network):
        for chunk in found.pictures.batches("test", "Swirl", 20):
            x = swirled.modules_of["Swirl"](swirled.backbone(chunk, 0, 1))
            swirled.backbone(x, 1)
    for layer, covariance in covariances.of.items():
        assert value["trace", layer, "Swirl"] == pytest.approx(covariance.matrix().trace().item(), rel=1e-4)
