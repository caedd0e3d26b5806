"""Accuracy against the number of corruptions: one box for each system and number, each point a composition."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from plots.points import by_number, figure_names, levels, means, points
from plots.results import Results
from plots.statistics import reach
from plots.style import COLUMN, PAGE, describe_n, lighter, save, save_csv, styled, variant_styles

HEIGHT = 1.9  # inches of each line of groups
LEGEND_LINE = 0.14  # inches
GAP = 0.2  # of a group's width, between groups
MANY = 5  # systems: more, or with longer names than fit, are drawn across both columns of the paper
PER_LINE = 8  # systems: for each as many more, the groups take one line more
LEGEND_LETTERS = 80 / COLUMN  # per inch: what fits under the axes in one line
# How a mean and its interval are drawn: white within black, so that it is seen on any box.
MEAN: dict[str, Any] = {"fmt": "D", "markersize": 2.6, "markerfacecolor": "white", "markeredgecolor": "black", "markeredgewidth": 0.5} | {
    "ecolor": "black", "elinewidth": 0.8, "capsize": 1.2, "capthick": 0.6,
}  # fmt: skip
NEAR = 6  # %: reference lines this close have their labels moved apart


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws one figure for each set of comparable evaluations: boxes at 0 (clean images, a group of its own) to 6 corruptions.

    A point is a composition (mean over seeds); a box spans the quartiles, its whiskers the farthest points within 1.5 times that
    range. A diamond is the mean over the compositions with its 95 % interval (see `means`). Dashed lines: chance, and what a network trained on clean images alone (the best Identity) reaches on clean images. Of a data set
    and split, the figure of most evaluations has their name alone; those of others add what sets them apart. Returns the paths of CSVs (points
    and means), PDF and PNG. InputError where no run has been evaluated.
    """
    rows = points(results)
    if rows.empty:
        raise results.unfinished("box_plot")
    centres = by_number(means(results))
    paths = []
    for name, (place, own) in zip(figure_names("box_plot", results.runs), rows.groupby("comparison")):
        central = centres[centres["comparison"] == place].drop(columns="comparison")
        paths.append(save_csv(central, folder, f"{name}-means"))
        with styled():
            paths += save(draw_boxes(own, central), own.drop(columns="comparison"), folder, name)
    return paths


def draw_boxes(rows: pd.DataFrame, central: pd.DataFrame) -> Figure:
    """The boxes, points, means and reference lines of one set of evaluations, in as many lines of groups as keep the boxes of all systems legible."""
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
    height = 0.82 + HEIGHT * len(lines) + LEGEND_LINE * (math.ceil(len(styles) / columns) - 1)
    figure = Figure(figsize=(figure_width, height), layout="constrained")
    generator = np.random.default_rng(0)
    for axes, own in zip(figure.subplots(len(lines), squeeze=False).flat, lines):
        _draw_groups(axes, rows, central, own, styles, generator)
        _reference_lines(axes, rows)
        axes.set(xlim=(-0.6, per_line - 0.4), ylim=(0, 100), ylabel="accuracy (%)")
    axes.set_xlabel("number of corruptions (clean: none)")
    n = describe_n(rows["composition"].nunique(), rows["seeds"], images)
    figure.axes[0].set_title(f"{dataset}, {split} images\n{n}\n{describe_means(central)}")
    handles = [
        Patch(facecolor=lighter(colour, 0.45), edgecolor="black", linewidth=0.5, hatch=hatch, label=system)
        for system, (colour, hatch) in styles.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=1.0, handletextpad=0.4, columnspacing=0.9)
    return figure


def describe_means(central: pd.DataFrame) -> str:
    """What the diamonds are."""
    kinds = [kind for kind in ("t over seeds", "bootstrap over images") if kind in set(central["interval"])]
    without = "; none where there is one seed" if "" in set(central["interval"]) else ""
    return f"\u25c7 mean, 95 % interval: {' or, of one seed, '.join(kinds)}{without}" if kinds else "\u25c7 mean"


def _draw_groups(
    axes: Axes,
    rows: pd.DataFrame,
    central: pd.DataFrame,
    counts: Sequence[int],
    styles: Mapping[str, tuple[str, str]],
    generator: np.random.Generator,
) -> None:
    """The boxes, points and means of some numbers of corruptions, a group for each."""
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
        middle = central[(central["system"] == system) & central["n_corruptions"].isin(counts)]
        at = [counts.index(count) + shift for count in middle["n_corruptions"]]
        mean, low, high = (100 * middle[name].to_numpy(dtype=float) for name in ("accuracy", "low", "high"))
        axes.errorbar(at, mean, reach(mean, low, high), **MEAN, zorder=4)
    axes.set_xticks(range(len(counts)), ["clean" if count == 0 else str(count) for count in counts])
    for place in range(len(counts) - 1):
        axes.axvline(place + 0.5, color="0.9", linewidth=0.5, zorder=0)


def _reference_lines(axes: Axes, rows: pd.DataFrame) -> None:
    """Chance, and the clean accuracy of the network that was trained on clean images alone, where there is one."""
    found = levels(rows)
    chance = found["chance"]
    lines = [("chance", chance, "center")]
    if (clean := found.get("clean")) is not None:
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
