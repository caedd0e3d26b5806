"""How students come to use what they use: tests on the first images of every counterfactual set against the iteration."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.signal import savgol_filter

from plots.mechanisms import METRICS, in_file_name, in_menu_order, points, required
from plots.results import Results
from plots.style import PAGE, PALETTE, plural, save, styled

PANEL = 1.35  # inches
COLUMNS = 4
# Savitzky and Golay (1964): the window in tests, and the order.
WINDOW, ORDER = 5, 3
COLOURS = [colour for colour in PALETTE if colour != "#999999"]


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set, loss and mechanism of the teacher (and for teachers and labels alone) a figure for each metric, with a panel for each set.

    A line is the mean over seeds of the students of one mechanism, its band one standard deviation (n - 1) to both sides; curves of at least WINDOW tests are
    smoothed by a Savitzky-Golay filter. Returns the paths of CSVs (as measured), PDFs and PNGs. InputError where there is no finished run.
    """
    rows = points(results)
    rows = required("mechanism_curves", results, rows[~rows["exact"].astype(bool)])
    paths = []
    for (dataset, label, teacher), own in rows.groupby(["dataset", "label", "teacher"], sort=False):
        for metric in METRICS:
            if own[metric].isna().all():
                continue
            drawn = aggregate(own, metric)
            by = f", taught by {teacher}" if teacher else ""
            with styled():
                figure = draw_curves(drawn, str(dataset), f"{label}{by}", metric)
                stem = f"mechanism_curves-{dataset}-{in_file_name(label)}{f'-{teacher}' if teacher else ''}-{metric}"
                paths += save(figure, drawn, folder, stem)
    return paths


def aggregate(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean, standard deviation (NaN for one) and number of seeds at every iteration; in the unit that is drawn."""
    scaled = rows.assign(value=rows[metric].astype(float) * METRICS[metric][1])
    groups = scaled.groupby(["set", "student", "iteration"], sort=False)["value"]
    return groups.agg(mean="mean", deviation=lambda own: own.std(ddof=1) if len(own) > 1 else math.nan, seeds="size").reset_index()


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smoothed values, as they are where there are fewer than a window."""
    return savgol_filter(values, WINDOW, ORDER) if len(values) >= WINDOW else values


def draw_curves(drawn: pd.DataFrame, dataset: str, title: str, metric: str) -> Figure:
    sets, students = in_menu_order(dataset, drawn["set"]), in_menu_order(dataset, drawn["student"])
    columns = min(COLUMNS, len(sets))
    lines = math.ceil(len(sets) / columns)
    figure = Figure(figsize=(PAGE if columns > 2 else 3.6, 0.9 + lines * PANEL), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(students)}
    for axes, own in zip(panels.flat, sets):
        draw_panel(axes, drawn[drawn["set"] == own], colours)
        axes.set_title(own, fontsize=6.5)
    for axes in panels.flat[len(sets) :]:
        axes.set_axis_off()
    if METRICS[metric][2] is not None:
        panels[0, 0].set_ylim(0, 100)
    else:
        panels[0, 0].set_ylim(bottom=0)
    for axes in panels[-1]:
        axes.set_xlabel("iteration")
    figure.supylabel(METRICS[metric][0], fontsize=7)
    handles = [Line2D([], [], color=colour, label=f"student's data {name}") for name, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)))
    seeds = sorted(set(drawn["seeds"].tolist()))
    n = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    band = ", band: one standard deviation" if seeds[-1] > 1 else ""
    smoothed = ", smoothed over 5 tests" if drawn.groupby(["set", "student"]).size().max() >= WINDOW else ""
    figure.suptitle(f"{dataset}, first test images of counterfactual sets: {title}\nn = {n}{band}{smoothed}", fontsize=7)
    return figure


def draw_panel(axes: Axes, drawn: pd.DataFrame, colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        own = drawn[drawn["student"] == name].sort_values("iteration")
        if own.empty:
            continue
        x, mean, deviation = (own[key].to_numpy(float) for key in ("iteration", "mean", "deviation"))
        middle, half = smooth(mean), smooth(np.nan_to_num(deviation))
        axes.plot(x, middle, color=colour, marker="o" if len(x) < WINDOW else "", markersize=2)
        axes.fill_between(x, middle - half, middle + half, color=colour, alpha=0.2, linewidth=0)
