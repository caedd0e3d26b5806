"""Accuracy of networks whose layers keep only what explains a share delta of their variance."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from plots.layered import Layered, by_dataset, describe_seeds, layered, long_table
from plots.results import Results
from plots.style import PAGE, PALETTE, save, styled

ACCURACY = r"(randomly_)?projected_accuracy_[\d.]+"
KINDS = {"projected": "-", "randomly_projected": ":"}
COLOURS = [colour for colour in PALETTE if colour != "#999999"]


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set: accuracy by delta (left), relative to that of the whole network (middle), and the share of dimensions that are left (right).

    On clean images, mean over seeds; dotted: as many random directions. Returns the paths of CSV, PDF and PNG. InputError where nothing was projected.
    """
    paths = []
    for dataset, found in by_dataset(layered(results, ACCURACY, "projection", "projection")):
        with styled():
            figure = Figure(figsize=(PAGE, 2.5 + 0.12 * len(found)), layout="constrained")
            panels = figure.subplots(1, 3)
            random = " (dotted: random directions)" if any(row["kind"] != "projected" for own in found for row in describe(own)) else ""
            deltas = sorted({row["delta"] for own in found for row in describe(own)})
            for own, colour in zip(found, COLOURS * len(found)):
                rows = describe(own)
                for kind, style in KINDS.items():
                    lines = [row for row in rows if row["kind"] == kind]
                    if not lines:
                        continue
                    x = [deltas.index(row["delta"]) for row in lines]
                    # The whole network is delta 1; without it the largest delta stands in.
                    whole = lines[-1]["accuracy"]
                    label = f"{own.system}: {own.model}" if kind == "projected" else None
                    for axes, y in zip(
                        panels,
                        (
                            [row["accuracy"] for row in lines],
                            [row["accuracy"] / whole if whole else 0 for row in lines],
                            [row["share"] for row in lines],
                        ),
                    ):
                        axes.plot(x, [100 * value for value in y], color=colour, linestyle=style, marker="o", markersize=2, label=label)
            for axes, title in zip(panels, ("accuracy (%)", f"relative to delta {deltas[-1]:g} (%)", "dimensions that are left (%)")):
                axes.set_xticks(range(len(deltas)), [f"{delta:g}" for delta in deltas], rotation=90, fontsize=5.5)
                axes.set(xlabel="delta", ylabel=title, ylim=(0, None))
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=3)
            figure.suptitle(f"{dataset}, clean test images, every layer projected{random}: {describe_seeds(found)}", fontsize=7)
            paths += save(figure, long_table(found, describe), folder, f"projection-{dataset}")
    return paths


def describe(own: Layered) -> list[dict[str, Any]]:
    """Accuracy and share of dimensions of a system, by delta."""
    rows = []
    for metric in own.metrics(ACCURACY):
        kind, _, delta = metric.rpartition("_accuracy_")
        accuracy = own.values(metric, **own.conditions(metric)[0])
        share = own.rows[own.rows["metric"] == f"{kind}_share_{delta}"]["value"].mean()
        rows.append({"kind": kind, "delta": float(delta), "accuracy": float(accuracy.iloc[0]), "share": float(share)})
    return sorted(rows, key=lambda row: row["delta"])
