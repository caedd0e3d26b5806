"""Regression on Polynomials: what is computed against numpy, that it is learned, that its graph is the network's, and what is refused."""

import csv

import networkx as nx
import numpy as np
import pytest
import torch
import yaml

from analysis.__main__ import main as analyse
from analysis.table import read_table
from data import datasets
from data.polynomials import IN_SUM, POWERS, points
from errors import Interrupted
from models.networks import build_network
from models.wiring import graph_sets, trace
from tests.train.runs import CPU, equal, make, metrics, train, weights
from train import interrupt
from train.analysed import analyses_of
from train.build import build
from train.fields import FieldError
from train.method import Stage, load_network
from train.run import state
from train.runner import run_experiment

ENTRY = {
    "dataset": "Polynomials",
    "method": "Regression",
    "seed": 1,
    "epochs": 4,
    "batch_size": 50,
    "lr": 0.002,
    "optimizer": "Adam",
    "weight_decay": 0,
}


@pytest.fixture(autouse=True)
def few(tmp_path, monkeypatch):
    """The first points of each split."""
    counts = {"train": 2000, "valid": 500, "test": 500}
    splits = {name: datasets.Split(points(name, n), np.zeros(n, np.int64), np.arange(n)) for name, n in counts.items()}
    few = datasets.DataSet("Polynomials", checksum="", **splits)
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(datasets, "load", lambda name, root=None: few)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield few
    torch.set_num_threads(threads)


def test_points_are_standard_normal_the_same_always_and_other_ones_in_each_split():
    own = points("train", 20_000)
    assert (own.shape, own.dtype) == ((20_000, 3, 1, 1), np.float32)
    assert (own[:, 2] == 0).all()
    features = own[:, :2, 0, 0]
    assert np.abs(features.mean(0)).max() < 4 / np.sqrt(20_000)
    assert np.cov(features.T) == pytest.approx(np.eye(2), abs=0.05)
    assert (points("train", 20_000) == own).all()
    assert not (points("valid", 20_000)[:, :2] == own[:, :2]).any()


def test_the_values_are_all_sums_of_the_nine_monomials(few):
    method = make(build(ENTRY), few)
    inputs = torch.randn(7, 3, 1, 1, dtype=torch.float64)
    method.in_sum_mk = method.in_sum_mk.double()
    values = method.targets(inputs).numpy()
    for row, (x, y) in enumerate(inputs[:, :2, 0, 0].numpy()):
        monomials = [1, y, y * y, x, x * y, x * y * y, x * x, x * x * y, x * x * y * y]
        sums = [sum(own for place, own in enumerate(monomials) if subset >> place & 1) for subset in range(512)]
        assert values[row] == pytest.approx(np.array(sums, float), rel=1e-9, abs=1e-9)
    # Every subset once: 256 of the sums have a given monomial.
    assert len(POWERS) == 9
    assert IN_SUM.sum(1).tolist() == [256] * 9
    assert len(set(map(tuple, IN_SUM.T.tolist()))) == 512


def test_training_and_validation_see_the_points_as_they_are(few):
    batches = make(build(ENTRY), few).batches()
    seen = torch.cat([batch.images_nchw for batch in batches.validation()])
    assert seen.numpy() == pytest.approx(few.valid.images, abs=1e-6)
    own = torch.cat([batch.images_nchw for batch in batches.epoch(1)]).flatten(1).numpy()
    assert np.sort(own, axis=0) == pytest.approx(np.sort(few.train.images[:, :, 0, 0], axis=0), abs=1e-6)


def test_the_loss_is_the_mean_squared_error_and_falls(few):
    experiment = train(ENTRY)
    rows = metrics(experiment)
    assert "valid_accuracy" not in rows[0]
    method, network = make(experiment, few), load_network(experiment, CPU)
    inputs = torch.from_numpy(few.valid.images)
    with torch.no_grad():
        expected = (network(inputs) - method.targets(inputs)).square().mean().item()
    assert expected < 0.5 * method.targets(inputs).var(dim=0).mean().item()
    best = min(row["valid_loss"] for row in rows)
    assert expected == pytest.approx(best, rel=1e-4)


