"""Who relies on a cue: accuracy where the cue tells the class less accuracy where it is random, of students, their teachers, and students of labels alone."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from data.mechanisms import cue_names
from plots.mechanisms import ALONE, TEACHER, in_menu_order, mechanism_of, points, reliance_pairs, required
from plots.results import Results
from plots.statistics import Interval, reach, t_interval
from plots.style import PALETTE, plural, save, save_csv, styled

COLOURS = [colour for colour in PALETTE if colour != "#999999"]


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for each data set and cue the difference in percentage points, grouped by the mechanism of a network's own images.

    Dots are seeds (exact tests of the kept weights), diamonds their means with 95 % t intervals. Where several losses have students, each has its panel; teachers stand in
    all of them as a reference. Returns the paths of CSVs (single seeds, and means), PDFs and PNGs. InputError where no set and its counterpart are tested.
    """
    values = required("cue_reliance", results, reliance(results))
    paths = []
    for (dataset, cue), own in values.groupby(["dataset", "cue"], sort=False):
        stem = f"cue_reliance-{dataset}-{cue}"
        paths.append(save_csv(summary(own), folder, f"{stem}-means"))
        with styled():
            paths += save(draw_cue(own, str(dataset), str(cue)), own, folder, stem)
    return paths


def reliance(results: Results) -> pd.DataFrame:
    """One row for each run and cue: accuracy on the set with the cue (`present`) and without (`random`), their `difference` in percentage points, and the sets' names."""
    rows = points(results)
    rows = rows[rows["kept"].astype(bool)]
    found = []
    for dataset, own in rows.groupby("dataset", sort=False):
        for cue, (present, random) in reliance_pairs(str(dataset), dict.fromkeys(own["set"])).items():
            keys = ["dataset", "run", "seed", "label", "loss", "student", "teacher"]
            wide = own[own["set"].isin([present, random])].pivot_table("accuracy", keys, "set", sort=False)
            wide = wide.dropna().reset_index().rename(columns={present: "present", random: "random"}).rename_axis(columns=None)
            found.append(wide.assign(cue=cue, with_cue=present, without_cue=random, difference=100 * (wide["present"] - wide["random"])))
    columns = [
        "dataset",
        "cue",
        "run",
        "seed",
        "label",
        "loss",
        "student",
        "teacher",
        "with_cue",
        "without_cue",
        "present",
        "random",
        "difference",
    ]
    return pd.concat(found)[columns].reset_index(drop=True) if found else pd.DataFrame(columns=columns)


def summary(values: pd.DataFrame) -> pd.DataFrame:
    """The mean difference of each kind of network over its seeds, with the 95 % t interval (NaN for one seed)."""
    rows = []
    for keys, own in values.groupby(["dataset", "cue", "label", "loss", "student", "teacher"], sort=False):
        each = own["difference"].to_numpy(float)
        interval = t_interval(each) if len(each) > 1 else Interval(float(each[0]), math.nan, math.nan)
        rows.append((*keys, len(each), *interval))
    return pd.DataFrame(rows, columns=["dataset", "cue", "label", "loss", "student", "teacher", "seeds", "mean", "low", "high"])


def draw_cue(values: pd.DataFrame, dataset: str, cue: str) -> Figure:
    losses = [label for label in dict.fromkeys(values["label"]) if not label.startswith((TEACHER, "Labels"))] or [""]
    students = in_menu_order(dataset, values["student"])
    teachers = in_menu_order(dataset, [name for name in values["teacher"] if name])
    kinds = [*teachers, ALONE, TEACHER]
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate([*teachers, ALONE])} | {TEACHER: "#999999"}
    figure = Figure(figsize=(max(3.4, min(7.0, 1.0 + len(losses) * (0.4 + 0.16 * len(students) * len(kinds)))), 2.9), layout="constrained")
    panels = figure.subplots(1, len(losses), squeeze=False, sharey=True)
    for axes, label in zip(panels.flat, losses):
        alone = values["loss"].isin([TEACHER, "Labels"])
        draw_panel(axes, values[alone | (values["label"] == label)], students, kinds, colours)
        if len(losses) > 1:
            axes.set_title(label, fontsize=6.5)
    with_cue, without = values[["with_cue", "without_cue"]].iloc[0]
    panels[0, 0].set_ylabel(f"accuracy on {with_cue} less accuracy on {without}\n(percentage points)")
    for axes in panels.flat:
        axes.set_xlabel("what tells the class in a network's own training images")
    there = [name for name in kinds if name in set(kind_of(values))]
    words = {ALONE: "labels alone", TEACHER: "labels (the teachers)"}
    told = {name: words.get(name, f"a teacher on {name}") for name in there}
    handles = [
        Line2D([], [], color=colours[name], marker="D", linestyle="", markersize=3.5, label=f"trained by {told[name]}") for name in there
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    numbers = sorted(set(values.groupby(["label", "student", "teacher"]).size().tolist()))
    n = plural(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"
    interval = "\ndiamonds: mean and 95 % t interval over seeds" if numbers[-1] > 1 else ""
    figure.suptitle(f"{dataset}: reliance on the cue {cue}\nn = {n}, a dot each{interval}", fontsize=7)
    return figure


def kind_of(values: pd.DataFrame) -> list[str]:
    """What trained each network: a teacher's mechanism, labels, or labels where it is a teacher."""
    return [TEACHER if loss == TEACHER else teacher or ALONE for loss, teacher in zip(values["loss"], values["teacher"])]


def draw_panel(axes: Axes, values: pd.DataFrame, students: list[str], kinds: list[str], colours: dict[str, str]) -> None:
    generator = np.random.default_rng(0)
    values = values.assign(kind=kind_of(values))
    axes.axhline(0, color="0.35", linewidth=0.6, zorder=0)
    width = 0.8 / len(kinds)
    for place, student in enumerate(students):
        for number, kind in enumerate(kinds):
            own = values[(values["student"] == student) & (values["kind"] == kind)]
            if own.empty:
                continue
            each = own["difference"].to_numpy(float)
            middle = place + (number - (len(kinds) - 1) / 2) * width
            axes.plot(
                middle + generator.uniform(-0.25, 0.25, len(each)) * width,
                each,
                "o",
                color=colours[kind],
                markersize=2,
                alpha=0.6,
                markeredgewidth=0,
            )
            mean, low, high = t_interval(each) if len(each) > 1 else Interval(float(each[0]), math.nan, math.nan)
            axes.errorbar(
                middle, mean, reach([mean], [low], [high]), fmt="D", color=colours[kind], markersize=3.5, markeredgecolor="black", markeredgewidth=0.5,
                ecolor="black", elinewidth=0.8, capsize=2, zorder=3,
            )  # fmt: skip
    names = [f"{student}\n({describe(str(values['dataset'].iloc[0]), student)})" for student in students]
    axes.set_xticks(range(len(students)), names, fontsize=6)
    axes.set_xlim(-0.6, len(students) - 0.4)


def describe(dataset: str, student: str) -> str:
    """What tells the class in images of a mechanism, in words."""
    mechanism = mechanism_of(dataset, student)
    if mechanism is None:
        return student
    words = dict(zip(("cue_1", "cue_2"), cue_names(dataset))) | {"content": "content"}
    return " + ".join(words[name] for name in ("content", "cue_1", "cue_2") if name in mechanism.features()) or "nothing"
