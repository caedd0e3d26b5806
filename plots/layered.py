"""What analyses say of the layers of systems, as the tidy table has it: by system and layer, in the order of the forward pass, mean over seeds."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from errors import InputError
from plots.results import Results
from plots.table import by_number, name_systems

CLEAN = "Identity"
LEVEL = "level "


@dataclass(frozen=True)
class Layered:
    """The rows of one system's runs of one data set, which differ in their seed alone."""

    dataset: str
    system: str
    model: str
    rows: pd.DataFrame

    @property
    def seeds(self) -> int:
        return int(self.rows["run"].nunique())

    def metrics(self, pattern: str) -> list[str]:
        """The metrics whose names match, in order of appearance."""
        return [metric for metric in self.rows["metric"].drop_duplicates() if re.fullmatch(pattern, metric)]

    def at_levels(self, metric: str) -> bool:
        """Whether a metric was found at levels."""
        own = self.rows[self.rows["metric"] == metric]["layer"]
        return bool(own.str.startswith(LEVEL).any())

    def values(self, metric: str, **cells: Any) -> pd.Series:
        """Mean over seeds of a metric by layer or level, of rows with these cells, in the order of the forward pass."""
        own = self.rows[self.rows["metric"] == metric]
        for column, value in cells.items():
            own = own[own[column] == value]
        means = own.groupby("layer", sort=False)["value"].mean()
        return means.reindex([layer for layer in self.order(own["layer"]) if layer in means.index])

    def order(self, layers: pd.Series) -> list[str]:
        """Layers as the forward pass has them: as analyses list them; those that were only followed along the training, by their numbers."""
        listed = self.rows[self.rows["epoch"].isna() & (self.rows["layer"] != "")]["layer"].drop_duplicates().tolist()
        there = set(layers)
        known = [layer for layer in listed if layer in there]
        return known + sorted(there - set(known), key=by_number)

    def conditions(self, metric: str) -> list[dict[str, str]]:
        """The cells (`composition`, or `split` of counterfactual sets) that a metric was found under, the clean one first."""
        own = self.rows[(self.rows["metric"] == metric) & self.rows["epoch"].isna()]
        found = own[["split", "composition"]].drop_duplicates().to_dict("records")
        return [{str(key): str(value) for key, value in cells.items()} for cells in found]

    def border(self, metric: str = "covered") -> str | None:
        """The first layer into which comes what sees the whole image."""
        covered = self.values(metric)
        return next((str(layer) for layer, value in covered.items() if value == 1), None)

    def accuracy(self) -> float | None:
        """The system's own accuracy on clean images, where it was evaluated."""
        own = self.rows[(self.rows["metric"] == "accuracy") & (self.rows["composition"] == CLEAN)]
        return float(own["value"].mean()) if len(own) else None


def layered(results: Results, pattern: str, figure: str, analysis: str, help: str = "") -> list[Layered]:
    """The systems that have a metric whose name matches; names the others on stderr. InputError, with what helps (by default the command), where none has."""
    table = results.table
    wanted = table[[re.fullmatch(pattern, metric) is not None for metric in table["metric"]]]
    if not results.runs:
        raise results.unfinished(figure)
    if wanted.empty:
        raise InputError(
            f"{figure}: nothing in {results.source} was analysed for it; {help or f'run first: python -m analysis {analysis} CONFIG'}"
        )
    runs = wanted[["dataset", "run"]].drop_duplicates()
    without = sorted(set(table["run"]) - set(runs["run"]))
    if without:
        print(f"{figure}: left out, since not analysed for it: {', '.join(without)}", file=sys.stderr)
    rows = table.merge(runs, on=["dataset", "run"])
    rows = rows.assign(system=name_systems(rows))
    return [
        Layered(str(dataset), str(system), str(own["model"].iloc[0]), own)
        for (dataset, system), own in rows.groupby(["dataset", "system"], sort=False)
    ]


def by_dataset(found: Sequence[Layered]) -> Iterator[tuple[str, list[Layered]]]:
    """The systems of each data set."""
    for dataset in dict.fromkeys(own.dataset for own in found):
        yield dataset, [own for own in found if own.dataset == dataset]


def short(layer: str) -> str:
    """A layer's name on an axis."""
    return layer.removeprefix("blocks.").removeprefix(LEVEL).replace("downsample.0", "skip")


def name_layers(axes: Axes, layers: Sequence[str]) -> None:
    """The layers' names below an axis whose places they are."""
    axes.set_xticks(
        range(len(layers)),
        [short(layer) for layer in layers],
        rotation=90 if any(len(short(layer)) > 2 for layer in layers) else 0,
        fontsize=5.5,
    )
    axes.set_xlim(-0.6, len(layers) - 0.4)


def mark_border(axes: Axes, layers: Sequence[str], own: Layered) -> None:
    """Vertical lines where the receptive field first covers the image: dashed by the longest path, dotted by the shortest."""
    for metric, style in (("covered", (0, (4, 2))), ("covered_smallest", (0, (1, 1.5)))):
        layer = own.border(metric)
        if layer in layers:
            axes.axvline(layers.index(layer) - 0.5, color="0.3", linestyle=style, linewidth=0.8, zorder=1)


def describe_seeds(found: Sequence[Layered]) -> str:
    """The number of seeds, in words."""
    numbers = sorted({own.seeds for own in found})
    return f"n = {numbers[0] if len(numbers) == 1 else f'{numbers[0]} to {numbers[-1]}'} seed{'' if numbers == [1] else 's'}"


def long_table(found: Sequence[Layered], describe: Callable[[Layered], list[dict[str, Any]]]) -> pd.DataFrame:
    """What is drawn of all systems, a row for each value."""
    return pd.DataFrame([{"dataset": own.dataset, "system": own.system, **row} for own in found for row in describe(own)])
