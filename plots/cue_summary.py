"""The summary of teachers and students as text: accuracy on every counterfactual set, closeness to the teacher, and who relies on which cue."""

import math
from pathlib import Path

import pandas as pd

from plots import cue_reliance
from plots.mechanisms import METRICS, TEACHER, in_menu_order, points
from plots.results import Results
from plots.statistics import Interval, t_interval
from plots.style import align, plural, save_csv

TITLES = {
    "accuracy": "accuracy in %",
    "teacher_kl": "KL(teacher || student) in nats",
    "teacher_agreement": "top-1 agreement with the teacher in %",
}


def sections(results: Results) -> list[str]:
    """The texts of all data sets; empty where there is no finished teacher or student."""
    rows = points(results)
    rows = rows[rows["kept"].astype(bool)]
    texts = []
    for dataset, own in rows.groupby("dataset", sort=False):
        values = means(own)
        texts += [text for metric in METRICS if (text := describe(values[values["metric"] == metric], str(dataset), metric))]
    return [*texts, *([describe_reliance(reliance)] if len(reliance := cue_reliance.summary(cue_reliance.reliance(results))) else [])]


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean and 95 % t interval over seeds (NaN for one) of every metric, by kind of network and set; in the unit that is shown."""
    found = []
    for keys, own in rows.groupby(["dataset", "label", "student", "teacher", "set"], sort=False):
        for metric, (_, scale, _) in METRICS.items():
            each = scale * own[metric].astype(float).dropna().to_numpy()
            if len(each):
                interval = t_interval(each) if len(each) > 1 else Interval(float(each[0]), math.nan, math.nan)
                found.append((*keys, metric, len(each), *interval))
    return pd.DataFrame(found, columns=["dataset", "label", "student", "teacher", "set", "metric", "seeds", "mean", "low", "high"])


def name_network(label: str, student: str, teacher: str) -> str:
    """A kind of network in words."""
    return f"{label} on {student}" + (f", taught on {teacher}" if teacher else "")


def describe(values: pd.DataFrame, dataset: str, metric: str) -> str:
    """The table of one metric: networks as rows, counterfactual sets as columns; empty where there are no values."""
    if values.empty:
        return ""
    sets = in_menu_order(dataset, values["set"])
    digits = 2 if metric == "teacher_kl" else 1
    lines = [["", *sets]]
    for (label, student, teacher), own in values.groupby(["label", "student", "teacher"], sort=False):
        cells = own.set_index("set")
        lines.append(
            [
                name_network(str(label), str(student), str(teacher)),
                *(f"{cells['mean'][name]:.{digits}f}" if name in cells.index else "" for name in sets),
            ]
        )
        if cells["low"].notna().any():
            bounds = [f"{cells['low'][name]:.{digits}f}..{cells['high'][name]:.{digits}f}" if name in cells.index else "" for name in sets]
            lines.append(["", *bounds])
    numbers = sorted(set(values["seeds"].tolist()))
    n = plural(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"
    interval = ", below it the 95 % interval (Student's t over seeds)" if numbers[-1] > 1 else ""
    return f"{dataset}, test images of counterfactual sets: mean {TITLES[metric]}{interval}; n: {n}\n\n{align(lines)}"


def describe_reliance(values: pd.DataFrame) -> str:
    """The table of reliance on cues, in percentage points."""
    lines = [["", "cue", "seeds", "mean", "95 % interval"]]
    several = values["dataset"].nunique() > 1
    for row in values.to_dict("records"):
        label = TEACHER if row["loss"] == TEACHER else row["label"]
        name = name_network(label, row["student"], row["teacher"])
        bounds = "" if math.isnan(row["low"]) else f"{row['low']:+.1f}..{row['high']:+.1f}"
        lines.append([f"{row['dataset']}: {name}" if several else name, row["cue"], str(row["seeds"]), f"{row['mean']:+.1f}", bounds])
    return f"Reliance on a cue: accuracy where it tells the class less accuracy where it is random, in percentage points\n\n{align(lines)}"


def save_tables(results: Results, folder: Path) -> list[Path]:
    """The numbers of the summary as CSV."""
    rows = points(results)
    rows = rows[rows["kept"].astype(bool)]
    return [save_csv(means(rows), folder, "counterfactual")] if len(rows) else []
