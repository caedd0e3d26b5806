"""Accuracy of every system on every composition, as a map."""

import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

import info_dicts
from data.compositions import abbreviate
from plots.points import figure_names, levels, points
from plots.results import Results
from plots.style import PAGE, describe_n, save, styled

MANY = 300  # compositions: of more, the orders of each set of corruptions are one row
FEW = 8  # systems: for so many, all numbers of corruptions stand in one line; for more, three in a line
TOGETHER = 2  # clean images and up to so many corruptions share a panel
ROW, TOP, BOTTOM = 0.105, 0.55, 0.25  # inches: of a composition, above and below a panel
KEY_LINE, KEY_LETTERS = 0.12, 150  # inches and letters of a line of the key
MAP = "viridis"  # perceptually uniform, also for the colour-blind, also in grey


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws one map for each set of comparable evaluations: compositions as rows, systems as columns, accuracy (mean over seeds) as colour.

    Rows go by number of corruptions, orders of the same set stand together; where there are more than MANY compositions, a row is the mean over the
    orders of a set. The colour bar marks chance and the best Identity's accuracy on clean images. Returns the paths of CSV, PDF and PNG.
    InputError where no run has been evaluated.
    """
    rows = points(results)
    if rows.empty:
        raise results.unfinished("heat_map")
    paths = []
    for name, (_, own) in zip(figure_names("heat_map", results.runs), rows.groupby("comparison")):
        table = arrange(own)
        with styled():
            paths += save(draw_map(own, table), table, folder, name)
    return paths


def arrange(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the map from the top: number of corruptions, set, label, and a column with the accuracies of each system.

    `set` names the corruptions in the menu's order; the label is the composition's, or that of a set where a row is one.
    """
    table = rows.pivot_table("accuracy", ["n_corruptions", "composition"], "system", sort=False).reset_index()
    numbers = {str(choice): number for number, choice in info_dicts.CORRUPTIONS.items()}
    members = [sorted(name.split("-"), key=numbers.__getitem__) for name in table["composition"]]
    table.insert(1, "set", ["+".join(abbreviate(name) for name in names) for names in members])
    table.insert(2, "label", [abbreviate(name) for name in table["composition"]])
    places = {names: [numbers[name] for name in own] for names, own in zip(table["set"], members)}
    order = sorted(range(len(table)), key=lambda i: (table["n_corruptions"][i], places[table["set"][i]], i))
    table = table.iloc[order].reset_index(drop=True)
    if len(table) > MANY:
        systems = [name for name in table.columns if name not in ("n_corruptions", "set", "label", "composition")]
        table = table.groupby(["n_corruptions", "set"], sort=False)[systems].mean().reset_index()
        table.insert(2, "label", table["set"])
    return table.rename_axis(columns=None)


def draw_map(rows: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """The map of one set of evaluations, in panels by number of corruptions, with a key of its columns."""
    dataset, split = rows[["dataset", "split"]].iloc[0]
    systems = list(dict.fromkeys(rows["system"]))
    panels = [own for _, own in table.groupby(table["n_corruptions"].clip(lower=TOGETHER))]
    per_line = len(panels) if len(systems) <= FEW else 3
    n_lines = math.ceil(len(panels) / per_line)
    lines = [panels[start : start + per_line] for start in range(0, len(panels), per_line)]
    key = [f"{number} {system}" for number, system in enumerate(systems, 1)]
    per_key_line = max(1, KEY_LETTERS // (4 + max(map(len, key))))
    key_lines = ["      ".join(key[start : start + per_key_line]) for start in range(0, len(key), per_key_line)]
    heights = [TOP + BOTTOM + ROW * max(map(len, line)) for line in lines]
    figure = Figure(figsize=(PAGE, sum(heights) + 0.75 + KEY_LINE * len(key_lines)), layout="constrained")
    grid = figure.subplots(n_lines, per_line, squeeze=False, height_ratios=heights)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    tallest = [max(map(len, line)) for line in lines]
    images = [_draw_panel(axes, own, systems, tallest[number // per_line]) for number, (axes, own) in enumerate(zip(grid.flat, panels))]
    of_sets = ", mean over the orders of each set" if len(table) < rows["composition"].nunique() else ""
    figure.suptitle(
        f"{dataset}, {split} images: accuracy{of_sets}\n{describe_n(rows['composition'].nunique(), rows['seeds'], rows['images'].iloc[0])}",
        fontsize=7,
    )
    bar = figure.colorbar(images[0], ax=list(grid.flat), location="bottom", fraction=0.03, aspect=60, pad=0.01)
    bar.set_label("accuracy (%)")
    for name, place in levels(rows).items():
        bar.ax.axvline(place, color="white", linewidth=2.0)
        bar.ax.axvline(place, color="black", linewidth=0.8)
        bar.ax.annotate(
            name,
            (place, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=6,
        )
    figure.supxlabel("\n".join(key_lines), fontsize=6.5)
    return figure


def _draw_panel(axes: Axes, own: pd.DataFrame, systems: list[str], tallest: int) -> AxesImage:
    """The rows of some numbers of corruptions; a line between sets, a wider one between numbers."""
    image = axes.imshow(100 * own[systems].to_numpy(dtype=float), cmap=MAP, vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(own)), own["label"], fontsize=4.5, family="monospace")
    axes.set_xticks(range(len(systems)), [str(number) for number in range(1, len(systems) + 1)], fontsize=5)
    axes.tick_params(length=0, pad=1.5, top=False, labeltop=True, bottom=False, labelbottom=False)
    # Panels of a line have rows of one height.
    axes.set_ylim(max(tallest, len(own)) - 0.5, -0.5)
    for side in axes.spines.values():
        side.set_visible(False)
    sets, counts = own["set"].to_numpy(), own["n_corruptions"].to_numpy()
    for place in range(1, len(own)):
        if counts[place] != counts[place - 1]:
            axes.axhline(place - 0.5, color="white", linewidth=1.6)
        elif sets[place] != sets[place - 1] and own["label"].iloc[place] != sets[place]:
            axes.axhline(place - 0.5, color="white", linewidth=0.5)
    numbers = [str(count) if count else "clean" for count in sorted(set(counts.tolist()))]
    axes.set_title(f"{', '.join(numbers)} corruption{'' if numbers[-1] == '1' else 's'}", fontsize=6.5)
    return image
