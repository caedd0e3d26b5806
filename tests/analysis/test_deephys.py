"""Exports for Deephys, decoded: names, pixels, classes and units are those of the images and the networks."""

import hashlib

import cbor2
import numpy as np
import pytest
import torch

import info_dicts
from analysis import deephys, walk
from analysis.cbor import TestSet, write_model
from analysis.deephys import export
from analysis.walk import Data
from data import datasets
from data.batches import ToNetwork
from data.class_names import class_names
from data.compositions import ELEMENTALS, singles
from data.corruptions import corrupt
from data.keys import evaluation_seed
from errors import InputError, RunError
from models.networks import Activations, build_module, build_network
from tests.analysis.systems import LEVELS, entry, system_of
from tests.train.runs import CPU
from train.method import PlainSystem
from train.modular_system import ModularNetwork
from train.routing import Routing

pytestmark = pytest.mark.usefixtures("small_runs")
RUN = "ModularSystem-lr0.05-w0.1-s1-d5f62ab24258"


def data_of(dataset, count=20):
    chosen = datasets.class_balanced(dataset.test, count)
    images = datasets.Split(dataset.test.images[chosen], dataset.test.labels[chosen], dataset.test.ids[chosen])
    return Data("FashionMNIST-mini", "test", images, tuple(singles()), {})


def grey_levels(data, name):
    """uint8 images under one corruption."""
    images = torch.from_numpy(data.images.images)
    ids = torch.from_numpy(data.images.ids)
    return corrupt(images, name, ids=ids, seed=evaluation_seed(data.dataset, data.split)).to(torch.uint8)


def folder_of(tmp_path, run=RUN):
    return tmp_path / run / "analyses" / "deephys" / "test-167-20"


def load(path):
    with path.open("rb") as file:
        found = cbor2.load(file)
        assert file.read() == b""
    return found


def pixels(found):
    """(N, 3, H, W) of a test set."""
    return np.array([[[list(row) for row in channel] for channel in image["data"]] for image in found["images"]], np.uint8)


def layer(found, number):
    return np.stack([np.frombuffer(image["activations"]["activations"][number], ">f4") for image in found["images"]])


def reference(system, corruption, inputs):
    """Pre, post, penultimate and output by the network's blocks."""
    level, blocks = LEVELS[corruption], list(system.backbone.blocks)
    features = inputs
    for block in blocks[:level]:
        features = block(features)
    pre = features
    features = post = system.modules_of[corruption](features)
    for block in blocks[level:-1]:
        features = block(features)
    if level == 0:
        # FashionMNIST-mini's networks see -1..1.
        pre, post = ((one + 1) / 2 for one in (pre, post))
    flat = [one.flatten(2).amax(2) if one.ndim == 4 else one for one in (pre, post)]
    return [one.numpy() for one in (*flat, features, blocks[-1](features))]


