"""Running one experiment: its training in its run directory, its evaluation, and what W&B is told of both."""

from collections.abc import Sequence

import h5py
import torch

from data import datasets
from data.compositions import n_corruptions
from errors import COME_AGAIN, InputError, Interrupted, RunError
from train.checkpoint import remove_checkpoints
from train.entry import Experiment
from train.evaluation import evaluate_part, merge
from train.loop import Loop, choose_device
from train.method import method_class
from train.run import Run, evaluated, finished, open_run, read_jsonl, state
from train.tracking import Tracker


def run_experiment(experiment: Experiment, tags: tuple[str, ...] = (), evaluation: bool = True, quiet: bool = True) -> None:
    """Trains an experiment (from where it stopped, if it did) and, where it is a system, evaluates it.

    Nothing is done where everything is finished. InputError for a missing or stale prerequisite, missing data or a held or
    unwritable run directory, before anything is written; RunError where the training fails.
    """
    for needed in experiment.requires():
        if not finished(needed):
            found = state(needed)
            raise InputError(f"{experiment.name} needs {needed.name}, which is {found.name} {found.detail}".rstrip())
    found = state(experiment)
    if found.name == "stale":
        raise InputError(f"{experiment.directory}: {found.detail}")
    dataset = datasets.load(experiment.dataset)
    choose_device(experiment.device)
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    with open_run(experiment) as run:
        try:
            run.start(dataset.checksum)
            trained = (run.directory / "done.json").exists()
            if trained and (not evaluation or evaluated(experiment)):
                return
            tracker = Tracker(experiment, run.directory, tags)
            code = 1
            try:
                if not trained:
                    train(run, dataset, tracker, quiet)
                if evaluation and not evaluated(experiment):
                    for part in range(experiment.evaluation_parts):
                        evaluate_part([experiment], part, quiet)
                        run.lock.check()
                    merge(experiment, dataset)
                    log_evaluation(experiment, tracker)
                code = 0
            except Interrupted:
                code = COME_AGAIN
                raise
            finally:
                tracker.finish(code)
        except OSError as error:
            raise RunError(f"{error.filename or run.directory}: {error.strerror}") from None
        except torch.OutOfMemoryError as error:
            raise RunError(
                f"{experiment.name}: out of GPU memory ({str(error).splitlines()[0]}); a smaller batch_size needs less"
            ) from None


def train(run: Run, dataset: datasets.DataSet, tracker: Tracker, quiet: bool) -> None:
    """The training of an experiment, up to its done.json."""
    experiment = run.experiment
    method = method_class(experiment.method)(experiment, dataset, choose_device(experiment.device))
    facts = Loop(run, method, tracker.epoch, quiet).train() if method.stages() else {}
    tracker.summary(facts)
    run.finish(facts)
    remove_checkpoints(run.directory)


def log_evaluation(experiment: Experiment, tracker: Tracker) -> None:
    """Tells W&B the accuracy of every composition, the means by number of corruptions, and one table."""
    with h5py.File(experiment.directory / "evaluation" / f"{experiment.testing.key}.h5") as file:
        names = [name.decode() for name in file["composition"][()]]
        accuracies, losses = file["accuracy"][()].tolist(), file["loss"][()].tolist()
        n = int(file.attrs["n"])
    values = {f"composition/{name}/accuracy": accuracy for name, accuracy in zip(names, accuracies)}
    counts = [n_corruptions(tuple(name.split("-"))) for name in names]
    for count in sorted(set(counts)):
        group = [accuracy for accuracy, own in zip(accuracies, counts) if own == count]
        values[f"corruptions/{count}/accuracy"] = sum(group) / len(group)
    values["compositions/accuracy"] = sum(accuracies) / len(accuracies)
    step = len(read_jsonl(experiment.directory / "metrics.jsonl"))
    tracker.log(values, step)
    tracker.summary(values)
    rows = [list(row) for row in zip(names, counts, accuracies, losses, [n] * len(names))]
    tracker.table("compositions", ["composition", "n_corruptions", "accuracy", "loss", "n"], rows, step + 1)


def finish_evaluation(experiments: Sequence[Experiment], tags: tuple[str, ...]) -> None:
    """Puts together the parts of an evaluation of several systems and tells W&B, each in its own run."""
    dataset = datasets.load(experiments[0].dataset)
    for experiment in experiments:
        merge(experiment, dataset)
        tracker = Tracker(experiment, experiment.directory, tags)
        log_evaluation(experiment, tracker)
        tracker.finish(0)
