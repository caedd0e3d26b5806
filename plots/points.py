"""Accuracies of systems on compositions, in sets of evaluations that can be compared, and what figures of such sets are called."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import info_dicts
from data.class_names import class_names
from plots.records import Record, counts, describe_condition
from plots.results import Results
from plots.statistics import Interval, bootstrap_intervals, t_interval
from plots.table import name_systems
from train.entry import Experiment
from train.evaluations import Tested, unpack

# Groups of compositions: by their number of corruptions; `singles` are the single corruptions and Identity.
GROUPS = ("clean", "singles", "1", "2", "3", "4", "5", "6", "all")


def members(group: str, n_c: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which compositions, of n corruptions each, belong to a group."""
    if group.isdigit():
        return n_c == int(group)
    return {"clean": n_c == 0, "singles": n_c <= 1, "two or more": n_c >= 2, "all": n_c >= 0}[group]


def comparable(runs: Sequence[Record]) -> list[list[tuple[Experiment, Tested]]]:
    """The evaluations of runs in sets of equal data set, split, severities, compositions and images; most evaluations first, of equals the largest."""
    sets: dict[Any, list[tuple[Experiment, Tested]]] = {}
    for run in runs:
        for tested in run.tested:
            sets.setdefault((run.experiment.dataset, *tested.setting), []).append((run.experiment, tested))
    return sorted(sets.values(), key=lambda own: (len(own), own[0][1].size), reverse=True)


def figure_names(figure: str, runs: Sequence[Record]) -> list[str]:
    """A name for a figure of each set in `comparable`, which says what sets it apart from the first of its data set and split."""
    firsts: dict[str, Tested] = {}
    names: list[str] = []
    for (experiment, tested), *_ in comparable(runs):
        name = f"{figure}-{experiment.dataset}" + ("" if tested.split == "test" else f"-{tested.split}")
        if (first := firsts.setdefault(name, tested)) is not tested:
            if tested.severities != first.severities:
                name += (
                    "".join(f"-{corruption}-severity-{level}" for corruption, level in tested.severities.items()) or "-published-severities"
                )
            n_names, n_ids = len(tested.names), tested.images
            if tested.names != first.names:
                name += f"-{n_names}-compositions" if n_names != len(first.names) else "-other-compositions"
            if tested.ids != first.ids:
                name += f"-{n_ids}-images" if n_ids != first.images else "-other-images"
        again = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        names.append(next(free for free in again if free not in names))
    return names


def points(results: Results) -> pd.DataFrame:
    """The accuracy (a fraction, mean over seeds) of each system on each composition, and the number of seeds; plain before variants.

    `comparison` is the place in `comparable` of the evaluations, `images` how many they took.
    """
    keys = ["comparison", "dataset", "split", "images", "method", "system", "n_corruptions", "composition"]
    groups = accuracy_rows(results).groupby(keys, sort=False)
    return groups.agg(accuracy=("value", "mean"), seeds=("value", "size")).reset_index()


def chance_of(dataset: str) -> float:
    """What guessing gives, in %."""
    return 100 / len(class_names(dataset))


def levels(rows: pd.DataFrame) -> dict[str, float]:
    """Chance, and the best accuracy on clean images of a network that was trained on them alone, where there is one: in %, of one data set."""
    clean = rows[(rows["method"] == "Identity") & (rows["n_corruptions"] == 0)]
    return {"chance": chance_of(rows["dataset"].iloc[0])} | ({"clean": 100 * float(clean["accuracy"].max())} if len(clean) else {})


def means(results: Results) -> pd.DataFrame:
    """The mean accuracy (a fraction) of each system over the compositions of each of GROUPS that has any, with its 95 % interval.

    `interval` says of what kind: Student's t over seeds; of one seed the bootstrap over images, or none (empty, bounds NaN) where results of single
    images are not at hand (W&B).
    """
    sets = comparable(results.runs)
    files = {(place, e.name): tested.path for place, own in enumerate(sets) for e, tested in own}
    rows = []
    for (comparison, system), own in accuracy_rows(results).groupby(["comparison", "system"], sort=False):
        place = int(str(comparison))
        by_run = {
            str(run): (values["n_corruptions"].to_numpy(np.int64), values["value"].to_numpy(float)) for run, values in own.groupby("run")
        }
        path = files[place, next(iter(by_run))]
        bootstrapped = over_images(path) if len(by_run) == 1 and path is not None else {}
        for group in GROUPS:
            found = [values_c[members(group, n_c)] for n_c, values_c in by_run.values()]
            if not len(found[0]):
                continue
            each = [float(values.mean()) for values in found]
            kind, interval = "", Interval(each[0], math.nan, math.nan)
            if len(each) > 1:
                kind, interval = "t over seeds", t_interval(each)
            elif bootstrapped:
                kind, interval = "bootstrap over images", bootstrapped[group]
            rows.append((place, system, group, len(found[0]), len(each), sets[place][0][1].images, kind, *interval))
    columns = ["comparison", "system", "group", "compositions", "seeds", "images", "interval", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def by_number(values: pd.DataFrame) -> pd.DataFrame:
    """Those of `means` that are of one number of corruptions, which stands as `n_corruptions` instead of the group."""
    numbers = values["group"].replace("clean", "0")
    alone = numbers.str.isdigit()
    return values[alone].drop(columns="group").assign(n_corruptions=numbers[alone].astype(int))


def over_images(path: Path) -> dict[str, Interval]:
    """By group, the mean accuracy in an evaluation file with its bootstrap interval over images."""
    names, correct_cn, _ = unpack(path)
    masks = {group: mask for group in GROUPS if (mask := members(group, counts(names))).any()}
    return dict(zip(masks, bootstrap_intervals(np.stack([correct_cn[mask].mean(axis=0) for mask in masks.values()], axis=1))))


def accuracy_rows(results: Results) -> pd.DataFrame:
    """The table's accuracies on compositions, with the system's name and the place in `comparable` and number of images of its evaluation."""
    table = results.table
    tested = table[(table["metric"] == "accuracy") & (table["composition"] != "")].copy()
    tested["system"] = name_systems(tested)
    places = {
        (e.dataset, e.name, facts.split, describe_condition(e, facts.severities)): (place, facts.images)
        for place, own in enumerate(comparable(results.runs))
        for e, facts in own
    }
    found = [places[key] for key in zip(tested["dataset"], tested["run"], tested["split"], tested["condition"])]
    numbers = {name: number for number, name in info_dicts.METHODS.items()}
    tested = tested.assign(
        number=tested["method"].map(numbers),
        variant=tested["condition"] != "",
        comparison=[place for place, _ in found],
        images=[images for _, images in found],
    )
    return tested.sort_values(["number", "variant"], kind="stable")
