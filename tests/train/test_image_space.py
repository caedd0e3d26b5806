"""The image-space line: autoencoders, the joint classifier, the two systems, and the one pass of the chain that they share."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from data.batches import Batch
from data.compositions import ELEMENTALS, compositions
from models.networks import build_autoencoder, build_network, count_parameters
from tests.train.runs import COMMON, CPU, equal, facts, make, metrics, pretend, random_batch, train, weights
from train.build import build
from train.evaluation import evaluate, load_systems
from train.fields import Evaluation, FieldError
from train.img_space_identity import ImgSpaceNetwork
from train.method import Stage, method_class
from train.routing import Routing

pytestmark = pytest.mark.usefixtures("small_runs")

AUTOENCODER = COMMON | {"method": "Autoencoder", "corruption": "Invert", "lr": 0.1}
JOINT = COMMON | {"method": "JointClassifier", "lr": 0.05, "autoencoder": {"lr": 0.1}}
SYSTEMS = [
    COMMON | {"method": name, "autoencoder": {"lr": 0.1}, "classifier": {"lr": 0.05}} for name in ("ImgSpaceIdentity", "ImgSpaceJoint")
]
LONG = ("Swirl", "Rotate90", "Contrast")


def pretend_parts(experiment):
    """Finished runs with fresh weights, different for each, of all that an experiment rests on."""
    for number, part in enumerate(experiment.requires()):
        pretend_parts(part)
        torch.manual_seed(number if part.method == "Autoencoder" else len(part.method))
        network = build_autoencoder("SmallNet", 28) if part.method == "Autoencoder" else build_network("SmallNet", 10)
        pretend(part, network, {})


def test_the_loss_of_an_autoencoder_is_the_pixel_error_of_the_corrupted_half(small):
    method = make(build(AUTOENCODER), small)
    network = method.build(Stage("train", 2), {}).eval()
    assert method.views == ("Invert", "Identity")
    batch = random_batch(2, 4)
    corrupted, clean = batch.images_nchw[:4], batch.images_nchw[4:]
    restored = network(corrupted)
    assert restored.shape == clean.shape
    expected = ((restored.double() - clean.double()) ** 2).sum() / clean.numel()
    step = method.loss(network, batch)
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (step.logits_nk, step.correct_n, step.rows) == (None, None, 4)


def test_an_autoencoder_learns_and_records_no_accuracy():
    experiment = train(AUTOENCODER | {"epochs": 6})
    rows = metrics(experiment)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["valid_loss"] < 0.7 * rows[0]["valid_loss"]
    assert not {"train_accuracy", "valid_accuracy"} & set(rows[0])
    # 200 training images go through it once an epoch; their clean halves do not.
    assert facts(experiment)["image_steps"] == 6 * 200
    assert facts(experiment)["valid_loss"] == min(row["valid_loss"] for row in rows)
    assert "valid_accuracy" not in facts(experiment)


def test_the_joint_classifier_sees_each_view_through_its_own_autoencoder(small):
    experiment = build(JOINT)
    pretend_parts(experiment)
    method = make(experiment, small)
    assert method.views == (*ELEMENTALS, "Identity")
    network = method.build(Stage("train", 2), {}).eval()
    batch = random_batch(7, 4)
    logits = []
    for number, name in enumerate(ELEMENTALS):
        torch.manual_seed(number)
        autoencoder = build_autoencoder("SmallNet", 28).eval()
        assert equal(autoencoder.state_dict(), method.autoencoders[name].state_dict())
        logits.append(network(autoencoder(batch.images_nchw[4 * number : 4 * number + 4])))
    logits.append(network(batch.images_nchw[24:]))
    expected = cross_entropy(torch.cat(logits).double(), batch.labels_n)
    step = method.loss(network, batch)
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    step.loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    for autoencoder in method.autoencoders.values():
        assert not autoencoder.training
        assert all(parameter.grad is None for parameter in autoencoder.parameters())


def test_only_the_joint_classifier_is_trained(small):
    experiment = build(JOINT | {"epochs": 1})
    pretend_parts(experiment)
    before = [weights(part) for part in experiment.requires()]
    train(JOINT | {"epochs": 1})
    assert len(before) == 6
    assert all(equal(weights(part), old) for part, old in zip(experiment.requires(), before, strict=True))
    assert weights(experiment).keys() == build_network("SmallNet", 10).state_dict().keys()
    assert facts(experiment)["image_steps"] == 7 * 200


@pytest.mark.parametrize("order", ["application", "reverse"])
@pytest.mark.parametrize("entry", SYSTEMS, ids=lambda entry: entry["method"])
def test_a_system_is_its_autoencoders_one_after_another_before_its_classifier(entry, order):
    experiment = build(entry | {"order": order})
    pretend_parts(experiment)
    system = method_class(entry["method"]).system(experiment, CPU)
    parts = {part.corruption: system.autoencoders[part.corruption] for part in experiment.autoencoders()}
    assert equal(system.classifier.state_dict(), weights(experiment.classifier))
    assert all(equal(network.state_dict(), weights(part)) for part, network in zip(experiment.autoencoders(), parts.values(), strict=True))
    images = random_batch(1, 5).images_nchw
    expected = images
    for name in LONG if order == "application" else reversed(LONG):
        expected = parts[name](expected)
    assert torch.equal(system(images, LONG), system.classifier(expected))
    assert not torch.equal(system(images, LONG), system(images, LONG[::-1]))
    assert torch.equal(system(images, ("Identity",)), system.classifier(images))
    assert system.total_parameters == 6 * count_parameters(build_autoencoder("SmallNet", 28)) + 156_842


def test_both_systems_share_one_pass_of_the_chain(small, monkeypatch):
    experiments = [build(entry) for entry in SYSTEMS] + [build(SYSTEMS[0] | {"order": "reverse"})]
    for experiment in experiments:
        pretend_parts(experiment)
        pretend(experiment, torch.nn.Identity(), {})
    wanted, positions = Evaluation(compositions=("ID", "CO", "IM-SW", "GB-IM-IN-R90")), np.arange(30)
    alone = [evaluate(load_systems([experiment], CPU), small, wanted, positions, CPU)[0] for experiment in experiments]
    passes = []
    restore = ImgSpaceNetwork.restore
    monkeypatch.setattr(
        ImgSpaceNetwork, "restore", lambda self, images, composition: passes.append(composition) or restore(self, images, composition)
    )
    together = evaluate(load_systems(experiments, CPU), small, wanted, positions, CPU)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.correct_cn, other.correct_cn)
        assert np.array_equal(one.loss_c, other.loss_c)
    # The two classifiers take the same restored images; the chain in reverse order makes its own.
    assert len(passes) == 2 * len(compositions(wanted.compositions))
    assert not np.array_equal(together[0].loss_c, together[1].loss_c)
    assert together[0].loss_c[1] == together[2].loss_c[1]
    assert (together[0].loss_c[2:] != together[2].loss_c[2:]).all()


def test_what_is_restored_is_shared_only_where_it_is_the_same():
    identity, joint = (build(entry) for entry in SYSTEMS)
    others = [
        build(SYSTEMS[0] | change) for change in ({"order": "reverse"}, {"autoencoder": {"lr": 0.2}}, {"routing": "random"}, {"seed": 9})
    ]
    for experiment in (identity, joint, *others):
        pretend_parts(experiment)
    restorations = [system.restoration for system in load_systems([identity, joint, *others], CPU)]
    assert restorations[0] == restorations[1]
    assert len(set(restorations)) == 1 + len(others)


def test_experiments_rest_on_what_they_say():
    identity, joint = (build(entry) for entry in SYSTEMS)
    assert [part.name.split("-")[0] for part in identity.requires()] == ["Autoencoder"] * 6 + ["Identity"]
    assert [part.name.split("-")[0] for part in joint.requires()] == ["Autoencoder"] * 6 + ["JointClassifier"]
    assert [part.corruption for part in identity.autoencoders()] == list(ELEMENTALS)
    assert [part.hash for part in joint.classifier.requires()] == [part.hash for part in identity.autoencoders()]
    assert joint.classifier.hash == build(JOINT).hash
    assert identity.autoencoders()[3].hash == build(AUTOENCODER).hash
    assert identity.classifier.hash == build(COMMON | {"method": "Identity", "lr": 0.05}).hash
    few = build(SYSTEMS[1] | {"corruptions": ["Swirl", "Invert"], "severities": {"Swirl": 5}})
    assert [part.corruption for part in few.autoencoders()] == ["Invert", "Swirl"] == list(few.classifier.corruptions)
    assert few.testing.severities == {"Swirl": 5}
    assert few.autoencoders()[0].hash == build(AUTOENCODER).hash
    changes = [{}, {"order": "reverse"}, {"corruptions": [1, 2]}, {"autoencoder": {"lr": 0.2}}, {"classifier": {"lr": 0.2}}, {"seed": 4}]
    changes += [{"severities": {"Swirl": 5}}, {"epochs": 3}, {"routing": "random"}, {"routing": "router", "router": {"lr": 0.1}}]
    hashes = [build(entry | change).hash for entry, change in itertools.product(SYSTEMS, changes)]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (AUTOENCODER | {"corruption": 0}, r"corruption: Identity has no autoencoder"),
        (AUTOENCODER | {"level": 1}, r"level: unknown key for Autoencoder"),
        (SYSTEMS[0] | {"autoencoder": {}}, r"autoencoder\.lr: missing; Autoencoder needs it"),
        (
            SYSTEMS[1] | {"classifier": {"lr": 0.1, "autoencoder": {"lr": 0.3}}},
            r"classifier: must be trained behind the autoencoders of its system",
        ),
        (SYSTEMS[0] | {"classifier": {"lr": 0.1, "dataset": 1}}, r"classifier: must have the data set of its system"),
        (SYSTEMS[0] | {"autoencoder": {"lr": 0.1, "dataset": 1}}, r"autoencoder: must have the data set of its system"),
        (
            JOINT | {"autoencoder": {"lr": 0.1, "dataset": 1, "model": "EMNISTNet"}},
            r"autoencoder: must have the data set of its classifier",
        ),
        (SYSTEMS[1] | {"classifier": {"lr": 0.1, "method": 0}}, r"classifier\.method: must be JointClassifier, got 0"),
        ({key: value for key, value in JOINT.items() if key != "autoencoder"}, r"autoencoder: missing; JointClassifier needs it"),
    ],
)
def test_bad_entries_are_refused_in_one_line(entry, words):
    with pytest.raises(FieldError, match=words):
        build(entry)


def test_a_batch_of_one_view_alone_passes_its_autoencoder_only(small):
    """Corruptions of the experiment that are fewer than six: the views and autoencoders are those alone."""
    experiment = build(JOINT | {"corruptions": ["Swirl"]})
    pretend_parts(experiment)
    method = make(experiment, small)
    assert (method.views, list(method.autoencoders)) == (("Swirl", "Identity"), ["Swirl"])
    network = method.build(Stage("train", 2), {}).eval()
    batch = Batch(*(random_batch(2, 3).images_nchw, random_batch(2, 3).labels_n, 2))
    logits = method.loss(network, batch).logits_nk
    assert torch.equal(logits[3:], network(batch.images_nchw)[3:])
    assert not torch.equal(logits[:3], network(batch.images_nchw)[:3])


def test_routings_of_a_network_are_passed_on():
    parts = {name: build_autoencoder("SmallNet", 28).eval() for name in ("Invert", "Swirl")}
    network = ImgSpaceNetwork(parts, build_network("SmallNet", 10).eval(), Routing(("Invert", "Swirl"), order="reverse"), None)
    images = random_batch(1, 3).images_nchw
    assert torch.equal(network(images, ("Invert", "Contrast", "Swirl")), network.classifier(parts["Invert"](parts["Swirl"](images))))