@pytest.mark.parametrize("chunk", [250, 7])
def test_a_modular_systems_files(tmp_path, monkeypatch, small, chunk):
    monkeypatch.setattr(walk, "CHUNK", chunk)
    data, system, folder = data_of(small), system_of(entry("ModularSystem")), folder_of(tmp_path)
    ticks = []
    export([system], data, [folder], CPU, lambda: ticks.append(1))
    assert len(ticks) == 7 * -(-20 // chunk)
    assert len(list(folder.iterdir())) == 3 * 6
    for corruption in ELEMENTALS:
        model = load(folder / f"{corruption}.model")
        assert list(model) == ["name", "layers", "classification_layer"]
        assert model["name"] == f"ModularSystem-d5f62a-{corruption}"
        assert model["classification_layer"] == "output"
        channels = {0: 3, 1: 16, 2: 32, 4: 128}[LEVELS[corruption]]
        sizes = {layer["layerID"]: len(layer["neurons"]) for layer in model["layers"]}
        assert list(sizes.items()) == [
            ("pre_module_layer", channels),
            ("post_module_layer", channels),
            ("penultimate_layer", 128),
            ("output", 10),
        ]
        for name, seen in ((corruption, corruption), (f"Identity-With-{corruption}-Module", "Identity")):
            found = load(folder / f"{name}.test")
            assert list(found) == ["name", "dtype", "classes", "images"]
            assert (found["name"], found["dtype"], found["classes"]) == (name, "float32", list(class_names("FashionMNIST-mini")))
            levels = grey_levels(data, seen)
            assert (pixels(found) == levels.numpy().repeat(3, axis=1)).all()
            labels = [image["categoryID"] for image in found["images"]]
            assert labels == data.images.labels.tolist()
            assert [image["category"] for image in found["images"]] == [found["classes"][label] for label in labels]
            assert [image["imageID"] for image in found["images"]] == list(range(20))
            with torch.no_grad():
                expected = reference(system, corruption, ToNetwork(data.dataset, CPU)(levels))
            for number, values in enumerate(expected):
                np.testing.assert_allclose(layer(found, number), values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["CrossEntropy", "ImgSpaceJoint"])
def test_a_system_without_modules_has_its_penultimate_units_and_outputs(tmp_path, small, method):
    data, system, folder = data_of(small), system_of(entry(method)), folder_of(tmp_path, f"{method}-lr1-s0-0123456789ab")
    export([system], data, [folder], CPU)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["system.model", "Identity.test", *(f"{name}.test" for name in ELEMENTALS)]
    )
    model = load(folder / "system.model")
    assert model["name"] == f"{method}-012345"
    assert [(one["layerID"], len(one["neurons"])) for one in model["layers"]] == [("penultimate_layer", 128), ("output", 10)]
    found = load(folder / "Swirl.test")
    with torch.no_grad():
        inputs = ToNetwork(data.dataset, CPU)(grey_levels(data, "Swirl"))
        units, logits = system.activate(system.restore(inputs, ("Swirl",)), ("Swirl",))
    np.testing.assert_allclose(layer(found, 0), units.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(layer(found, 1), logits.numpy(), rtol=1e-4, atol=1e-5)


def test_colour_images_keep_their_channels_and_grey_levels(tmp_path):
    """CIFAR10's constants, not EMNIST's; a level-0 module's input is the image itself."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    data = Data("CIFAR10", "test", datasets.Split(images, np.array([0, 3, 3, 9]), np.arange(4)), (("Identity",), ("Invert",)), {})
    torch.manual_seed(0)
    network = build_network("ResNet18-stem7-w64", 10, 0.125)
    system = ModularNetwork(network, {"Invert": build_module("ResNet18-stem7-w64", 0, 0.125)}, {"Invert": 0}, Routing(("Invert",))).eval()
    export([system], data, [folder_of(tmp_path)], CPU)
    found = load(folder_of(tmp_path) / "Invert.test")
    assert (pixels(found) == 255 - images).all()
    np.testing.assert_allclose(layer(found, 0), (255 - images).max(axis=(2, 3)) / 255, atol=1e-6)
    assert [image["category"] for image in found["images"]] == ["airplane", "cat", "cat", "truck"]


def test_negative_units_are_one_line_and_leave_nothing(tmp_path, small):
    class Signed(PlainSystem):
        def activate(self, restored_nchw, composition):
            return Activations(restored_nchw.flatten(1), restored_nchw.flatten(1)[:, :10])

    folder = folder_of(tmp_path)
    with pytest.raises(InputError, match=r"^deephys: ModularSystem-d5f62a, .*penultimate_layer has negative activations"):
        export([Signed(build_network("SmallNet", 10))], data_of(small), [folder], CPU)
    assert list(folder.parent.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        export([Signed(build_network("SmallNet", 10))], data_of(small), [tmp_path / "file" / "a" / "b" / "c"], CPU)


def test_names_fit_what_deephys_shows():
    longest = max(len(name) for name in info_dicts.CORRUPTIONS.values())
    assert longest + len("Identity-With--Module") <= 40
    for method in info_dicts.METHODS.values():
        assert len(deephys.short_name(f"{method}-lr0.05-s1-0123456789ab")) + 1 + longest <= 40


def test_wrong_names_and_incomplete_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="40 letters"):
        write_model(tmp_path / "a.model", "x" * 41, {"output": 1}, "output")
    with pytest.raises(ValueError, match="30 letters"):
        write_model(tmp_path / "a.model", "x", {"y" * 31: 1}, "output")
    with pytest.raises(ValueError, match="0 images of 3"), TestSet(tmp_path / "a.test", "a", ["b"], 3):
        pass


# What deephys 0.14.1 itself writes for the model and the images of the test below: `model(...)` and `dataset_activity(...)`, then `save`.
DEEPHYS_SHA256 = {
    "a.model": "a161a5e3405b3f37776c12a8b76826daa3fceb3b0729b71e0919e36bdaaae566",
    "a.test": "0421de2fb427259d9158f33713aa4c223b4390a6f0584d1d3df09f11303d949c",
}


def test_the_bytes_are_those_of_deephys(tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (30, 3, 5, 4), dtype=np.uint8)
    units, outputs = generator.random((30, 4), np.float32), generator.normal(size=(30, 2)).astype(np.float32)
    labels = generator.integers(0, 2, 30)
    write_model(tmp_path / "a.model", "a model", {"units": 4, "output": 2}, "output")
    with TestSet(tmp_path / "a.test", "a test", ["yes", "no"], 30) as file:
        file.add(images[:11], labels[:11], [units[:11], outputs[:11]])
        file.add(images[11:], labels[11:], [units[11:], outputs[11:]])
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()} == DEEPHYS_SHA256
