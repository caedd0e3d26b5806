"""Teachers and students: what each is trained by, how it is tested, and that neither tests nor the teacher change anything of what is trained."""

import copy
import math
import shutil

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.optim.optimizer import register_optimizer_step_pre_hook

import info_dicts
from data import datasets
from data.cue_batches import CounterfactualSet, CueBatch
from data.mechanisms import read_mechanism
from errors import InputError, Interrupted
from losses.distillation import distillation_loss
from losses.jacobian import jacobians, top_classes
from models.networks import build_network
from tests.train.runs import CPU, equal, facts, make, metrics, train, weights
from train import interrupt
from train.build import build
from train.counterfactual import CounterfactualTest
from train.fields import FieldError
from train.method import Stage, load_network
from train.run import state
from train.runner import run_experiment
from train.subject import row_of, values_of
from train.teacher import mixed_cross_entropy

pytestmark = pytest.mark.usefixtures("small_runs")

COMMON = {"dataset": 0, "seed": 3, "epochs": 2, "batch_size": 32, "evaluate_every": 5}
TEACHER = COMMON | {"method": "Teacher", "mechanism": "B", "lr": 0.1, "momentum": 0.5, "final_lr": 0.01}
STUDENT = COMMON | {
    "method": "Student",
    "mechanism": "P",
    "loss": "Base",
    "lr": 0.05,
    "teacher": {"mechanism": "B", "lr": 0.1, "momentum": 0.5, "final_lr": 0.01},
}
# With batch norm and no dropout, on 28 pixels.
NORMED = {"model": "ResNet20_Wide", "depth": 8, "width": 0.25}
LOSSES = [str(loss) for loss in info_dicts.LOSSES.values()]
TERMS = [str(loss) for loss in info_dicts.LOSSES.values() if loss.term]


