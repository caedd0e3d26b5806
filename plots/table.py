"""The tidy table: one row per value, with the same columns whatever was measured and wherever it was read."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import info_dicts
from analysis.table import Row
from data.compositions import n_corruptions
from plots.records import Record, counts, describe_condition
from train.facts import FACTS

COLUMNS: dict[str, Any] = {
    "study": "str",
    "dataset": "str",
    "method": "str",
    "model": "str",
    "seed": "Int64",
    "run": "str",
    "split": "str",
    "epoch": "Int64",
    "step": "Int64",
    "layer": "str",
    "composition": "str",
    "condition": "str",
    "n_corruptions": "Int64",
    "metric": "str",
    "value": "float64",
}

# How columns are held while they are put together: whole numbers as floats, where NaN stands for none, but for seeds, which may exceed 2**53.
DTYPES: dict[str, Any] = {name: object if kind == "str" else np.float64 for name, kind in COLUMNS.items()} | {"seed": np.int64}

# Keys of a row of metrics.jsonl -> (split, metric).
CURVES = {
    "train_loss": ("train", "loss"),
    "train_accuracy": ("train", "accuracy"),
    "valid_loss": ("valid", "loss"),
    "valid_accuracy": ("valid", "accuracy"),
    "lr": ("train", "lr"),
    "sparsity": ("train", "sparsity"),
    **{f"valid_{name}": ("valid", str(name)) for name in info_dicts.METRICS.values()},
}


class Rows:
    """Columns of the table in the making."""

    def __init__(self) -> None:
        self.chunks: dict[str, list[NDArray[Any]]] = {name: [] for name in COLUMNS}

    def add(self, constant: Mapping[str, Any], values: Sequence[float] | NDArray[np.float64], **columns: Any) -> None:
        """Appends one row per value; what is a sequence in `columns` varies by row."""
        n = len(values)
        cells = {**constant, **columns, "value": values}
        for name, kind in COLUMNS.items():
            cell, dtype = cells.get(name, "" if kind == "str" else np.nan), DTYPES[name]
            self.chunks[name].append(np.asarray(cell, dtype) if isinstance(cell, tuple | list | np.ndarray) else np.full(n, cell, dtype))

    def table(self) -> pd.DataFrame:
        columns = {name: np.concatenate([np.empty(0, DTYPES[name]), *self.chunks[name]]) for name in COLUMNS}
        return pd.DataFrame({name: pd.Series(column).astype(COLUMNS[name]) for name, column in columns.items()})


def tabulate(runs: Iterable[Record]) -> pd.DataFrame:
    """The tidy table of finished runs."""
    rows = Rows()
    for run in runs:
        e = run.experiment
        constant = {"study": e.study, "dataset": e.dataset, "method": e.method, "model": e.model, "seed": e.seed, "run": e.name}
        plain = constant | {"condition": describe_condition(e, e.testing.severities)}
        add_epochs(rows, plain, run.epochs)
        for tested in run.tested:
            own = constant | {"condition": describe_condition(e, tested.severities), "split": tested.split}
            common = {"composition": tested.names, "n_corruptions": counts(tested.names)}
            rows.add(own, tested.accuracy_c, metric="accuracy", **common)
            rows.add(own, tested.loss_c, metric="loss", **common)
        for name in (str(name) for name in info_dicts.ANALYSES.values() if name in run.analyses):
            add_analysis(rows, plain, run.analyses[name])
        facts = {metric: run.facts[metric] for metric in FACTS if metric in run.facts}
        rows.add(plain, list(facts.values()), metric=list(facts))
    return rows.table()


def add_analysis(rows: Rows, constant: Mapping[str, Any], found: Sequence[Row]) -> None:
    """The table of an analysis of layers."""
    if not found:
        return
    metric, values, layer, split, composition = (list(column) for column in zip(*found))
    numbers = [np.nan if not name else n_corruptions(tuple(name.split("-"))) for name in composition]
    rows.add(constant, values, metric=metric, layer=layer, split=split, composition=composition, n_corruptions=numbers)


def add_epochs(rows: Rows, constant: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> None:
    """The rows of metrics.jsonl; `step` is the row's number there, as it is the step in W&B."""
    stages = [row["stage"] for row in epochs]
    layers = ["" if stage == "train" else stage.removeprefix("search-level") for stage in stages]
    prefixes = ["" if stage == "train" else "search_" for stage in stages]
    for key, (split, metric) in CURVES.items():
        # Parts that classify nothing have no accuracy; rows of iterations have no curves.
        own = [step for step, row in enumerate(epochs) if key in row]
        if own:
            rows.add(
                constant, [epochs[step][key] for step in own], split=split, epoch=[epochs[step]["epoch"] for step in own], step=own,
                layer=[layers[step] for step in own], metric=[prefixes[step] + metric for step in own],
            )  # fmt: skip
    add_counterfactual(rows, constant, epochs)
    add_layers(rows, constant, epochs)
    for step, row in enumerate(epochs):
        if graph := row.get("graph", {}):
            rows.add(constant, list(graph.values()), split="train", epoch=row["epoch"], step=step, metric=list(graph))


