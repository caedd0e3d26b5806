"""Saturation and probe accuracy by layer, with the border from which on the receptive field covers the image."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from plots.layered import LEVEL, Layered, by_dataset, describe_seeds, layered, long_table, mark_border, name_layers
from plots.points import chance_of
from plots.results import Results
from plots.style import PAGE, PALETTE, lighter, save, styled

PANEL = 1.7  # inches
SATURATION = r"saturation_[\d.]+"
PROBES = r"probe_accuracy_(?!own_|untrained_)\w+"
COLOURS = {"saturation": PALETTE[2], "probe": PALETTE[5], "untrained": "0.45"}


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set one figure, with a panel for each system: saturation as bars, probe accuracy as lines (dotted: of the network before training).

    On clean images, mean over seeds. Returns the paths of CSV, PDF and PNG. InputError where no system was analysed for saturation or by probes.
    """
    paths = []
    for dataset, found in by_dataset(layered(results, f"{SATURATION}|{PROBES}", "layers", "saturation")):
        with styled():
            figure = Figure(figsize=(PAGE, PANEL * len(found) + 0.7), layout="constrained")
            for axes, own in zip(figure.subplots(len(found), 1, squeeze=False)[:, 0], found):
                draw_panel(axes, own)
            handles: list[Any] = [
                Patch(color=lighter(COLOURS["saturation"], 0.4), label="saturation"),
                Line2D([], [], color=COLOURS["probe"], marker="o", markersize=2, label="probe"),
                Line2D([], [], color=COLOURS["untrained"], linestyle=":", marker="o", markersize=2, label="probe of the untrained network"),
                Line2D([], [], color="0.3", linestyle=(0, (4, 2)), label="the field covers the image (longest path)"),
                Line2D([], [], color="0.3", linestyle=(0, (1, 1.5)), label="(shortest path)"),
            ]
            figure.legend(handles=handles, loc="outside lower center", ncols=5)
            figure.suptitle(f"{dataset}, clean test images, by layer: {describe_seeds(found)}", fontsize=7)
            paths += save(figure, long_table(found, describe), folder, f"layers-{dataset}")
    return paths


def clean(own: Layered, metric: str) -> dict[str, str]:
    """The cells of the clean rows of a metric."""
    return own.conditions(metric)[0]


def is_layer(name: str) -> bool:
    """Whether a row is about a layer as a whole, not about a level or a single position."""
    return not name.startswith(LEVEL) and "@" not in name


def describe(own: Layered) -> list[dict[str, Any]]:
    """The values that are drawn of a system."""
    metrics = own.metrics(f"{SATURATION}|{PROBES}|probe_accuracy_untrained_\\w+")
    rows = []
    for metric in metrics:
        if not own.conditions(metric):
            continue
        found = own.values(metric, **clean(own, metric))
        rows += [{"layer": layer, "metric": metric, "value": value} for layer, value in found.items() if is_layer(str(layer))]
    for metric in ("covered", "covered_smallest"):
        rows += [{"layer": layer, "metric": f"border_{metric}", "value": 1.0} for layer in [own.border(metric)] if layer]
    return rows


def draw_panel(axes: Axes, own: Layered) -> None:
    values = {
        row["metric"]: own.values(row["metric"], **clean(own, row["metric"]))
        for row in describe(own)
        if not row["metric"].startswith("border")
    }
    values = {metric: series[[is_layer(str(layer)) for layer in series.index]] for metric, series in values.items()}
    layers = list(dict.fromkeys(str(layer) for series in values.values() for layer in series.index))
    places = {layer: place for place, layer in enumerate(layers)}
    saturations = [metric for metric in values if metric.startswith("saturation")]
    for number, metric in enumerate(sorted(saturations, reverse=True)):
        series = values[metric]
        colour = lighter(COLOURS["saturation"], 0.7 - 0.4 * number / max(1, len(saturations) - 1) if len(saturations) > 1 else 0.4)
        axes.bar([places[str(layer)] for layer in series.index], 100 * series, color=colour, width=0.8, zorder=0)
    for metric, series in values.items():
        if metric.startswith("probe") and len(series):
            untrained = "untrained" in metric
            axes.plot(
                [places[str(layer)] for layer in series.index], 100 * series, marker="o", markersize=2, linestyle=":" if untrained else "-",
                color=COLOURS["untrained" if untrained else "probe"],
            )  # fmt: skip
    accuracy = own.accuracy()
    if accuracy is not None:
        axes.axhline(100 * accuracy, color="0.6", linewidth=0.6, zorder=0)
        axes.annotate("accuracy", (1, 100 * accuracy), xycoords=("axes fraction", "data"), fontsize=5, ha="right", va="bottom", color="0.4")
    axes.axhline(chance_of(own.dataset), color="0.6", linestyle=(0, (4, 3)), linewidth=0.6, zorder=0)
    mark_border(axes, layers, own)
    name_layers(axes, layers)
    deltas = ", ".join(sorted(metric.partition("_")[2] for metric in saturations))
    axes.set(ylim=(0, 100), ylabel="%")
    axes.set_title(f"{own.system}: {own.model}{f' (delta {deltas})' if deltas else ''}", fontsize=6.5)
