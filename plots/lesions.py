"""Lesions: accuracy without the units of a cluster beside random groups of the same size; without two; and which clusters depend on which."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import NullLocator

from analysis.lesion_tests import IMPORTANT, KINDS
from plots.cut_values import named, short_layer
from plots.layered import Layered, layered
from plots.results import Results
from plots.style import COLUMN, PAGE, PALETTE, save, styled

CLEAN = "Identity"
KIND_COLOURS = {1: "0.4", 2: PALETTE[6], 3: PALETTE[8], 4: PALETTE[4], 5: PALETTE[2], 6: PALETTE[1], 7: PALETTE[3], 8: "black"}
EDGES = {
    1: ("tied", PALETTE[5], "<->"),
    2: ("the later one matters only with the earlier", PALETTE[8], "->"),
    3: ("the earlier one matters only with the later", PALETTE[4], "<-"),
}


def of_run(own: Layered, pattern: str) -> dict[str, pd.DataFrame]:
    """The rows on clean images, or on the first condition there is, of metrics that start so, by run."""
    rows = own.rows[own.rows["metric"].str.startswith(pattern)]
    if CLEAN in set(rows["composition"]):
        rows = rows[rows["composition"].isin([CLEAN])]
    return {str(run): group for run, group in rows.groupby("run", sort=False)}


def values(rows: pd.DataFrame, metric: str) -> dict[str, float]:
    """The values of a metric by layer."""
    own = rows[rows["metric"] == metric]
    return {str(layer): float(value) for layer, value in zip(own["layer"], own["value"])}


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each run, by cluster and layer, the change in accuracy of its lesion (a diamond, coloured by kind) beside those of random groups (a swarm).

    Returns the paths of CSV, PDF and PNG. InputError where nothing was lesioned.
    """
    paths = []
    for own in layered(results, "lesion_accuracy", "lesions", "lesions"):
        for run, rows in of_run(own, "lesion_").items():
            groups = list(values(rows, "lesion_accuracy"))
            intact = values(rows, "lesion_intact")[""]
            chance = values(rows, "lesion_random")
            with styled():
                figure = Figure(figsize=(max(COLUMN, min(PAGE, 0.28 * len(groups) + 1.4)), 2.8), layout="constrained")
                axes = figure.subplots()
                draw_swarm(axes, rows, groups, intact, chance)
                figure.suptitle(f"{own.dataset}, {named(own)}, seed {rows['seed'].iloc[0]}: intact {100 * intact:.1f} %", fontsize=7)
                paths += save(figure, pd.DataFrame(described(rows, groups)), folder, f"lesions-{own.dataset}-{run}")
    return paths


