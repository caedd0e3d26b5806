"""Invariance against compositional robustness: does what is invariant to elementals stay so on their compositions, and classify them?

Scatter figures after Mason et al., arXiv 2306.09005: of the elemental score, the composition score and the accuracy, each against another, a panel for
each number of corruptions, a point for each composition, with lines of least squares and Pearson's r by system. Compositions of the same
elementals share the published elemental score, so intervals of r with it, which take compositions for independent, are too narrow.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from plots.correlation import correlate, regress
from plots.points import comparable, figure_names, levels
from plots.results import Results
from plots.scores import explain, scores
from plots.style import PAGE, lighter, save, save_csv, styled, variant_styles

# x and y of the three figures.
PAIRS = (("elemental", "composition_score"), ("elemental", "accuracy"), ("composition_score", "accuracy"))
NAMES = {"elemental": "elemental score", "composition_score": "composition score", "accuracy": "accuracy (%)"}
MARKERS = "osD^vP"
LEFT = 1.05  # inches: of the names beside the table, at least
LETTER = 0.043  # inches
PANEL_HEIGHT = 1.5  # inches
HEAD, AXIS = 0.5, 0.36  # inches: above and below the panels
LINE = 0.115  # inches: of the table
TABLE_FONT = 5.5
FLAT = (
    "one value"  # where a side does not vary, as the elemental score, which depends on the set of elementals alone, where there is one set
)
MARGIN = 0.04  # of the data's extent, around it
NAMED = 3  # systems without analysis: of more, the others are counted


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws three figures for each normalisation and each set of comparable evaluations, of the plain forms of methods (of variants, where there
    is none), and writes the correlations of all systems as CSV. Returns the paths.

    Accuracies are those on the images that were analysed. InputError, with the command that helps, where no system has been analysed; where
    some have not, they are named on stderr.
    """
    table, missing = scores(results)
    if table.empty:
        raise explain(results, missing)
    if missing:
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        print(
            f"invariance: left out, since not analysed on the same images: {', '.join(missing[:NAMED])}{more}; do so with: python -m analysis invariance CONFIG",
            file=sys.stderr,
        )
    sets = comparable(results.runs)
    for place, images in table.groupby("comparison")["images"].first().items():
        asked = sets[int(str(place))][0][1].images
        if images != asked:
            print(
                f"invariance: on {images:,} images, not on the {asked:,} of the evaluation: most systems were analysed on these (see --images of: "
                "python -m analysis); the analysis without --images gives the others",
                file=sys.stderr,
            )
    titles = figure_names("invariance", results.runs)
    paths = []
    for place, own in table.groupby("comparison"):
        title, own = titles[int(str(place))], own.drop(columns="comparison")
        paths.append(save_csv(correlations(own), folder, f"{title}-correlations"))
        shown = own[own["plain"]] if own["plain"].any() else own
        for normalisation, (x, y) in itertools.product(shown["normalisation"].unique(), PAIRS):
            drawn = shown[shown["normalisation"] == normalisation]
            with styled():
                paths += save(draw_pair(drawn, x, y), drawn, folder, f"{title}-{normalisation}-{x}-{y}".replace("_score", ""))
    return paths


def correlations(rows: pd.DataFrame) -> pd.DataFrame:
    """Pearson's r of every pair, by normalisation, system and number of corruptions."""
    found = []
    groups = rows.groupby(["dataset", "split", "images", "normalisation", "system", "n_corruptions", "seeds"], sort=False)
    for (x, y), (key, own) in itertools.product(PAIRS, groups):
        found.append((*key, x, y, *correlate(own[x], own[y])))
    names = ["dataset", "split", "images", "normalisation", "system", "n_corruptions", "seeds", "x", "y", "n", "r", "low", "high", "p"]
    return pd.DataFrame(found, columns=names)


def draw_pair(rows: pd.DataFrame, x: str, y: str) -> Figure:
    """One score against another value: a panel for each number of corruptions, and below it r of each system with its interval."""
    sizes = sorted(rows["n_corruptions"].unique())
    systems = rows[["system", "method"]].drop_duplicates()
    styles = dict(zip(systems["system"], mark(list(systems["method"]))))
    bottom = AXIS + LINE * (len(styles) + 1.2)
    height = bottom + PANEL_HEIGHT + HEAD
    figure = Figure(figsize=(PAGE, height))
    panels = figure.subplots(1, len(sizes), sharex=True, sharey=True, squeeze=False)[0]
    right = 1 - (0.42 if y == "accuracy" else 0.08) / PAGE
    left = max(LEFT, 0.25 + LETTER * max(map(len, styles)))
    figure.subplots_adjust(left / PAGE, bottom / height, right, (bottom + PANEL_HEIGHT) / height, wspace=0.08)
    for axes, size in zip(panels, sizes):
        own = rows[rows["n_corruptions"] == size]
        draw_panel(axes, own, x, y, styles)
        axes.set_title(f"{size} corruptions\nn = {own['composition'].nunique()}", pad=3)
        write_table(figure, axes, own, x, y, styles)
    frame(panels, rows, x, y)
    write_names(figure, left, styles)
    seeds = " to ".join(str(number) for number in sorted({rows["seeds"].min(), rows["seeds"].max()}))
    dataset, split, images, normalisation = rows[["dataset", "split", "images", "normalisation"]].iloc[0]
    head = f"{dataset}, {images:,} {split} images, {seeds} seed{'' if seeds == '1' else 's'}, n compositions"
    what = f"{NAMES[y].removesuffix(' (%)')} against {NAMES[x]}, {normalisation} normalisation"
    figure.text(0.5, 1 - 0.05 / height, f"{head}: {what}", ha="center", va="top")
    return figure


