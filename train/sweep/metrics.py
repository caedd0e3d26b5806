"""What a search may select by: metrics on validation images that carry at most one corruption, never on compositions. Loads without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from train.entry import Experiment, Trained
from train.experiment import Autoencoder, OneCorruption
from train.fields import choose
from train.run import read_json

# Mean accuracy over the elementals of a system, and that on clean images.
ELEMENTALS, CLEAN = "selection/elementals_accuracy", "selection/clean_accuracy"
# Mean over the parts for all corruptions of their validation losses; an autoencoder's is the squared error per value.
LOSS, MSE = "selection/loss", "selection/mse"


@dataclass(frozen=True)
class Metric:
    """A metric's name, which way is better, and whether it is known after every epoch (`live`) or at a trial's end alone."""

    name: str
    goal: Literal["maximize", "minimize"]
    live: bool = False


def metrics_of(experiment: type[Experiment]) -> dict[str, Metric]:
    """The metrics that a trial of a kind of experiment reports, by name."""
    if issubclass(experiment, OneCorruption):
        return by_name(Metric(MSE if issubclass(experiment, Autoencoder) else LOSS, "minimize"))
    found = []
    if "oracle" in choose("method", experiment.__name__).facts:
        found += [Metric(ELEMENTALS, "maximize"), Metric(CLEAN, "maximize")]
    if issubclass(experiment, Trained):
        found += [Metric("valid/accuracy", "maximize", live=True), Metric("valid/loss", "minimize", live=True)]
    return by_name(*found)


def by_name(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


def measure(experiments: Sequence[Experiment]) -> dict[str, float]:
    """The metrics of a trial whose experiments are finished, from their files alone."""
    kind = type(experiments[0])
    facts = [read_json(experiment.directory / "done.json") for experiment in experiments]
    found: dict[str, float] = {}
    for name in metrics_of(kind):
        if name in (LOSS, MSE):
            found[name] = sum(own["valid_loss"] for own in facts) / len(facts)
        elif name in (ELEMENTALS, CLEAN):
            found[name] = accuracy(experiments[0], clean=name == CLEAN)
        else:
            found[name] = facts[0][name.replace("/", "_")]
    return found


def accuracy(experiment: Experiment, clean: bool) -> float:
    """Mean accuracy of a system on clean validation images, or over the elementals that it is made for."""
    # Only here, since it takes numpy and h5py, which reading a sweep's file does not need.
    from train.evaluations import evaluation_path, read_evaluation

    tested = read_evaluation(evaluation_path(experiment))
    accuracies = dict(zip(tested.names, tested.accuracy_c.tolist()))
    chosen = (
        ["Identity"]
        if clean
        else [name for name in accuracies if name in getattr(experiment, "corruptions", accuracies) and name != "Identity"]
    )
    return sum(accuracies[name] for name in chosen) / len(chosen)
