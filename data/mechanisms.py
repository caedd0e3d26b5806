"""Mechanisms: what the images of a data set tell of their class, in six numbers (Lubana et al., ICML 2023, arXiv 2211.08422). Loads without torch.

An image has a content (the part that is not spurious) and carries none, one or two cues. A counterfactual set is a split under a mechanism.
"""

from typing import Any, NamedTuple

import info_dicts


class Mechanism(NamedTuple):
    """Fractions in 0..1 of the images whose content is there and that carry cue 1 and cue 2; 1 where content, cue 1, cue 2 are drawn at random, else 0.

    The cues fall on images independently of each other. What is drawn at random is there as often as it would be, but tells nothing of the class.
    """

    content: float
    cue_1: float
    cue_2: float
    random_content: float = 0.0
    random_cue_1: float = 0.0
    random_cue_2: float = 0.0

    def scaled(self, fraction: float) -> "Mechanism":
        """The mechanism with its cues on this fraction of the images that carried them."""
        return self._replace(cue_1=self.cue_1 * fraction, cue_2=self.cue_2 * fraction)

    def features(self) -> frozenset[str]:
        """Which of content, cue_1 and cue_2 tell the class, at least of some images."""
        names = ("content", "cue_1", "cue_2")
        return frozenset(name for name, fraction, random in zip(names, self[:3], self[3:]) if fraction > 0 and not random)


def cue_names(dataset: str) -> tuple[str, ...]:
    """The names of a data set's cues; empty where it has none."""
    for choice in info_dicts.DATASETS.values():
        if choice == dataset:
            names: Any = choice.facts.get("cues", ())
            return tuple(names)
    raise ValueError(f"no data set {dataset!r} on the menu")


def read_mechanism(dataset: str, value: Any) -> Mechanism:
    """The mechanism that a menu number, a name or six numbers mean for a data set; ValueError that says what is allowed."""
    menu = info_dicts.MECHANISMS.get(dataset)
    if not menu:
        able = ", ".join(name for name in info_dicts.MECHANISMS)
        raise ValueError(f"{dataset} carries no cues; data sets that do: {able}")
    if isinstance(value, list | tuple):
        return check(dataset, value)
    for number, name in menu.items():
        if (isinstance(value, int) and not isinstance(value, bool) and value == number) or (isinstance(value, str) and value == name):
            return Mechanism(*name.numbers)
    allowed = ", ".join(f"{number} {name}" for number, name in menu.items())
    raise ValueError(f"{value!r} is no mechanism of {dataset}; allowed: {allowed}, or six numbers")


def check(dataset: str, numbers: Any) -> Mechanism:
    """Six numbers as a mechanism of a data set; ValueError where they are none, or where a fraction cannot be had."""
    if len(numbers) != 6 or any(isinstance(number, bool) or not isinstance(number, int | float) for number in numbers):
        raise ValueError(f"must be six numbers (content, cue 1, cue 2, then 1 where each is random), got {list(numbers)!r}")
    found = Mechanism(*(float(number) for number in numbers))
    if any(not 0 <= fraction <= 1 for fraction in found[:3]):
        raise ValueError(f"fractions are from 0 to 1, got {list(found[:3])}")
    if any(random not in (0.0, 1.0) for random in found[3:]):
        raise ValueError(f"the last three numbers are 0 or 1, got {list(found[3:])}")
    names = cue_names(dataset)
    if len(names) < 2 and (found.cue_2 or found.random_cue_2):
        raise ValueError(f"{dataset} has one cue ({', '.join(names)}), so the numbers of cue 2 must be 0")
    for name, fraction, random, chance in zip(names, found[1:3], found[4:], chances(dataset)):
        if not random and 0 < fraction < chance:
            raise ValueError(
                f"{fraction:g} of {dataset} cannot carry the cue {name}: {chance:g} match by chance; allowed: 0, or {chance:g} to 1"
            )
    return found


def chances(dataset: str) -> tuple[float, float]:
    """The fractions of images whose cues match their class by chance, where a cue is a property of every image; 0 where it is put on the image."""
    choice = next(choice for choice in info_dicts.DATASETS.values() if choice == dataset)
    factors: Any = choice.facts.get("factors")
    # Floor hue is the first factor of 3D Shapes, scale the fourth.
    return (1 / factors[0], 1 / factors[3]) if factors else (0.0, 0.0)


def mechanism_name(dataset: str, mechanism: Mechanism) -> str:
    """Its name on the data set's menu, or its six numbers as `1_0.5_0_0_0_0`."""
    # A plain string, which checkpoints can hold.
    return str(_named(dataset, mechanism) or "_".join(f"{number:g}" for number in mechanism))


def short_name(dataset: str, mechanism: Mechanism) -> str:
    """The same for an axis."""
    named = _named(dataset, mechanism)
    return str(named.short) if named else mechanism_name(dataset, mechanism)


def _named(dataset: str, mechanism: Mechanism) -> Any:
    return next((name for name in info_dicts.MECHANISMS.get(dataset, {}).values() if name.numbers == tuple(mechanism)), None)


def counterfactuals(dataset: str) -> tuple[Mechanism, ...]:
    """The counterfactual sets on which networks of a data set are tested unless an entry names others; empty where it carries no cues."""
    return tuple(read_mechanism(dataset, number) for number in info_dicts.COUNTERFACTUALS.get(dataset, ()))
