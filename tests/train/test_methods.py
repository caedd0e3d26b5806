"""The methods: what each trains, on which batches, by which loss; each against a computation by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import info_dicts
from data import datasets
from data.batches import ToNetwork
from data.corruptions import corrupt
from data.keys import evaluation_seed
from errors import InputError
from models.networks import build_module, build_network, count_parameters
from tests.train.runs import COMMON, CPU, equal, facts, make, metrics, pretend, random_batch, train, weights
from train import method as methods
from train.build import build
from train.checkpoint import read_facts
from train.cross_entropy import matched_width
from train.fields import FieldError
from train.loop import Loop
from train.method import Stage, method_class
from train.modular_system import ModularNetwork
from train.routing import Routing
from train.run import open_run

pytestmark = pytest.mark.usefixtures("small_runs")

MODULE = COMMON | {"method": "Module", "corruption": "Invert", "lr": 0.05, "weight": 0.5, "backbone": {"lr": 0.05}}
SYSTEM = COMMON | {"method": "ModularSystem", "backbone": {"lr": 0.05}, "module": {"level": "auto", "lr": 0.05, "weight": 0.5}}


def contrastive_by_loops(features_vbd, temperature):
    """Section 3 of arXiv 2306.09005 with one loop per sum, in float64."""
    views, images = features_vbd.shape[:2]
    rows = features_vbd.detach().double().flatten(2)
    rows = rows / rows.norm(dim=2, keepdim=True)
    total = 0.0
    for v, u in itertools.product(range(views), range(images)):
        negatives = sum(
            math.exp(float(rows[v, u] @ rows[w, other]) / temperature) for w in range(views) for other in range(images) if other != u
        )
        for w in range(views):
            if w != v:
                positive = math.exp(float(rows[v, u] @ rows[w, u]) / temperature)
                total -= math.log(positive / (positive + negatives))
    return total / (views * images)


def test_contrastive_without_weight_is_cross_entropy_to_the_bit():
    plain = train(COMMON | {"method": "CrossEntropy", "lr": 0.05})
    weightless = train(COMMON | {"method": "Contrastive", "lr": 0.05, "weight": 0})
    weighted = train(COMMON | {"method": "Contrastive", "lr": 0.05, "weight": 0.1})
    assert len(metrics(plain)) == 2
    assert metrics(weightless) == metrics(plain) != metrics(weighted)
    assert equal(weights(weightless), weights(plain))
    assert not equal(weights(weighted), weights(plain))


def test_cross_entropy_and_contrastive_meet_identical_minibatches(small):
    plain = make(build(COMMON | {"method": "CrossEntropy", "lr": 0.05}), small).batches()
    contrastive = make(build(COMMON | {"method": "Contrastive", "lr": 0.01, "weight": 1, "levels": 2, "epochs": 9}), small).batches()
    met = []
    for epoch in (0, 1):
        for first, second in zip(plain.epoch(epoch), contrastive.epoch(epoch), strict=True):
            assert torch.equal(first.images_nchw, second.images_nchw)
            assert torch.equal(first.labels_n, second.labels_n)
            assert first.num_views == second.num_views == 7
            met.append(first.images_nchw)
    assert len(met) == 2 * math.ceil(200 / (64 // 7))
    for first, second in zip(plain.validation(), contrastive.validation(), strict=True):
        assert torch.equal(first.images_nchw, second.images_nchw)


@pytest.mark.parametrize("levels", [4, [2, 4, 2, 4, 4, 1]])
def test_contrastive_sums_a_pooled_loss_for_each_level(small, levels):
    experiment = build(COMMON | {"method": "Contrastive", "lr": 0.05, "weight": 0.3, "levels": levels})
    contrastive = make(experiment, small)
    network = contrastive.build(Stage("train", 2), {}).eval()
    batch = random_batch(7, 4)
    expected = cross_entropy(network(batch.images_nchw).double(), batch.labels_n)
    for level in {4} if levels == 4 else {1, 2, 4}:
        chosen = [view for view in range(6) if levels == 4 or levels[view] == level] + [6]
        features = torch.stack([network(batch.images_nchw[4 * view : 4 * view + 4], 0, level) for view in chosen])
        expected = expected + 0.3 * contrastive_by_loops(features, 0.15)
    step = contrastive.loss(network, batch)
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(step.logits_nk, network(batch.images_nchw), rtol=1e-5, atol=1e-6)


def test_only_a_modules_own_parameters_are_trained(small, monkeypatch):
    colour = np.repeat(np.pad(small.train.images[::4], ((0, 0), (0, 0), (2, 2), (2, 2))), 3, axis=1)
    split = datasets.Split(colour, small.train.labels[::4], small.train.ids[::4])
    coloured = datasets.DataSet("CIFAR10", split, split, split, "")
    monkeypatch.setattr(datasets, "load", lambda name, root=None: coloured)
    entry = MODULE | {"dataset": 3, "epochs": 1, "level": 7, "augmentation": "None"}
    backbone = train({key: entry[key] for key in ("dataset", "seed", "epochs", "batch_size", "augmentation")} | {"method": 0, "lr": 0.05})
    on_disk = (backbone.directory / "weights.safetensors").read_bytes()
    experiment = build(entry)
    assert experiment.backbone.hash == backbone.hash
    method = make(experiment, coloured)
    before = {name: tensor.clone() for name, tensor in method.backbone.state_dict().items()}
    assert any("running_mean" in name for name in before)
    with open_run(experiment) as run:
        Loop(run, method, lambda row, step: None, quiet=True).train()
    assert equal(method.backbone.state_dict(), before)
    assert not method.backbone.training
    assert all(parameter.grad is None for parameter in method.backbone.parameters())
    assert (backbone.directory / "weights.safetensors").read_bytes() == on_disk
    trained = weights(experiment)
    fresh = method.build(Stage("train", 1), {}).state_dict()
    assert trained.keys() == fresh.keys()
    assert not any(torch.equal(trained[name], fresh[name]) for name in trained)


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("pass_through", [True, False])
def test_the_loss_of_a_module(small, level, pass_through):
    experiment = build(MODULE | {"level": level, "pass_through": pass_through, "temperature": 0.3})
    torch.manual_seed(0)
    pretend(experiment.backbone, build_network("SmallNet", 10), {"width": 1.0})
    method = make(experiment, small)
    module = method.build(Stage("train", 2), {}).eval()
    backbone = method.backbone
    assert method.views == ("Invert", "Identity")
    batch = random_batch(2, 4)
    corrupted, clean = (backbone(images, 0, level) for images in batch.images_nchw.chunk(2))
    repaired = module(corrupted)
    logits = torch.cat([backbone(repaired, level), backbone(module(clean) if pass_through else clean, level)])
    contrast = contrastive_by_loops(torch.stack([repaired, clean]), 0.3)
    expected = cross_entropy(logits.double(), batch.labels_n).item() + 0.5 * contrast
    step = method.loss(module, batch)
    assert step.loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(step.logits_nk, logits, rtol=1e-5, atol=1e-6)
    untouched = torch.allclose(step.logits_nk[4:], backbone(batch.images_nchw[4:]), rtol=1e-5, atol=1e-6)
    assert untouched is not pass_through


def test_auto_searches_every_level_and_trains_the_best_one_from_scratch():
    train(COMMON | {"method": "Identity", "lr": 0.05, "epochs": 3})
    auto = train(MODULE | {"level": "auto", "epochs": 3, "search_epochs": 2})
    rows = metrics(auto)
    expected = [(f"search-level{level}", epoch) for level in range(5) for epoch in (1, 2)] + [("train", epoch) for epoch in (1, 2, 3)]
    assert [(row["stage"], row["epoch"]) for row in rows] == expected
    accuracies = [row["valid_accuracy"] for row in rows[1:10:2]]
    assert len(set(accuracies)) > 1
    level = accuracies.index(max(accuracies))
    assert facts(auto)["level"] == read_facts(auto)["level"] == level
    assert [facts(auto)["search"][str(i)] for i in range(5)] == accuracies
    assert facts(auto)["search_trials"] == 5
    # A module that is told this level is the same experiment from there on, to the bit.
    told = train(MODULE | {"level": level, "epochs": 3})
    assert equal(weights(told), weights(auto))
    assert metrics(told) == rows[-3:]


@pytest.mark.parametrize(
    ("accuracies", "level"),
    [((0.1, 0.3, 0.2), 1), ((0.2, 0.5, 0.5), 1), ((0.5, 0.5, 0.5), 0), ((0.0,) * 2 + (0.1,) + (0.0,) * 8 + (0.1,), 2)],
)
def test_of_equal_levels_the_lowest_is_taken(small, accuracies, level):
    experiment = build(MODULE | {"level": "auto"})
    pretend(experiment.backbone, build_network("SmallNet", 10), {"width": 1.0})
    results = {f"search-level{i}": {"valid_accuracy": accuracy, "valid_loss": 1.0} for i, accuracy in enumerate(accuracies)}
    assert make(experiment, small).facts(results | {"train": {"valid_accuracy": 1.0, "valid_loss": 0.0}})["level"] == level


LEVELS = {"Contrast": 1, "GaussianBlur": 1, "ImpulseNoise": 0, "Invert": 2, "Rotate90": 4, "Swirl": 1}
LONG = ("Swirl", "Rotate90", "Contrast", "Invert", "ImpulseNoise", "GaussianBlur")


def modular(order, seed=0):
    torch.manual_seed(0)
    modules = {name: build_module("SmallNet", level) for name, level in LEVELS.items()}
    return ModularNetwork(build_network("SmallNet", 10), modules, LEVELS, Routing(order=order, seed=seed)).eval()


def route(network, composition):
    """The (level, corruption) of the modules that a composition passes through."""
    return network.steps(network.routing.believed(composition))


@pytest.mark.parametrize(
    ("order", "composition", "expected"),
    [
        ("application", LONG, ["ImpulseNoise", "Swirl", "Contrast", "GaussianBlur", "Invert", "Rotate90"]),
        ("reverse", LONG, ["ImpulseNoise", "GaussianBlur", "Contrast", "Swirl", "Invert", "Rotate90"]),
        ("application", ("GaussianBlur", "Contrast"), ["GaussianBlur", "Contrast"]),
        ("reverse", ("GaussianBlur", "Contrast"), ["Contrast", "GaussianBlur"]),
        ("reverse", ("Rotate90", "ImpulseNoise"), ["ImpulseNoise", "Rotate90"]),
        ("application", ("Identity",), []),
        ("reverse", ("Identity",), []),
        ("random", ("Identity",), []),
    ],
)  # fmt: skip
def test_modules_go_by_level_and_inside_a_level_by_the_order(order, composition, expected):
    assert route(modular(order), composition) == [(LEVELS[name], name) for name in expected]


def test_a_random_order_is_drawn_once_for_each_composition_and_seed():
    network = modular("random")
    assert route(network, LONG) == route(network, LONG) == route(modular("random"), LONG)
    assert sorted(route(network, LONG)) == sorted((level, name) for name, level in LEVELS.items())
    assert [level for level, _ in route(network, LONG)] == [0, 1, 1, 1, 2, 4]
    of_seeds = {tuple(name for _, name in route(modular("random", seed), LONG)[1:4]) for seed in range(40)}
    assert of_seeds == set(itertools.permutations(["Contrast", "GaussianBlur", "Swirl"]))
    of_compositions = {tuple(name for level, name in route(network, names) if level == 1) for names in itertools.permutations(LONG[:4])}
    assert len(of_compositions) > 1


@pytest.mark.parametrize("order", ["application", "reverse", "random"])
@pytest.mark.parametrize("composition", [("Identity",), ("Rotate90",), ("Swirl", "Contrast"), LONG])
def test_a_modular_system_is_its_blocks_with_modules_before_them(order, composition):
    network = modular(order)
    images = random_batch(1, 4).images_nchw
    steps = route(network, composition)
    features = images
    for number, block in enumerate(network.backbone.blocks):
        for level, name in steps:
            if level == number:
                features = network.modules_of[name](features)
        features = block(features)
    assert torch.equal(network(images, composition), features)
    assert torch.equal(features, network.backbone(images)) is (composition == ("Identity",))
    assert network.total_parameters == sum(parameter.numel() for parameter in network.parameters())


def test_a_corruption_that_has_no_module_is_passed_by():
    modules = {"Invert": build_module("SmallNet", 2)}
    network = ModularNetwork(build_network("SmallNet", 10), modules, {"Invert": 2}, Routing(("Invert",))).eval()
    images = random_batch(1, 4).images_nchw
    assert route(network, ("Swirl", "Invert")) == [(2, "Invert")]
    assert torch.equal(network(images, ("Swirl",)), network.backbone(images))


# Parameters of SmallNet's modules at levels 0..4, as its file says.
SMALL_MODULES = (11_251, 4_640, 25_648, 102_496, 33_024)


@pytest.mark.parametrize("levels", [(1, 1, 0, 2, 3, 2), (3,) * 6])
def test_a_matched_network_is_the_smallest_with_as_many_parameters_as_all_parts(small, levels):
    system = build(SYSTEM)
    pretend(system.backbone, build_network("SmallNet", 10), {"width": 1.0})
    for part, level in zip(system.modules(), levels, strict=True):
        pretend(part, build_module("SmallNet", level), {"level": level})
    total = 156_842 + sum(SMALL_MODULES[level] for level in levels)
    width = matched_width(system)
    assert width > 1
    assert (width * 64).is_integer()
    assert count_parameters(build_network("SmallNet", 10, width)) >= total > count_parameters(build_network("SmallNet", 10, width - 1 / 64))
    matched = train(COMMON | {"method": "CrossEntropy", "lr": 0.05, "epochs": 1, "match": SYSTEM})
    assert facts(matched)["width"] == width
    assert facts(matched)["parameters"] >= total
    reloaded = method_class("CrossEntropy").system(matched, CPU)
    assert reloaded.total_parameters == facts(matched)["parameters"]
    assert facts(train(COMMON | {"method": "CrossEntropy", "lr": 0.05, "epochs": 1}))["parameters"] == 156_842


def validation_loss(network, experiment, views):
    """Mean cross-entropy of a network over all views of the validation images, by the definition."""
    split = datasets.load(experiment.dataset).valid
    images, ids = torch.from_numpy(split.images), torch.from_numpy(split.ids)
    to_network, total = ToNetwork(experiment.dataset, CPU), 0.0
    with torch.no_grad():
        for view in views:
            levels = corrupt(images, view, ids=ids, seed=evaluation_seed(experiment.dataset, "valid")).floor()
            total += cross_entropy(network(to_network(levels)).double(), torch.from_numpy(split.labels)).item()
    return total / len(views)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_weights_kept_have_the_lowest_validation_loss(precision):
    # A rate at which the loss goes up and down from epoch to epoch.
    experiment = train(
        COMMON | {"method": "CrossEntropy", "lr": 0.15, "epochs": 8 if precision == "float32" else 3, "precision": precision}
    )
    losses = [row["valid_loss"] for row in metrics(experiment)]
    best = facts(experiment)
    assert (best["valid_loss"], best["best_epoch"]) == (min(losses), losses.index(min(losses)) + 1)
    network = methods.load_network(experiment, CPU)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    assert validation_loss(network, experiment, (*experiment.corruptions, "Identity")) == pytest.approx(min(losses), rel=1e-5)
    assert precision == "bfloat16" or sum(first > second for first, second in itertools.pairwise(losses)) < 7


def test_the_weights_kept_need_not_be_the_last(monkeypatch):
    # Down for two epochs, then up the gradient, so that the best epoch is known.
    monkeypatch.setattr("train.loop.learning_rate", lambda e, done, total, epochs: 0.05 if done < 2 else -0.01)
    experiment = train(COMMON | {"method": "Identity", "lr": 0.05, "epochs": 4})
    losses = [row["valid_loss"] for row in metrics(experiment)]
    assert facts(experiment)["best_epoch"] == losses.index(min(losses)) + 1 == 2
    network = methods.load_network(experiment, CPU)
    assert validation_loss(network, experiment, ("Identity",)) == pytest.approx(losses[1], rel=1e-5)


def test_bfloat16_trains_under_autocast_and_validates_in_float32(monkeypatch):
    seen = []
    loss = method_class("CrossEntropy").loss

    def watched(self, network, batch):
        step = loss(self, network, batch)
        seen.append((network.training, torch.is_autocast_enabled("cpu"), step.logits_nk.dtype))
        return step

    monkeypatch.setattr(method_class("CrossEntropy"), "loss", watched)
    entry = COMMON | {"method": "CrossEntropy", "lr": 0.05, "epochs": 1}
    train(entry | {"precision": "bfloat16"})
    assert set(seen) == {(True, True, torch.bfloat16), (False, False, torch.float32)}
    seen.clear()
    train(entry)
    assert set(seen) == {(True, False, torch.float32), (False, False, torch.float32)}


@pytest.mark.parametrize("epochs", [1, 5])
def test_the_learning_rate_is_the_cosine_of_torch(epochs):
    train(COMMON | {"method": "Identity", "lr": 0.05, "epochs": epochs})
    experiment = train(MODULE | {"level": "auto", "search_epochs": 2, "epochs": epochs})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    for stage, group in itertools.groupby(metrics(experiment), lambda row: row["stage"]):
        length = epochs if stage == "train" else min(2, epochs)
        assert [row["lr"] for row in group] == pytest.approx(rates[:length])


def test_a_method_on_the_menu_that_has_no_class_or_no_file_is_an_error_in_words(monkeypatch):
    monkeypatch.setitem(info_dicts.METHODS, 900, info_dicts.Choice("LabelSmoothing", oracle="none"))
    with pytest.raises(FieldError, match=r"LabelSmoothing is on the menu, but train/experiment\.py has no class of that name"):
        build(COMMON | {"method": 900, "lr": 0.1})
    with pytest.raises(InputError, match=r"LabelSmoothing is on the menu, but .*train/label_smoothing\.py"):
        method_class("LabelSmoothing")