def add_layers(rows: Rows, constant: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> None:
    """What was followed of layers along the training: saturation and the like at the end of every epoch; and of which batches (`layers_every`)."""
    for step, row in enumerate(epochs):
        for split, layers in sorted(row.get("layers", {}).items()):
            # Neither JSON nor W&B keeps an order.
            cells = [(layer, metric, value) for layer in sorted(layers, key=by_number) for metric, value in sorted(layers[layer].items())]
            layer, metric, values = (list(column) for column in zip(*cells))
            rows.add(constant, values, split=split, epoch=row["epoch"], step=step, layer=layer, metric=metric)
        if "layers" in row:
            rows.add(constant, [row["layers_every"]], split="train", epoch=row["epoch"], step=step, metric="layers_every")


def by_number(layer: str) -> list[tuple[int, str]]:
    """A key that sorts paths such as `blocks.10.conv1` by their numbers."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in re.split(r"(\d+)", layer) if word]


def add_counterfactual(rows: Rows, constant: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]) -> None:
    """Tests on counterfactual sets: `split` is `test/<set>`; those on all images, after an epoch, have its number, those on the first ones none."""
    tests = [(step, row) for step, row in enumerate(epochs) if "counterfactual" in row]
    if not tests:
        return
    steps = [step for step, _ in tests]
    numbers = [row["epoch"] if "valid_loss" in row else np.nan for _, row in tests]
    if all("iteration" in row for _, row in tests):
        rows.add(constant, [row["iteration"] for _, row in tests], split="train", epoch=numbers, step=steps, metric="iteration")
    for name, first in tests[0][1]["counterfactual"].items():
        for metric in first:
            values = [row["counterfactual"][name][metric] for _, row in tests]
            rows.add(constant, values, split=f"test/{name}", epoch=numbers, step=steps, metric=metric)


def name_systems(table: pd.DataFrame) -> pd.Series:
    """A label for each row's system: its method, with model and condition where these tell variants apart.

    Runs of one label differ in their seed alone: where they do not, what their names say is added (lr, weight), at last their hash.
    """
    keys = ["dataset", "run", "condition"]
    systems = table[[*keys, "method", "model", "seed"]].drop_duplicates().copy()
    several_models = systems.groupby(["dataset", "method"])["model"].transform("nunique") > 1
    details = [
        ", ".join(filter(None, [model if several else "", condition]))
        for model, several, condition in zip(systems["model"], several_models, systems["condition"])
    ]
    systems["label"] = [f"{method} ({detail})" if detail else method for method, detail in zip(systems["method"], details)]
    hashless = [
        re.sub(r"-s\d+-[0-9a-f]{12}$", "", run).removeprefix(method).lstrip("-") for run, method in zip(systems["run"], systems["method"])
    ]
    for addition in (hashless, [run[-12:-6] for run in systems["run"]]):
        systems["addition"] = addition
        group = systems.groupby(["dataset", "label"])
        if addition is hashless:
            ambiguous = group["addition"].transform("nunique") > 1
        else:
            ambiguous = group["seed"].transform("size") > group["seed"].transform("nunique")
        systems["label"] = [
            f"{label} {more}" if add else label for label, more, add in zip(systems["label"], systems["addition"], ambiguous)
        ]
    labels = dict(zip(zip(*(systems[key] for key in keys)), systems["label"]))
    return pd.Series([labels[key] for key in zip(*(table[key] for key in keys))], index=table.index, dtype="str")


def label_systems(table: pd.DataFrame) -> dict[tuple[str, str, str], str]:
    """The names of evaluated systems by data set, run and condition."""
    tested = table[table["composition"] != ""]
    rows = tested[["dataset", "run", "condition"]].assign(label=name_systems(tested)).drop_duplicates()
    return {(dataset, run, condition): label for dataset, run, condition, label in rows.to_numpy().tolist()}
