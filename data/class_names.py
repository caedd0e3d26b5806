"""What the classes of the data sets are called, by label; loads no torch."""

import string

from data.facts import dataset_choice
from data.files import data_root
from data.folders import is_folder, read_note

_DIGITS = tuple(string.digits)
_GARMENTS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_SHAPES = tuple(f"{hues} {shape}" for hues in ("warm", "cold") for shape in ("cube", "cylinder", "sphere", "pill"))

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "FashionMNIST-mini": _GARMENTS,
    "MNIST": _DIGITS,
    "FashionMNIST": _GARMENTS,
    "Dominoes": _CIFAR10,
    # By shape and half of the object's hues.
    "3DShapes": _SHAPES,
    "3DShapes-small": _SHAPES,
    "Slabs": ("negative", "positive"),
    "CIFAR10": _CIFAR10,
    # Lower-case letters that look like their capitals are one class with these.
    "EMNIST": (*_DIGITS, *string.ascii_uppercase, *"abdefghnqrt"),
    # The numbers in the files' names, or of the folders.
    "FaceScrub": tuple(str(number) for number in range(100, 488)),
    "ORL": tuple(f"s{number}" for number in range(1, 41)),
}


def class_names(dataset: str) -> tuple[str, ...]:
    """The names of a data set's classes by label; of one without names here the labels themselves."""
    classes = dataset_choice(dataset).classes
    if is_folder(dataset):
        return tuple(read_note(data_root(), dataset)["classes"])
    return CLASS_NAMES.get(dataset) or tuple(str(label) for label in range(classes))
