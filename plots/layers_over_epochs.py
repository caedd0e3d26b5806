"""How saturation changes along a training: a line for each epoch, by layer."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plots.layered import Layered, by_dataset, describe_seeds, layered, long_table, mark_border, name_layers
from plots.results import Results
from plots.style import PAGE, save, styled

PANEL = 1.7  # inches
SHOWN = 8  # epochs in the legend
SPLITS = ("train", "valid")
METRIC = r"saturation_[\d.]+"


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set, with a row for each system that was followed along its training (saturation: {along: n}): training images (left), validation images.

    Of the first delta, mean over seeds. Returns the paths of CSV, PDF and PNG. InputError where no run was followed.
    """
    table = results.table
    followed = table[table["metric"] == "layers_every"]
    paths = []
    for dataset, found in by_dataset(
        layered(
            results,
            "layers_every",
            "layers_over_epochs",
            "saturation",
            "analyses: {saturation: {along: 1}} in the entry, before the training",
        )
    ):
        with styled():
            figure = Figure(figsize=(PAGE, PANEL * len(found) + 0.7), layout="constrained")
            panels = figure.subplots(len(found), len(SPLITS), squeeze=False, sharey=True)
            epochs = sorted({int(epoch) for own in found for epoch in own.rows["epoch"].dropna()})
            colours = {
                epoch: to_hex(matplotlib.colormaps["viridis"](place)) for epoch, place in zip(epochs, np.linspace(0.9, 0.05, len(epochs)))
            }
            for line, own in zip(panels, found):
                for axes, split in zip(line, SPLITS):
                    draw_panel(axes, own, split, colours)
                    axes.set_title(f"{own.system}: {own.model}, {split} images", fontsize=6.5)
                line[0].set_ylabel("saturation (%)")
            shown = (
                epochs if len(epochs) <= SHOWN else [epochs[place] for place in np.linspace(0, len(epochs) - 1, SHOWN).round().astype(int)]
            )
            figure.legend(
                handles=[Line2D([], [], color=colours[epoch], label=f"epoch {epoch}") for epoch in shown],
                loc="outside lower center",
                ncols=SHOWN,
            )
            every = sorted({int(value) for value in followed[followed["dataset"] == dataset]["value"]})
            batches = "every batch" if every == [1] else f"every {' or '.join(map(str, every))}. batch"
            figure.suptitle(
                f"{dataset}: saturation along the training ({batches} of the training images), {describe_seeds(found)}", fontsize=7
            )
            paths += save(figure, long_table(found, describe), folder, f"layers_over_epochs-{dataset}")
    return paths


def metric_of(own: Layered) -> str:
    """The first of the deltas."""
    return sorted(own.metrics(METRIC))[0]


def epochs_of(own: Layered, split: str) -> dict[int, pd.Series]:
    """Saturation by layer for every epoch."""
    rows = own.rows[own.rows["epoch"].notna()]
    return {int(epoch): own.values(metric_of(own), split=split, epoch=epoch) for epoch in sorted(rows["epoch"].unique())}


def describe(own: Layered) -> list[dict[str, Any]]:
    """The values that are drawn of a system."""
    return [
        {"split": split, "epoch": epoch, "layer": layer, "metric": metric_of(own), "value": value}
        for split in SPLITS
        for epoch, series in epochs_of(own, split).items()
        for layer, value in series.items()
    ]


def draw_panel(axes: Axes, own: Layered, split: str, colours: dict[int, str]) -> None:
    found = epochs_of(own, split)
    layers = [str(layer) for layer in next(iter(found.values())).index]
    for epoch, series in found.items():
        axes.plot(range(len(series)), 100 * series.to_numpy(), color=colours[epoch], marker="o", markersize=1.5)
    mark_border(axes, layers, own)
    name_layers(axes, layers)
    axes.set_ylim(0, 100)
