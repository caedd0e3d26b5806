"""Training curves: loss and accuracy by epoch for every run, and accuracy by level for every level search."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

import info_dicts
from errors import InputError
from plots.points import chance_of
from plots.results import Results
from plots.style import PAGE, PALETTE, method_colour, save, styled

PANEL_HEIGHT = 1.5  # inches
LEGEND_LINES = 8  # entries of a panel's legend
FEW = 10  # epochs: curves this short have a dot at each
MANY = 4  # methods side by side: more are drawn below them
# What the curves of these parts are, where others have the loss and the accuracy of a classification.
LOSSES = {"Autoencoder": "MSE", "Router": "binary cross-entropy"}
ACCURACIES = {"Router": "all corruptions named (%)"}
# Line style and the fill of its dots (None: the line's colour).
STYLES: dict[str, tuple[Any, str | None]] = {"train": ("--", "white"), "valid": ("-", None)}


def draw(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draws, for each data set, train (dashed) and valid (solid) loss and accuracy, one column per method and one colour per run (a method
    that classifies nothing has a loss alone); and, where a level was searched, validation accuracy by level, one panel per run.

    Returns the paths of CSV, PDF and PNG. InputError where no run in the table has been trained.
    """
    rows = table[(table["composition"] == "") & table["epoch"].notna()]
    if rows.empty:
        raise InputError("training_curves: no finished run in the source has been trained; run the list first with: python -m train CONFIG")
    paths = []
    for dataset, own in rows.groupby("dataset", sort=False):
        curves = own[own["metric"].isin(["loss", "accuracy"])]
        search = own[(own["metric"] == "search_accuracy") & (own["split"] == "valid")]
        with styled():
            if len(curves):
                paths += save(draw_curves(curves, str(dataset)), curves, folder, f"training_curves-{dataset}")
            if len(search):
                paths += save(draw_search(search, str(dataset)), search, folder, f"level_search-{dataset}")
    return paths


def draw_results(results: Results, folder: Path) -> list[Path]:
    return draw(results.table, folder)


def short(run: str, method: str) -> str:
    """A run's name without its method, seed and hash: what it shares with its other seeds."""
    return re.sub(r"-s\d+-[0-9a-f]{12}$", "", run).removeprefix(method).lstrip("-")


def draw_curves(rows: pd.DataFrame, dataset: str) -> Figure:
    """Loss above accuracy, one column per method and at most MANY columns in a line."""
    methods = [name for name in info_dicts.METHODS.values() if (rows["method"] == name).any()]
    lines = math.ceil(len(methods) / MANY)
    columns = math.ceil(len(methods) / lines)
    figure = Figure(figsize=(PAGE, (2 * PANEL_HEIGHT + 1.2) * lines), layout="constrained")
    panels = figure.subplots(2 * lines, columns, squeeze=False)
    for number, method in enumerate(methods):
        line, column = divmod(number, columns)
        draw_method(panels[2 * line, column], panels[2 * line + 1, column], rows[rows["method"] == method], method)
    for line in panels:
        name_once(line)
    for axes in panels[-2:, columns - (columns * lines - len(methods)) :].flat:
        axes.set_axis_off()
    splits = [
        Line2D([], [], color="0.3", linestyle=style, marker="o", markersize=2, markerfacecolor=face or "0.3", label=split)
        for split, (style, face) in STYLES.items()
    ]
    panels[0, 0].legend(handles=splits, loc="upper right")
    figure.suptitle(f"{dataset}: n = {rows['run'].nunique()} runs", fontsize=7)
    return figure


def name_once(panels: Iterable[Axes]) -> None:
    """Leaves a panel's y axis without its name where its neighbour to the left has the same."""
    before = ""
    for axes in panels:
        name = axes.get_ylabel()
        axes.set_ylabel("" if name == before else name)
        before = name


