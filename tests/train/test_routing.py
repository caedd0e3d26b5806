"""Routing: what a system goes by at test time, and the router that names corruptions from the image."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from data.compositions import ELEMENTALS
from models.networks import build_module, build_network, count_parameters
from tests.train.runs import COMMON, CPU, equal, facts, make, metrics, pretend, random_batch, train, weights
from train.build import build
from train.evaluation import evaluate, load_systems
from train.fields import Evaluation, FieldError
from train.method import Stage, method_class
from train.modular_system import ModularNetwork
from train.router import load_router
from train.routing import Routing

pytestmark = pytest.mark.usefixtures("small_runs")

MODULE = {"level": 2, "lr": 0.05, "weight": 0.5}
SYSTEM = COMMON | {"method": "ModularSystem", "backbone": {"lr": 0.05}, "module": MODULE}
ROUTER = COMMON | {"method": "Router", "lr": 0.05}
lists = st.permutations(ELEMENTALS).flatmap(lambda names: st.integers(0, 6).map(lambda n: tuple(names[:n]) or ("Identity",)))


def corruptions(composition):
    return [name for name in composition if name != "Identity"]


@given(lists, st.integers(0, 5))
def test_told_is_the_composition_in_the_order_asked_for(composition, seed):
    names = corruptions(composition)
    assert list(Routing(seed=seed).believed(composition)) == names
    assert list(Routing(order="reverse", seed=seed).believed(composition)) == names[::-1]
    assert sorted(Routing(order="random", seed=seed).believed(composition)) == sorted(names)


@given(lists, st.integers(0, 5))
def test_a_wrong_order_has_the_names_but_never_their_order(composition, seed):
    names = corruptions(composition)
    believed = list(Routing(routing="wrong_order", seed=seed).believed(composition))
    assert sorted(believed) == sorted(names)
    assert (believed == names) is (len(names) < 2)


def test_every_wrong_order_is_as_likely():
    seen = [Routing(routing="wrong_order", seed=seed).believed(("Swirl", "Contrast", "Invert")) for seed in range(500)]
    counts = [seen.count(order) for order in set(seen)]
    assert set(seen) == set(itertools.permutations(("Swirl", "Contrast", "Invert"))) - {("Swirl", "Contrast", "Invert")}
    assert min(counts) > 60


@given(lists, st.integers(0, 5))
def test_random_parts_are_as_many_and_different(composition, seed):
    believed = Routing(routing="random", seed=seed).believed(composition)
    assert len(believed) == len(set(believed)) == len(corruptions(composition))
    assert set(believed) <= set(ELEMENTALS)
    assert believed == Routing(routing="random", seed=seed).believed(composition)


def test_random_parts_do_not_depend_on_the_names():
    seen = [Routing(routing="random", seed=seed).believed(("Swirl", "Contrast")) for seed in range(600)]
    counts = [seen.count(pair) for pair in itertools.permutations(ELEMENTALS, 2)]
    assert sum(counts) == 600
    assert min(counts) > 5


class Eyes(nn.Module):
    """A router that reads corruption bits from the first pixels of an image."""

    def forward(self, images_nchw):
        return images_nchw[:, 0, 0, :6]


def marked(bits_n6):
    """Images whose first pixels hold the bits, as -1 and 1."""
    images = torch.rand(len(bits_n6), 3, 28, 28, generator=torch.Generator().manual_seed(0))
    images[:, 0, 0, :6] = torch.tensor(bits_n6).float() * 2 - 1
    return images


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=9), lists)
def test_a_router_sends_every_image_its_own_way_whatever_the_composition(bits, composition):
    torch.manual_seed(0)
    levels = {name: level for name, level in zip(ELEMENTALS, (1, 1, 0, 2, 4, 1))}
    modules = {name: build_module("SmallNet", level) for name, level in levels.items()}
    network = ModularNetwork(build_network("SmallNet", 10), modules, levels, Routing(routing="router", router=Eyes())).eval()
    told = ModularNetwork(network.backbone, modules, levels, Routing()).eval()
    images = marked(bits)
    with torch.no_grad():
        logits = network(images, composition)
        for number, row in enumerate(bits):
            names = tuple(name for name, there in zip(ELEMENTALS, row) if there) or ("Identity",)
            expected = told(images[number : number + 1], names)[0]
            torch.testing.assert_close(logits[number], expected, rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_router(small):
    method = make(build(ROUTER), small)
    network = method.build(Stage("train", 2), {}).eval()
    assert method.views == (*ELEMENTALS, "Identity")
    batch = random_batch(7, 3)
    logits = network(batch.images_nchw)
    assert logits.shape == (21, 6)
    targets = torch.zeros(21, 6)
    for view, image in itertools.product(range(6), range(3)):
        targets[3 * view + image, view] = 1
    step = method.loss(network, batch)
    assert step.loss.item() == pytest.approx(binary_cross_entropy_with_logits(logits.double(), targets.double()).item(), rel=1e-5)
    expected = [all((logit > 0) == (target > 0) for logit, target in zip(*rows)) for rows in zip(logits.tolist(), targets.tolist())]
    assert step.correct_n.tolist() == expected


def test_a_router_learns_to_name_corruptions_and_serves_a_system(small):
    router = train(ROUTER | {"epochs": 30})
    accuracies = [row["valid_accuracy"] for row in metrics(router)]
    assert accuracies[-1] > 0.6
    assert facts(router)["image_steps"] == 30 * 7 * 200
    assert equal(load_router(router, CPU).state_dict(), weights(router))
    system = build(SYSTEM | {"routing": "router", "router": {"lr": 0.05, "epochs": 30}})
    assert system.router.hash == router.hash
    pretend(system.backbone, build_network("SmallNet", 10), {"width": 1.0})
    for part in system.modules():
        pretend(part, build_module("SmallNet", 2), {"level": 2})
    pretend(system, nn.Identity(), {})
    told = build(SYSTEM)
    pretend(told, nn.Identity(), {})
    routed = load_systems([system], CPU)[0]
    parts = count_parameters(build_network("SmallNet", 10)) + 6 * count_parameters(build_module("SmallNet", 2))
    assert routed.total_parameters == parts + count_parameters(build_network("SmallNet", 6))
    wanted, positions = Evaluation(compositions=("ID", "IN", "CO-SW-R90")), np.arange(0, 2000, 20)
    first, second = evaluate([routed, *load_systems([told], CPU)], small, wanted, positions, CPU)
    # Where the router is right, the two systems are one; it is for most single corruptions, not for compositions that it never saw.
    assert (first.correct_cn[:2] == second.correct_cn[:2]).mean() > 0.8
    assert first.loss_c[2] != second.loss_c[2]


def test_experiments_say_what_they_are_told():
    variants = [{}, {"order": "random"}, {"routing": "wrong_order"}, {"routing": "random"}, {"routing": "router", "router": {"lr": 0.1}}]
    experiments = [build(SYSTEM | {"module": MODULE | {"level": "auto"}} | variant) for variant in variants]
    assert [experiment.oracle for experiment in experiments] == ["names, order", "names", "names, wrong order", "number", "none"]
    assert [experiment.condition for experiment in experiments] == ["", "random order", "wrong order", "random modules", "router"]
    assert (
        len({experiment.hash for experiment in experiments}) == len({experiment.name.rsplit("-", 2)[0] for experiment in experiments}) == 5
    )
    assert all(len(experiment.requires()) == 7 for experiment in experiments[:4])
    router = experiments[4].requires()[-1]
    assert (router.method, router.hash) == ("Router", build(ROUTER | {"lr": 0.1}).hash)
    few = build(SYSTEM | {"corruptions": [1, 6], "routing": "router", "router": {"lr": 0.1}})
    assert few.router.corruptions == ("Contrast", "Swirl")
    assert few.condition == "Contrast, Swirl only, router, level 2"
    image_space = COMMON | {"method": "ImgSpaceIdentity", "autoencoder": {"lr": 0.1}, "classifier": {"lr": 0.1}, "routing": "random"}
    assert build(image_space).condition == "random autoencoders"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"routing": "guess"}, r"routing: input should be 'told', 'wrong_order', 'random' or 'router', got 'guess'"),
        ({"routing": "router"}, r"router: missing; 'routing: router' needs it, as router: \{lr: \.\.\.\}"),
        ({"router": {"lr": 0.1}}, r"router: goes with 'routing: router' only, not with 'told'"),
        ({"routing": "random", "order": "reverse"}, r"order: reverse goes with 'routing: told' only"),
        ({"routing": "router", "router": {"lr": 0.1, "corruptions": [1]}}, r"router: must have the data set and the corruptions"),
        ({"routing": "router", "router": {}}, r"router\.lr: missing; Router needs it"),
    ],
)
def test_bad_routings_are_refused_in_one_line(change, words):
    with pytest.raises(FieldError, match=words):
        build(SYSTEM | change)


LEVELS = {"Contrast": 1, "GaussianBlur": 1, "ImpulseNoise": 1, "Invert": 1, "Rotate90": 4, "Swirl": 4}


def test_levels_by_corruption_are_ordinary_levels():
    system = build(SYSTEM | {"module": MODULE | {"level": LEVELS}})
    by_number = {number: LEVELS[name] for number, name in enumerate(ELEMENTALS, start=1)}
    assert system.hash == build(SYSTEM | {"module": MODULE | {"level": by_number}}).hash != build(SYSTEM).hash
    for part in system.modules():
        entry = COMMON | MODULE | {"method": "Module", "corruption": part.corruption, "backbone": {"lr": 0.05}}
        assert part.hash == build(entry | {"level": LEVELS[part.corruption]}).hash == build(entry | {"level": LEVELS}).hash
        assert f"-level{LEVELS[part.corruption]}-" in part.name
    same = build(SYSTEM | {"module": MODULE | {"level": dict.fromkeys(ELEMENTALS, 2)}})
    assert same.hash == build(SYSTEM).hash
    assert (system.condition, same.condition) == ("fixed levels", "level 2")
    few = build(SYSTEM | {"corruptions": ["Contrast", "Swirl"], "module": MODULE | {"level": LEVELS}})
    assert few.hash == build(SYSTEM | {"corruptions": [1, 6], "module": MODULE | {"level": {"Contrast": 1, "Swirl": 4}}}).hash
    pretend(system.backbone, build_network("SmallNet", 10), {"width": 1.0})
    method = method_class("Module")(system.modules()[4], None, CPU)
    assert method.facts({}) == {"level": 4}
    assert count_parameters(method.build(Stage("train", 1), {})) == count_parameters(build_module("SmallNet", 4))


@pytest.mark.parametrize(
    ("level", "words"),
    [
        ({"Contrast": 1}, r"module\.level: names none for GaussianBlur"),
        (LEVELS | {"Swirl": 5}, r"module\.level: must be 'auto', a whole number from 0 to 4, or one for each corruption, got Swirl: 5"),
        (LEVELS | {"Twirl": 1}, r"module\.level: 'Twirl' is not on the menu"),
    ],
)
def test_levels_that_cannot_be_are_refused_in_one_line(level, words):
    with pytest.raises(FieldError, match=words):
        build(SYSTEM | {"module": MODULE | {"level": level}})


def test_fitted_kernels_are_another_experiment():
    published, fitted = (build(SYSTEM | {"module": MODULE | {"level": "auto", "kernels": kernels}}) for kernels in ("published", "fitted"))
    assert published.hash == build(SYSTEM | {"module": MODULE | {"level": "auto"}}).hash != fitted.hash
    assert fitted.condition == "fitted kernels"
    assert all("-fitted-" in part.name for part in fitted.modules())
    emnist = build(
        COMMON
        | MODULE
        | {"model": "EMNISTNet", "method": "Module", "corruption": 6, "level": 4, "kernels": "fitted", "backbone": {"lr": 0.1}}
    )
    pretend(emnist.backbone, build_network("EMNISTNet", 10), {"width": 1.0})
    assert count_parameters(method_class("Module")(emnist, None, CPU).build(Stage("train", 1), {})) == 2 * (256 * 256 * 9 + 256)
