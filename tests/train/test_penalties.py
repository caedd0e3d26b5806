"""Penalties, clusterable initial weights, which weights are kept and which pixels are seen: each against a computation by hand."""

import itertools

import networkx
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from data.batches import ToNetwork
from models.networks import build_network
from tests.train.runs import COMMON, CPU, equal, facts, make, metrics, train, weights
from train.analyses import untrained
from train.build import build
from train.method import load_network, whole_network
from train.penalties import FirstInput, Penalties, make_clusterable
from train.sparse import ClusterableStart

# 49-64-64-64-10.
TINY = COMMON | {"method": "Identity", "model": "MLP-64x3", "resolution": 7, "lr": 0.05, "keep": "last"}
# All 200 images in one step of plain gradient descent.
STEP = TINY | {"epochs": 1, "batch_size": 256, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant"}


def eigenvalues(network, count):
    """Eigenvalues 2 to count + 1 of the graph of an MLP's weights: its inputs, all units and the classes."""
    layers = [part.weight.detach().abs().double().numpy() for part in network.modules() if isinstance(part, nn.Linear)]
    graph = networkx.Graph()
    for depth, own in enumerate(layers):
        graph.add_weighted_edges_from(((depth, j), (depth + 1, i), own[i, j]) for i, j in np.ndindex(own.shape))
    return np.sort(networkx.normalized_laplacian_spectrum(graph))[1 : count + 1]


def small_mlp(seed=0):
    """13 nodes."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def penalties(network, **fields):
    return Penalties(build(TINY | fields), network, network, lambda: torch.zeros(1, 6, 1, 1))


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize(("l1", "l2"), [(0.01, 0), (0, 0.01), (0.003, 0.02)])
def test_a_step_of_gradient_descent_moves_weights_by_the_penalties_and_biases_not(small, l1, l2):
    experiment = train(STEP | {"l1": l1, "l2": l2})
    network, lr = untrained(experiment), experiment.lr
    (batch,) = make(experiment, small).batches().epoch(0)
    loss = cross_entropy(network(batch.images_nchw), batch.labels_n)
    loss.backward()
    found = weights(experiment)
    for name, own in network.named_parameters():
        penalised = l1 * own.sign() + 2 * l2 * own if own.ndim > 1 else 0
        torch.testing.assert_close(found[name], own - lr * (own.grad + penalised), rtol=1e-5, atol=1e-8)
    # What is reported is the method's own loss, comparable between penalties.
    assert metrics(experiment)[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_of_convolutions_and_linear_layers_the_weights_are_penalised_and_nothing_else():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 3), nn.Flatten(), nn.Linear(98, 5))
    nn.init.uniform_(network[1].weight)
    kernels = [network[place].weight.detach().double() for place in (0, 2, 4)]
    expected = sum(0.5 * own.abs().sum() + 0.25 * own.square().sum() for own in kernels)
    penalty = penalties(network, l1=0.5, l2=0.25).of(3)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)
    penalty.backward()
    assert {name for name, own in network.named_parameters() if own.grad is not None} == {"0.weight", "2.weight", "4.weight"}


def test_without_penalties_there_is_none():
    assert penalties(small_mlp()).of(0) is None


@pytest.mark.parametrize(("seed", "weight", "count", "every"), [(0, 1.0, 3, 1), (1, 0.02, 1, 2), (2, 7.5, 8, 3)])
def test_the_cut_penalty_is_the_mean_of_the_smallest_eigenvalues_every_so_many_steps(seed, weight, count, every):
    network = small_mlp(seed)
    own = penalties(network, cut_penalty={"weight": weight, "eigenvalues": count, "every": every})
    for step in range(2 * every):
        found = own.of(step)
        if step % every:
            assert found is None
        else:
            assert found.item() == pytest.approx(weight * every * eigenvalues(network, count).mean(), rel=1e-4, abs=1e-6)


def test_all_penalties_are_added_and_follow_the_weights():
    network = small_mlp()
    own = penalties(network, l1=0.1, l2=0.2, cut_penalty={"weight": 0.3})
    for _ in range(2):
        sizes = [part.weight.detach() for part in network if isinstance(part, nn.Linear)]
        expected = 0.1 * sum(one.abs().sum() for one in sizes) + 0.2 * sum(one.square().sum() for one in sizes)
        assert own.of(0).item() == pytest.approx(expected.item() + 0.3 * eigenvalues(network, 3).mean(), rel=1e-5)
        with torch.no_grad():
            network[1].weight.mul_(torch.rand(4, 6) * 3)


@pytest.mark.usefixtures("small_runs")
def test_a_step_moves_weights_along_the_gradient_of_the_cut_penalty(small):
    experiment = train(STEP | {"cut_penalty": {"weight": 2.0, "eigenvalues": 2}})
    network, lr = untrained(experiment), experiment.lr
    (batch,) = make(experiment, small).batches().epoch(0)
    cross_entropy(network(batch.images_nchw), batch.labels_n).backward()
    layers = [part.weight for part in network.modules() if isinstance(part, nn.Linear)]
    copies = [own.detach().double().requires_grad_() for own in layers]
    sizes = [49, 64, 64, 64, 10]
    rows = [
        torch.cat(
            [
                torch.zeros(sizes[depth], sum(sizes[: max(0, depth - 1)])).double(),
                *([copies[depth - 1].abs()] if depth else []),
                torch.zeros(sizes[depth], sum(sizes[depth:])).double(),
            ],
            1,
        )
        for depth in range(5)
    ]
    lower = torch.cat(rows)
    adjacency = lower + lower.T
    scale = adjacency.sum(1).rsqrt()
    laplacian = torch.eye(len(scale)).double() - scale[:, None] * adjacency * scale
    (2.0 * torch.linalg.eigvalsh(laplacian)[1:3].mean()).backward()
    found = weights(experiment)
    by_tensor = {id(own): copy.grad.float() for own, copy in zip(layers, copies)}
    for name, own in network.named_parameters():
        pulled = by_tensor.get(id(own), 0)
        torch.testing.assert_close(found[name], own - lr * (own.grad + pulled), rtol=1e-4, atol=1e-7)
    assert max(copy.grad.abs().max() for copy in copies) > 1e-4


@pytest.mark.usefixtures("small_runs")
def test_a_network_under_the_cut_penalty_is_easier_to_cut_and_still_learns():
    entry = TINY | {"epochs": 6, "lr": 0.01, "optimizer": "Adam", "schedule": "constant", "weight_decay": 0.0}
    plain, cut = train(entry), train(entry | {"cut_penalty": {"weight": 1.0}})
    found = [eigenvalues(load_network(own, CPU), 3).mean() for own in (plain, cut)]
    assert found[1] < 0.8 * found[0]
    assert found[1] < eigenvalues(untrained(cut), 3).mean()
    rows = metrics(cut)
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]
    assert rows[-1]["valid_accuracy"] > 0.4


@pytest.mark.usefixtures("small_runs")
def test_tracing_the_network_for_the_cut_draws_nothing():
    entry = COMMON | {"method": "Identity", "model": "SmallNet", "lr": 0.05, "epochs": 1}
    plain, cut = train(entry), train(entry | {"cut_penalty": {"weight": 1e-30}})
    assert plain.hash != cut.hash
    assert metrics(cut) == metrics(plain)
    assert equal(weights(cut), weights(plain))


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("level", [0, 2])
def test_a_module_can_have_the_cut_penalty_at_any_level(level):
    module = {"method": "Module", "corruption": "Invert", "level": level, "lr": 0.05, "weight": 0.1, "backbone": {"lr": 0.05}, "epochs": 1}
    train(COMMON | {"method": "Identity", "lr": 0.05, "epochs": 1})
    plain, cut = (train(COMMON | module | more) for more in ({}, {"cut_penalty": {"weight": 5.0}}))
    assert not equal(weights(cut), weights(plain))


def test_the_first_input_is_what_the_first_block_gets():
    network = build_network("MLP-64x3", 10)
    network.resolution = 7
    first = FirstInput(network)
    images = torch.rand(4, 3, 28, 28)
    for own in (images, torch.zeros_like(images)):
        network(own)
    assert torch.equal(first(), network.prepare(images)[:1])


def scales_of(model, start, seed=0, classes=10):
    """What the weights of every layer are multiplied by (outputs, inputs, ...), by their names."""
    torch.manual_seed(7)
    network = build_network(model, classes)
    before = {name: own.clone() for name, own in network.state_dict().items()}
    make_clusterable(network, start, seed, classes)
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if not name.endswith("weight"))
    return {name: after[name] / before[name] for name in before if name.endswith("weight")}


def modules_match(scales, start):
    """Where the scale is that of two units of one module; every other one is that between two."""
    inside = 1 + (1 - start.d) * (start.modules - 1)
    same = (scales - inside).abs() < 1e-4
    torch.testing.assert_close(scales[~same], torch.full_like(scales[~same], start.d), rtol=1e-4, atol=0)
    return same


@pytest.mark.parametrize(("modules", "d"), [(10, 0.6), (12, 0.8), (3, 0.3)])
def test_weights_inside_a_module_grow_and_those_between_two_shrink(modules, d):
    start = ClusterableStart(modules=modules, d=d)
    first, *later = scales_of("MLP-256x4", start).values()
    assert (first == 1).all()
    matches = [modules_match(own, start) for own in later]
    assert len(matches) == 4
    for own, behind in itertools.pairwise(match.float() for match in matches):
        # Two units are in one module where they match the same units before and behind them.
        together, seen = own @ own.T > 0, behind.T @ behind > 0
        if len(behind) == 256:
            assert torch.equal(together, seen)
        assert (together >= seen).all()
        assert (1 / together.sum(1)).sum().round() == modules
    classes = matches[-1]
    if modules >= 10:
        # Every class has a module of its own.
        assert (classes.sum(0) <= 1).all()
        assert classes.any(1).all()


def test_of_a_kernel_and_behind_a_flattened_map_the_channel_counts():
    start = ClusterableStart(modules=4, d=0.5)
    first, second, third, units, classes = scales_of("CNN-64x3", start).values()
    assert (first == 1).all()
    for own in (second, third):
        assert own.shape == (64, 64, 3, 3)
        assert (own.amax((2, 3)) - own.amin((2, 3)) < 1e-5).all()
        modules_match(own, start)
    by_channel = units.view(128, 64, 49)
    assert (by_channel.amax(2) - by_channel.amin(2) < 1e-5).all()
    into, behind = modules_match(third[..., 0, 0], start).float(), modules_match(by_channel[..., 0], start).float()
    assert torch.equal(into @ into.T > 0, behind.T @ behind > 0)
    assert modules_match(classes, start).shape == (10, 128)


@pytest.mark.parametrize("model", ["MLP-256x4", "CNN-64x3"])
@pytest.mark.parametrize("start", [ClusterableStart(), ClusterableStart(modules=12, d=0.8)], ids=["0.6", "0.8"])
def test_the_mean_size_of_weights_stays(model, start):
    torch.manual_seed(7)
    network = build_network(model, 10)
    before = [own.abs().mean().item() for name, own in network.named_parameters() if name.endswith("weight")]
    make_clusterable(network, start, 0, 10)
    after = [own.abs().mean().item() for name, own in network.named_parameters() if name.endswith("weight")]
    assert after[0] == before[0]
    assert after[1:] != before[1:]
    np.testing.assert_allclose(after, before, rtol=0.05)


def test_modules_are_drawn_by_the_seed_and_leave_torchs_generator_alone():
    start = ClusterableStart()
    state = torch.get_rng_state()
    torch.manual_seed(1)
    networks = [whole_network(build(TINY)) for _ in range(3)]
    for own in networks[1:]:
        own.load_state_dict(networks[0].state_dict())
    torch.manual_seed(2)
    drawn = torch.get_rng_state()
    for own, seed in zip(networks, (5, 5, 6)):
        make_clusterable(own, start, seed, 10)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.set_rng_state(state)
    assert equal(networks[0].state_dict(), networks[1].state_dict())
    assert not equal(networks[0].state_dict(), networks[2].state_dict())


@pytest.mark.usefixtures("small_runs")
def test_a_training_begins_with_the_clusterable_weights():
    # A learning rate that is 0 in float32.
    entry = STEP | {"lr": 1e-60}
    plain, clusterable = train(entry), train(entry | {"clusterable_start": {"modules": 5, "d": 0.7}})
    start, found = weights(plain), weights(clusterable)
    assert equal(start, untrained(plain).state_dict())
    assert equal(found, untrained(clusterable).state_dict())
    differ = [name for name in start if not torch.equal(start[name], found[name])]
    assert differ == [name for name in start if name.endswith("weight")][1:]
    for name in differ:
        modules_match(found[name] / start[name], ClusterableStart(modules=5, d=0.7))


@pytest.mark.usefixtures("small_runs")
def test_the_last_weights_are_kept_where_they_are_not_the_best():
    entry = TINY | {"lr": 0.5, "momentum": 0.0, "schedule": "constant", "epochs": 4}
    best, last = train(entry | {"keep": "best"}), train(entry)
    assert metrics(best) == metrics(last)
    losses = [row["valid_loss"] for row in metrics(last)]
    epoch = facts(best)["best_epoch"]
    assert losses[epoch - 1] == min(losses)
    assert epoch < facts(last)["best_epoch"] == 4
    assert facts(last)["valid_loss"] == losses[-1]
    # Under a constant rate a shorter training is the beginning of a longer one.
    assert equal(weights(best), weights(train(entry | {"epochs": epoch})))
    assert not equal(weights(best), weights(last))


@pytest.mark.parametrize(("dataset", "model"), [("FashionMNIST-mini", "MLP-256x4"), ("CIFAR10", "MLP-256x4-colour")])
def test_a_network_of_unit_inputs_sees_pixels_from_0_to_1(dataset, model):
    channels, side = (1, 28) if dataset == "FashionMNIST-mini" else (3, 32)
    pixels = torch.arange(256, dtype=torch.uint8).repeat(channels * side * side * 2 // 256 + 1)[: 2 * channels * side * side]
    images = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))].view(2, channels, side, side)
    standardised = ToNetwork(dataset, CPU)(images)
    entry = {"dataset": dataset, "method": "Identity", "model": model, "lr": 0.1}
    found = {}
    for kind in ("unit", "standardised"):
        network = whole_network(build(entry | {"inputs": kind})).eval()
        network.blocks[0].register_forward_pre_hook(lambda part, arguments, kind=kind: found.update({kind: arguments[0]}))
        network(standardised)
        network.levels(standardised)
        torch.testing.assert_close(network.prepare(standardised), found[kind])
    expected = images.float().expand(2, 3, side, side) / 255
    torch.testing.assert_close(found["unit"], expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(found["standardised"], standardised)
    assert not torch.allclose(standardised, expected, atol=0.1)


@pytest.mark.usefixtures("small_runs")
def test_a_network_is_trained_and_loaded_with_unit_inputs(small):
    experiment = train(COMMON | {"method": "Identity", "model": "MLP-256x4", "lr": 0.05, "epochs": 1, "inputs": "unit"})
    network = load_network(experiment, CPU)
    first = next(part for part in network.modules() if isinstance(part, nn.Linear))
    pixels = torch.from_numpy(small.valid.images).flatten(1).float() / 255
    with torch.no_grad():
        hidden = first(pixels).relu()
        loss = cross_entropy(network(hidden, 1), torch.from_numpy(small.valid.labels))
    (row,) = metrics(experiment)
    assert row["valid_loss"] == pytest.approx(loss.item(), rel=1e-4)
    plain = train(COMMON | {"method": "Identity", "model": "MLP-256x4", "lr": 0.05, "epochs": 1})
    assert not equal(weights(experiment), weights(plain))
