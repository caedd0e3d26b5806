"""Pruning: the schedule and the masks against their definitions; runs with as many zeros as asked, that keep the weights before, and end with the same bits when stopped."""

import itertools
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from errors import Interrupted
from tests.analysis.systems import finish
from tests.train.runs import COMMON, CPU, equal, facts, make, metrics, train, weights
from tests.train.test_along import KILLED
from train import interrupt
from train.build import build
from train.checkpoint import load_checkpoint
from train.method import load_network
from train.pruning import Pruner, kernels, largest, sparsity
from train.runner import run_experiment
from train.sparse import Pruning

# 49-64-64-64-10: 4 steps of 50 images an epoch.
TINY = COMMON | {"method": "Identity", "model": "MLP-64x3", "resolution": 7, "lr": 0.05, "epochs": 1, "keep": "last"}
CONVOLUTIONS = {key: value for key, value in TINY.items() if key != "resolution"} | {"model": "SmallNet"}


def pruned(entry, epochs=1, **more):
    return entry | {"pruning": {"epochs": epochs, **more}}


def unpruned_weights(experiment):
    return load_file(experiment.directory / "unpruned.safetensors")


def is_kernel(name, tensor):
    return name.endswith(".weight") and tensor.ndim > 1


def assert_pruned(experiment, share):
    """Every kernel has as many zeros as the share says, and nothing else has become 0."""
    before = unpruned_weights(experiment)
    kernels = 0
    for name, tensor in weights(experiment).items():
        if is_kernel(name, tensor):
            assert int((tensor == 0).sum()) == round(share * tensor.numel()), name
            kernels += 1
        else:
            # A unit that nothing reaches has kept its bias of 0.
            assert not ((tensor == 0) & (before[name] != 0)).any(), name
    assert kernels > 1


schedules = st.tuples(st.floats(0, 0.99), st.floats(0.01, 0.99), st.floats(0.1, 6)).map(
    lambda drawn: Pruning(epochs=1, start=min(drawn[:2]), sparsity=max(drawn[0], drawn[1]), power=drawn[2])
)


@settings(max_examples=25, deadline=None)
@given(schedules, st.integers(2, 500))
def test_the_schedule_is_the_published_one_from_its_start_to_its_end(pruning, steps):
    found = np.array([sparsity(pruning, step, steps) for step in range(steps)])
    # Zhu and Gupta, arXiv 1710.01878, equation 1, with t - t0 = step and n dt = steps - 1.
    initial, final, t = pruning.start, pruning.sparsity, np.arange(steps) / (steps - 1)
    np.testing.assert_allclose(found, final + (initial - final) * (1 - t) ** pruning.power, rtol=0, atol=1e-12)
    assert found[0] == pytest.approx(initial, abs=1e-12)
    assert found[-1] == final
    assert (np.diff(found) >= -1e-12).all()


def test_the_only_step_and_those_behind_the_last_have_the_schedules_end():
    pruning = Pruning(epochs=1, start=0.2, sparsity=0.7)
    assert sparsity(pruning, 9, 10) == sparsity(pruning, 10, 10) == sparsity(pruning, 99, 10) == 0.7
    assert sparsity(pruning, 0, 10) == pytest.approx(0.2)


different = hnp.arrays(np.int32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6), elements=st.integers(1, 10**6), unique=True)


@settings(max_examples=25, deadline=None)
@given(different, st.floats(0, 0.999), st.randoms(use_true_random=False))
def test_the_smallest_weights_go(sizes, share, draw):
    signs = np.array([draw.choice((-1, 1)) for _ in range(sizes.size)]).reshape(sizes.shape)
    weight = (sizes * signs).astype(np.float32)
    count = round(share * weight.size)
    expected = np.ones(weight.size, bool)
    expected[np.argsort(np.abs(weight).ravel())[:count]] = False
    np.testing.assert_array_equal(largest(torch.from_numpy(weight), share).numpy(), expected.reshape(weight.shape))


def test_of_weights_of_one_size_no_more_go_than_asked():
    assert int((~largest(torch.full((10, 10), -0.5), 0.25)).sum()) == 25


def test_only_the_weights_of_layers_that_are_trained_are_pruned():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 2, 3),
        nn.Flatten(),
        nn.Linear(8, 5),
        nn.Embedding(3, 3),
        nn.Linear(5, 2),
    )
    network[4].requires_grad_(False)
    assert [id(weight) for weight in kernels(network)] == [id(network[place].weight) for place in (0, 2, 6)]


