"""Students under eight conditions: how what a test image tells relates to what the student's and the teacher's images told."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from errors import InputError
from plots.mechanisms import in_menu_order, mechanism_of, points, required
from plots.results import Results
from plots.style import PAGE, PALETTE, save, styled

Features = frozenset[str]
CONDITIONS = ("Similarity", "Student TP", "Student", "Teacher SP", "Teacher", "Overlap", "Neither", "Other")
# What they are, for the figure.
MEANING = (
    "What tells the class. Similarity: test = student = teacher; Student: test = student (TP: and a part of the teacher's);\n"
    "Teacher: test = teacher (SP: and a part of the student's); Overlap: test = what both share; Neither: test shares nothing with either"
)
COLOURS = [colour for colour in PALETTE if colour != "#999999"]
COLUMNS = 2


def condition(student: Features, teacher: Features, test: Features) -> str:
    """The one of CONDITIONS for the features that tell the class in a student's data, its teacher's data and the test, none of them empty."""
    if test == student == teacher:
        return "Similarity"
    if test == student:
        return "Student TP" if teacher & test else "Student"
    if test == teacher:
        return "Teacher SP" if student & test else "Teacher"
    if test == student & teacher:
        return "Overlap"
    return "Other" if test & (student | teacher) else "Neither"


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set the accuracy of every student on every counterfactual set, a panel for each set, in strips by condition and coloured by loss.

    Accuracies are of the exact test of the kept weights; a bar is the mean of a strip. Sets that tell nothing are left out. Returns the paths of
    CSV, PDF and PNG. InputError where there is no finished student with a teacher.
    """
    rows = points(results)
    rows = required("mechanism_conditions", results, rows[rows["kept"].astype(bool) & (rows["teacher"] != "")])
    paths = []
    for dataset, own in rows.groupby("dataset", sort=False):
        drawn = sort_out(own, str(dataset))
        if len(drawn):
            with styled():
                paths += save(draw_strips(drawn, str(dataset)), drawn, folder, f"mechanism_conditions-{dataset}")
    if not paths:
        raise InputError(
            f"mechanism_conditions: no student in {results.source} whose own and whose teacher's images tell something, tested on such a set"
        )
    return paths


def sort_out(rows: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """The rows whose mechanisms all tell something, with their condition."""
    names = {*rows["student"], *rows["teacher"], *rows["set"]}
    found = {name: mechanism_of(dataset, name) for name in names}
    features = {name: own.features() for name, own in found.items() if own is not None and own.features()}
    rows = rows[rows[["student", "teacher", "set"]].isin(list(features)).all(axis=1)]
    conditions = [condition(*(features[name] for name in own)) for own in rows[["student", "teacher", "set"]].itertuples(index=False)]
    return rows.assign(condition=conditions)[["label", "condition", "set", "student", "teacher", "seed", "accuracy"]]


def draw_strips(drawn: pd.DataFrame, dataset: str) -> Figure:
    sets = in_menu_order(dataset, drawn["set"])
    labels = list(dict.fromkeys(drawn["label"]))
    colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(labels)}
    there = [name for name in CONDITIONS if name in set(drawn["condition"])]
    columns = min(COLUMNS, len(sets))
    lines = math.ceil(len(sets) / columns)
    figure = Figure(figsize=(PAGE, 1.0 + 1.35 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True)
    for axes, own in zip(panels.flat, sets):
        draw_panel(axes, drawn[drawn["set"] == own], there, colours)
        axes.set_title(f"test {own}", fontsize=6.5)
    for axes in panels.flat[len(sets) :]:
        axes.set_axis_off()
    for line in panels:
        line[0].set_ylabel("accuracy (%)")
    handles = [Line2D([], [], color=colour, marker="o", linestyle="", markersize=3, label=label) for label, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)))
    n = len(drawn[["label", "student", "teacher", "seed"]].drop_duplicates())
    figure.suptitle(f"{dataset}: {n:,} students on counterfactual sets, a dot each; bars: means\n{MEANING}", fontsize=6)
    return figure


def draw_panel(axes: Axes, drawn: pd.DataFrame, there: list[str], colours: Mapping[str, str]) -> None:
    generator = np.random.default_rng(0)
    width = 0.8 / len(colours)
    for place, name in enumerate(there):
        for number, (label, colour) in enumerate(colours.items()):
            values = 100 * drawn.loc[(drawn["condition"] == name) & (drawn["label"] == label), "accuracy"].to_numpy(float)
            if not len(values):
                continue
            middle = place + (number - (len(colours) - 1) / 2) * width
            spread = 0.3 * width if len(values) > 1 else 0.0
            axes.plot(
                middle + generator.uniform(-spread, spread, len(values)),
                values,
                "o",
                color=colour,
                markersize=2.4,
                alpha=0.7,
                markeredgewidth=0,
            )
            axes.plot([middle - 0.4 * width, middle + 0.4 * width], [values.mean()] * 2, color="black", linewidth=1.0)
    axes.set_xticks(range(len(there)), there, fontsize=5.5, rotation=30, ha="right")
    axes.set(xlim=(-0.6, len(there) - 0.4), ylim=(0, 102))
