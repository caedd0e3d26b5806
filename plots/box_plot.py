"""Accuracy against the number of corruptions: one box for each system and number, each point a composition."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import info_dicts
from plots.records import Record, describe_condition
from plots.results import Results
from plots.style import COLUMN, PAGE, lighter, save, styled, variant_styles
from plots.table import name_systems
from train.entry import Experiment
from train.evaluations import Tested

HEIGHT = 1.9  # inches of each line of groups
LEGEND_LINE = 0.14  # inches
GAP = 0.2  # of a group's width, between groups
MANY = 5  # systems: more, or with longer names than fit, are drawn across both columns of the paper
PER_LINE = 8  # systems: for each as many more, the groups take one line more
LEGEND_LETTERS = 80 / COLUMN  # per inch: what fits under the axes in one line
NEAR = 6  # %: reference lines this close have their labels moved apart


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws one figure for each set of comparable evaluations: boxes at 0 (clean images, a group of its own) to 6 corruptions.

    A point is a composition (mean over seeds); a box spans the quartiles, its whiskers the farthest points within 1.5 times that
    range. Dashed lines: chance, and what a network trained on clean images alone (the best Identity) reaches on clean images. Of a data set
    and split, the figure of most evaluations has their name alone; those of others add what sets them apart. Returns the paths of CSV, PDF
    and PNG. InputError where no run has been evaluated.
    """
    rows = points(results)
    if rows.empty:
        raise results.unfinished("box_plot")
    paths = []
    for name, (_, own) in zip(figure_names(results.runs), rows.groupby("comparison")):
        with styled():
            paths += save(draw_boxes(own), own.drop(columns="comparison"), folder, name)
    return paths


def comparable(runs: Sequence[Record]) -> list[list[tuple[Experiment, Tested]]]:
    """The evaluations of runs in sets of equal data set, split, severities, compositions and images; most evaluations first, of equals the largest."""
    sets: dict[Any, list[tuple[Experiment, Tested]]] = {}
    for run in runs:
        for tested in run.tested:
            sets.setdefault((run.experiment.dataset, *tested.setting), []).append((run.experiment, tested))
    return sorted(sets.values(), key=lambda own: (len(own), own[0][1].size), reverse=True)


def figure_names(runs: Sequence[Record]) -> list[str]:
    """A name for the figure of each set in `comparable`, which says what sets it apart from the first of its data set and split."""
    firsts: dict[str, Tested] = {}
    names: list[str] = []
    for (experiment, tested), *_ in comparable(runs):
        name = f"box_plot-{experiment.dataset}" + ("" if tested.split == "test" else f"-{tested.split}")
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
    """What is drawn: the accuracy (a fraction, mean over seeds) of each system on each composition, and the number of seeds; plain before variants.

    `comparison` is the place in `comparable` of the evaluations, `images` how many they took.
    """
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
    tested = tested.sort_values(["number", "variant"], kind="stable")
    keys = ["comparison", "dataset", "split", "images", "method", "system", "n_corruptions", "composition"]
    groups = tested.groupby(keys, sort=False)
    return groups.agg(accuracy=("value", "mean"), seeds=("value", "size")).reset_index()