def test_pruned_weights_stay_pruned_and_more_go_every_so_many_steps():
    torch.manual_seed(0)
    layer = nn.Linear(20, 10)
    pruning = Pruning(epochs=1, start=0.1, sparsity=0.8, every=3)
    pruner = Pruner(pruning, layer, 11)
    bias = layer.bias.detach().clone()
    for step in range(11):
        before = layer.weight.detach() == 0
        with torch.no_grad():  # what an optimizer with momentum does to weights that are pruned, too
            layer.weight.add_(torch.randn(10, 20))
        values = layer.weight.detach().clone()
        pruner.after(step)
        zeros = layer.weight.detach() == 0
        due = step in (0, 3, 6, 9, 10)
        last = step if due else step - step % 3
        assert int(zeros.sum()) == round(sparsity(pruning, last, 11) * 200)
        assert pruner.share() == int(zeros.sum()) / 200
        assert (zeros >= before).all()
        assert torch.equal(layer.weight[~zeros], values[~zeros])
        assert (zeros & ~before).any() == (due and step < 10)
        assert (values[zeros & ~before].abs() < values[~zeros].abs().min()).all()
    assert torch.equal(layer.bias, bias)


METHODS = {
    "Identity": TINY,
    "CrossEntropy": TINY | {"method": "CrossEntropy"},
    "Module": CONVOLUTIONS | {"method": "Module", "corruption": "Invert", "level": 2, "weight": 0.1, "backbone": {"lr": 0.05}},
    "a searched Module": CONVOLUTIONS
    | {"method": "Module", "corruption": "Invert", "level": "auto", "search_epochs": 1, "weight": 0.1, "backbone": {"lr": 0.05}},
    "Autoencoder": CONVOLUTIONS | {"method": "Autoencoder", "corruption": "Invert"},
    "Teacher": TINY | {"method": "Teacher", "mechanism": "B", "evaluate_every": 1000},
}


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("kind", METHODS)
def test_every_kernel_ends_with_as_many_zeros_as_asked_whatever_the_method(kind):
    entry = METHODS[kind]
    for part in build(entry).requires():
        finish(part)
    experiment = train(pruned(entry, start=0.3, sparsity=0.8, every=3))
    assert_pruned(experiment, 0.8)
    rows = [row for row in metrics(experiment) if "train_loss" in row and row["stage"] == "train"]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert ["sparsity" in row for row in rows] == [False, True]
    assert facts(experiment)["best_epoch"] == 2
    plain = train(entry)
    assert experiment.hash != plain.hash
    # The weights before the pruning are those of the same training without it.
    assert equal(unpruned_weights(experiment), weights(plain))
    assert not any((tensor == 0).any() for name, tensor in weights(plain).items() if is_kernel(name, tensor))
    assert not (plain.directory / "unpruned.safetensors").exists()


