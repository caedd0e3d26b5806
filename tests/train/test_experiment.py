"""Experiments: what a hash depends on, what is inherited, what is refused and in which words."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import info_dicts
from errors import InputError
from plots.records import rebuild
from train.build import build
from train.fields import BROUGHT, FieldError
from train.run import resolved

IDENTITY = {"dataset": 0, "method": "Identity", "lr": 0.1}
MODULE = {"dataset": 0, "method": "Module", "corruption": "Swirl", "level": "auto", "lr": 0.01, "weight": 1, "backbone": {"lr": 0.1}}
TEACHER = {"dataset": 0, "method": "Teacher", "mechanism": "B", "lr": 0.1}
STUDENT = {"dataset": 0, "method": "Student", "mechanism": "P", "loss": "Base", "lr": 0.1, "teacher": {"mechanism": "B", "lr": 0.1}}
SYSTEM = {"dataset": 0, "method": "ModularSystem", "backbone": {"lr": 0.1}, "module": {"level": "auto", "lr": 0.01, "weight": 1}}

# Numbers are append-only and so are defaults: a run directory of today must be found for ever. Never edit, only add.
MENUS = {
    "DATASETS": {
        0: "FashionMNIST-mini",
        1: "MNIST",
        2: "FashionMNIST",
        3: "CIFAR10",
        4: "EMNIST",
        5: "FaceScrub",
        6: "ORL",
        7: "CIFAR100",
        8: "Dominoes",
        9: "3DShapes",
        10: "3DShapes-small",
        11: "Slabs",
    },
    "METHODS": {
        0: "Identity",
        1: "CrossEntropy",
        2: "Contrastive",
        3: "Module",
        4: "ModularSystem",
        5: "Autoencoder",
        6: "JointClassifier",
        7: "ImgSpaceIdentity",
        8: "ImgSpaceJoint",
        9: "Router",
        10: "Teacher",
        11: "Student",
        12: "Regression",
    },
    "CORRUPTIONS": {0: "Identity", 1: "Contrast", 2: "GaussianBlur", 3: "ImpulseNoise", 4: "Invert", 5: "Rotate90", 6: "Swirl"},
    "MODELS": {
        0: "SmallNet",
        1: "EMNISTNet",
        2: "ResNet18-stem7-w64",
        3: "InceptionV3",
        4: "LeNet5",
        5: "ResNet18",
        6: "ResNet50",
        7: "ResNet20_Wide",
        8: "MLP-100-200-100",
        9: "MLP-10",
        10: "MLP-50",
        11: "VGG11",
        12: "VGG11_S",
        13: "VGG11_XS",
        14: "VGG11_XXS",
        15: "VGG11_XXXS",
        16: "VGG13",
        17: "VGG13_S",
        18: "VGG13_XS",
        19: "VGG13_XXS",
        20: "VGG13_XXXS",
        21: "VGG16",
        22: "VGG16_S",
        23: "VGG16_XS",
        24: "VGG16_XXS",
        25: "VGG16_XXXS",
        26: "VGG19",
        27: "VGG19_S",
        28: "VGG19_XS",
        29: "VGG19_XXS",
        30: "VGG19_XXXS",
        31: "ResNet18_S",
        32: "ResNet18_XS",
        33: "ResNet18_XXS",
        34: "ResNet18_XXXS",
        35: "ResNet34",
        36: "ResNet34_S",
        37: "ResNet34_XS",
        38: "ResNet34_XXS",
        39: "ResNet34_XXXS",
        40: "ResNet101",
        41: "ResNet152",
        42: "ResNet18-noskip",
        43: "ResNet34-noskip",
        44: "ResNet18-stem3-w64",
    },
    "AUGMENTATIONS": {0: "None", 1: "CropFlip", 2: "Mixup", 3: "CropFlipRotate", 4: "Union"},
    "LOSSES": {0: "Base", 1: "Jacobian", 2: "Contrastive", 3: "FeatureMatching", 4: "AttentionTransfer", 5: "CRD", 6: "Labels"},
    "OPTIMIZERS": {0: "SGD", 1: "Adam", 2: "AdamW", 3: "RAdam", 4: "RMSprop"},
    "SCHEDULES": {0: "cosine", 1: "step", 2: "constant"},
    "METRICS": {0: "accuracy", 1: "top5_accuracy", 2: "mcc", 3: "balanced_accuracy", 4: "f1_macro"},
    "ANALYSES": {0: "invariance", 1: "deephys", 2: "saliency", 3: "features"},
}
BOX = {
    0: ("P", (1, 0, 0, 0, 0, 0)),
    1: ("B", (1, 1, 0, 0, 0, 0)),
    2: ("BR", (1, 1, 0, 0, 1, 0)),
    3: ("BoxOnly", (1, 1, 0, 1, 0, 0)),
}
SHAPES = {
    0: ("Shape_Color", (1, 0, 0, 0, 0, 0)),
    1: ("Floor", (1, 1, 0, 1, 0, 0)),
    2: ("Scale", (1, 0, 1, 1, 0, 0)),
    3: ("Floor_Scale", (1, 1, 1, 1, 0, 0)),
    4: ("Shape_Color_Floor", (1, 1, 0, 0, 0, 0)),
    5: ("Shape_Color_Scale", (1, 0, 1, 0, 0, 0)),
    6: ("Shape_Color_Floor_Scale", (1, 1, 1, 0, 0, 0)),
}
# The six numbers are what a hash is made of, the names are what records are read by.
MECHANISMS = {
    "FashionMNIST-mini": BOX,
    "MNIST": BOX,
    "FashionMNIST": BOX,
    "CIFAR10": BOX
    | {
        4: ("C", (1, 0, 1, 0, 0, 0)),
        5: ("CR", (1, 0, 1, 0, 0, 1)),
        6: ("BC", (1, 1, 1, 0, 0, 0)),
        7: ("BCR", (1, 1, 1, 0, 1, 1)),
    },
    "CIFAR100": {
        0: ("P", (1, 0, 0, 0, 0, 0)),
        1: ("B", (1, 1, 1, 0, 0, 0)),
        2: ("BR", (1, 1, 1, 0, 1, 1)),
        3: ("BoxOnly", (1, 1, 1, 1, 0, 0)),
        4: ("Position", (1, 1, 0, 0, 0, 0)),
        5: ("Colour", (1, 0, 1, 0, 0, 0)),
    },
    "Dominoes": {
        0: ("CIFAR10", (1, 0, 0, 0, 0, 0)),
        1: ("FashionMNIST", (1, 0, 1, 1, 0, 0)),
        2: ("Box", (1, 1, 0, 1, 0, 0)),
        3: ("FashionMNIST_Box", (1, 1, 1, 1, 0, 0)),
        4: ("CIFAR10_FashionMNIST", (1, 0, 1, 0, 0, 0)),
        5: ("CIFAR10_Box", (1, 1, 0, 0, 0, 0)),
        6: ("CIFAR10_FashionMNIST_Box", (1, 1, 1, 0, 0, 0)),
        7: ("CIFAR10_FashionMNIST60", (1, 0, 0.6, 0, 0, 0)),
        8: ("CIFAR10_Box30_FashionMNIST60", (1, 0.3, 0.6, 0, 0, 0)),
        9: ("CIFAR10_Box60_FashionMNIST90", (1, 0.6, 0.9, 0, 0, 0)),
        10: ("CIFAR10_Box90_FashionMNIST60", (1, 0.9, 0.6, 0, 0, 0)),
        11: ("NoCIFAR10", (0, 1, 1, 0, 0, 0)),
        12: ("RandomBox", (1, 1, 1, 0, 1, 0)),
        13: ("RandomFashionMNIST", (1, 1, 1, 0, 0, 1)),
    },
    "3DShapes": SHAPES,
    "3DShapes-small": SHAPES,
    "Slabs": {
        0: ("Simple", (1, 0, 0, 0, 0, 0)),
        1: ("Blocks4", (0, 1, 0, 0, 0, 0)),
        2: ("Blocks7", (0, 0, 1, 0, 0, 0)),
        3: ("Blocks4_Blocks7", (0, 1, 1, 0, 0, 0)),
        4: ("Simple_Blocks4", (1, 1, 0, 0, 0, 0)),
        5: ("Simple_Blocks7", (1, 0, 1, 0, 0, 0)),
        6: ("Simple_Blocks4_Blocks7", (1, 1, 1, 0, 0, 0)),
        7: ("Simple_HalfBlocks", (1, 0.5, 0.5, 0, 0, 0)),
    },
}
# The default of a field, so of a hash too: never changed, not even by adding.
COUNTERFACTUALS = {
    **dict.fromkeys(("FashionMNIST-mini", "MNIST", "FashionMNIST", "CIFAR100"), (0, 1, 2, 3)),
    "CIFAR10": (0, 1, 2, 3, 4, 5, 6, 7),
    **dict.fromkeys(("Dominoes", "3DShapes", "3DShapes-small"), (0, 1, 2, 3, 4, 5, 6)),
    "Slabs": (0, 1, 2, 3, 6),
}
GOLDEN: list[tuple[dict, str]] = [
    ({"dataset": 0, "method": "Identity", "lr": 0.1}, "4c8872f15bfb63d5"),
    ({"dataset": 3, "method": 1, "seed": 7, "epochs": 3, "batch_size": 128, "precision": "bfloat16", "lr": 0.01, "batching": "independent", "severities": {"Swirl": 5}}, "38a4cedefadbfaeb"),
    ({"dataset": 2, "method": 2, "lr": 0.01, "weight": 0.1, "levels": [1, 1, 1, 1, 5, 5]}, "7d6bf6ea233e14d9"),
    ({"dataset": 0, "method": "Module", "corruption": "Swirl", "level": "auto", "lr": 0.01, "weight": 1, "backbone": {"lr": 0.1}}, "6507b10f5c9ef1e2"),
    ({"dataset": 0, "method": "Module", "corruption": "Swirl", "level": 1, "lr": 0.01, "weight": 1, "backbone": {"lr": 0.1}, "pass_through": False}, "50747d187fe60a78"),
    ({"dataset": 0, "method": "ModularSystem", "backbone": {"lr": 0.1}, "module": {"level": "auto", "lr": 0.01, "weight": 1}}, "51fde1f9d0814c4b"),
    ({"dataset": 0, "method": "ModularSystem", "backbone": {"lr": 0.1}, "module": {"level": "auto", "lr": 0.01, "weight": 1}, "order": "reverse", "epochs": 5, "corruptions": [1, 6]}, "a87c4cdce6a10aed"),
    ({"dataset": 0, "method": 1, "lr": 0.1, "match": {"module": {"level": "auto", "lr": 0.01, "weight": 1}, "backbone": {"lr": 0.1}}}, "2156e82aa23edff8"),
    ({"dataset": 4, "method": 5, "corruption": 6, "lr": 0.1}, "e9a70b934a0c7610"),
    ({"dataset": 5, "method": 5, "corruption": 2, "lr": 0.1, "severities": {"GaussianBlur": 4}, "epochs": 5}, "03446bb7e419e9fb"),
    ({"dataset": 3, "method": 6, "lr": 0.1, "autoencoder": {"lr": 0.1}}, "c610bbbc4a9ce478"),
    ({"dataset": 4, "method": 7, "autoencoder": {"lr": 0.1}, "classifier": {"lr": 0.01}}, "4e2c1929025ff590"),
    ({"dataset": 4, "method": 8, "seed": 1, "epochs": 3, "order": "reverse", "corruptions": [1, 6], "autoencoder": {"lr": 0.1}, "classifier": {"lr": 0.01}}, "41a40dc1137b0e63"),
    ({"dataset": 0, "method": 8, "routing": "wrong_order", "autoencoder": {"lr": 0.1}, "classifier": {"lr": 0.01}}, "fb82d4e4ab6f7a94"),
    ({"dataset": 4, "method": 9, "lr": 0.01}, "32bc7b3e90d2012b"),
    ({"dataset": 0, "method": 4, "backbone": {"lr": 0.1}, "module": {"level": "auto", "lr": 0.01, "weight": 1}, "routing": "router", "router": {"lr": 0.01}}, "f254448be9393214"),
    ({"dataset": 0, "method": 4, "backbone": {"lr": 0.1}, "module": {"level": "auto", "lr": 0.01, "weight": 1}, "routing": "random"}, "f09c482dbe7d011d"),
    ({"dataset": 5, "method": 4, "backbone": {"lr": 0.1}, "module": {"level": {"1": 1, "2": 1, "3": 1, "4": 1, "5": 16, "6": 16}, "lr": 0.01, "weight": 1}}, "4357a1bc8f088ff5"),
    ({"dataset": 5, "method": 3, "corruption": 6, "level": 14, "kernels": "fitted", "lr": 0.01, "weight": 0.1, "backbone": {"lr": 0.1}}, "16345711a6387c8c"),
    ({"dataset": 0, "method": 10, "mechanism": 1, "lr": 0.1}, "73bd2a0606f3f05b"),
    ({"dataset": 8, "method": 10, "mechanism": "CIFAR10_Box", "cue_fraction": 0.5, "lr": 0.1, "final_lr": 0.01, "depth": 14, "width": 2, "augmentation": 2}, "14ac929a25a838b1"),
    ({"dataset": 0, "method": 11, "mechanism": 0, "loss": 0, "lr": 0.1, "teacher": {"mechanism": 1, "lr": 0.1}}, "4a3f58832687146c"),
    ({"dataset": 3, "method": 11, "mechanism": 6, "loss": 5, "alpha": 0.2, "contrast_temperature": 0.1, "lr": 0.1, "model": 4, "counterfactuals": [0, 6], "teacher": {"mechanism": 0, "lr": 0.1, "model": 5}}, "cf28b3400e69b87c"),
    ({"dataset": 11, "method": 11, "mechanism": [0.5, 0.5, 0.5, 0, 0, 0], "loss": 6, "lr": 0.3, "model": 9}, "93c3b1b1d4856117"),
    ({"dataset": 0, "method": 0, "lr": 0.001, "optimizer": 2, "schedule": "step", "step_epochs": 30, "step_factor": 0.2, "model": 4, "resolution": 64}, "ee15008f17deb3d2"),
    ({"dataset": 0, "method": 10, "mechanism": 1, "lr": 0.001, "optimizer": "Adam", "schedule": "constant"}, "26b421c3522dfd7f"),
    ({"dataset": 3, "method": 3, "corruption": 6, "level": 2, "lr": 0.001, "weight": 1, "optimizer": 4, "backbone": {"lr": 0.1, "optimizer": 3}}, "019c518f7cb55d0c"),
    ({"dataset": 8, "method": 11, "mechanism": 0, "loss": 0, "lr": 0.1, "resolution": 48, "teacher": {"mechanism": 1, "lr": 0.1, "resolution": 64}}, "baa2ade028478169"),
]  # fmt: skip


@pytest.mark.parametrize("menu", MENUS)
def test_landed_menu_numbers_never_change(menu):
    assert getattr(info_dicts, menu).items() >= MENUS[menu].items()


@pytest.mark.parametrize("dataset", MECHANISMS)
def test_landed_mechanisms_never_change(dataset):
    menu = info_dicts.MECHANISMS[dataset]
    assert {number: (str(choice), choice.numbers) for number, choice in menu.items()}.items() >= MECHANISMS[dataset].items()
    assert info_dicts.COUNTERFACTUALS[dataset] == COUNTERFACTUALS[dataset]


@pytest.mark.parametrize("dataset", MECHANISMS)
def test_a_mechanisms_number_name_and_six_numbers_are_one_experiment(dataset):
    for number, (name, numbers) in MECHANISMS[dataset].items():
        ways = [build({"dataset": dataset, "method": 10, "lr": 0.1, "mechanism": way}) for way in (number, name, list(numbers))]
        assert len({experiment.hash for experiment in ways}) == 1
        assert ways[0].canonical()["mechanism"] == list(numbers)


def test_every_mechanism_on_the_menu_is_pinned_by_data_sets_that_have_one():
    assert MECHANISMS.keys() == info_dicts.MECHANISMS.keys() == info_dicts.COUNTERFACTUALS.keys()
    assert MECHANISMS.keys() == {str(choice) for choice in info_dicts.DATASETS.values() if "cues" in choice.facts}


@pytest.mark.parametrize(("entry", "prefix"), GOLDEN)
def test_landed_hashes_never_change(entry, prefix):
    assert build(entry).hash.startswith(prefix)


def test_numbers_and_names_mean_the_same_experiment():
    by_name = {"dataset": "FashionMNIST-mini", "method": "Module", "corruption": "Swirl", "model": "SmallNet"}
    assert build(MODULE | by_name).hash == build(MODULE | {"method": 3, "corruption": 6, "model": 0}).hash == build(MODULE).hash


def test_a_default_written_out_is_the_same_experiment():
    written = {"epochs": 200, "batch_size": 256, "precision": "float32", "momentum": 0.9, "severities": {"Swirl": 3}, "pass_through": True}
    written |= {"optimizer": "SGD", "schedule": 0, "step_factor": 0.1}
    assert build(MODULE | written).hash == build(MODULE).hash


def test_what_changes_nothing_is_not_in_the_hash():
    assert build(IDENTITY | {"metrics": ["mcc"]}).hash == build(IDENTITY).hash
    apart = {
        "study": "x",
        "tags": ["y"],
        "device": "cpu",
        "threads": 1,
        "compile": True,
        "evaluation": {"images": 10, "compositions": "elementals"},
    }
    assert build(SYSTEM | apart).hash == build(SYSTEM).hash


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"epochs": 3}, {"lr": 0.2}, {"weight": 2}, {"level": 1}, {"corruption": 1}, {"precision": "bfloat16"}, {"temperature": 0.2},
     {"pass_through": False}, {"severities": {"Swirl": 1}}, {"backbone": {"lr": 0.2}}, {"backbone": {"lr": 0.1, "seed": 5}},
     {"optimizer": "Adam"}, {"schedule": "constant"}, {"schedule": "step", "step_epochs": 9}, {"backbone": {"lr": 0.1, "optimizer": 1}}],
)  # fmt: skip
def test_what_changes_the_results_changes_the_hash(change):
    assert build(MODULE | change).hash != build(MODULE).hash


def test_parts_inherit_all_but_lr_and_weight():
    system = build(SYSTEM | {"seed": 7, "epochs": 3, "batch_size": 32, "precision": "bfloat16", "severities": {"Swirl": 5, "Contrast": 1}})
    backbone, *modules = system.requires()
    assert [m.corruption for m in modules] == list(MENUS["CORRUPTIONS"].values())[1:]
    for part in (backbone, *modules):
        assert (part.seed, part.epochs, part.batch_size, part.precision) == (7, 3, 32, "bfloat16")
    assert (backbone.lr, modules[0].lr, modules[0].weight) == (0.1, 0.01, 1)
    assert all(m.backbone.hash == backbone.hash for m in modules)
    alone = {"seed": 7, "epochs": 3, "batch_size": 32, "precision": "bfloat16"}
    for module in modules:
        severity = {"Swirl": 5, "Contrast": 1}.get(module.corruption)
        entry = MODULE | alone | {"corruption": module.corruption} | ({"severities": {module.corruption: severity}} if severity else {})
        assert build(entry).hash == module.hash
    assert build(IDENTITY | alone).hash == backbone.hash
    with pytest.raises(FieldError, match=r"backbone\.lr: missing"):
        build({**SYSTEM, "lr": 0.1, "backbone": {}})


def test_saying_a_field_at_the_system_or_at_its_parts_is_the_same():
    inside = SYSTEM | {"backbone": {"lr": 0.1, "epochs": 3}, "module": {"level": "auto", "lr": 0.01, "weight": 1, "epochs": 3}}
    assert build(SYSTEM | {"epochs": 3}).hash == build(inside).hash != build(SYSTEM).hash


def test_severities_of_all_modules_count_for_the_system():
    assert build(SYSTEM | {"severities": {"Swirl": 5}}).hash != build(SYSTEM).hash


@pytest.mark.parametrize("entry", [entry for entry, _ in GOLDEN], ids=lambda entry: f"{entry['dataset']}-{entry['method']}")
@settings(max_examples=10)
@given(changes=st.dictionaries(st.sampled_from(["seed", "epochs", "batch_size"]), st.integers(1, 1000)))
def test_what_is_written_builds_the_same_experiment(entry, changes):
    corrupted = entry["method"] not in (0, "Identity", 10, 11)
    experiment = build(entry | changes | ({"severities": {"Swirl": 5, "Contrast": 1}} if corrupted else {}))
    canonical = json.loads(json.dumps(experiment.canonical()))
    assert build(canonical).hash == experiment.hash
    assert build(json.loads(json.dumps(experiment.model_dump(mode="json")))).hash == experiment.hash
    assert rebuild(canonical).hash == experiment.hash
    assert [part.hash for part in rebuild(canonical).requires()] == [part.hash for part in experiment.requires()]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (IDENTITY | {"dataset": 99}, r"dataset: 99 is not on the menu; allowed: 0 FashionMNIST-mini, 1 MNIST"),
        (IDENTITY | {"dataset": True}, r"dataset: True is not on the menu"),
        (IDENTITY | {"method": "Magic"}, r"method: 'Magic' is not on the menu; allowed: 0 Identity, 1 CrossEntropy"),
        ({"dataset": 0}, r"method: missing; allowed: Identity"),
        ({"method": 0}, r"dataset: missing; allowed: 0 FashionMNIST-mini"),
        ({"dataset": 0, "methd": 0}, r"method: missing \(is 'methd' meant so\?\)"),
        ({"dataset": 0, "method": 0, "learning_rate": 0.1}, r"learning_rate: unknown key for Identity"),
        ({"dataset": 0, "method": 0}, r"lr: missing"),
        (IDENTITY | {"learning_rate": 1}, r"learning_rate: unknown key for Identity; .*allowed: dataset, method"),
        (IDENTITY | {"compile": "maybe"}, r"compile: must be true or false, got 'maybe'"),
        (IDENTITY | {"epoch": 1}, r"epoch: unknown key for Identity; did you mean 'epochs'\?"),
        (IDENTITY | {"weight": 1}, r"weight: unknown key for Identity"),
        (IDENTITY | {"lr": "0,1"}, r"lr: must be a number, got '0,1'"),
        (IDENTITY | {"lr": 0}, r"lr: input should be greater than 0, got 0"),
        (IDENTITY | {"lr": float("nan")}, r"lr: .*finite"),
        (IDENTITY | {"lr": float("inf")}, r"lr: .*finite"),
        (IDENTITY | {"epochs": 1.5}, r"epochs: must be a whole number, got 1\.5"),
        (IDENTITY | {"epochs": 0}, r"epochs: input should be greater than or equal to 1"),
        (IDENTITY | {"seed": -1}, r"seed: "),
        (IDENTITY | {"precision": "fp8"}, r"precision: input should be 'float32' or 'bfloat16'"),
        (IDENTITY | {"model": "ResNet18-stem7-w64"}, r"model: ResNet18-stem7-w64 takes no images of 28 px .*allowed: SmallNet, EMNISTNet"),
        (IDENTITY | {"optimizer": "Adagrad"}, r"optimizer: 'Adagrad' is not on the menu; allowed: 0 SGD, 1 Adam, 2 AdamW, 3 RAdam, 4 RMSprop"),
        (IDENTITY | {"schedule": "linear"}, r"schedule: 'linear' is not on the menu; allowed: 0 cosine, 1 step, 2 constant"),
        (IDENTITY | {"schedule": "step"}, r"step_epochs: missing; 'schedule: step' needs it"),
        (IDENTITY | {"schedule": "step", "step_epochs": 0}, r"step_epochs: input should be greater than or equal to 1, got 0"),
        (IDENTITY | {"step_epochs": 5}, r"step_epochs: goes with 'schedule: step' only, not with 'cosine'"),
        (IDENTITY | {"schedule": "constant", "step_factor": 0.5}, r"step_factor: goes with 'schedule: step' only, not with 'constant'"),
        (IDENTITY | {"schedule": "step", "step_epochs": 5, "step_factor": 1}, r"step_factor: input should be less than 1, got 1"),
        (IDENTITY | {"momentum": 1}, r"momentum: input should be less than 1, got 1"),
        (TEACHER | {"schedule": "constant", "final_lr": 0.01}, r"final_lr: goes with 'schedule: cosine' only, not with 'constant'"),
        (TEACHER | {"optimizer": "Adagrad"}, r"optimizer: 'Adagrad' is not on the menu"),
        (IDENTITY | {"model": "nowhere.nets:tiny"}, r"model: nowhere\.nets:tiny: cannot be imported"),
        (IDENTITY | {"dataset": "folder:pets"}, r"dataset: folder:pets says no resolution; write folder:pets@64, or 'resolution: 64' beside it"),
        (IDENTITY | {"dataset": "folder:pets", "resolution": 4}, r"resolution: must be a whole number of pixels from 8 on, got 4"),
        (IDENTITY | {"device": "gpu"}, r"device: must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (IDENTITY | {"evaluation": {"images": 7}}, r"evaluation\.images: must be a multiple of the 10 classes"),
        (IDENTITY | {"evaluation": {"compositions": ["CO-GB-CO"]}}, r"evaluation\.compositions: .*Contrast"),
        (IDENTITY | {"evaluation": {"image": 10}}, r"evaluation\.image: unknown key for Evaluation; did you mean 'images'\?"),
        (MODULE | {"corruption": "Identity"}, r"corruption: Identity has no module"),
        (MODULE | {"level": 5}, r"level: must be 'auto', a whole number from 0 to 4, or one for each corruption, got 5"),
        (MODULE | {"level": 1, "search_epochs": 2}, r"search_epochs: goes with 'level: auto' only"),
        (MODULE | {"backbone": 3}, r"backbone: "),
        (MODULE | {"backbone": {"lr": 0.1, "method": 1}}, r"backbone\.method: must be Identity"),
        (MODULE | {"severities": {"Swirl": 6}}, r"severities: severity of Swirl must be a whole number from 1 to 5, got 6"),
        (MODULE | {"severities": {"Invert": 1}}, r"severities: Invert has no severities"),
        (SYSTEM | {"module": {"lr": 0.1, "level": "auto"}}, r"module\.weight: missing; Module needs it"),
        (SYSTEM | {"lr": 0.1}, r"lr: unknown key for ModularSystem"),
        (SYSTEM | {"order": "backwards"}, r"order: input should be 'application', 'reverse' or 'random'"),
        ({"dataset": 0, "method": 2, "lr": 0.1, "weight": 1, "levels": 5}, r"levels: must be one level from 1 to 4"),
        ({"dataset": 0, "method": 2, "lr": 0.1, "weight": 1, "levels": [1, 2]}, r"levels: .*one for each of the 6 corruptions"),
        ({"dataset": 0, "method": 1, "lr": 0.1, "corruptions": ["Swirl", "Swirl"]}, r"corruptions: must be different"),
        ([1, 2], r"must be a mapping of keys"),
    ],
)  # fmt: skip
def test_bad_entries_are_refused_in_one_line(entry, words):
    with pytest.raises(FieldError, match=words) as caught:
        build(entry)
    assert "\n" not in str(caught.value)


def test_parts_inherit_no_optimizer_and_no_resolution():
    module = build(MODULE | {"optimizer": "Adam", "schedule": "constant"})
    assert (module.optimizer, module.schedule) == ("Adam", "constant")
    assert module.backbone.hash == build(MODULE).backbone.hash
    student = STUDENT | {"optimizer": "Adam", "model": "LeNet5", "resolution": 64}
    assert build(student).teacher.hash == build(STUDENT | {"model": "LeNet5"}).teacher.hash


@pytest.mark.parametrize(("optimizer", "momentum"), [("SGD", 0.0), ("Adam", 0.9), (2, 0.9), ("RAdam", 0.9), ("RMSprop", 0.0)])
def test_under_cues_the_default_momentum_is_none_and_the_default_beta1_the_usual_one(optimizer, momentum):
    experiment = build(TEACHER | {"optimizer": optimizer})
    assert experiment.momentum == momentum
    assert experiment.hash == build(TEACHER | {"optimizer": optimizer, "momentum": momentum}).hash
    assert experiment.hash != build(TEACHER | {"optimizer": optimizer, "momentum": 0.5}).hash
    assert build(IDENTITY | {"optimizer": optimizer}).momentum == 0.9


def test_a_network_of_a_user_is_a_model_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "brought_nets.py").write_text(
        "from torch import nn\n\n\n"
        "def tiny(classes):\n"
        "    return [nn.Conv2d(3, 4, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(4, classes)]\n\n\n"
        "def wrong(classes):\n"
        "    return nn.Linear(3, classes + 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    experiment = build({"dataset": 0, "method": "Contrastive", "weight": 1, "lr": 0.1, "model": "brought_nets:tiny"})
    assert experiment.levels == (2,) * 6
    assert experiment.canonical()["model"] == "brought_nets:tiny"
    assert rebuild(json.loads(json.dumps(experiment.canonical()))).hash == experiment.hash
    assert experiment.name.startswith("Contrastive-brought_nets.tiny-lr0.1-w1-s0-")
    assert resolved(experiment)["model_number"] == "brought_nets:tiny"
    with pytest.raises(FieldError, match=r"^model: brought_nets:wrong") as caught:
        build(IDENTITY | {"model": "brought_nets:wrong"})
    assert "\n" not in str(caught.value)


def pets(name):
    """The facts of a folder of images, without the folder."""
    if not name.endswith(("@64", "@32")):
        raise InputError(f"{name}: is not prepared; run: python -m data prepare {name}")
    pixels = int(name.rpartition("@")[2])
    facts = {"classes": 3, "shape": (3, pixels, pixels), "counts": (30, 6, 9), "mean": (0.5,) * 3, "std": (0.2,) * 3}
    return info_dicts.Choice(name, **facts, model="ResNet18", augmentation="CropFlip", padding=pixels // 8)


def test_a_folder_of_images_is_a_data_set_by_its_name_or_by_its_resolution(monkeypatch):
    monkeypatch.setitem(BROUGHT, "dataset", (BROUGHT["dataset"][0], pets))
    entry = IDENTITY | {"dataset": "folder:pets@64"}
    experiment = build(entry)
    assert (experiment.model, experiment.augmentation, experiment.pixels) == ("ResNet18", "CropFlip", 64)
    assert experiment.canonical() == {"dataset": "folder:pets@64", "method": 0, "lr": 0.1}
    assert rebuild(experiment.canonical()).hash == build(entry | {"model": "ResNet18"}).hash == experiment.hash
    assert build(IDENTITY | {"dataset": "folder:pets", "resolution": 64}).hash == experiment.hash
    assert build(entry | {"resolution": 64}).hash == experiment.hash
    # Stored at 64 pixels, seen at 32, which is not what is stored at 32.
    resized = build(entry | {"resolution": 32})
    assert (resized.dataset, resized.pixels) == ("folder:pets@64", 32)
    assert len({resized.hash, experiment.hash, build(entry | {"dataset": "folder:pets@32"}).hash}) == 3
    assert experiment.directory.parent.name == "folder-pets-64"
    assert experiment.directory.name == experiment.name
    system = build(
        {"dataset": "folder:pets", "resolution": 64, "method": "ImgSpaceIdentity", "autoencoder": {"lr": 1}, "classifier": {"lr": 0.1}}
    )
    assert system.classifier.hash == experiment.hash
    with pytest.raises(FieldError, match=r"^dataset: folder:pets@128: is not prepared; run: python -m data prepare folder:pets@128$"):
        build(entry | {"dataset": "folder:pets@128"})
    with pytest.raises(FieldError, match=r"^mechanism: folder:pets@64 carries no cues"):
        build(entry | {"method": "Teacher", "mechanism": 0})


def test_experiments_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        build(IDENTITY).lr = 1  # type: ignore[attr-defined]


def test_reading_lists_and_states_never_loads_torch():
    code = "import sys, train.__main__, train.lists, train.run; assert not {'torch', 'numpy', 'wandb'} & set(sys.modules), 'too much is imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
