"""The facts of a data set by its name: of the menu, of a folder of images, or of a factory that a user brings along. Loads no torch (a user's factory may)."""

import info_dicts
from data.folders import folder_choice, is_folder
from errors import InputError
from registry import is_factory, load_factory

# What a described factory need not say.
DEFAULTS = {"counts": (), "mean": (0.5,), "std": (0.5,), "model": "ResNet18", "augmentation": "None", "padding": 4}


def labels_of(facts: info_dicts.Choice) -> int:
    """How many different labels the images of a data set have: its classes; one where a network is to compute values instead."""
    return 1 if facts.facts.get("values") else facts.classes


def dataset_choice(name: str) -> info_dicts.Choice:
    """A name with its data set's facts as attributes, as the menu has them; InputError where there is no such data set."""
    for choice in info_dicts.DATASETS.values():
        if choice == name:
            return choice
    if is_folder(name):
        return folder_choice(name)
    if is_factory(name):
        facts = getattr(load_factory(name), "facts", None)
        if not isinstance(facts, dict):
            raise InputError(
                f"{name}: says nothing of its images; decorate it with @described(classes=..., shape=(C, H, W)) of data.datasets"
            )
        return info_dicts.Choice(name, **(DEFAULTS | facts))
    allowed = ", ".join(f"{number} {choice}" for number, choice in info_dicts.DATASETS.items())
    raise InputError(f"no data set {name!r}; allowed: {allowed}, folder:NAME@PIXELS, package.module:factory")
