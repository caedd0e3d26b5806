"""The n-cut of networks beside those of their shuffled weights, as violins; beside their accuracy; and along the training."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plots.cut_values import NCUT, Cut, accuracies, cut_systems, cuts, named, pruned_from
from plots.layered import Layered, by_dataset, describe_seeds, layered, long_table
from plots.results import Results
from plots.style import PAGE, PALETTE, lighter, save, styled

COLOURS = dict(
    zip(
        ("layer", "layer_nonzero", "layer_nonzero_distribution", "layer_all_distribution"), (PALETTE[2], PALETTE[1], PALETTE[4], PALETTE[3])
    )
)
SYSTEMS = (PALETTE[5], PALETTE[8], PALETTE[4], PALETTE[3], PALETTE[1], PALETTE[2], PALETTE[6], PALETTE[7], PALETTE[10], PALETTE[11])
# A network's n-cuts are compared with shuffles only where there are some.
WIDTH = 0.8


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set, with a panel for each system, the n-cuts of shuffles as violins and those of the networks as lines across them: a column for each run and part.

    Returns the paths of CSV, PDF and PNG. InputError where nothing was clustered.
    """
    paths = []
    for dataset, found in by_dataset(cut_systems(results, "cuts")):
        panels = [(own, kept) for own in found if (kept := list(cuts(own)))]
        if not panels:
            continue
        with styled():
            columns = min(2, len(panels))
            lines = -(-len(panels) // columns)
            figure = Figure(figsize=(PAGE, 2.0 * lines + 0.6), layout="constrained")
            grid = figure.subplots(lines, columns, squeeze=False)
            for axes, (own, kept) in zip(grid.flat, panels):
                draw_panel(axes, own, kept)
            for axes in grid.flat[len(panels) :]:
                axes.set_axis_off()
            used = [shuffle for shuffle in COLOURS if any(cut.shuffle == shuffle for _, kept in panels for cut in kept)]
            handles: list[Any] = [Patch(color=lighter(COLOURS[name], 0.4), label=f"shuffled: {name.replace('_', ' ')}") for name in used]
            handles.append(Line2D([], [], color="black", linewidth=1.5, label="the network"))
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
            figure.suptitle(f"{dataset}: normalised cut of networks and of their shuffled weights ({describe_seeds(found)})", fontsize=7)
            paths += save(figure, pd.DataFrame([row for _, kept in panels for row in map(describe, kept)]), folder, f"cuts-{dataset}")
    return paths


def describe(cut: Cut) -> dict[str, Any]:
    """The values of a column."""
    return {
        "dataset": cut.dataset, "system": cut.system, "run": cut.run, "part": cut.part, "weights": cut.weights, "shuffle": cut.shuffle, "ncut": cut.ncut,
        "shuffles": len(cut.shuffled), **cut.values,
    }  # fmt: skip


def draw_panel(axes: Axes, own: Layered, kept: list[Cut]) -> None:
    places = list(dict.fromkeys((cut.weights, cut.run, cut.part) for cut in kept))
    kinds = list(dict.fromkeys(cut.shuffle for cut in kept))
    for cut in kept:
        middle = places.index((cut.weights, cut.run, cut.part))
        width = WIDTH / len(kinds)
        place = middle + (kinds.index(cut.shuffle) - (len(kinds) - 1) / 2) * width
        if np.ptp(cut.shuffled) > 0:
            for body in axes.violinplot([cut.shuffled], [place], widths=width, showextrema=False)["bodies"]:  # type: ignore[attr-defined]
                body.set(facecolor=lighter(COLOURS[cut.shuffle], 0.4), edgecolor="none", alpha=1)
        axes.hlines(cut.ncut, place - width / 2, place + width / 2, color="black", linewidth=1.5)
    several = len({weights for weights, _, _ in places}) > 1
    seeds = {cut.run: cut.seed for cut in kept}
    axes.set_xticks(
        range(len(places)),
        [part or (f"{weights}\n{seeds[run]}" if several else str(seeds[run])) for weights, run, part in places],
        fontsize=5.5,
        rotation=30 if any(part for *_, part in places) else 0,
    )
    axes.set(xlabel="module or backbone" if any(part for *_, part in places) else "seed", ylabel="n-cut")
    axes.set_title(named(own), fontsize=6.5)


def draw_accuracy(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set the test accuracy of every network beside its n-cut, and beside its z against shuffles of the whole layer."""
    paths = []
    for dataset, found in by_dataset(cut_systems(results, "cut_accuracy")):
        rows = [row for own in found for row in points(own)]
        if not rows:
            continue
        with styled():
            figure = Figure(figsize=(PAGE, 2.6 + 0.1 * len(found)), layout="constrained")
            panels = figure.subplots(1, 2)
            for own, colour in zip(found, SYSTEMS * len(found)):
                for weights, marker in (("final", "o"), ("unpruned", "^"), ("untrained", "x")):
                    mine = [row for row in rows if row["system"] == own.system and row["weights"] == weights]
                    for axes, key in zip(panels, ("ncut", "z")):
                        # An open mark: as small an n-cut as no shuffle has.
                        for row in mine:
                            face = "none" if row["smallest"] and marker != "x" else colour
                            axes.scatter([row[key]], [100 * row["accuracy"]], marker=marker, s=14, facecolors=face if marker != "x" else colour, edgecolors=colour if marker != "x" else None, linewidths=0.8)  # fmt: skip
                panels[0].scatter([], [], color=colour, s=14, label=named(own))
            for axes, title in zip(panels, ("n-cut", "z against shuffled layers")):
                axes.set(xlabel=title, ylabel="accuracy on clean images (%)")
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
            before = "; triangles: before pruning, on validation images" if any(row["weights"] == "unpruned" for row in rows) else ""
            figure.suptitle(f"{dataset}, test images (open marks: no shuffle has as small an n-cut{before})", fontsize=7)
            paths += save(figure, pd.DataFrame(rows), folder, f"cut_accuracy-{dataset}")
    return paths


def points(own: Layered) -> list[dict[str, Any]]:
    """A row for each network whose accuracy is known; those before a pruning have the accuracy on validation images that they then had."""
    rows = []
    for cut in cuts(own):
        if cut.shuffle != "layer" or cut.part or cut.weights == "untrained":
            continue
        accuracy = accuracies(own, cut.run, cut.weights).get("test_accuracy" if cut.weights == "final" else "valid_accuracy")
        if accuracy is not None:
            rows.append(describe(cut) | {"accuracy": accuracy, "smallest": cut.smallest})
    return rows


def draw_curves(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set the n-cut along the training, and the validation accuracy beside it; a dashed line is where the pruning begins."""
    paths = []
    followed = [
        own
        for own in layered(
            results, NCUT, "cut_curves", "clusterability", "analyses: {clusterability: {along: 1}} in the entry, before the training"
        )
        if len(curve(own))
    ]
    for dataset, found in by_dataset(followed):
        with styled():
            figure = Figure(figsize=(PAGE, 2.4 + 0.1 * len(found)), layout="constrained")
            left, right = figure.subplots(1, 2)
            for own, colour in zip(found, SYSTEMS * len(found)):
                rows = own.rows[own.rows["epoch"].notna()]
                for axes, metric, factor in ((left, "ncut", 1), (right, "accuracy", 100)):
                    wanted = rows[(rows["metric"] == metric) & ((rows["split"] == "valid") | (metric == "ncut"))]
                    for _, one in wanted.groupby("run"):
                        axes.plot(one["epoch"].astype(int), factor * one["value"], color=lighter(colour, 0.6), linewidth=0.5)
                    means = wanted.groupby("epoch")["value"].mean()
                    axes.plot(means.index.astype(int), factor * means, color=colour, marker="o", markersize=2, label=named(own))
                    if (start := pruned_from(rows)) is not None:
                        axes.axvline(start + 0.5, color="0.4", linestyle=(0, (4, 2)), linewidth=0.8)
            left.set(xlabel="epoch", ylabel="n-cut")
            right.set(xlabel="epoch", ylabel="accuracy on validation images (%)")
            figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
            figure.suptitle(f"{dataset}: dashed, where the pruning begins ({describe_seeds(found)})", fontsize=7)
            paths += save(figure, long_table(found, lambda own: curve(own)), folder, f"cut_curves-{dataset}")
    return paths


def curve(own: Layered) -> list[dict[str, Any]]:
    """The n-cuts along the training."""
    rows = own.rows[own.rows["epoch"].notna() & (own.rows["metric"] == "ncut")]
    return [{"run": row["run"], "epoch": int(row["epoch"]), "ncut": row["value"]} for row in rows.to_dict("records")]
