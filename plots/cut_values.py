"""What clusterability says of networks, run by run, as the tidy table has it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from analysis.shuffles import SHUFFLES
from plots.layered import Layered, layered
from plots.results import Results

# Before a metric's name: which weights.
WEIGHTS = {"": "final", "unpruned_": "unpruned", "untrained_": "untrained"}
NCUT = r"(unpruned_|untrained_)?ncut"


@dataclass(frozen=True)
class Cut:
    """The n-cut of one run's network, or of a module of it (`part`), with some weights, beside one kind of shuffle."""

    system: str
    dataset: str
    model: str
    run: str
    seed: int
    part: str
    weights: str
    shuffle: str
    ncut: float
    inside_to_outside: float
    shuffled: tuple[float, ...]
    values: dict[str, float]  # mean, std, z, p and the intervals

    @property
    def smallest(self) -> bool:
        """Whether no shuffle has as small an n-cut."""
        return not any(value <= self.ncut for value in self.shuffled)


def cuts(own: Layered) -> Iterator[Cut]:
    """The n-cuts of a system's runs that were compared with shuffles."""
    # What was measured along the training has an epoch.
    final = own.rows[own.rows["epoch"].isna()]
    for run, rows in final.groupby("run", sort=False):
        seed = int(rows["seed"].iloc[0])
        by_metric = {
            str(metric): {str(layer): float(value) for layer, value in zip(group["layer"], group["value"])}
            for metric, group in rows.groupby("metric", sort=False)
        }
        for prefix, weights in WEIGHTS.items():
            for part, ncut in by_metric.get(f"{prefix}ncut", {}).items():
                for shuffle in SHUFFLES:
                    start = f"{prefix}ncut_{shuffle}_"
                    found = by_metric.get(f"{start}shuffled", {})
                    # `<place>`, of a module `<its name>:<place>`.
                    chance = tuple(value for name, value in found.items() if name.rpartition(":")[0] == part)
                    if not chance:
                        continue
                    values = {name: by_metric[start + name][part] for name in ("mean", "std", "z", "p", "p_low", "p_high", "low", "high")}
                    ratio = by_metric[f"{prefix}inside_to_outside"][part]
                    yield Cut(own.system, own.dataset, own.model, str(run), seed, part, weights, shuffle, ncut, ratio, chance, values)


def cut_systems(results: Results, figure: str) -> list[Layered]:
    """The systems that clusterability was found of; InputError, with the command that helps, where there is none."""
    return layered(results, NCUT, figure, "clusterability")


def accuracies(own: Layered, run: str, weights: str = "final") -> dict[str, float]:
    """What is known of a run with these weights: train_accuracy, train_loss, valid_..., test_...

    Of the final ones after the last epoch and on the test images; of the unpruned ones after the last epoch before the pruning, and nothing on test images;
    of the untrained ones nothing.
    """
    rows = own.rows[own.rows["run"] == run]
    last = {"final": None, "unpruned": pruned_from(rows) or 0, "untrained": 0}[weights]
    found: dict[str, float] = {}
    for metric in ("accuracy", "loss"):
        for split in ("train", "valid"):
            epochs = rows[(rows["metric"] == metric) & (rows["split"] == split) & rows["epoch"].notna()]
            epochs = epochs if last is None else epochs[epochs["epoch"] <= last]
            if len(epochs):
                found[f"{split}_{metric}"] = float(epochs.sort_values("epoch")["value"].iloc[-1])
        clean = rows[(rows["metric"] == metric) & (rows["composition"] == "Identity") & (rows["split"] == "test")]
        if weights == "final" and len(clean):
            found[f"test_{metric}"] = float(clean["value"].iloc[0])
    return found


def pruned_from(rows: pd.DataFrame) -> int | None:
    """How many epochs came before the pruning; None where nothing was pruned."""
    epochs = rows[rows["metric"] == "sparsity"]["epoch"]
    return int(epochs.min()) - 1 if len(epochs) else None


def named(own: Layered) -> str:
    """A system and its network, in a title or legend."""
    return own.system if own.model in own.system else f"{own.system}: {own.model}"


def short_layer(name: str) -> str:
    """A layer, or a cluster in one, on an axis."""
    return re.sub(r"blocks\.(\d+)(\.0|\.2)?(?=/|$)", lambda match: str(int(match[1]) + 1), name)