def draw_boxes(rows: pd.DataFrame) -> Figure:
    """The boxes, points and reference lines of one set of evaluations, in as many lines of groups as keep the boxes of all systems legible."""
    dataset, split, images = rows[["dataset", "split", "images"]].iloc[0]
    systems = rows[["system", "method"]].drop_duplicates()
    styles = dict(zip(systems["system"], variant_styles(list(systems["method"]))))
    narrow = len(systems) <= MANY and 8 + max(map(len, styles)) <= LEGEND_LETTERS * COLUMN
    figure_width = COLUMN if narrow else PAGE
    letters = int(LEGEND_LETTERS * figure_width)
    fits = sum(len(system) + 8 for system in styles) < letters
    columns = len(styles) if fits else max(1, letters // (8 + max(map(len, styles))))
    counts = sorted(rows["n_corruptions"].unique())
    per_line = math.ceil(len(counts) / math.ceil(len(systems) / PER_LINE))
    lines = [counts[start : start + per_line] for start in range(0, len(counts), per_line)]
    height = 0.7 + HEIGHT * len(lines) + LEGEND_LINE * (math.ceil(len(styles) / columns) - 1)
    figure = Figure(figsize=(figure_width, height), layout="constrained")
    generator = np.random.default_rng(0)
    for axes, own in zip(figure.subplots(len(lines), squeeze=False).flat, lines):
        _draw_groups(axes, rows, own, styles, generator)
        _reference_lines(axes, rows, dataset)
        axes.set(xlim=(-0.6, per_line - 0.4), ylim=(0, 100), ylabel="accuracy (%)")
    axes.set_xlabel("number of corruptions (clean: none)")
    seeds = sorted(rows["seeds"].unique())
    n_seeds = f"{seeds[0]} seed{'s' if seeds[-1] > 1 else ''}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    n = rows["composition"].nunique()
    n_images = f"{images:,} image{'' if images == 1 else 's'}"
    figure.axes[0].set_title(f"{dataset}, {split} images\nn = {n} composition{'' if n == 1 else 's'}, {n_seeds}, {n_images}")
    handles = [
        Patch(facecolor=lighter(colour, 0.45), edgecolor="black", linewidth=0.5, hatch=hatch, label=system)
        for system, (colour, hatch) in styles.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=1.0, handletextpad=0.4, columnspacing=0.9)
    return figure


def _draw_groups(
    axes: Axes, rows: pd.DataFrame, counts: Sequence[int], styles: Mapping[str, tuple[str, str]], generator: np.random.Generator
) -> None:
    """The boxes and points of some numbers of corruptions, a group for each."""
    width = (1 - GAP) / len(styles)
    for number, (system, (colour, hatch)) in enumerate(styles.items()):
        own = rows[rows["system"] == system]
        shift = (number - (len(styles) - 1) / 2) * width
        groups = [
            (place + shift, 100 * own.loc[own["n_corruptions"] == count, "accuracy"].to_numpy()) for place, count in enumerate(counts)
        ]
        groups = [(place, values) for place, values in groups if len(values)]
        if not groups:
            continue
        drawn = axes.boxplot(
            [values for _, values in groups], positions=[place for place, _ in groups], widths=0.8 * width, patch_artist=True, manage_ticks=False,
            showfliers=False, medianprops={"color": "black", "linewidth": 0.9}, whiskerprops={"linewidth": 0.6}, capprops={"linewidth": 0.6}, zorder=2,
        )  # fmt: skip
        for box in drawn["boxes"]:
            box.set(facecolor=lighter(colour, 0.45), edgecolor="black", linewidth=0.5, hatch=hatch)
        for place, values in groups:
            spread = 0.25 * width if len(values) > 1 else 0.0
            places = place + generator.uniform(-spread, spread, len(values))
            axes.plot(
                places,
                values,
                "o",
                markersize=1.5 if len(values) > 1 else 3,
                markerfacecolor=colour,
                markeredgecolor="black",
                markeredgewidth=0.2,
                zorder=3,
            )
    axes.set_xticks(range(len(counts)), ["clean" if count == 0 else str(count) for count in counts])
    for place in range(len(counts) - 1):
        axes.axvline(place + 0.5, color="0.9", linewidth=0.5, zorder=0)


def _reference_lines(axes: Axes, rows: pd.DataFrame, dataset: str) -> None:
    """Chance, and the clean accuracy of the network that was trained on clean images alone, where there is one."""
    chance = 100 / next(choice for choice in info_dicts.DATASETS.values() if choice == dataset).classes
    lines = [("chance", chance, "center")]
    ceiling = rows[(rows["method"] == "Identity") & (rows["n_corruptions"] == 0)]
    if len(ceiling):
        clean = 100 * float(ceiling["accuracy"].max())
        below, above = ("top", "bottom") if abs(clean - chance) < NEAR else ("center", "center")
        lines = [("chance", chance, below if chance <= clean else above), ("clean", clean, above if chance <= clean else below)]
    for name, height, side in lines:
        axes.axhline(height, color="0.35", linestyle=(0, (4, 3)), linewidth=0.6, zorder=1)
        axes.annotate(
            name,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            va=side,
            fontsize=6,
            color="0.25",
        )
