"""The hyperparameters of each data set: those of the paper (arXiv 2306.09005) for EMNIST, CIFAR10 and FaceScrub, ours for the others."""

from typing import Any

Recipe = dict[str, dict[str, Any]]

PUBLISHED = ("EMNIST", "CIFAR10", "FaceScrub")


def recipe(one_step_lr: float, contrastive_weight: float, module_weight: float, classifier_lr: float, last_level: int) -> Recipe:
    """What the paper varies between data sets. `last_level` is where it puts the modules of Rotate90 and Swirl by hand; a router has the one-step lr."""
    by_hand = {"Contrast": 1, "GaussianBlur": 1, "ImpulseNoise": 1, "Invert": 1, "Rotate90": last_level, "Swirl": last_level}
    return {
        "identity": {"lr": 0.1},
        "crossentropy": {"lr": one_step_lr},
        "contrastive": {"lr": one_step_lr, "weight": contrastive_weight},
        "backbone": {"lr": 0.1},
        "module": {"level": "auto", "lr": 0.01, "weight": module_weight},
        "manual": {"level": by_hand, "lr": 0.01, "weight": module_weight},
        "autoencoder": {"lr": 0.1},
        "classifier": {"lr": classifier_lr},
        "router": {"lr": one_step_lr},
    }


EMNIST = recipe(one_step_lr=0.01, contrastive_weight=0.1, module_weight=1.0, classifier_lr=0.01, last_level=4)
CIFAR10 = recipe(one_step_lr=0.1, contrastive_weight=0.1, module_weight=1.0, classifier_lr=0.1, last_level=9)
FACESCRUB = recipe(one_step_lr=0.1, contrastive_weight=0.01, module_weight=0.1, classifier_lr=0.1, last_level=16)

RECIPES: dict[str, Recipe] = {
    "FashionMNIST-mini": {
        **{name: {"lr": 0.05} for name in ("identity", "crossentropy", "backbone", "classifier", "router")},
        "autoencoder": {"lr": 0.1},
        "contrastive": {"lr": 0.05, "weight": 0.1},
        "module": {"level": "auto", "search_epochs": 2, "lr": 0.05, "weight": 0.1},
        "manual": {"level": 3, "lr": 0.05, "weight": 0.1},
    },
    "MNIST": EMNIST,
    "FashionMNIST": EMNIST,
    "CIFAR10": CIFAR10,
    "CIFAR100": CIFAR10,
    "EMNIST": EMNIST,
    "FaceScrub": FACESCRUB,
    "ORL": FACESCRUB,
}
