"""Layers under corruptions: probe accuracy, or saturation, by layer or level for every composition, systems side by side.

Solid: a probe that was fitted on clean images, so what of the clean code is still there; dashed: one fitted on the composition's own images, so what could be read
there at all; dotted: the same of the network before training.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from data.compositions import abbreviate, n_corruptions
from plots.layered import LEVEL, Layered, by_dataset, describe_seeds, layered, long_table, mark_border, name_layers
from plots.layers import PROBES, SATURATION
from plots.points import chance_of
from plots.results import Results
from plots.style import PAGE, PALETTE, save, styled

COLUMNS = 3
MANY = 10  # conditions: of more, a line is the mean over those of one number of corruptions
HEIGHT = 2.3  # inches
COLOURS = ["#000000", *(colour for colour in PALETTE if colour not in ("#999999", "#000000"))]


def draw_probes(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set and pooling a panel for each system. Returns the paths of CSV, PDF and PNG. InputError where nothing was probed."""
    return draw(results, folder, "probe_profiles", PROBES, "probes", "probe accuracy (%)")


def draw_saturation(results: Results, folder: Path) -> list[Path]:
    """The same of saturation."""
    return draw(results, folder, "saturation_profiles", SATURATION, "saturation", "saturation (%)")


def draw(results: Results, folder: Path, name: str, pattern: str, analysis: str, title: str) -> list[Path]:
    paths = []
    for dataset, found in by_dataset(layered(results, pattern, name, analysis)):
        for metric in dict.fromkeys(metric for own in found for metric in own.metrics(pattern) if not metric.endswith("_pixel")):
            able = [own for own in found if own.conditions(metric)]
            if not able:
                continue
            with styled():
                figure = draw_systems(able, metric, title)
                figure.suptitle(f"{dataset}, test images, {metric.replace('_', ' ')}: mean over seeds, {describe_seeds(able)}", fontsize=7)
                drawn = long_table(able, lambda own, metric=metric: describe(own, metric))  # type: ignore[misc]
                paths += save(figure, drawn, folder, f"{name}-{dataset}-{metric.rpartition('_')[2]}")
    return paths


def variants(metric: str) -> dict[str, tuple[str, Any]]:
    """What is drawn beside a metric: by its kind, the metric and the style of its lines."""
    found: dict[str, tuple[str, Any]] = {"clean": (metric, "-")}
    if match := re.fullmatch(r"probe_accuracy_(\w+)", metric):
        found |= {"own": (f"probe_accuracy_own_{match[1]}", (0, (3, 1.5))), "untrained": (f"probe_accuracy_untrained_{match[1]}", ":")}
    return found


def name_of(cells: dict[str, str]) -> str:
    """A condition on a legend."""
    return abbreviate(cells["composition"]) if cells["composition"] else cells["split"].partition("/")[2]


def describe(own: Layered, metric: str) -> list[dict[str, Any]]:
    """The values by kind, condition and layer; of many conditions, by number of corruptions."""
    rows = []
    for kind, (name, _) in variants(metric).items():
        for cells in own.conditions(name):
            rows += [
                {"kind": kind, "condition": name_of(cells), "composition": cells["composition"], "layer": layer, "value": value}
                for layer, value in own.values(name, **cells).items()
                if "@" not in str(layer) and str(layer).startswith(LEVEL) == own.at_levels(name)
            ]
    table = pd.DataFrame(rows)
    if table.empty or table["condition"].nunique() <= MANY:
        return rows
    number = [n_corruptions(tuple(composition.split("-"))) for composition in table["composition"]]
    means = table.assign(condition=[f"{n} corruption{'' if n == 1 else 's'}" for n in number], number=number, composition="")
    grouped = means.groupby(["kind", "number", "condition", "composition", "layer"], sort=False)["value"].mean().reset_index()
    return grouped.sort_values(["number"], kind="stable").drop(columns="number").to_dict("records")  # type: ignore[return-value]


def draw_systems(found: Sequence[Layered], metric: str, title: str) -> Figure:
    columns = min(COLUMNS, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(PAGE if columns > 1 else 3.6, HEIGHT * lines + 0.6), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    tables = [pd.DataFrame(describe(own, metric)) for own in found]
    conditions = list(dict.fromkeys(condition for table in tables for condition in table["condition"]))
    if len(conditions) > len(COLOURS):
        colours = {
            name: to_hex(matplotlib.colormaps["viridis"](place)) for name, place in zip(conditions, np.linspace(0, 0.95, len(conditions)))
        }
    else:
        colours = dict(zip(conditions, COLOURS))
    for axes, own, table in zip(panels.flat, found, tables):
        draw_panel(axes, own, table, metric, colours)
    for axes in panels.flat[len(found) :]:
        axes.set_axis_off()
    for line in panels:
        line[0].set_ylabel(title)
    handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
    words = {"clean": "fitted on clean images", "own": "fitted on its own", "untrained": "untrained network (mean)"}
    kinds = [kind for kind in variants(metric) if any((table["kind"] == kind).any() for table in tables)]
    if len(kinds) > 1:
        handles += [Line2D([], [], color="0.3", linestyle=variants(metric)[kind][1], label=words[kind]) for kind in kinds]
    figure.legend(handles=handles, loc="outside lower center", ncols=7 if columns > 2 else 4 if columns > 1 else 3)
    return figure


def draw_panel(axes: Axes, own: Layered, table: pd.DataFrame, metric: str, colours: dict[str, str]) -> None:
    layers = list(dict.fromkeys(table["layer"]))
    for kind, (_, style) in variants(metric).items():
        rows = table[table["kind"] == kind]
        if kind == "untrained" and len(rows):
            mean = rows.groupby("layer", sort=False)["value"].mean()
            axes.plot([layers.index(layer) for layer in mean.index], 100 * mean, color="0.5", linestyle=style, linewidth=1.2)
            continue
        for condition, lines in rows.groupby("condition", sort=False):
            x = [layers.index(layer) for layer in lines["layer"]]
            axes.plot(
                x,
                100 * lines["value"],
                color=colours[str(condition)],
                linestyle=style,
                linewidth=0.9,
                marker="o" if style == "-" else "",
                markersize=1.8,
            )
    if metric.startswith("probe"):
        axes.axhline(chance_of(own.dataset), color="0.6", linestyle=(0, (4, 3)), linewidth=0.6, zorder=0)
    axes.set_ylim(0, 100)
    mark_border(axes, layers, own)
    name_layers(axes, layers)
    axes.set_xlabel("level" if layers and layers[0].startswith("level") else "layer")
    axes.set_title(f"{own.system}: {own.model}", fontsize=6.5)
