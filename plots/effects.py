"""What each corruption costs, what it costs to be the first, and which pairs of corruptions commute."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

import info_dicts
from data.compositions import abbreviate
from errors import InputError
from plots.points import accuracy_rows, comparable, figure_names
from plots.results import Results
from plots.statistics import Interval, bootstrap_intervals, t_interval
from plots.style import PAGE, describe_n, save, styled
from train.entry import Experiment
from train.evaluations import Tested, unpack

KINDS = {
    "presence": "with it - without it,\nequally many corruptions",
    "first": "it at the start - it later,\nthe same corruptions",
    "order": "in this order - the two exchanged (0: they commute)",
}
ROW = 0.16  # inches of each system
MAP = "PuOr"  # its two sides are told apart with any kind of colour blindness


@dataclass(frozen=True)
class Contrast:
    """A difference of mean accuracies: `weights` (C,) of the compositions, those of either side sum to 1 and -1; `n` are the matched groups behind it."""

    kind: str
    name: str
    weights: NDArray[np.float64]
    n: int


def contrasts(names: Sequence[str]) -> list[Contrast]:
    """The effects that compositions in full names allow to be measured.

    presence: mean accuracy of the compositions with a corruption minus that of those without it, of equally many corruptions, averaged over these numbers
    (1 to 5). first: mean accuracy of the compositions that begin with it minus that of those that have it later, of the same set of corruptions, averaged
    over the sets. order: for each pair A-B, the accuracy of a composition in which A comes before B minus that of the same with A and B exchanged,
    averaged over all such compositions; 0 where they commute.
    """
    split = [() if name == "Identity" else tuple(name.split("-")) for name in names]
    place = {own: index for index, own in enumerate(split)}
    numbers = {str(choice): number for number, choice in info_dicts.CORRUPTIONS.items()}
    present = sorted({name for own in split for name in own}, key=numbers.__getitem__)
    found = []
    for name in present:
        counts = sorted({len(own) for own in split if own})
        sides = [
            ([own for own in split if len(own) == k and name in own], [own for own in split if len(own) == k and name not in own])
            for k in counts
        ]
        found.append(_contrast("presence", abbreviate(name), sides, place))
    for name in present:
        sets = dict.fromkeys(frozenset(own) for own in split if name in own)
        by_set = [[own for own in split if frozenset(own) == members] for members in sets]
        sides = [([own for own in group if own[0] == name], [own for own in group if own[0] != name]) for group in by_set]
        found.append(_contrast("first", abbreviate(name), sides, place))
    for one, other in itertools.combinations(present, 2):
        exchanged = {one: other, other: one}
        sides = [
            ([own], [turned])
            for own in split
            if one in own and other in own and own.index(one) < own.index(other)
            if (turned := tuple(exchanged.get(name, name) for name in own)) in place
        ]
        found.append(_contrast("order", abbreviate(f"{one}-{other}"), sides, place))
    return [contrast for contrast in found if contrast.n]


def _contrast(kind: str, name: str, sides: Sequence[tuple[list[Any], list[Any]]], place: dict[Any, int]) -> Contrast:
    """The mean over matched groups, of which both sides have compositions, of the first side's mean minus the second's."""
    matched = [(first, second) for first, second in sides if first and second]
    weights = np.zeros(len(place))
    for first, second in matched:
        for side, sign in ((first, 1), (second, -1)):
            np.add.at(weights, [place[own] for own in side], sign / (len(side) * len(matched)))
    return Contrast(kind, name, weights, len(matched))


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws, for each set of comparable evaluations, the `contrasts` of every system in percentage points, bold where their 95 % interval excludes 0.

    Intervals are Student's t over seeds, of one seed a bootstrap over images, or none where there are no results of single images (W&B). Returns the
    paths of CSV, PDF and PNG. InputError where no run has been evaluated, or on no compositions that differ in one corruption or in order.
    """
    rows = accuracy_rows(results)
    if rows.empty:
        raise results.unfinished("effects")
    paths = []
    for place, (name, tested) in enumerate(zip(figure_names("effects", results.runs), comparable(results.runs))):
        table = measure(rows[rows["comparison"] == place], tested)
        if len(table):
            with styled():
                paths += save(draw_effects(table), table, folder, name)
    if not paths:
        raise InputError(
            f"effects: {results.source}: no compositions to compare; it takes one with and one without a corruption, or two orders of the same corruptions "
            "(--evaluation.compositions=167, for instance)"
        )
    return paths


