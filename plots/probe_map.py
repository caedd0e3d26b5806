"""Probes of single positions: how well each position of a layer's map tells the class by itself."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from plots.layered import Layered, layered, long_table, short
from plots.results import Results
from plots.style import PAGE, save, styled

METRIC = "probe_accuracy_pixel"
COLUMNS, SHOWN = 6, 24


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each system a map for each layer (of many, SHOWN of them): accuracy relative to the network's own, or in % where that is not there.

    On clean images, mean over seeds. Returns the paths of CSV, PDF and PNG. InputError where no position was probed.
    """
    paths = []
    for number, own in enumerate(layered(results, METRIC, "probe_map", "probes --pooling=pixel")):
        maps, whole = maps_of(own), own.accuracy()
        layers = list(maps)
        if len(layers) > SHOWN:
            layers = [layers[place] for place in np.linspace(0, len(layers) - 1, SHOWN).round().astype(int)]
        with styled():
            lines, columns = -(-len(layers) // COLUMNS), min(COLUMNS, len(layers))
            figure = Figure(figsize=(PAGE, PAGE / COLUMNS * 1.2 * lines + 0.6), layout="constrained")
            panels = figure.subplots(lines, columns, squeeze=False)
            scale = 1 / whole if whole else 1.0
            top = max(scale * float(np.nanmax(maps[layer])) for layer in layers)
            for axes, layer in zip(panels.flat, layers):
                image = axes.imshow(100 * scale * maps[layer], vmin=0, vmax=100 * max(1.0 if whole else 0.0, top), cmap="viridis")
                axes.set(xticks=[], yticks=[])
                axes.set_title(f"{short(layer)} ({maps[layer].shape[0]}x{maps[layer].shape[1]})", fontsize=5.5)
            for axes in panels.flat[len(layers) :]:
                axes.set_axis_off()
            figure.colorbar(image, ax=panels, shrink=0.9, label="% of the network's" if whole else "accuracy (%)")
            figure.suptitle(
                f"{own.dataset}, clean test images, {own.system}: {own.model}: a probe for each position, n = {own.seeds} seed(s)",
                fontsize=7,
            )
            paths += save(figure, long_table([own], describe), folder, f"probe_map-{own.dataset}-{own.model}-{number}")
    return paths


def maps_of(own: Layered) -> dict[str, np.ndarray]:
    """Accuracies (H, W) of the positions of each layer."""
    found: dict[str, dict[tuple[int, int], float]] = {}
    for name, value in own.values(METRIC, **own.conditions(METRIC)[0]).items():
        if match := re.fullmatch(r"(.+)@(\d+),(\d+)", str(name)):
            found.setdefault(match[1], {})[int(match[2]), int(match[3])] = float(value)
    maps = {}
    for layer, values in found.items():
        maps[layer] = np.full((max(row for row, _ in values) + 1, max(column for _, column in values) + 1), np.nan)
        for place, value in values.items():
            maps[layer][place] = value
    return maps


def describe(own: Layered) -> list[dict[str, Any]]:
    """The values that are drawn."""
    return [
        {"layer": layer, "row": row, "column": column, "value": value}
        for layer, values in maps_of(own).items()
        for (row, column), value in np.ndenumerate(values)
    ]
