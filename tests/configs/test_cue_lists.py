"""The lists of teachers and students: which entry is which, that all can be told apart, and that each kind takes a real step."""

import pytest
import torch

import info_dicts
from configs.__main__ import FOLDER, SWEEPS
from configs.distillation import CUE_LISTS, EXHAUSTIVE, THREE
from configs.searches import STUDENT_SEARCHES
from data.mechanisms import mechanism_name, read_mechanism
from tests.data.cues.synthetic import coded
from tests.train.runs import CPU
from train.cue_experiments import Student, Teacher
from train.lists import read
from train.method import Stage, method_class
from train.sweep.entry import entry_of, experiments_of
from train.sweep.file import read_sweep
from train.teacher import CueMethod

ENTRIES = {name: [entry.experiment for entry in read(FOLDER / f"{name}.yaml")] for name in CUE_LISTS}


def names(experiment):
    teacher = None if experiment.teacher is None else mechanism_name(experiment.dataset, experiment.teacher.trained_on)
    return mechanism_name(experiment.dataset, experiment.trained_on), teacher, experiment.loss


@pytest.mark.parametrize(("name", "dataset"), [("dominoes_students", "Dominoes"), ("shapes_students", "3DShapes")])
def test_the_exhaustive_list_is_counted_by_student_teacher_and_loss(name, dataset):
    own = ENTRIES[name]
    assert len(own) == 147
    menu = info_dicts.MECHANISMS[dataset]
    for student in EXHAUSTIVE:
        for teacher in EXHAUSTIVE:
            for loss, said in enumerate(THREE):
                experiment = own[21 * student + 3 * teacher + loss]
                assert names(experiment) == (str(menu[student]), str(menu[teacher]), said)
                assert info_dicts.LOSSES[loss] == said
                assert {experiment.dataset, experiment.teacher.dataset} == {dataset}


def test_cifar100_and_the_targeted_list_are_counted_as_they_say():
    menu = info_dicts.MECHANISMS["CIFAR100"]
    expected = [(str(menu[s]), str(menu[t]), loss) for s in (0, 1) for t in (0, 1, 2) for loss in THREE]
    assert list(map(names, ENTRIES["cifar100_distill"])) == expected
    assert len(expected) == 18
    menu = info_dicts.MECHANISMS["Dominoes"]
    teachers, students = ENTRIES["dominoes_targeted"][:3], ENTRIES["dominoes_targeted"][3:]
    assert [mechanism_name("Dominoes", own.trained_on) for own in teachers] == [str(menu[number]) for number in (0, 7, 8)]
    assert list(map(names, students)) == [(str(menu[s]), str(menu[t]), loss) for t in (7, 8) for s in (7, 9, 10) for loss in THREE[:2]]
    sets = {tuple(own) for own in students[0].counterfactuals}
    assert sets == {(1, 1, 1, 0, 0, 0), (0, 1, 1, 0, 0, 0), (1, 1, 1, 0, 1, 0), (1, 1, 1, 0, 0, 1), (1, 1, 1, 1, 0, 0)}


def test_slabs_are_nine_pairs_for_each_fraction():
    own = ENTRIES["slabs"]
    assert len(own) == 9 * 7
    for place, fraction in enumerate((0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)):
        cues = [(0.5, 0.5), (0, 1), (1, 0)]
        pairs = [(e.teacher.trained_on[:3], e.trained_on[:3]) for e in own[9 * place : 9 * place + 9]]
        content = pytest.approx(1 - fraction)
        assert [(t[0], s[0]) for t, s in pairs] == [(content, content)] * 9
        assert [(t[1:], s[1:]) for t, s in pairs] == [(t, s) for t in cues for s in cues]
    assert {(e.model, e.teacher.model) for e in own} == {("MLP-50", "MLP-100-200-100")}


def test_the_demo_has_the_four_pairs_and_labels_alone_for_three_seeds():
    own = ENTRIES["distill_demo"]
    for start, seed in zip(range(0, 24, 8), (1, 2, 3)):
        block = own[start : start + 8]
        assert {e.seed for e in block} == {seed}
        assert [type(e) for e in block] == [Teacher] * 2 + [Student] * 6
        assert [names(e) for e in block[2:]] == [
            ("B", "B", "Base"), ("B", "P", "Base"), ("P", "B", "Base"), ("P", "P", "Base"), ("B", None, "Labels"), ("P", None, "Labels"),
        ]  # fmt: skip
        # Teachers stand in the list themselves, trained once.
        assert {e.teacher.hash for e in block[2:6]} == {e.hash for e in block[:2]}


@pytest.mark.parametrize("name", CUE_LISTS)
def test_entries_differ_and_know_their_sets(name):
    assert len({e.hash for e in ENTRIES[name]}) == len(ENTRIES[name])
    for e in ENTRIES[name]:
        for own, mechanism in e.tested_on.items():
            assert own == "own" or read_mechanism(e.dataset, own) == mechanism


DISTINCT = {(e.dataset, e.model, type(e).__name__, getattr(e, "loss", "")): e for experiments in ENTRIES.values() for e in experiments}


@pytest.mark.parametrize(
    "experiment", DISTINCT.values(), ids=lambda e: "-".join([e.dataset, e.model, type(e).__name__, getattr(e, "loss", "")])
)
def test_every_kind_of_entry_takes_a_step_and_is_tested(experiment, monkeypatch):
    """On a few images, with a fresh network for a teacher; where the grid of factors is whole, its cues need all of it."""
    changes = {"batch_size": 4, "mechanism": read_mechanism(experiment.dataset, 0)}
    if experiment.dataset.startswith("3DShapes"):
        changes["counterfactuals"] = (read_mechanism(experiment.dataset, 0),)
    experiment = experiment.model_copy(update=changes)
    teacher = getattr(experiment, "teacher", None)
    monkeypatch.setattr(
        "train.student.load_network", lambda own, device: CueMethod(own, None, device).fresh().to(device).eval().requires_grad_(False)
    )
    dataset = coded(experiment.dataset, per_class=2 if experiment.choice("dataset").classes < 20 else 1)
    method = method_class(experiment.method)(experiment, dataset, CPU)
    torch.manual_seed(0)
    network = method.build(Stage("train", 1), {}).train()
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    step = method.loss(network, next(method.batches().epoch(0)))
    step.loss.backward()
    optimizer.step()
    assert torch.isfinite(step.loss)
    assert any(not torch.equal(before[name], tensor) for name, tensor in network.named_parameters())
    found = method.watch(network, 0)["counterfactual"]
    assert set(found) == set(experiment.tested_on)
    assert all(("teacher_kl" in own) == (teacher is not None) for own in found.values())


@pytest.mark.parametrize("name", STUDENT_SEARCHES)
def test_searches_of_students_are_experiments_whose_metric_is_logged(name):
    sweep = read_sweep(SWEEPS / f"{name}.yaml")
    assert (sweep.name, sweep.metric.name, sweep.metric.goal) == (name, "valid/accuracy", "maximize")
    text = (SWEEPS / f"{name}.yaml").read_text().splitlines()
    assert text[0] == f"# bash submit_scripts/submit_sweep.sh configs/sweeps/{name}.yaml"
    assert text[2].startswith("# Expect")
    if sweep.method == "grid":
        hashes = {experiments_of(entry_of(values))[0].hash for values in sweep.points()}
        assert len(hashes) == len(sweep.points()) == sweep.trials
    else:
        assert (sweep.method, sweep.trials) == ("bayes", 30)
