"""Models in a table: accuracy, what they cost, how saturated they are, and how many of their layers lie behind the border of the receptive field."""

from pathlib import Path
from typing import Any

import pandas as pd

from plots.layered import Layered, layered
from plots.layers import PROBES, SATURATION, clean
from plots.results import Results
from plots.style import align, save_csv


def draw(results: Results, folder: Path) -> list[Path]:
    """Prints the table, mean over seeds, and writes it as CSV, whose path is returned. InputError where nothing was analysed."""
    found = layered(results, f"{SATURATION}|{PROBES}|covered|flops", "layer_table", "saturation")
    table = pd.DataFrame([describe(own) for own in found])
    shown = table.dropna(axis=1, how="all")
    cells = [[str(name) for name in shown.columns], *([form(value) for value in row] for row in shown.itertuples(index=False))]
    print(align(cells), end="\n\n")
    return [save_csv(table, folder, "layer_table")]


def form(value: Any) -> str:
    """A cell in words."""
    if isinstance(value, float):
        return "" if value != value else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def describe(own: Layered) -> dict[str, Any]:
    """A row: accuracies in %, operations in millions, parameters in thousands; saturation is the mean over layers."""
    row: dict[str, Any] = {"dataset": own.dataset, "system": own.system, "model": own.model, "seeds": own.seeds}
    accuracy = own.accuracy()
    row["accuracy"] = None if accuracy is None else 100 * accuracy
    for metric in own.metrics(SATURATION):
        if own.conditions(metric):
            row[metric] = 100 * float(own.values(metric, **clean(own, metric)).mean())
    for metric in own.metrics(PROBES):
        if not metric.endswith("_pixel"):
            row[f"best {metric}"] = 100 * float(own.values(metric, **clean(own, metric)).max())
    covered, smallest = own.values("covered"), own.values("covered_smallest")
    row |= {"layers": float(len(covered)) or None, "behind border": float(covered.sum()) if len(covered) else None}
    row["by shortest path"] = float(smallest.sum()) if len(smallest) else None
    for metric, unit, name in (("flops", 1e6, "MFLOPs"), ("parameters", 1e3, "k parameters")):
        total = own.rows[(own.rows["metric"] == metric) & (own.rows["layer"] == "")]["value"]
        row[name] = float(total.mean()) / unit if len(total) else None
    return row
