"""Every network on the menu: a real step of every method at every level, and an evaluation on the published compositions."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy, interpolate

import info_dicts
from data import datasets
from data.compositions import ELEMENTALS
from models.networks import build_module, build_network
from tests.models import representatives
from train.build import build
from train.checkpoint import save_weights
from train.evaluation import evaluate, load_systems
from train.fields import Evaluation
from train.method import Stage, method_class
from train.run import open_run

CPU = torch.device("cpu")
# A core puts about 300 images a second through the largest network, and 167 compositions of each image are evaluated:
# a few images always, more where slow tests are run.
FEW, MANY = 3, 16
# Those that take images; and those that modules are made for, which are tried at every level.
MODELS = [str(model) for model in representatives.MODELS if model.sizes[-1] > 1]
WITH_PARTS = [model for model in info_dicts.MODELS.values() if model.facts.get("parts", True)]
# A step of the largest takes seconds at every level; the tests of the committed lists take one at each with modules.
SLOW = {"InceptionV3"}


def marked(model, *more):
    return pytest.param(model, *more, marks=[pytest.mark.slow] if model in SLOW else [])


LEVELS = [(str(model), level) for model in WITH_PARTS for level in range(model.blocks)]


@pytest.fixture(autouse=True)
def _runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def embedded():
    return datasets.load("FashionMNIST-mini")


@pytest.fixture
def entry(model):
    """What all entries with this model have in common, on a data set that it takes."""
    size = next(choice for choice in info_dicts.MODELS.values() if choice == model).sizes[0]
    name = next((choice for choice in info_dicts.DATASETS.values() if choice.shape[-1] == size), None)
    own = {"dataset": str(name)} if name else {"dataset": "FashionMNIST-mini", "resolution": size}
    return own | {"model": model, "batch_size": 28, "epochs": 1}


@pytest.fixture
def dataset(entry, embedded):
    """The first embedded images of every class in the shape of that data set."""
    facts = next(choice for choice in info_dicts.DATASETS.values() if choice == entry["dataset"])

    def shaped(split, count=10):
        chosen = datasets.class_balanced(split, count)
        images = interpolate(torch.from_numpy(split.images[chosen]).float(), facts.shape[1:]).expand(-1, facts.shape[0], -1, -1)
        return datasets.Split(np.ascontiguousarray(images.numpy().astype(np.uint8)), split.labels[chosen], split.ids[chosen])

    return datasets.DataSet(str(facts), shaped(embedded.train), shaped(embedded.valid), shaped(embedded.test, 70), "")


def finish(experiment, network, known):
    """A finished run with fresh weights."""
    with open_run(experiment) as run:
        run.start("")
        save_weights(run.directory, network, known)
        run.finish({})


def takes_a_step(method, stage="train"):
    """One optimiser step of a network on its first batch, in which every parameter moves; returns the loss and the cross-entropy in it (None for images)."""
    torch.manual_seed(0)
    network = method.build(Stage(stage, 1), {}).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    batch = next(method.batches().epoch(0))
    step = method.loss(network, batch)
    assert math.isfinite(step.loss.item())
    step.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())
    optimizer.step()
    assert not any(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    if step.logits_nk is None:
        return step.loss.item(), None
    outputs = method.classes if step.correct_n is None else len(method.views) - 1
    assert step.logits_nk.shape == (len(batch.labels_n), outputs)
    return step.loss.item(), cross_entropy(step.logits_nk, batch.labels_n).item() if step.correct_n is None else None


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batching", ["paired", "independent"])
def test_cross_entropy_takes_a_step(entry, dataset, batching):
    experiment = build(entry | {"method": "CrossEntropy", "lr": 0.1, "batching": batching})
    loss, plain = takes_a_step(method_class("CrossEntropy")(experiment, dataset, CPU))
    assert loss == plain


@pytest.mark.parametrize(("model", "level"), [marked(model, level) for model, level in LEVELS if level > 0])
def test_contrastive_takes_a_step_at_every_level(entry, dataset, level):
    experiment = build(entry | {"method": "Contrastive", "lr": 0.1, "weight": 0.1, "levels": level})
    loss, plain = takes_a_step(method_class("Contrastive")(experiment, dataset, CPU))
    assert loss > plain + 0.1


@pytest.mark.parametrize(("model", "level"), [marked(model, level) for model, level in LEVELS])
def test_a_module_takes_a_step_at_every_level(entry, dataset, level):
    module = {"method": "Module", "corruption": "Swirl", "level": level, "lr": 0.1, "weight": 1, "backbone": {"lr": 0.1}}
    experiment = build(entry | module)
    torch.manual_seed(1)
    finish(experiment.backbone, build_network(experiment.model, experiment.choice("dataset").classes), {"width": 1.0})
    method = method_class("Module")(experiment, dataset, CPU)
    before = {name: tensor.clone() for name, tensor in method.backbone.state_dict().items()}
    takes_a_step(method)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("model", "images"),
    # The largest on many images would take half an hour.
    [marked(str(model), FEW) for model in WITH_PARTS]
    + [pytest.param(str(model), MANY, marks=pytest.mark.slow) for model in WITH_PARTS if model not in SLOW],
)
def test_evaluation_of_plain_and_modular_systems(entry, dataset, model, images):
    """The published compositions, with a module at every level: a further modular system where the levels are more than the corruptions."""
    blocks = next(choice for choice in info_dicts.MODELS.values() if choice == model).blocks
    plain = build(entry | {"method": "Identity", "lr": 0.1})
    torch.manual_seed(2)
    finish(plain, build_network(model, plain.choice("dataset").classes), {"width": 1.0})
    used, systems = set(), []
    for number, first in enumerate(range(0, blocks, len(ELEMENTALS))):
        module = {"level": "auto", "lr": 0.1 + number, "weight": 1}
        system = build(entry | {"method": "ModularSystem", "backbone": {"lr": 0.1}, "module": module})
        for offset, part in enumerate(system.modules()):
            level = (first + offset) % blocks
            used.add(level)
            finish(part, build_module(model, level), {"level": level})
        finish(system, torch.nn.Identity(), {})
        systems.append(system)
    assert used == set(range(blocks))
    positions = np.arange(images)
    outcomes = evaluate(load_systems([plain, systems[0]], CPU), dataset, Evaluation(), positions, CPU)
    for outcome in outcomes:
        assert outcome.correct_cn.shape == (167, images)
        assert np.isfinite(outcome.loss_c).all()
    assert outcomes[0].loss_c[0] == pytest.approx(outcomes[1].loss_c[0], rel=1e-6)
    assert min(len(set(outcome.loss_c)) for outcome in outcomes) > 20
    assert np.array_equal(outcomes[0].correct_cn[0], outcomes[1].correct_cn[0])
    assert (outcomes[0].loss_c[1:] != outcomes[1].loss_c[1:]).all()
    further_lists = "elementals" if images == FEW else "167"
    for further in systems[1:]:
        single, few = evaluate(load_systems([plain, further], CPU), dataset, Evaluation(compositions=further_lists), positions, CPU)
        assert single.loss_c[:7] == pytest.approx(outcomes[0].loss_c[:7], rel=1e-6)
        assert (few.loss_c[1:7] != outcomes[1].loss_c[1:7]).all()
