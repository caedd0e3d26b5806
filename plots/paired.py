"""Paired comparisons of methods: differences on the same images, with intervals and tests."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from errors import InputError
from plots.comparison import PAIRED, Comparison, compare, composition_tests, differences
from plots.points import figure_names
from plots.results import Results
from plots.statistics import RESAMPLES, reach
from plots.style import PAGE, describe_n, save, save_csv, styled

LEVEL = 0.05  # of significance, after Holm's correction
ROW = 0.2  # inches of each pair
MARKS = {"two or more": ("D", "black"), "all": ("o", "white")}  # marker and face of each group's difference
BETTER, SAME, WORSE = "#0072B2", "#DDDDDD", "#D55E00"


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws, for each set of comparable evaluations that has systems to compare, what each system gains over another on the same images.

    To the left the difference of accuracies with its 95 % bootstrap interval over images, and the p value of McNemar's test (of the images, corrected
    by Holm for all tests of the panel); to the right on how many compositions the first system is significantly better or worse (McNemar on each, corrected for
    all compositions and pairs). Returns the paths of CSVs (differences and tests on compositions), PDF and PNG. InputError where no systems can be
    compared, or results of single images are not at hand (W&B).
    """
    comparisons = compare("paired", results.runs, results.table)
    if not comparisons:
        raise results.unfinished("paired")
    paths: list[Path] = []
    for name, comparison in zip(figure_names("paired", results.runs), comparisons):
        table = differences(comparison)
        if table.empty:
            continue
        tests = composition_tests(comparison)
        paths.append(save_csv(tests, folder, f"{name}-compositions"))
        with styled():
            paths += save(draw_pairs(comparison, table, tests), table, folder, name)
    if not paths:
        raise InputError(
            f"paired: {results.source}: nothing to compare; it takes a CrossEntropy and a Contrastive or a system with parts of its model, or one system "
            "under two routings, evaluated on the same images and compositions"
        )
    return paths


def draw_pairs(comparison: Comparison, table: pd.DataFrame, tests: pd.DataFrame) -> Figure:
    """The differences and the tests of one set of evaluations, a row for each pair."""
    pairs = list(dict.fromkeys(table["systems"]))
    figure = Figure(figsize=(PAGE, 1.15 + ROW * len(pairs)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1], sharey=True)
    _draw_differences(left, table, pairs)
    _draw_tests(right, tests, pairs)
    n_claims = table.loc[table["kind"] == "claim", "systems"].nunique()
    for axes in (left, right):
        if 0 < n_claims < len(pairs):
            axes.axhline(n_claims - 0.5, color="0.7", linewidth=0.5)
        axes.tick_params(left=False)
        axes.spines["left"].set_visible(False)
    left.set_yticks(range(len(pairs)), pairs)
    left.set_ylim(len(pairs) - 0.4, -0.6)
    n = describe_n(len(comparison.names), {*table["seeds"], *table["other_seeds"]}, comparison.images)
    figure.suptitle(f"{comparison.title}: {n}", fontsize=7)
    handles: list[Artist] = [
        Line2D([], [], color="black", marker=marker, markerfacecolor=face, markersize=3.5, linewidth=0.8, label=PAIRED[group])
        for group, (marker, face) in MARKS.items()
        if group in set(table["group"])
    ]
    names = {f"first significantly better (p < {LEVEL:g})": BETTER, "no significant difference": SAME, "worse": WORSE}
    handles += [Patch(facecolor=colour, label=name) for name, colour in names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=1.4, handletextpad=0.4, columnspacing=0.9)
    return figure


def _draw_differences(axes: Axes, table: pd.DataFrame, pairs: list[str]) -> None:
    """Differences with their intervals, in percentage points, and the p values of the images' test over two or more corruptions, else over all."""
    axes.axvline(0, color="0.35", linestyle=(0, (4, 3)), linewidth=0.6)
    groups = [group for group in MARKS if group in set(table["group"])]
    for shift, group in zip(np.linspace(-0.16, 0.16, len(groups)) if len(groups) > 1 else [0.0], groups):
        own = table[table["group"] == group].set_index("systems").loc[pairs]
        middle, low, high = (100 * own[name].to_numpy() for name in ("difference", "low", "high"))
        marker, face = MARKS[group]
        axes.errorbar(
            middle, np.arange(len(pairs)) + shift, xerr=reach(middle, low, high), fmt=marker, markersize=3, markerfacecolor=face,
            markeredgecolor="black", markeredgewidth=0.6, ecolor="black", elinewidth=0.8, capsize=1.2, capthick=0.6,
        )  # fmt: skip
    shown = table[table["group"] == groups[0]].set_index("systems").loc[pairs]
    for place, p in enumerate(shown["p_holm"]):
        axes.annotate(
            describe_p(p), (1, place), xycoords=("axes fraction", "data"), xytext=(-1, 0), textcoords="offset points", ha="right", va="center", fontsize=6
        )  # fmt: skip
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.22 * (right - left))
    axes.set_xlabel(
        f"difference in accuracy (percentage points)\n95 % interval: bootstrap over images, {RESAMPLES:,} resamples\np: of {PAIRED[groups[0]]}"
    )
    axes.set_title("over images: difference, McNemar's p (Holm)")


def _draw_tests(axes: Axes, tests: pd.DataFrame, pairs: list[str]) -> None:
    """On how many compositions the first system is significantly better, not different, and worse."""
    total = tests["composition"].nunique()
    for place, pair in enumerate(pairs):
        own = tests[tests["systems"] == pair]
        certain = own["p_holm"] < LEVEL
        better, worse = int((certain & (own["n10"] > own["n01"])).sum()), int((certain & (own["n10"] < own["n01"])).sum())
        left = 0
        for count, colour, ink in ((better, BETTER, "white"), (total - better - worse, SAME, "black"), (worse, WORSE, "white")):
            axes.barh(place, count, left=left, height=0.7, color=colour)
            if count:
                inside = count > 0.05 * total
                axes.annotate(str(count), (left + count / 2, place), ha="center", va="center", fontsize=6, color=ink if inside else "none")
            left += count
    axes.set(xlim=(0, total), xlabel="compositions")
    axes.set_title("McNemar on each composition")


def describe_p(p: float) -> str:
    """A p value in a few letters."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
