"""Systems of every method with fresh weights, as finished runs would give them."""

import torch
from torch import nn

import info_dicts
from models.networks import build_autoencoder, build_module, build_network
from tests.train.runs import CPU, pretend
from train.build import build
from train.entry import Trained
from train.method import System, method_class

COMMON = {"dataset": 0, "seed": 3, "epochs": 2}
LEVELS = {"Contrast": 1, "GaussianBlur": 0, "ImpulseNoise": 4, "Invert": 2, "Rotate90": 4, "Swirl": 1}
MODULAR = {"backbone": {"lr": 0.05}, "module": {"level": dict(LEVELS), "lr": 0.05, "weight": 0.5}}
IMG_SPACE = {"autoencoder": {"lr": 0.1}, "classifier": {"lr": 0.05}}
OWN_FIELDS = {
    "Identity": {"lr": 0.05},
    "CrossEntropy": {"lr": 0.05},
    "Contrastive": {"lr": 0.05, "weight": 0.1},
    "ModularSystem": MODULAR,
    "ImgSpaceIdentity": IMG_SPACE,
    "ImgSpaceJoint": IMG_SPACE,
}
SYSTEMS = [str(choice) for choice in info_dicts.METHODS.values() if "oracle" in choice.facts]
ROUTED = [str(choice) for choice in info_dicts.METHODS.values() if choice.facts.get("oracle") == "names, order"]
ROUTER = {"routing": "router", "router": {"lr": 0.05}}


def entry(method, **more):
    """An entry of a system of that method."""
    return COMMON | {"method": method} | OWN_FIELDS[method] | more


def fresh_weights(part, seed):
    """The network of a part with weights that follow from a seed, and what has to be known of it."""
    torch.manual_seed(seed)
    if part.method == "Module":
        return build_module(part.model, LEVELS[part.corruption]), {"level": LEVELS[part.corruption]}
    if part.method == "Autoencoder":
        return build_autoencoder(part.model, 28), {}
    return build_network(part.model, len(part.corruptions) if part.method == "Router" else 10), {"width": 1.0}


def finish(experiment):
    """Finished runs of an experiment and of what it takes weights from, with fresh weights."""
    for seed, part in enumerate(experiment.requires()):
        if not (part.directory / "done.json").exists():
            pretend(part, *fresh_weights(part, seed))
    trained = isinstance(experiment, Trained)
    pretend(experiment, *(fresh_weights(experiment, 99) if trained else (nn.Identity(), {})))
    return experiment


def system_of(fields) -> System:
    """The system of an entry whose parts have fresh weights."""
    experiment = finish(build(fields))
    return method_class(experiment.method).system(experiment, CPU)