@pytest.mark.usefixtures("small_runs")
def test_the_rows_of_pruned_epochs_tell_the_share_of_zeros():
    experiment = train(pruned(TINY | {"epochs": 2}, 3, start=0.25, sparsity=0.75, power=2, every=1))
    rows, found = metrics(experiment), [49 * 64, 64 * 64, 64 * 64, 64 * 10]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["left"] for row in rows] == [4, 3, 2, 1, 0]
    assert ["sparsity" in row for row in rows] == [False, False, True, True, True]
    for row, step in zip(rows[2:], (3, 7, 11)):
        share = 0.75 + (0.25 - 0.75) * (1 - step / 11) ** 2
        assert row["sparsity"] == sum(round(share * own) for own in found) / sum(found)


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({}, [1, 0.75, 0.25, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ({"schedule": "constant"}, [1] * 7),
        ({"schedule": "step", "step_epochs": 2, "step_factor": 0.5}, [1, 1, 0.5, 1, 1, 0.5, 0.5]),
    ],
    ids=["cosine", "constant", "step"],
)
# step_epochs are epochs, of the pruning, too, however many there are before it.
def test_the_schedule_of_the_learning_rate_begins_anew(schedule, rates):
    rows = metrics(train(pruned(TINY | schedule | {"epochs": 3}, 4)))
    assert [row["lr"] / 0.05 for row in rows] == pytest.approx(rates)


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_pruned_epoch_is_one_of_the_masked_weights_with_a_fresh_optimizer(small, optimizer):
    # By hand, from the weights before: no momentum is left, and what is pruned is 0 after every step.
    experiment = train(pruned(TINY | {"optimizer": optimizer, "lr": 0.01}, start=0.5, sparsity=0.5, every=100))
    method = make(experiment, small)
    network = method.build(method.stages()[0], {})
    network.load_state_dict(unpruned_weights(experiment))
    settings = {"lr": 0.01, "weight_decay": 5e-4}
    steps = (
        torch.optim.SGD(network.parameters(), momentum=0.9, **settings)
        if optimizer == "SGD"
        else torch.optim.Adam(network.parameters(), **settings)
    )
    layers = [part for part in network.modules() if isinstance(part, nn.Linear)]
    masks = None
    for batch in method.batches().epoch(1):
        steps.zero_grad()
        cross_entropy(network(batch.images_nchw), batch.labels_n).backward()
        steps.step()
        with torch.no_grad():
            if masks is None:
                masks = [own.weight.abs() > own.weight.abs().flatten().sort().values[own.weight.numel() // 2 - 1] for own in layers]
            for own, mask in zip(layers, masks):
                own.weight.mul_(mask)
    expected = network.state_dict()
    for name, tensor in weights(experiment).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(tensor == 0, expected[name] == 0)


@pytest.mark.usefixtures("small_runs")
def test_the_best_weights_are_pruned_unless_the_last_are_kept():
    entry = TINY | {"lr": 0.5, "momentum": 0.0, "schedule": "constant", "epochs": 4}
    plain = train(entry | {"keep": "best"})
    assert facts(plain)["best_epoch"] < 4
    best = train(pruned(entry | {"keep": "best"}))
    assert equal(unpruned_weights(best), weights(plain))
    last = train(pruned(entry))
    assert not equal(unpruned_weights(last), unpruned_weights(best))
    # Of the pruned epochs the last are kept in any case.
    assert facts(best)["best_epoch"] == facts(last)["best_epoch"] == 5
    assert_pruned(best, 0.9)


@pytest.mark.usefixtures("small_runs")
def test_the_weights_before_and_after_can_be_loaded_as_networks():
    experiment = train(pruned(TINY))
    for name, read in (("weights.safetensors", weights), ("unpruned.safetensors", unpruned_weights)):
        network = load_network(experiment, CPU, name)
        assert network.resolution == 7
        assert equal(network.state_dict(), read(experiment))
    assert not equal(weights(experiment), unpruned_weights(experiment))


# Dropout draws from a generator, and Adam remembers.
STOPPED = pruned(
    COMMON | {"method": "Identity", "model": "MLP-256x4-dropout", "optimizer": "Adam", "lr": 0.001, "epochs": 1, "threads": 1},
    2, start=0.3, sparsity=0.8, every=3,
)  # fmt: skip


def files(experiment):
    return [(experiment.directory / name).read_bytes() for name in ("weights.safetensors", "unpruned.safetensors")]


@pytest.mark.usefixtures("small_runs")
# Asked after every step and validation batch: 4 and 1 in each of 3 epochs.
@pytest.mark.parametrize("at", [(5,), (6,), (8, 2), (10,), (7, 3, 4)], ids=str)
def test_a_run_that_is_stopped_while_it_is_pruned_ends_with_the_same_bits(tmp_path, monkeypatch, at):
    experiment = train(STOPPED)
    whole, kept = metrics(experiment), files(experiment)
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "stopped"))
    experiment = build(STOPPED)
    for count in at:
        asked = itertools.count(1)
        with monkeypatch.context() as patch:
            patch.setattr(interrupt, "told", lambda asked=asked, count=count: next(asked) >= count)
            with pytest.raises(Interrupted):
                run_experiment(experiment, evaluation=False)
    run_experiment(experiment, evaluation=False)
    assert metrics(experiment) == whole
    assert files(experiment) == kept
    assert_pruned(experiment, 0.8)


@pytest.mark.usefixtures("small_runs")
def test_a_run_that_is_killed_while_it_is_pruned_ends_with_the_same_bits(tmp_path, monkeypatch):
    experiment = train(STOPPED)
    whole, kept = metrics(experiment), files(experiment)
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "killed"))
    (tmp_path / "list.yaml").write_text(yaml.safe_dump([STOPPED]))
    # The third step of the first pruned epoch.
    words = [sys.executable, "-c", KILLED, "7", str(tmp_path / "list.yaml"), "--index", "0"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    experiment = build(STOPPED)
    state = load_checkpoint(experiment.directory)
    assert (state["epoch"], state["batch"]) == (1, 2)
    assert (experiment.directory / "unpruned.safetensors").read_bytes() == kept[1]
    run_experiment(experiment, evaluation=False)
    assert metrics(experiment) == whole
    assert files(experiment) == kept