def described(rows: pd.DataFrame, groups: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each cluster in a layer."""
    by_metric = {
        metric: values(rows, f"lesion_{metric}")
        for metric in ("accuracy", "diff", "p", "z", "kind", "random_mean", "random_std", "units", "proportion")
    }
    return [{"group": group} | {metric: own.get(group) for metric, own in by_metric.items()} for group in groups]


def draw_swarm(axes: Axes, rows: pd.DataFrame, groups: Sequence[str], intact: float, chance: dict[str, float]) -> None:
    draws = np.random.default_rng(0)
    kinds, accuracy = values(rows, "lesion_kind"), values(rows, "lesion_accuracy")
    by_group: dict[str, list[float]] = {group: [] for group in groups}
    for name, value in chance.items():
        by_group[name.rpartition("#")[0]].append(value)
    for place, group in enumerate(groups):
        own = np.array(by_group[group])
        axes.scatter(place + draws.uniform(-0.25, 0.25, len(own)), 100 * (own - intact), s=1.5, color="0.75", linewidths=0)
        axes.scatter([place], [100 * (accuracy[group] - intact)], marker="D", s=12, color=KIND_COLOURS[int(kinds[group])], zorder=3)
    axes.axhline(0, color="0.6", linewidth=0.6, zorder=0)
    # Most lesions take a point or so, a few nearly all: logarithmic beyond a point.
    axes.set_yscale("symlog", linthresh=1, linscale=0.5)
    changes = [100 * (value - intact) for value in (*chance.values(), *accuracy.values())]
    bottom, top = min(-1.0, 1.7 * min(changes)), max(1.0, 1.7 * max(changes))
    axes.set_ylim(bottom, top)
    ticks = [tick for tick in (-100, -30, -10, -3, -1, 0, 1, 3, 10) if bottom <= tick <= top]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(groups)), [short_layer(group) for group in groups], rotation=90, fontsize=5.5)
    axes.set(xlabel="layer / cluster", ylabel="change in accuracy (points)")
    used = sorted({int(kind) for kind in kinds.values()})
    handles = [Line2D([], [], marker="D", linestyle="", markersize=3, color=KIND_COLOURS[kind], label=KINDS[kind]) for kind in used]
    handles.append(Line2D([], [], marker="o", linestyle="", markersize=2, color="0.75", label="random units"))
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.legend(handles=handles, fontsize=5.5, loc="outside lower center", ncols=len(handles))


def draw_joint(results: Results, folder: Path) -> list[Path]:
    """Draws for each run the change in accuracy of every two clusters together, what it is more than the sum of both, and of each without another one (row without column)."""
    paths = []
    for own in layered(
        results, "joint_diff", "joint_lesions", "lesions", "ask for pairs: python -m analysis lesions CONFIG --pair_labelings=50"
    ):
        singles = of_run(own, "lesion_")
        for run, rows in of_run(own, "joint_").items():
            conditional = of_run(own, "conditional_")[run]
            groups = list(values(singles[run], "lesion_accuracy"))
            with styled():
                figure = Figure(figsize=(PAGE, 2.9), layout="constrained")
                panels = figure.subplots(1, 3)
                tables = {
                    "both (points)": matrix(values(rows, "joint_diff"), groups, "&", True),
                    "both less the sum of each (points)": matrix(values(rows, "joint_interaction"), groups, "&", True),
                    "row where column is gone (points)": matrix(values(conditional, "conditional_diff"), groups, "|", False),
                }
                for axes, (title, table) in zip(panels, tables.items()):
                    limit = max(1.0, float(np.nanmax(np.abs(100 * table))))
                    image = axes.imshow(100 * table, cmap="RdBu", vmin=-limit, vmax=limit)
                    figure.colorbar(image, ax=axes, shrink=0.6)
                    for side in (axes.set_xticks, axes.set_yticks):
                        side(range(len(groups)), [short_layer(group) for group in groups], fontsize=4.5)
                    axes.tick_params(axis="x", rotation=90)
                    axes.set_title(title, fontsize=6.5)
                figure.suptitle(f"{own.dataset}, {named(own)}, seed {rows['seed'].iloc[0]}: change in accuracy", fontsize=7)
                drawn = [
                    {"matrix": title, "row": groups[a], "column": groups[b], "value": table[a, b]}
                    for title, table in tables.items() for a in range(len(groups)) for b in range(len(groups)) if not np.isnan(table[a, b])
                ]  # fmt: skip
                paths += save(figure, pd.DataFrame(drawn), folder, f"joint_lesions-{own.dataset}-{run}")
    return paths


def matrix(found: dict[str, float], groups: Sequence[str], separator: str, symmetric: bool) -> np.ndarray:
    """Values of pairs as a matrix (groups, groups)."""
    table = np.full((len(groups), len(groups)), np.nan)
    places = {group: place for place, group in enumerate(groups)}
    for name, value in found.items():
        one, _, other = name.partition(separator)
        table[places[one], places[other]] = value
        if symmetric:
            table[places[other], places[one]] = value
    return table


def draw_dependencies(results: Results, folder: Path) -> list[Path]:
    """Draws for each run the important clusters, a column for each layer, and how those in different layers depend on each other; those that do not have no edge."""
    paths = []
    for own in layered(
        results, "dependencies_1", "dependencies", "lesions", "ask for pairs: python -m analysis lesions CONFIG --pair_labelings=50"
    ):
        singles = of_run(own, "lesion_")
        for run, rows in of_run(own, "dependenc").items():
            kinds = values(singles[run], "lesion_kind")
            units, change = values(singles[run], "lesion_units"), values(singles[run], "lesion_diff")
            important = [group for group, kind in kinds.items() if kind == IMPORTANT]
            edges = values(rows, "dependency")
            with styled():
                figure = Figure(figsize=(COLUMN * 1.4, 2.6), layout="constrained")
                axes = figure.subplots()
                draw_graph(axes, list(kinds), important, units, change, edges)
                counts = ", ".join(
                    f"{name} {int(values(rows, f'dependencies_{kind}')[''])}" for kind, name in ((1, "I"), (2, "II"), (3, "III"), (4, "IV"))
                )
                figure.suptitle(f"{own.dataset}, {named(own)}, seed {rows['seed'].iloc[0]}; types {counts}", fontsize=6.5)
                drawn = [{"edge": name, "type": int(kind)} for name, kind in edges.items()]
                paths += save(figure, pd.DataFrame(drawn, columns=["edge", "type"]), folder, f"dependencies-{own.dataset}-{run}")
    return paths


def draw_graph(
    axes: Axes, groups: Sequence[str], important: Sequence[str], units: dict[str, float], change: dict[str, float], edges: dict[str, float]
) -> None:
    layers = list(dict.fromkeys(group.rpartition("/")[0] for group in groups))
    places: dict[str, tuple[float, float]] = {}
    for column, layer in enumerate(layers):
        own = [group for group in important if group.rpartition("/")[0] == layer]
        for number, group in enumerate(own):
            # Shifted by column, so that edges do not lie on each other.
            places[group] = (column, (number + 1) / (len(own) + 1) + 0.04 * (column % 2))
    for name, kind in edges.items():
        if int(kind) not in EDGES:
            continue
        one, _, other = name.partition(">")
        _, colour, style = EDGES[int(kind)]
        axes.add_patch(FancyArrowPatch(places[one], places[other], arrowstyle=style, mutation_scale=6, color=colour, linewidth=0.7, shrinkA=6, shrinkB=6, connectionstyle="arc3,rad=0.08"))  # fmt: skip
    for group, (x, y) in places.items():
        axes.scatter([x], [y], s=20 + units[group], color="white", edgecolors="black", linewidths=0.7, zorder=3)
        axes.annotate(group.rpartition("/")[2], (x, y), ha="center", va="center", fontsize=5, zorder=4)
        axes.annotate(
            f"{100 * change[group]:.1f}",
            (x, y),
            xytext=(0, -10),
            textcoords="offset points",
            ha="center",
            fontsize=4.5,
            color="0.4",
            zorder=4,
        )
    axes.set(xlim=(-0.5, len(layers) - 0.5), ylim=(0, 1.1), yticks=[])
    axes.set_xticks(range(len(layers)), [f"layer {short_layer(layer)}" for layer in layers], fontsize=6)
    axes.spines["left"].set_visible(False)
    axes.legend(handles=[Line2D([], [], color=colour, label=label) for label, colour, _ in EDGES.values()], fontsize=4.5, loc="upper center", ncols=1, bbox_to_anchor=(0.5, -0.1))  # fmt: skip