def measure(rows: pd.DataFrame, tested: Sequence[tuple[Experiment, Tested]]) -> pd.DataFrame:
    """The effects of the systems of one set of evaluations, fractions, with their intervals; `n` counts the matched groups of compositions."""
    names = tested[0][1].names
    wanted = contrasts(names)
    if not wanted:
        return pd.DataFrame()
    weights_kc = np.stack([contrast.weights for contrast in wanted])
    files = {e.name: facts.path for e, facts in tested}
    tables = []
    for system, own in rows.groupby("system", sort=False):
        by_run = {
            str(run): values.set_index("composition")["value"].loc[list(names)].to_numpy(dtype=float) for run, values in own.groupby("run")
        }
        effects_sk = np.stack([weights_kc @ accuracy_c for accuracy_c in by_run.values()])
        path = files[next(iter(by_run))]
        kind, intervals = "", [Interval(float(value), math.nan, math.nan) for value in effects_sk[0]]
        if len(by_run) > 1:
            kind, intervals = "t over seeds", [t_interval(values) for values in effects_sk.T]
        elif path is not None:
            kind, intervals = "bootstrap over images", bootstrap_intervals(unpack(path)[1].T.astype(np.float64) @ weights_kc.T)
        facts: dict[str, Any] = {"dataset": own["dataset"].iloc[0], "split": own["split"].iloc[0], "system": system, "seeds": len(by_run)}
        facts |= {"images": own["images"].iloc[0], "compositions": len(names), "kind": [contrast.kind for contrast in wanted]}
        facts |= {"name": [contrast.name for contrast in wanted], "n": [contrast.n for contrast in wanted], "interval": kind}
        tables.append(pd.DataFrame(facts | dict(zip(("effect", "low", "high"), zip(*intervals)))))
    return pd.concat(tables, ignore_index=True)


def draw_effects(table: pd.DataFrame) -> Figure:
    """A map of the effects: a row for each system, a panel for each kind."""
    first = table.iloc[0]
    systems = list(dict.fromkeys(table["system"]))
    panels = {kind: list(dict.fromkeys(own["name"])) for kind in KINDS if len(own := table[table["kind"] == kind])}
    figure = Figure(figsize=(PAGE, 1.75 + ROW * len(systems)), layout="constrained")
    ratios = [max(4, len(names)) for names in panels.values()]
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=ratios)[0]
    limit = 100 * float(table["effect"].abs().max()) or 1.0
    images = [_draw_panel(axes, table[table["kind"] == kind], systems, names, limit) for axes, (kind, names) in zip(grid, panels.items())]
    for axes, kind in zip(grid, panels):
        axes.set_title(KINDS[kind], fontsize=6.5)
    grid[0].set_yticks(range(len(systems)), systems)
    n = describe_n(first["compositions"], table["seeds"], first["images"])
    kinds = [kind for kind in dict.fromkeys(table["interval"]) if kind]
    bold = (
        f"bold: the 95 % interval ({' or, of one seed, '.join(kinds)}) excludes 0"
        if kinds
        else "no intervals: one seed, no results of single images"
    )
    figure.suptitle(f"{first['dataset']}, {first['split']} images: effects on accuracy\n{n}; {bold}", fontsize=7)
    bar = figure.colorbar(images[0], ax=list(grid), location="bottom", fraction=0.06, aspect=60, pad=0.02)
    bar.set_label("percentage points")
    return figure


def describe(value: float) -> str:
    """Percentage points in at most four letters."""
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.1f}".replace("-0.0", "0.0")


def _draw_panel(axes: Axes, own: pd.DataFrame, systems: list[str], names: list[str], limit: float) -> AxesImage:
    """One kind of effect."""
    values = 100 * own.pivot(index="system", columns="name", values="effect").loc[systems, names].to_numpy(dtype=float)
    image = axes.imshow(values, cmap=MAP, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    certain = {
        (system, name) for system, name, low, high in own[["system", "name", "low", "high"]].itertuples(index=False) if low > 0 or high < 0
    }
    for row, system in enumerate(systems):
        for column, name in enumerate(names):
            value, bold = values[row, column], (system, name) in certain
            colour = "white" if abs(value) > 0.6 * limit else "black" if bold else "0.35"
            text = describe(value)
            axes.annotate(text, (column, row), ha="center", va="center", fontsize=5, color=colour, weight="bold" if bold else "normal")
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0, fontsize=5.5)
    axes.set_yticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return image