def draw_method(above: Axes, below: Axes, rows: pd.DataFrame, method: str) -> None:
    """The curves of one method's runs: loss above accuracy, where there is one, and under them which colour is which."""
    runs = list(rows.groupby("run", sort=False))
    labels = Counter(short(str(run), method) for run, _ in runs)
    palette = [method_colour(method)] if len(labels) == 1 else [colour for colour in PALETTE if colour != "#999999"]
    colours = {label: palette[number % len(palette)] for number, label in enumerate(labels)}
    classifies = (rows["metric"] == "accuracy").any()
    for run, own in runs:
        for axes, metric in ((above, "loss"), (below, "accuracy")) if classifies else ((above, "loss"),):
            for split in STYLES:
                values = own[(own["metric"] == metric) & (own["split"] == split)]
                plot_epochs(axes, values, split, colours[short(str(run), method)], 100 if metric == "accuracy" else 1)
    above.set_title(method)
    above.set_ylabel(LOSSES.get(method, "loss"))
    if classifies:
        above.tick_params(labelbottom=False)
        if method not in ACCURACIES:
            mark_chance(below, str(rows["dataset"].iloc[0]))
        below.set(xlabel="epoch", ylabel=ACCURACIES.get(method, "accuracy (%)"), ylim=(0, 100))
    else:
        above.set_xlabel("epoch")
        below.set_axis_off()
    handles = [Line2D([], [], color=colours[label], label=label + (f" ({n} seeds)" if n > 1 else "")) for label, n in labels.items()]
    more = [Line2D([], [], linestyle="", label=f"and {len(handles) - LEGEND_LINES} more")] if len(handles) > LEGEND_LINES else []
    place = (0.5, -0.35 if classifies else 0.8)
    below.legend(handles=[*handles[:LEGEND_LINES], *more], loc="upper center", bbox_to_anchor=place, handlelength=1.0, fontsize=5.5)


def mark_chance(axes: Axes, dataset: str) -> None:
    """A dashed line at what guessing gives."""
    chance = chance_of(dataset)
    axes.axhline(chance, color="0.35", linestyle=(0, (4, 3)), linewidth=0.6, zorder=1)
    place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate("chance", (1, chance), xytext=(-1, 1), ha="right", va="bottom", fontsize=5, color="0.25", **place)


def draw_search(rows: pd.DataFrame, dataset: str) -> Figure:
    """Validation accuracy of a fresh module against its level, one panel per run and one line per epoch of the search.

    Ringed is the best level of the last epoch (the lowest of equals), at which the run's module is then trained.
    """
    runs = list(rows.groupby("run", sort=False))
    columns = min(3, len(runs))
    lines = math.ceil(len(runs) / columns)
    figure = Figure(figsize=(PAGE, (PANEL_HEIGHT + 0.1) * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    epochs = sorted({int(epoch) for epoch in rows["epoch"]})
    colours = {epoch: to_hex(matplotlib.colormaps["viridis"](place)) for epoch, place in zip(epochs, np.linspace(0.85, 0.1, len(epochs)))}
    for axes, (run, own) in zip(panels.flat, runs):
        for epoch, values in own.groupby("epoch"):
            levels, accuracies = values["layer"].astype("int64").to_numpy(), 100 * values["value"].to_numpy()
            axes.plot(levels, accuracies, "o-", color=colours[int(str(epoch))], markersize=2)
        best = int(accuracies.argmax())
        axes.plot(levels[best], accuracies[best], "o", markersize=6, markerfacecolor="none", markeredgecolor="black", markeredgewidth=0.7)
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.set_title(f"{short(str(run), str(own['method'].iloc[0]))}\nseed {own['seed'].iloc[0]}", fontsize=6)
    for axes in panels.flat[len(runs) :]:
        axes.set_axis_off()
    for axes in panels[-1]:
        axes.set_xlabel("level")
    for axes in panels[:, 0]:
        axes.set_ylabel("valid accuracy (%)")
    handles = [Line2D([], [], color=colours[epoch], marker="o", markersize=2, label=f"epoch {epoch}") for epoch in epochs]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(epochs)))
    figure.suptitle(f"{dataset}: level search, n = {len(runs)} runs (ringed: the best level)", fontsize=7)
    return figure


def plot_epochs(axes: Axes, rows: pd.DataFrame, split: str, colour: str, scale: float) -> None:
    """One curve over whole epochs."""
    style, face = STYLES[split]
    epochs = rows["epoch"].to_numpy(np.int64)
    values = scale * rows["value"].to_numpy()
    last = max([2, *epochs, *(math.floor(edge) for edge in axes.get_xlim())])
    few = len(epochs) < FEW
    axes.plot(epochs, values, linestyle=style, color=colour, marker="o" if few else "", markersize=2, markerfacecolor=face or colour)
    axes.set_xlim(0.5 if few else 1, last + 0.5 if few else last)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