def mark(methods: Sequence[str]) -> list[tuple[str, str]]:
    """(colour, marker) of each of a row of systems: the method's colour, and other markers for other methods and for further variants."""
    kinds = {method: number for number, method in enumerate(dict.fromkeys(methods))}
    seen: dict[str, int] = {}
    styles = []
    for method, (colour, _) in zip(methods, variant_styles(methods)):
        number = seen.setdefault(method, 0)
        seen[method] += 1
        styles.append((colour, MARKERS[(kinds[method] + number) % len(MARKERS)]))
    return styles


def draw_panel(axes: Axes, rows: pd.DataFrame, x: str, y: str, styles: Mapping[str, tuple[str, str]]) -> None:
    """The points and lines of every system."""
    for system, (colour, marker) in styles.items():
        own = rows[rows["system"] == system]
        abscissae, ordinates = own[x].to_numpy(), own[y].to_numpy() * (100 if y == "accuracy" else 1)
        axes.plot(abscissae, ordinates, marker, markersize=2.4, alpha=0.8, zorder=2, **face(colour))
        if (line := regress(abscissae, ordinates)) is not None:
            ends = [abscissae.min(), abscissae.max()]
            axes.plot(ends, [line[0] * end + line[1] for end in ends], color=colour, linewidth=1.2, zorder=3)


def face(colour: str) -> dict[str, Any]:
    """How a marker of that colour is filled and edged."""
    return {"markerfacecolor": lighter(colour, 0.15), "markeredgecolor": "black", "markeredgewidth": 0.25}


def height_of(figure: Figure, line: int, lines: int) -> float:
    """The middle of a line of the table, of so many, as a share of the figure's height."""
    return LINE * (lines - line - 0.3) / figure.get_figheight()


def write_table(figure: Figure, axes: Axes, rows: pd.DataFrame, x: str, y: str, styles: Mapping[str, tuple[str, str]]) -> None:
    """Under a panel, r of each system with its interval."""
    middle = (axes.get_position().x0 + axes.get_position().x1) / 2
    for line, system in enumerate(styles, 1):
        own = rows[rows["system"] == system]
        found = correlate(own[x], own[y])
        text = f"{found.r:+z.2f} [{found.low:+z.2f}, {found.high:+z.2f}]".replace("-", "−") if np.isfinite(found.r) else FLAT
        figure.text(middle, height_of(figure, line, len(styles) + 1), text, ha="center", va="center", fontsize=TABLE_FONT)


def write_names(figure: Figure, left: float, styles: Mapping[str, tuple[str, str]]) -> None:
    """Beside the table, the systems with their markers, and what the table holds."""
    edge, lines = (left - 0.02) / PAGE, len(styles) + 1
    figure.text(edge, height_of(figure, 0, lines), "Pearson's r [95 % interval]", ha="left", va="center", fontsize=TABLE_FONT, color="0.35")
    for line, (system, (colour, marker)) in enumerate(styles.items(), 1):
        height = height_of(figure, line, lines)
        figure.text(edge - 0.12 / PAGE, height, system, ha="right", va="center", fontsize=TABLE_FONT)
        figure.add_artist(Line2D([edge - 0.05 / PAGE], [height], marker=marker, markersize=3.5, **face(colour)))


def frame(panels: Sequence[Axes], rows: pd.DataFrame, x: str, y: str) -> None:
    """Names and limits of the axes; where accuracy is drawn, chance and what the network trained on clean images alone reaches on them."""
    low, high = rows[x].min(), rows[x].max()
    margin = MARGIN * (high - low) or MARGIN
    panels[0].set(ylabel=NAMES[y], xlim=(low - margin, high + margin))
    for axes in panels:
        axes.set_xlabel(NAMES[x], labelpad=2)
        axes.locator_params(axis="x", nbins=4)
    if y != "accuracy":
        return
    panels[0].set_ylim(0, 100)
    for name, level in levels(rows.assign(n_corruptions=0, accuracy=rows["clean"])).items():
        for axes in panels:
            axes.axhline(level, color="0.35", linestyle=(0, (4, 3)), linewidth=0.6, zorder=1)
        place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center", "fontsize": 6, "color": "0.25"}
        panels[-1].annotate(name, (1, level), (2, 0), **place)