@pytest.fixture(scope="module")
def taught(tmp_path_factory, small):
    """The runs after the teacher was trained, once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_RUNS", str(tmp_path_factory.mktemp("taught")))
        patch.setenv("WANDB_MODE", "disabled")
        patch.setattr(datasets, "load", lambda name, root=None: small)
        return train(TEACHER).directory


@pytest.fixture
def teacher(taught):
    shutil.copytree(taught, build(TEACHER).directory)
    return build(TEACHER)


def student(loss, **more):
    entry = STUDENT | {"loss": loss} | more
    if loss == "Labels":
        entry.pop("teacher")
    return entry


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_a_student_that_can_be_loaded(teacher, loss):
    experiment = train(student(loss, top_classes=3) if loss == "Jacobian" else student(loss))
    rows = [row for row in metrics(experiment) if "valid_loss" in row]
    assert len(rows) == 2
    assert all(math.isfinite(row["train_loss"]) and math.isfinite(row["valid_loss"]) for row in rows)
    # What only serves the training is not kept.
    assert equal(dict(load_network(experiment, CPU).state_dict()), weights(experiment))
    assert facts(experiment)["parameters"] == 156_842
    assert ("term_weight" in facts(experiment)) == (loss in TERMS)
    own = rows[-1]["counterfactual"]
    assert set(own) == {"P", "B", "BR", "BoxOnly"}
    assert ("teacher_kl" in own["B"]) == (loss != "Labels")


def test_a_record_has_all_sets_every_k_iterations_and_is_exact_at_the_end_of_an_epoch(teacher, small):
    experiment = train(STUDENT)
    rows = metrics(experiment)
    # 200 images in batches of at most 32: seven an epoch.
    assert [(row["epoch"], row["iteration"], "valid_loss" in row) for row in rows] == [
        (1, 0, False), (1, 5, False), (1, 7, True), (2, 10, False), (2, 14, True),
    ]  # fmt: skip
    assert all(len(row["counterfactual"]) == 4 for row in rows)
    network, taught = load_network(experiment, CPU), load_network(experiment.teacher, CPU)
    last = next(row for row in rows if "valid_loss" in row and row["epoch"] == facts(experiment)["best_epoch"])
    for name, found in last["counterfactual"].items():
        own = CounterfactualSet(small, read_mechanism("FashionMNIST-mini", name), CPU, 1000)
        assert len(own) == 2000
        images, labels = own.to_network(own.cues.render(own.scene)), own.scene.labels
        ours, theirs = network(images), taught(images)
        assert found["accuracy"] == pytest.approx((ours.argmax(1) == labels).double().mean().item(), abs=1e-9)
        assert found["teacher_accuracy"] == pytest.approx((theirs.argmax(1) == labels).double().mean().item(), abs=1e-9)
        assert found["teacher_agreement"] == pytest.approx((theirs.argmax(1) == ours.argmax(1)).double().mean().item(), abs=1e-9)
        divergence = kl_div(log_softmax(ours, 1), softmax(theirs, 1), reduction="batchmean").item()
        assert found["teacher_kl"] == pytest.approx(divergence, rel=1e-4)


def test_one_record_of_wandb_has_every_value_and_tells_the_row_again(teacher):
    rows = metrics(train(STUDENT))
    values = values_of(rows[1] | {"images_per_second": 1.0})
    assert {key for key in values if key.startswith("counterfactual/")} == {
        f"counterfactual/{name}/{metric}"
        for name in ("P", "B", "BR", "BoxOnly")
        for metric in ("accuracy", "teacher_accuracy", "teacher_kl", "teacher_agreement")
    }
    for row in rows:
        assert row_of(values_of(row)) == {key: value for key, value in row.items() if key != "left"}


def test_a_copy_of_the_teacher_agrees_with_it_everywhere(small):
    network = load_network(train(TEACHER | {"epochs": 4, "momentum": 0.9, "lr": 0.05}), CPU)
    test = CounterfactualTest(build(STUDENT), small, CPU, network)
    for found in (test.fast(copy.deepcopy(network)), test.exact(copy.deepcopy(network))):
        for own in found.values():
            assert own["teacher_kl"] == pytest.approx(0, abs=1e-6)
            assert own["teacher_agreement"] == 1
            assert own["accuracy"] == own["teacher_accuracy"]
    assert test.fast(network)["B"]["accuracy"] != test.exact(network)["B"]["accuracy"]  # 1,000 and 2,000 images


@pytest.mark.parametrize("more", [{}, NORMED])
def test_how_often_a_network_is_tested_changes_nothing_of_what_it_becomes(more):
    often, seldom = (build(TEACHER | more | {"epochs": 1, "evaluate_every": k}) for k in (3, 1000))
    assert often.hash == seldom.hash
    run_experiment(often)
    first, rows = weights(often), metrics(often)
    assert sum("valid_loss" not in row for row in rows) == 3
    often.directory.rename(often.directory.with_name("before"))
    run_experiment(seldom)
    assert equal(weights(seldom), first)
    assert [row for row in metrics(seldom) if "valid_loss" in row] == [row for row in rows if "valid_loss" in row]


def test_a_teacher_is_never_changed(small):
    entry = STUDENT | NORMED | {"epochs": 1, "loss": "Jacobian", "top_classes": 2, "teacher": STUDENT["teacher"] | NORMED}
    experiment = build(entry)
    run_experiment(experiment.teacher)
    method = make(experiment, small)
    before = {name: tensor.clone() for name, tensor in method.teacher.state_dict().items()}
    assert any("running_mean" in name for name in before)
    pupil = method.build(Stage("train", 1), {}).train()
    for batch, _ in zip(method.batches().epoch(0), range(3)):
        method.loss(pupil, batch).loss.backward()
        method.watch(pupil, 0)
    assert equal(dict(method.teacher.state_dict()), before)
    assert not any(part.training for part in method.teacher.modules())
    assert all(parameter.grad is None for parameter in method.teacher.parameters())
    assert all(parameter.grad is not None for parameter in pupil.student.parameters())
    assert pupil.training


def test_the_jacobian_term_is_that_of_both_networks_as_tested(small):
    entry = STUDENT | NORMED | {"loss": "Jacobian", "alpha": 0.25, "top_classes": 4, "teacher": STUDENT["teacher"] | NORMED | {"epochs": 1}}
    experiment = build(entry)
    run_experiment(experiment.teacher)
    method = make(experiment, small)
    pupil = method.build(Stage("train", 1), {}).train()
    batch = next(method.batches().epoch(0))
    running = {name: tensor.clone() for name, tensor in pupil.student.named_buffers()}
    loss = method.loss(pupil, batch).loss
    # One training pass moved the running statistics once; the term was computed with the moved ones.
    assert any(not torch.equal(running[name], tensor) for name, tensor in pupil.student.named_buffers())
    theirs = method.teacher(batch.images_nchw)
    classes = top_classes(theirs, 4)
    tested = copy.deepcopy(pupil.student).eval()
    ours_b, theirs_b = (
        jacobians(network, batch.images_nchw, classes, create_graph=False)[1].flatten(1) for network in (tested, method.teacher)
    )
    term = (ours_b / ours_b.norm(dim=1, keepdim=True) - theirs_b / theirs_b.norm(dim=1, keepdim=True)).square().sum(1).mean()
    again = method.build(Stage("train", 1), {}).train()
    logits = again.student(batch.images_nchw)
    base = 16 * kl_div(log_softmax(logits / 4, 1), softmax(theirs / 4, 1), reduction="batchmean")
    assert loss.item() == pytest.approx((0.75 * base + 0.25 * term).item(), rel=1e-4)


@pytest.mark.parametrize("loss", TERMS)
def test_auto_weights_make_both_parts_half_of_the_base_over_the_first_batches(teacher, small, loss):
    method = make(build(student(loss)), small)
    pupil = method.build(Stage("train", 2), {}).train()
    weight = method.weights
    assert weight[0] == 0.5
    copied, base, term = copy.deepcopy(pupil), 0.0, 0.0
    torch.manual_seed(0)
    for batch, _ in zip(method.batches().epoch(0), range(8)):
        parts = method.parts(copied, batch)
        base, term = base + parts[0].item(), term + parts[1].item()
    # Dropout, and the negatives of CRD, are drawn anew.
    assert weight[1] * term == pytest.approx(0.5 * base, rel=0.1)
    assert method.facts({})["term_weight"] == weight[1]
    fixed = make(build(student(loss, alpha=0.2)), small)
    fixed.build(Stage("train", 2), {})
    assert fixed.weights == (0.8, 0.2)


def test_rates_go_down_by_iteration_to_the_final_one(small):
    seen = []
    watching = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    train(TEACHER | {"epochs": 3})
    watching.remove()
    expected = [0.01 + 0.09 * (1 + math.cos(math.pi * step / 21)) / 2 for step in range(21)]
    assert seen == pytest.approx(expected)


def test_a_student_does_not_begin_as_its_teacher_did(small):
    entry = STUDENT | {"loss": "Labels", "mechanism": "B"}
    entry.pop("teacher")
    method, other = make(build(entry), small), make(build(TEACHER), small)
    torch.manual_seed(0)
    one, same = (method.build(Stage("train", 2), {}).student for _ in range(2))
    assert equal(dict(one.state_dict()), dict(same.state_dict()))
    torch.manual_seed(0)
    assert not equal(dict(one.state_dict()), dict(other.build(Stage("train", 2), {}).state_dict()))
    # But both meet the same images in the same order.
    for first, second in zip(method.batches().epoch(1), other.batches().epoch(1), strict=True):
        assert torch.equal(first.images_nchw, second.images_nchw)


def test_mixed_labels_count_by_their_shares():
    logits, labels, others = torch.randn(6, 10), torch.arange(6), torch.arange(6).flip(0)
    share = torch.linspace(0, 1, 6)
    batch = CueBatch(torch.zeros(6, 1), labels, 1, labels, others, share)
    by_hand = sum(
        share[i] * cross_entropy(logits[i : i + 1], labels[i : i + 1])
        + (1 - share[i]) * cross_entropy(logits[i : i + 1], others[i : i + 1])
        for i in range(6)
    )
    assert mixed_cross_entropy(logits, batch).item() == pytest.approx(by_hand.item() / 6, rel=1e-5)
    assert mixed_cross_entropy(logits, CueBatch(torch.zeros(6, 1), labels, 1, labels)).item() == cross_entropy(logits, labels).item()


# How often it was asked whether to stop: 24 times before the first step (teacher and student on four sets), at each of 7 steps, once in validation, and 16 times in the
# test on all images.
@pytest.mark.parametrize(
    ("loss", "asked", "where"),
    [
        ("Base", 3, "epoch 1, after step 0"), ("Base", 20, "epoch 1, after step 0"), ("Base", 32, "epoch 1, after step 7"), ("Base", 40, "epoch 1, after step 7"),
        *((loss, asked, where) for loss in ("Contrastive", "CRD", "Jacobian") for asked, where in ((27, "epoch 1, after step 3"), (51, "epoch 2, after step 3"))),
    ],
)  # fmt: skip
def test_a_student_that_was_stopped_goes_on_to_the_same_bits(teacher, monkeypatch, loss, asked, where):
    entry = student(loss, augmentation="Mixup") | ({"top_classes": 2} if loss == "Jacobian" else {})
    whole = train(entry)
    expected, rows = weights(whole), metrics(whole)
    whole.directory.rename(whole.directory.with_name("whole"))
    count = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(interrupt, "told", lambda: next(count) >= asked)
        with pytest.raises(Interrupted, match=where):
            run_experiment(build(entry))
    assert state(build(entry)).name == "stopped"
    again = train(entry)
    assert equal(weights(again), expected)
    assert metrics(again) == rows


def test_a_network_of_another_width_and_depth_is_built_again_from_its_facts(small):
    experiment = train(TEACHER | NORMED | {"epochs": 1, "depth": 14})
    assert {key: facts(experiment)[key] for key in ("width", "depth")} == {"width": 0.25, "depth": 14}
    assert load_network(experiment, CPU).state_dict().keys() == build_network("ResNet20_Wide", 10, 0.25, 14).state_dict().keys()


def test_one_experiment_has_one_name_however_its_entry_says_it():
    names = {build(TEACHER | {"mechanism": own}).hash for own in (1, "B", [1, 1, 0, 0, 0, 0])}
    names |= {build(TEACHER | {"cue_fraction": 1, "evaluate_every": 7}).hash, build(TEACHER | {"counterfactuals": [0, 1, 2, 3]}).hash}
    assert len(names) == 1
    assert build(TEACHER | {"mechanism": 1}).directory == build(TEACHER | {"mechanism": [1, 1, 0, 0, 0, 0]}).directory
    half = build(TEACHER | {"cue_fraction": 0.5})
    assert half.hash == build(TEACHER | {"mechanism": [1, 0.5, 0, 0, 0, 0]}).hash
    assert half.own_set == "own"
    assert list(half.tested_on) == ["P", "B", "BR", "BoxOnly", "own"]
    assert build(TEACHER | NORMED | {"depth": 20}).directory == build(TEACHER | {"model": "ResNet20_Wide", "width": 0.25}).directory
    assert len({build(STUDENT | {"counterfactuals": own}).hash for own in ([0], [0, 1], [1, 0])}) == 3
    assert [own.hash for own in build(STUDENT | {"augmentation": "Mixup"}).requires()] == [build(TEACHER).hash]


def test_the_teacher_sees_each_fixed_image_once(teacher, small):
    method = make(build(STUDENT), small)
    pupil = method.build(Stage("train", 2), {})
    seen = []
    forward = method.teacher.forward
    method.teacher.forward = lambda images, *more: seen.append(len(images)) or forward(images, *more)
    for epoch in range(3):
        pupil.eval()
        validated = [method.loss(pupil, batch).loss.item() for batch in method.batches().validation()]
        method.watch(pupil, 5 * epoch)
        method.examine(pupil)
    # 50 validation images, and 2,000 test images of each of four sets.
    assert sum(seen) == 50 + 4 * 2000
    # And what it remembers is what it would say again.
    [batch] = method.batches().validation()
    again = distillation_loss(pupil.student(batch.images_nchw), method.teacher(batch.images_nchw), 4)
    assert validated == pytest.approx([again.item()])


JACOBIAN = STUDENT | {"loss": "Jacobian"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (TEACHER | {"mechanism": "Q"}, "mechanism: 'Q' is no mechanism of FashionMNIST-mini; allowed: 0 P, 1 B, 2 BR, 3 BoxOnly, or six numbers"),
        (TEACHER | {"dataset": "ORL"}, "mechanism: ORL carries no cues"),
        (TEACHER | {"cue_fraction": 1.5}, "cue_fraction: input should be less than or equal to 1"),
        (TEACHER | {"augmentation": "Cutout"}, "augmentation: 'Cutout' is not on the menu; allowed: 0 None, 1 CropFlip, 2 Mixup"),
        (TEACHER | {"depth": 8}, "depth: SmallNet has no depth to choose, got 8"),
        (TEACHER | {"model": "ResNet20_Wide", "depth": 9}, r"depth: ResNet20_Wide has depths 8, 14, 20, ... \(6 n \+ 2\), got 9"),
        (TEACHER | {"counterfactuals": [77]}, "counterfactuals: 77 is no mechanism"),
        ({key: value for key, value in STUDENT.items() if key != "teacher"}, "teacher: missing; the loss Base needs it, as teacher: {mechanism: ..., lr: ...}"),
        (STUDENT | {"loss": "Hinton"}, "loss: 'Hinton' is not on the menu; allowed: 0 Base, 1 Jacobian"),
        (STUDENT | {"teacher": {"lr": 0.1}}, "teacher.mechanism: missing; Teacher needs it"),
        (STUDENT | {"teacher": {"mechanism": "B"}}, "teacher.lr: missing; Teacher needs it"),
        (STUDENT | {"alpha": 0.5}, "alpha: means nothing for the loss Base"),
        (STUDENT | {"top_classes": 3}, "top_classes: means nothing for the loss Base"),
        (JACOBIAN | {"top_classes": 11}, "top_classes: FashionMNIST-mini has 10 classes, got 11"),
        (
            {"dataset": "Slabs", "method": "Student", "mechanism": 0, "loss": "AttentionTransfer", "lr": 0.1, "teacher": {"mechanism": 0, "lr": 0.1}},
            "loss: AttentionTransfer is for images, Slabs has none",
        ),
        (JACOBIAN | {"top_classes": 0}, "top_classes: input should be greater than or equal to 1"),
        (JACOBIAN | {"alpha": 1.5}, "alpha: must be 'auto' or a number from 0 to 1, got 1.5"),
        (JACOBIAN | {"contrast_temperature": 0.1}, "contrast_temperature: means nothing for the loss Jacobian"),
        (
            STUDENT | {"teacher": {"dataset": "CIFAR100", "model": "LeNet5", "mechanism": "B", "lr": 0.1}},
            "teacher.dataset: CIFAR100 has 100 classes, its student's FashionMNIST-mini 10; they must be the same",
        ),
        (COMMON | {"method": "CrossEntropy", "lr": 1, "augmentation": "Mixup"}, "unknown key"),
        ({"dataset": 0, "method": "CrossEntropy", "lr": 1, "augmentation": "Mixup"}, r"augmentation: Mixup is for images that carry cues"),
        ({"dataset": "Dominoes", "method": "Identity", "lr": 1}, "dataset: Identity needs square images, Dominoes has none"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(entry, words):
    with pytest.raises(FieldError, match=words) as caught:
        build(entry)
    assert "\n" not in str(caught.value)


def test_a_teacher_that_is_not_trained_is_named():
    with pytest.raises(InputError, match=r"Student-P-TB-Base-.* needs Teacher-B-lr0\.1-s3-[0-9a-f]{12}, which is new"):
        run_experiment(build(STUDENT))
