"""Compositions: ordered sequences of corruptions, the first applied first. Names, lists and the prefix tree; loads no torch.

A composition is a tuple of full names from `info_dicts.CORRUPTIONS`. Identity changes no image, so it stands only alone: ("Identity",).
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import info_dicts
from errors import InputError

Composition = tuple[str, ...]
# The ways to write one: "CO-GB", a menu number, or a sequence of names, abbreviations and menu numbers.
Written = str | int | Sequence[str | int]

ELEMENTALS: Composition = ("Contrast", "GaussianBlur", "ImpulseNoise", "Invert", "Rotate90", "Swirl")
IDENTITY: Composition = ("Identity",)

PUBLISHED_LIST = Path(__file__).with_name("compositions_167.txt")
SAMPLER_SEED = 2778
ORDERS_PER_SIZE = 30


def corruption_name(corruption: str | int) -> str:
    """The full name of a corruption given by its name, abbreviation or menu number (as an int or in digits).

    Raises InputError, with the whole menu, for anything else.
    """
    if isinstance(corruption, str) and corruption in info_dicts.CORRUPTIONS.values():
        return str(corruption)
    for number, choice in info_dicts.CORRUPTIONS.items():
        if corruption in (choice.abbreviation, number, str(number)) and not isinstance(corruption, bool):
            return str(choice)
    allowed = ", ".join(f"{choice} ({choice.abbreviation}, {number})" for number, choice in info_dicts.CORRUPTIONS.items())
    raise InputError(f"unknown corruption {corruption!r}; allowed: {allowed}")


def parse(composition: Written) -> Composition:
    """Full names of a composition written "CO-GB-IM", "Contrast-GaussianBlur", 1, or as a sequence of names, abbreviations or menu numbers.

    Identity is dropped from anything longer. Raises InputError if it is empty, has an unknown name, or repeats a corruption.
    """
    if isinstance(composition, str):
        parts: Sequence[str | int] = composition.split("-") if composition else []
    else:
        parts = [composition] if isinstance(composition, int) else composition
    names = [corruption_name(part) for part in parts]
    if not names:
        raise InputError("a composition is empty; the clean image is the composition Identity")
    corruptions = tuple(name for name in names if name != "Identity")
    if len(set(corruptions)) < len(corruptions):
        raise InputError(f"composition {'-'.join(names)} repeats a corruption; each may occur once")
    return corruptions or IDENTITY


def abbreviate(composition: Written) -> str:
    """The short form of a composition, such as "CO-GB-IM" or "ID"."""
    short = {str(choice): choice.abbreviation for choice in info_dicts.CORRUPTIONS.values()}
    return "-".join(short[name] for name in parse(composition))


def n_corruptions(composition: Written) -> int:
    """How many corruptions a composition applies; 0 for Identity."""
    names = parse(composition)
    return 0 if names == IDENTITY else len(names)


def singles(elementals: Sequence[str] = ELEMENTALS) -> list[Composition]:
    """Identity and every elemental by itself."""
    return [IDENTITY, *((name,) for name in elementals)]


def sample_167() -> list[Composition]:
    """The published 167 compositions, in the published order.

    Identity, the 6 elementals, all 30 ordered pairs; then, for every set of 3 to 6 elementals (sizes ascending, sets in the order of
    itertools.combinations), ceil(30 / number of sets of that size) of its orders, drawn without replacement by Python's random with seed 2778.
    """
    generator = random.Random(SAMPLER_SEED)
    sampled = [*singles(), *itertools.permutations(ELEMENTALS, 2)]
    for size in range(3, len(ELEMENTALS) + 1):
        sets = list(itertools.combinations(ELEMENTALS, size))
        for members in sets:
            sampled += generator.sample(list(itertools.permutations(members)), math.ceil(ORDERS_PER_SIZE / len(sets)))
    return sampled


def all_compositions(elementals: Sequence[str] = ELEMENTALS) -> list[Composition]:
    """Identity and every order of every set of elementals, shorter ones first: 1,957 for the published six."""
    sizes = range(1, len(elementals) + 1)
    return [IDENTITY, *itertools.chain.from_iterable(itertools.permutations(elementals, size) for size in sizes)]


def load_list(path: str | Path) -> list[Composition]:
    """Compositions of a text file, one per line in any form that `parse` takes; empty lines and those that begin with # are skipped.

    Raises InputError with file and line if it cannot be read, holds no composition, a wrong one, or the same one twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of compositions ({error.__class__.__name__})") from None
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    return _distinct((f"{path}, line {number}", line) for number, line in numbered if line and not line.startswith("#"))


def compositions(spec: str | Sequence[Written]) -> list[Composition]:
    """The compositions that a list or a command line asks for.

    `spec` is "167" (published), "1957" (all), "elementals" (Identity and the six), the path of a text file, one composition, or a list of them.
    Raises InputError for anything else, an empty list, or a composition that is given twice.
    """
    if not isinstance(spec, str):
        return _distinct((f"compositions, item {number}", item) for number, item in enumerate(spec))
    if spec in NAMED:
        return list(_named(spec))
    if Path(spec).is_file():
        return load_list(spec)
    known = {word for choice in info_dicts.CORRUPTIONS.values() for word in (choice, choice.abbreviation)}
    if known.issuperset(spec.split("-")):
        return [parse(spec)]
    raise InputError(f"compositions {spec!r}: no such file; allowed: 167, 1957, elementals, a text file, or a list such as [CO-GB, Swirl]")


NAMED: dict[str, Callable[[], list[Composition]]] = {
    "167": lambda: load_list(PUBLISHED_LIST),
    "1957": all_compositions,
    "elementals": singles,
}


@cache
def _named(spec: str) -> tuple[Composition, ...]:
    """Parsed once: results of a thousand runs ask for theirs two thousand times."""
    return tuple(NAMED[spec]())


def _distinct(items: Iterable[tuple[str, Written]]) -> list[Composition]:
    """Parses (where, composition) pairs, names the place of an error, and refuses doubles and an empty list."""
    found: dict[Composition, str] = {}
    for where, item in items:
        try:
            composition = parse(item)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if composition in found:
            raise InputError(f"{where}: {abbreviate(composition)} was already given at {found[composition]}")
        found[composition] = where
    if not found:
        raise InputError("a list of compositions is empty")
    return list(found)


@dataclass
class Node:
    """A node of a prefix tree: the images after `prefix`, whose last step is `name`; `index` is the composition that ends here, if any."""

    name: str
    prefix: Composition
    children: list["Node"] = field(default_factory=list)
    index: int | None = None


def prefix_tree(compositions: Sequence[Written]) -> Node:
    """The tree in which compositions share their common prefixes; `index` counts from 0 in the order given.

    The root stands for the input images and has the empty prefix; Identity is a leaf at the root. Raises ValueError for a composition given twice.
    """
    root = Node("", ())
    for index, composition in enumerate(compositions):
        node = root
        for name in parse(composition):
            child = next((child for child in node.children if child.name == name), None)
            if child is None:
                child = Node(name, (*node.prefix, name))
                node.children.append(child)
            node = child
        if node.index is not None:
            raise ValueError(f"composition {abbreviate(composition)} is given twice")
        node.index = index
    return root
