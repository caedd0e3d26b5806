"""The clusters of a network's weights, layer by layer: a disc for each cluster in a layer, as large as its units, and lines as thick as the mean weight between two."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from plots.cut_values import NCUT, named, short_layer
from plots.layered import layered
from plots.results import Results
from plots.style import COLUMN, PALETTE, save, styled

LARGEST = 260.0  # points^2 of the disc of a whole layer
THICKEST = 3.0  # points


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws the final weights of each run. Returns the paths of CSV, PDF and PNG. InputError where nothing was clustered."""
    paths = []
    for own in layered(results, NCUT, "cluster_graph", "clusterability"):
        final = own.rows[own.rows["epoch"].isna()]
        for run, rows in final.groupby("run", sort=False):
            units = found(rows, "cluster_units")
            weights = found(rows, "cluster_weight")
            if not units:
                continue
            with styled():
                figure = Figure(figsize=(COLUMN * 1.3, 2.4), layout="constrained")
                draw_graph(figure.subplots(), units, weights)
                cut = rows[(rows["metric"] == "ncut") & (rows["layer"] == "")]["value"].iloc[0]
                figure.suptitle(f"{own.dataset}, {named(own)}, seed {rows['seed'].iloc[0]}: n-cut {cut:.3f}", fontsize=6.5)
                drawn = [
                    {"from": name.partition(">")[0], "to": name.partition(">")[2], "mean_weight": value} for name, value in weights.items()
                ]
                paths += save(figure, pd.DataFrame(drawn), folder, f"cluster_graph-{own.dataset}-{run}")
    return paths


def found(rows: pd.DataFrame, metric: str) -> dict[str, float]:
    """The values of the network itself (not of modules) by name."""
    own = rows[(rows["metric"] == metric) & ~rows["layer"].str.contains(":", regex=False)]
    return {str(layer): float(value) for layer, value in zip(own["layer"], own["value"])}


def draw_graph(axes: Axes, units: dict[str, float], weights: dict[str, float]) -> None:
    layers = layers_in_order(units, weights)
    labels = sorted({name.rpartition("/")[2] for name in units}, key=int)
    places: dict[str, tuple[Any, Any]] = {}
    for name in units:
        layer, _, label = name.rpartition("/")
        places[name] = (layers.index(layer), len(labels) - 1 - labels.index(label))
    # In every pair of layers the thickest line is the largest mean weight.
    largest: dict[tuple[str, str], float] = {}
    for name, value in weights.items():
        one, _, other = name.partition(">")
        key = (one.rpartition("/")[0], other.rpartition("/")[0])
        largest[key] = max(largest.get(key, 0.0), value)
    for name, value in weights.items():
        one, _, other = name.partition(">")
        share = value / (largest[one.rpartition("/")[0], other.rpartition("/")[0]] or 1.0)
        axes.plot(
            *zip(places[one], places[other]),
            color="0.4",
            alpha=0.2 + 0.8 * share,
            linewidth=THICKEST * share,
            zorder=1,
            solid_capstyle="round",
        )
    totals = {layer: sum(value for name, value in units.items() if name.rpartition("/")[0] == layer) for layer in layers}
    for name, (x, y) in places.items():
        layer, _, label = name.rpartition("/")
        colour = PALETTE[1 + int(label) % (len(PALETTE) - 1)]
        axes.scatter(
            [x], [y], s=max(4.0, LARGEST * units[name] / totals[layer]), color=colour, edgecolors="white", linewidths=0.5, zorder=2
        )
        axes.annotate(f"{units[name]:.0f}", (x, y), xytext=(0, 7), textcoords="offset points", ha="center", fontsize=4.5, zorder=3)
    axes.set_xticks(range(len(layers)), [short_layer(layer) for layer in layers], fontsize=6)
    axes.set_yticks(range(len(labels)), [f"cluster {label}" for label in reversed(labels)], fontsize=6)
    axes.set(xlabel="layer", xlim=(-0.5, len(layers) - 0.5), ylim=(-0.6, len(labels) - 0.3))


def layers_in_order(units: dict[str, float], weights: dict[str, float]) -> list[str]:
    """The layers, each behind those that lead to it."""
    names = list(dict.fromkeys(name.rpartition("/")[0] for name in units))
    before: dict[str, set[str]] = {name: set() for name in names}
    for name in weights:
        one, _, other = name.partition(">")
        before[other.rpartition("/")[0]].add(one.rpartition("/")[0])
    ordered: list[str] = []
    while len(ordered) < len(names):
        free = [name for name in names if name not in ordered and before[name] <= set(ordered)]
        ordered += free or [name for name in names if name not in ordered]
    return ordered
