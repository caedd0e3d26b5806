"""Resolution: what a network sees, that all pixels before are the same, that it is trained, loaded and tested so, and where it is refused."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from models.networks import build_network, resize
from tests.train.runs import COMMON, CPU, equal, make, metrics, pretend, random_batch, train, weights
from train.build import build
from train.fields import FieldError
from train.method import Stage, load_network, method_class, whole_network

IDENTITY = COMMON | {"method": "Identity", "model": "LeNet5", "lr": 0.05, "epochs": 1}
CUED = COMMON | {
    "method": "Teacher",
    "model": "LeNet5",
    "mechanism": "B",
    "lr": 0.05,
    "epochs": 1,
    "batch_size": 32,
    "evaluate_every": 1000,
}
STUDENT = CUED | {"method": "Student", "loss": "Base", "teacher": {"mechanism": "B", "lr": 0.05}}


@pytest.mark.parametrize(
    ("shape", "width", "size"), [((28, 28), 64, (64, 64)), ((28, 28), 9, (9, 9)), ((64, 32), 48, (96, 48)), ((30, 20), 11, (16, 11))]
)
def test_images_are_resized_as_pillow_does(shape, width, size):
    images = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    found = resize(images, width)
    assert found.shape == (2, 3, *size)
    expected = [[Image.fromarray(channel).resize(size[::-1], Image.Resampling.BILINEAR) for channel in image] for image in images.numpy()]
    np.testing.assert_allclose(found.numpy(), [[np.asarray(channel) for channel in image] for image in expected], rtol=0, atol=1e-4)


def test_a_network_resizes_what_starts_at_the_image_and_nothing_else():
    network = build_network("LeNet5", 10).eval()
    images = random_batch(1, 4).images_nchw
    plain = network(resize(images, 40))
    assert torch.equal(network(resize(images, 28)), network(images))
    features = network(resize(images, 40), 0, 1)
    network.resolution = 40
    assert torch.equal(network(images), plain)
    assert torch.equal(network.levels(images)[-1], plain)
    assert torch.equal(network.activate(images).logits_nk, plain)
    # From a level on, here one whose maps are not of that size, and of images that have the size already.
    assert torch.equal(network(features, 1), plain)
    assert torch.equal(network.activate(features, 1).logits_nk, plain)
    assert torch.equal(network(resize(images, 40)), plain)


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("more", [{}, {"method": "CrossEntropy"}, {"method": "Contrastive", "weight": 0.1, "levels": 2}], ids=str)
def test_a_network_is_trained_loaded_and_tested_at_its_resolution_on_the_same_pixels(small, more):
    experiment = train(IDENTITY | more | {"resolution": 36})
    network = load_network(experiment, CPU)
    assert network.resolution == 36
    loss, rows = 0.0, 0
    batches = zip(make(experiment, small).batches().validation(), make(build(IDENTITY | more), small).batches().validation(), strict=True)
    with torch.no_grad():
        for batch, stored in batches:
            assert torch.equal(batch.images_nchw, stored.images_nchw)
            features = resize(batch.images_nchw, 36)
            for block in network.blocks:
                features = block(features)
            loss += cross_entropy(features, batch.labels_n, reduction="sum").item()
            rows += len(features)
            logits = method_class(experiment.method).system(experiment, CPU)(batch.images_nchw, ("Identity",))
            assert torch.equal(logits, features)
    (row,) = metrics(experiment)
    if "weight" not in more:
        assert row["valid_loss"] == pytest.approx(loss / rows, rel=1e-5)
    assert not equal(weights(experiment), weights(train(IDENTITY | more)))


@pytest.mark.usefixtures("small_runs")
def test_a_joint_classifier_resizes_what_its_autoencoders_restored(small):
    autoencoder = {"lr": 0.05, "model": "SmallNet"}
    entry = IDENTITY | {"method": "JointClassifier", "corruptions": ["Invert"], "autoencoder": autoencoder}
    train(COMMON | {"method": "Autoencoder", "corruption": "Invert", "epochs": 1} | autoencoder)
    method = make(build(entry | {"resolution": 36}), small)
    network = method.build(Stage("train", 1), {}).eval()
    assert network.resolution == 36
    batch = random_batch(2, 4)
    restored = torch.cat([method.autoencoders["Invert"](batch.images_nchw[:4]), batch.images_nchw[4:]])
    resized = resize(restored, 36)
    for block in network.blocks:
        resized = block(resized)
    assert torch.equal(method.loss(network, batch).logits_nk, resized)


@pytest.mark.usefixtures("small_runs")
@pytest.mark.parametrize("loss", ["Base", "Jacobian", "AttentionTransfer"])
def test_a_student_and_its_teacher_may_see_other_resolutions(loss):
    narrow = {"width": 0.25, "counterfactuals": [0]}
    entry = STUDENT | narrow | {"loss": loss, "resolution": 40, "teacher": STUDENT["teacher"] | narrow | {"resolution": 32}}
    entry |= {"top_classes": 2} if loss == "Jacobian" else {}
    taught = build(entry).teacher
    pretend(taught, whole_network(taught, 0.25), {"width": 0.25})
    experiment = train(entry)
    assert load_network(experiment, CPU).resolution == 40
    assert load_network(experiment.teacher, CPU).resolution == 32
    assert all(math.isfinite(row["valid_loss"]) for row in metrics(experiment) if "valid_loss" in row)


@pytest.mark.usefixtures("small_runs")
def test_a_network_of_a_user_is_trained_and_loaded_at_a_resolution(tmp_path, monkeypatch):
    (tmp_path / "brought_for_resolution.py").write_text(
        "from torch import nn\n\n\n"
        "def tiny(classes):\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    experiment = train(IDENTITY | {"model": "brought_for_resolution:tiny", "resolution": 50})
    network = load_network(experiment, CPU)
    images = random_batch(1, 4).images_nchw
    assert network(images, 0, 1).shape[-2:] == (48, 48)
    assert torch.equal(network(images), network(network(resize(images, 50), 0, 2), 2))
    assert equal(dict(network.state_dict()), weights(experiment))


def test_the_stored_resolution_is_the_same_experiment_as_none():
    plain, other = build(IDENTITY), build(IDENTITY | {"resolution": 64})
    assert build(IDENTITY | {"resolution": 28}).hash == plain.hash != other.hash
    assert other.canonical()["resolution"] == 64
    assert "-r64-" in other.name
    assert build(STUDENT | {"resolution": 64}).teacher.hash == build(STUDENT).teacher.hash
    assert "-r64-" in build(STUDENT | {"resolution": 64}).name
    # 64 rows of 32 pixels.
    dominoes = {"dataset": "Dominoes", "method": "Teacher", "mechanism": 0, "lr": 0.1}
    assert build(dominoes | {"resolution": 32}).hash == build(dominoes).hash


def test_a_resolution_may_make_a_network_fit_that_takes_no_images_as_they_are_stored():
    entry = {"dataset": "CIFAR10", "method": "Identity", "model": "EMNISTNet", "lr": 0.1}
    with pytest.raises(FieldError, match=r"model: EMNISTNet takes no images of 32 px \(CIFAR10\)"):
        build(entry)
    assert build(entry | {"resolution": 28}).pixels == 28


MODULE = COMMON | {"method": "Module", "corruption": "Invert", "level": 1, "weight": 1, "lr": 0.1, "backbone": {"lr": 0.1}}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (IDENTITY | {"resolution": 3}, r"resolution: input should be greater than or equal to 4, got 3"),
        (IDENTITY | {"resolution": 32.0}, r"resolution: must be a whole number, got 32\.0"),
        (IDENTITY | {"resolution": 4000}, r"model: LeNet5 takes no images of 4000 px \(resolution of FashionMNIST-mini\); allowed: "),
        (IDENTITY | {"model": "SmallNet", "resolution": 64}, r"model: SmallNet takes no images of 64 px"),
        (MODULE | {"resolution": 64}, r"resolution: unknown key for Module"),
        (MODULE | {"backbone": {"lr": 0.1, "model": "LeNet5", "resolution": 64}, "model": "LeNet5"}, r"backbone\.resolution: modules are made for .* \(28 px\), got 64"),
        (COMMON | {"method": "Autoencoder", "corruption": 6, "lr": 0.1, "resolution": 64}, r"resolution: unknown key for Autoencoder"),
        (COMMON | {"method": "Router", "lr": 0.1, "resolution": 64}, r"resolution: unknown key for Router"),
        ({"dataset": "Slabs", "method": "Teacher", "mechanism": 0, "lr": 0.1, "resolution": 32}, r"resolution: Slabs has no images to resize"),
    ],
)  # fmt: skip
def test_where_it_has_no_meaning_it_is_refused(entry, words):
    with pytest.raises(FieldError, match=words) as caught:
        build(entry)
    assert "\n" not in str(caught.value)