def test_its_graph_is_that_of_2_inputs_256_units_in_4_layers_and_512_outputs():
    network = build_network("MLP-256x4-points", 512)
    wiring = trace(network, torch.zeros(1, 3, 1, 1))
    assert [wiring.sizes[name] for name in graph_sets(wiring)] == [2, 256, 256, 256, 256, 512]
    first = wiring.blocks(network)[0]
    assert torch.equal(first.weights_ts, network.blocks[0][1][1].weight.abs())
    assert sum(layer.weight.numel() for layer in network.modules() if isinstance(layer, torch.nn.Linear)) == 328_192


def test_a_pruned_network_is_cut_as_networkx_cuts_it():
    experiment = build(ENTRY | {"epochs": 1, "pruning": {"epochs": 1}, "analyses": {"clusterability": {"clusters": 12, "shuffles": 3}}})
    run_experiment(experiment)
    [folder] = analyses_of(experiment).values()
    with (folder / "clusters.csv").open(newline="") as file:
        clusters = {(row["layer"], int(row["unit"])): row["cluster"] for row in csv.DictReader(file)}
    graph = nx.Graph()
    before = "input"
    for name, layer in load_network(experiment, CPU).named_modules():
        if isinstance(layer, torch.nn.Linear):
            assert (layer.weight != 0).double().mean().item() == pytest.approx(0.1, abs=0.002)
            for target, source in layer.weight.nonzero().tolist():
                graph.add_edge((before, source), (name, target), weight=abs(layer.weight[target, source].item()))
            before = name
    sets = [[node for node in graph if clusters[node] == label] for label in {clusters[node] for node in graph}]
    assert len(sets) == 12
    expected = sum(nx.cut_size(graph, own, weight="weight") / nx.volume(graph, own, weight="weight") for own in sets)
    found = {row.metric: row.value for row in read_table(folder)}
    assert found["ncut"] == pytest.approx(expected, rel=1e-5)
    assert "evaluation" not in {path.name for path in experiment.directory.iterdir()}


@pytest.mark.parametrize("asked", [20, 41, 95])
def test_one_that_is_stopped_goes_on_to_the_same_bits(monkeypatch, asked):
    """In its first epoch, in the validation behind it, and while it is pruned."""
    entry = ENTRY | {"epochs": 1, "pruning": {"epochs": 2}}
    whole = train(entry)
    expected, rows = weights(whole), metrics(whole)
    whole.directory.rename(whole.directory.with_name("whole"))
    count = iter(range(1, 1000))
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "told", lambda: next(count) >= asked)
        with pytest.raises(Interrupted):
            run_experiment(build(entry))
    assert state(build(entry)).name == "stopped"
    again = train(entry)
    assert equal(weights(again), expected)
    assert metrics(again) == rows


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (ENTRY | {"dataset": "MNIST"}, "dataset: Regression needs functions to compute, MNIST has none; allowed: Polynomials"),
        (ENTRY | {"augmentation": "CropFlip"}, "augmentation: CropFlip is for images; allowed for Regression: None"),
        (ENTRY | {"analyses": ["lesions"]}, "analyses: lesions needs classes; allowed for Regression: clusterability, cost"),
        (ENTRY | {"metrics": ["mcc"]}, "metrics: Regression tells no classes"),
        ({"dataset": "Polynomials", "method": "Identity", "lr": 1}, "dataset: Identity needs square images, Polynomials has none"),
        ({"dataset": "Polynomials", "method": "Teacher", "lr": 1, "mechanism": 0}, "Polynomials carries no cues"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(entry, words):
    with pytest.raises(FieldError, match=words):
        build(entry)


def test_the_initial_loss_is_that_of_the_targets_alone_for_a_network_of_zeros(few):
    method = make(build(ENTRY), few)
    network = method.build(Stage("train", 1), {})
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    [batch] = list(method.batches().validation())[:1]
    assert method.loss(network, batch).loss.item() == pytest.approx(method.targets(batch.images_nchw).square().mean().item())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["coactivation"], "entry 0: coactivation needs classes; allowed for Regression: clusterability, cost"),
        (["probes", "--index", "0"], "entry 0: probes needs classes; allowed for Regression: clusterability, cost"),
        (["clusterability", "--weights=unpruned"], "entry 0: clusterability: weights: unpruned are those before a pruning; this entry has no 'pruning'"),
    ],
)  # fmt: skip
def test_the_command_refuses_what_an_entry_may_not_ask_for(tmp_path, capsys, words, said):
    path = tmp_path / "points.yaml"
    path.write_text(yaml.safe_dump([ENTRY]))
    assert analyse([words[0], str(path), *words[1:]]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"error: {path}: {said}"
