"""Systems that can be compared image by image, and the differences between them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import info_dicts
from errors import InputError
from plots.points import GROUPS, comparable, members
from plots.records import Record, counts, describe_condition
from plots.statistics import bootstrap_intervals, holm, mcnemar
from plots.table import label_systems
from train.entry import Experiment
from train.evaluations import Tested, unpack
from train.experiment import RoutedSystem

# Those for which differences are given, and what they are called there.
PAIRED = {"two or more": "two or more corruptions", "all": "all compositions"}
# What sets a system with parts apart from its published form, in which it is told the corruptions in the order of their application.
ROUTING = ("order", "routing", "router")


@dataclass
class System:
    """The seeds of one system: correctness of each image (N,) as the mean over the compositions of a group, one dict per seed.

    `files` has each seed's evaluation, with the correctness of every image on every composition.
    """

    label: str
    experiments: list[Experiment] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    seeds: list[dict[str, NDArray[np.float64]]] = field(default_factory=list)

    def per_image(self, group: str, seeds: Collection[int]) -> NDArray[np.float64]:
        """Mean correctness of each image over these of its seeds."""
        return np.mean([own[group] for e, own in zip(self.experiments, self.seeds) if e.seed in seeds], axis=0)

    def times_right(self, seeds: Collection[int]) -> NDArray[np.int32]:
        """In how many of these of its seeds each image (N,) is classified correctly under each composition (C, N)."""
        files = [file for e, file in zip(self.experiments, self.files) if e.seed in seeds]
        return np.sum([unpack(file)[1] for file in files], axis=0, dtype=np.int32)

    @property
    def told(self) -> bool:
        """Whether this is a system with parts in its published form."""
        first = self.experiments[0]
        return isinstance(first, RoutedSystem) and (first.routing, first.order) == ("told", "application")


@dataclass
class Comparison:
    """Systems that were evaluated on the same images, compositions and severities."""

    title: str
    names: tuple[str, ...]
    n_c: NDArray[np.int64]
    images: int
    systems: dict[str, System] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, int]:
        """The groups that have compositions, and how many."""
        sizes = {group: int(members(group, self.n_c).sum()) for group in GROUPS}
        return {group: size for group, size in sizes.items() if size}


def compare(figure: str, runs: Sequence[Record], table: pd.DataFrame) -> list[Comparison]:
    """Reads the per-image results of all runs, put together where they can be compared; systems in the menu's order, plain before variants.

    InputError, which names the figure, where a run comes from W&B, which has no results of single images.
    """
    labels = label_systems(table)
    return [_compare(figure, own, labels) for own in comparable(runs)]


def _compare(figure: str, tested: Sequence[tuple[Experiment, Tested]], labels: Mapping[tuple[str, str, str], str]) -> Comparison:
    """The comparison of evaluations that can be compared."""
    numbers = {str(name): number for number, name in info_dicts.METHODS.items()}
    first, facts = tested[0]
    n_c = counts(facts.names)
    masks = {group: mask for group in PAIRED if (mask := members(group, n_c)).any()}
    severities = "".join(f", {name} severity {severity}" for name, severity in facts.severities.items())
    comparison = Comparison(f"{first.dataset}, {facts.split} split{severities}", facts.names, n_c, facts.images)
    for e, facts in sorted(tested, key=lambda pair: (numbers[pair[0].method], pair[0].condition != "")):
        if facts.path is None:
            raise InputError(f"{figure}: {e.name} comes from W&B, which has no results of single images; give its list or run directories")
        _, correct_cn, _ = unpack(facts.path)
        label = labels[e.dataset, e.name, describe_condition(e, facts.severities)]
        system = comparison.systems.setdefault(label, System(label))
        system.experiments.append(e)
        system.files.append(facts.path)
        system.seeds.append({group: correct_cn[mask].mean(axis=0) for group, mask in masks.items()})
    return comparison


def unrouted(experiment: Experiment) -> Any:
    """The canonical form without routing and without seeds at any depth: that of one system under every routing."""

    def without(form: Any, keys: Collection[str]) -> Any:
        return {key: without(value, ("seed",)) for key, value in form.items() if key not in keys} if isinstance(form, dict) else form

    return without(experiment.canonical(), ("seed", *ROUTING))


def pairs(comparison: Comparison) -> tuple[list[tuple[System, System]], list[tuple[System, System]]]:
    """Which systems are compared, each list in menu order.

    The claims: each system with parts, in its published form, and each Contrastive against each CrossEntropy of its model. The routings: each
    system with parts that is told less, or acts in another order, against the same system in its published form.
    """
    systems = list(comparison.systems.values())
    claims, routings = [], []
    for system in systems:
        first = system.experiments[0]
        if system.told or first.method == "Contrastive":
            plain = [other for other in systems if other.experiments[0].method == "CrossEntropy"]
            claims += [(system, other) for other in plain if other.experiments[0].model == first.model]
        elif isinstance(first, RoutedSystem):
            same = [other for other in systems if other.told and unrouted(other.experiments[0]) == unrouted(first)]
            routings += [(system, other) for other in same]
    return claims, routings


def shared_seeds(one: System, other: System) -> tuple[Collection[int], Collection[int], bool]:
    """The seeds of each side of a comparison: those that both have; where they share none, all of its own (and False)."""
    own, others = ({e.seed for e in system.experiments} for system in (one, other))
    common = own & others
    return (common, common, True) if common else (own, others, False)


def differences(comparison: Comparison) -> pd.DataFrame:
    """Paired per-image differences of the systems in `pairs`, with 95 % bootstrap intervals over images and McNemar's test.

    Each side is the mean over `shared_seeds`. `n10` images are classified correctly more often (over compositions and seeds) by the first system,
    `n01` by the second; `p` is that of McNemar's exact test on them, which over several compositions is the sign test of the images; `p_holm` is
    corrected for all tests of the table.
    """
    sizes = {group: int(members(group, comparison.n_c).sum()) for group in PAIRED}
    rows, per_image = [], []
    for kind, compared in zip(("claim", "routing"), pairs(comparison)):
        for one, other in compared:
            own, others, common = shared_seeds(one, other)
            for group, size in sizes.items():
                if size:
                    counted = (size, len(own), len(others), common, comparison.images)
                    rows.append((comparison.title, kind, f"{one.label} - {other.label}", group, *counted))
                    per_image.append(one.per_image(group, own) - other.per_image(group, others))
    intervals = bootstrap_intervals(np.stack(per_image, axis=1)) if rows else []
    # Means of the same bits in another order differ in their last digits.
    signs = [np.sign(np.round(values, 9)) for values in per_image]
    won = [(int((sign > 0).sum()), int((sign < 0).sum())) for sign in signs]
    seeds = ["seeds", "other_seeds", "same_seeds"]
    columns = ["comparison", "kind", "systems", "group", "compositions", *seeds, "images", "difference", "low", "high", "n10", "n01"]
    table = pd.DataFrame([(*row, *interval, *wins) for row, interval, wins in zip(rows, intervals, won)], columns=columns)
    return add_tests(table)


def composition_tests(comparison: Comparison) -> pd.DataFrame:
    """McNemar's exact test of the systems in `pairs` on every composition, each image counted for the system that is right on it in more seeds.

    `difference` is that of the accuracies (fractions); `p_holm` is corrected for all tests of the table.
    """
    tables = []
    for kind, compared in zip(("claim", "routing"), pairs(comparison)):
        for one, other in compared:
            own, others, _ = shared_seeds(one, other)
            balance_cn = one.times_right(own) * len(others) - other.times_right(others) * len(own)
            facts: dict[str, Any] = {"comparison": comparison.title, "kind": kind, "systems": f"{one.label} - {other.label}"}
            facts |= {"composition": comparison.names, "n_corruptions": comparison.n_c, "images": comparison.images}
            facts |= {"seeds": len(own), "other_seeds": len(others), "difference": balance_cn.mean(axis=1) / (len(own) * len(others))}
            tables.append(pd.DataFrame(facts | {"n10": (balance_cn > 0).sum(axis=1), "n01": (balance_cn < 0).sum(axis=1)}))
    return add_tests(pd.concat(tables, ignore_index=True)) if tables else pd.DataFrame()


def add_tests(table: pd.DataFrame) -> pd.DataFrame:
    """The table with McNemar's p values of its n10 and n01, and these corrected for all of its rows."""
    p_values = mcnemar(table["n10"].to_numpy(dtype=np.int64), table["n01"].to_numpy(dtype=np.int64))
    return table.assign(p=p_values, p_holm=holm(p_values))
