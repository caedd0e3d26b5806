"""Students by the mechanisms of their data and of their teacher: one map for each counterfactual set; and what a loss changes against the base loss."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from plots.mechanisms import METRICS, in_file_name, in_menu_order, points, required
from plots.results import Results
from plots.style import PAGE, plural, save, styled

CELL, LEAST, TITLE = 0.34, 1.15, 0.35  # inches: of a cell, the least side of a map, of a panel's title and ticks
MAP, DIFFERENCES = "mako", "vlag"


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set, loss and metric (accuracy, KL, agreement) a map for each counterfactual set, and for losses beside Base the difference to it.

    Rows are the mechanism of a student's data, columns that of its teacher's; a cell is the mean over seeds of the exact test of the kept weights, below it
    the standard deviation (n - 1) where there are several. Grey: no such student. Differences are means over the seeds that both have.
    Returns the paths of CSVs, PDFs and PNGs. InputError where there is no finished student with a teacher.
    """
    rows = points(results)
    rows = required("mechanism_heat_map", results, rows[rows["kept"].astype(bool) & (rows["teacher"] != "")])
    paths = []
    for (dataset, label), own in rows.groupby(["dataset", "label"], sort=False):
        for metric in METRICS:
            drawn = aggregate(own, metric)
            with styled():
                paths += save(
                    draw_maps(drawn, str(dataset), f"{label!s}: {METRICS[metric][0]}", metric), drawn, folder, name(dataset, label, metric)
                )
    for dataset, own in rows.groupby("dataset", sort=False):
        base = own[own["label"] == "Base"]
        for label, other in own[own["label"] != "Base"].groupby("label", sort=False):
            for metric in METRICS if len(base) else ():
                both = difference(other, base, metric)
                if both.empty:
                    continue
                drawn = aggregate(both, metric)
                title = f"{label!s} minus Base: {METRICS[metric][0]}"
                with styled():
                    figure = draw_maps(drawn, str(dataset), title, metric, diverging=True)
                    paths += save(figure, drawn, folder, name(dataset, label, metric) + "-minus-Base")
    return paths


def name(dataset: Any, label: Any, metric: str) -> str:
    return f"mechanism_heat_map-{dataset}-{in_file_name(label)}-{metric}"


def aggregate(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean, standard deviation (NaN for one) and number of seeds of each set, student and teacher; in the unit that is drawn."""
    scaled = rows.assign(value=rows[metric] * METRICS[metric][1])
    groups = scaled.groupby(["set", "student", "teacher"], sort=False)["value"]
    return groups.agg(mean="mean", deviation=lambda own: own.std(ddof=1) if len(own) > 1 else math.nan, seeds="size").reset_index()


def difference(rows: pd.DataFrame, base: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The values of `metric` minus those of the base loss, of equal mechanisms, set and seed."""
    keys = ["set", "student", "teacher", "seed"]
    both = rows.merge(base[[*keys, metric]], on=keys, suffixes=("", "_base"))
    return both.assign(**{metric: both[metric] - both[f"{metric}_base"]})


def draw_maps(drawn: pd.DataFrame, dataset: str, title: str, metric: str, diverging: bool = False) -> Figure:
    """A panel for each set, all of one scale."""
    sets = in_menu_order(dataset, drawn["set"])
    students, teachers = (in_menu_order(dataset, drawn[side]) for side in ("student", "teacher"))
    wide, high = max(LEAST, CELL * len(teachers)), max(LEAST * 0.8, CELL * len(students))
    columns = max(1, min(len(sets), int((PAGE - 0.4) // (wide + 0.45))))
    lines = math.ceil(len(sets) / columns)
    figure = Figure(figsize=(max(3.4, 0.6 + columns * (wide + 0.45)), 0.85 + lines * (high + TITLE + 0.2)), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False)
    most = METRICS[metric][2]
    limit = max(float(drawn["mean"].abs().max()), 1e-9)
    low, top = (-limit, limit) if diverging else (0.0, most if most is not None else limit)
    images = []
    for axes, own in zip(panels.flat, sets):
        images.append(draw_panel(axes, drawn[drawn["set"] == own], students, teachers, low, top, diverging))
        axes.set_title(own, fontsize=6.5)
    for axes in panels.flat[len(sets) :]:
        axes.set_axis_off()
    for line in panels:
        line[0].set_ylabel("student's data", fontsize=6)
    for place, axes in enumerate(panels.flat[: len(sets)]):
        if place + columns >= len(sets):
            axes.set_xlabel("teacher's data", fontsize=6)
    seeds = sorted(set(drawn["seeds"].tolist()))
    n = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    spread = "; below: standard deviation over seeds" if seeds[-1] > 1 else ""
    figure.suptitle(f"{dataset}, test images of counterfactual sets\n{title}, n = {n}{spread}", fontsize=7)
    figure.colorbar(images[0], ax=list(panels.flat), fraction=0.03, aspect=40, pad=0.01)
    return figure


def draw_panel(
    axes: Axes, drawn: pd.DataFrame, students: list[str], teachers: list[str], low: float, top: float, diverging: bool
) -> AxesImage:
    """One map with its numbers."""
    means, deviations = (
        drawn.pivot_table(key, "student", "teacher", dropna=False).reindex(index=students, columns=teachers)
        for key in ("mean", "deviation")
    )
    image = axes.imshow(means.to_numpy(float), cmap=DIFFERENCES if diverging else MAP, vmin=low, vmax=top, aspect="auto")
    axes.set_facecolor("0.85")
    axes.set_xticks(range(len(teachers)), teachers, fontsize=5, rotation=90 if max(map(len, teachers)) > 4 else 0)
    axes.set_yticks(range(len(students)), students, fontsize=5)
    axes.tick_params(length=0, pad=1.5)
    for (row, column), value in np.ndenumerate(means.to_numpy(float)):
        mean = float(value)
        if math.isnan(mean):
            continue
        share = (mean - low) / (top - low)
        dark = abs(share - 0.5) > 0.35 if diverging else share < 0.6
        deviation = deviations.to_numpy(float)[row, column]
        below = "" if math.isnan(deviation) else f"\n±{number(float(deviation))}"
        sign = "+" if diverging and mean > 0 else ""
        axes.text(
            column,
            row,
            f"{sign}{number(mean)}{below}",
            ha="center",
            va="center",
            fontsize=4.8,
            color="white" if dark else "black",
            linespacing=0.95,
        )
    for side in axes.spines.values():
        side.set_visible(False)
    return image


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 0.95 else f"{value:.2f}"
