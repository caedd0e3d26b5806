"""Running one experiment: its training in its run directory, its evaluation, and what W&B is told of both."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence

import torch

from analysis.options import Options
from data import datasets
from errors import COME_AGAIN, InputError, Interrupted, RunError
from train.analysed import missing_analyses
from train.analyses import run_analyses
from train.checkpoint import remove_checkpoints
from train.entry import Experiment
from train.evaluation import evaluate_part, merge
from train.loop import Loop, choose_device
from train.method import method_class
from train.run import Run, evaluated, finished, open_run, state
from train.subject import ExperimentSubject
from train.tracking import Tracker


def run_experiment(
    experiment: Experiment, tags: tuple[str, ...] = (), evaluation: bool = True, quiet: bool = True, told: Tracker | None = None
) -> None:
    """Trains an experiment (from where it stopped, if it did) and, where it is a system, evaluates it.

    W&B is told in the experiment's own run, or, of the training, through a tracker that somebody else ends. Nothing is done where everything is
    finished. InputError for a missing or stale prerequisite, missing data, or a run directory that another process has (Held) or that cannot be
    written, before anything is written; RunError where the training fails.
    """
    for needed in experiment.requires():
        if not finished(needed):
            found = state(needed)
            raise InputError(f"{experiment.name} needs {needed.name}, which is {found.name} {found.detail}".rstrip())
    found = state(experiment)
    if found.name == "stale":
        raise InputError(f"{experiment.directory}: {found.detail}")
    dataset = datasets.load(experiment.dataset)
    device = choose_device(experiment.device)
    if experiment.compile and device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise InputError(f"{experiment.name}: compile: torch's compiler needs a C++ compiler, and there is no g++ (nor what CXX names)")
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    with open_run(experiment) as run:
        try:
            run.start(dataset.checksum)
            trained = (run.directory / "done.json").exists()
            analyses = missing_analyses(experiment) if evaluation else {}
            if trained and (not evaluation or evaluated(experiment)) and not analyses:
                return
            tracker = told or Tracker(ExperimentSubject(experiment, tags))
            code = 1
            try:
                if not trained:
                    train(run, dataset, tracker, quiet)
                if evaluation and not evaluated(experiment):
                    for part in range(experiment.evaluation_parts):
                        evaluate_part([experiment], part, quiet)
                        run.lock.check()
                    merge(experiment, dataset)
                run_analyses(experiment, analyses, quiet)
                code = 0
            except Interrupted:
                code = COME_AGAIN
                raise
            finally:
                if told is None:
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
    device = choose_device(experiment.device)
    if (
        device.type == "cpu"
        and getattr(experiment, "precision", "float32") == "bfloat16"
        and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        print(f"warning: {experiment.name}: precision: this processor emulates bfloat16, many times slower than float32", file=sys.stderr)
    method = method_class(experiment.method)(experiment, dataset, device)
    facts = Loop(run, method, tracker.epoch, quiet).train() if method.stages() else {}
    run.finish(facts)
    remove_checkpoints(run.directory)


def finish_analyses(experiment: Experiment, tags: tuple[str, ...], wanted: Mapping[str, Options] | None = None, quiet: bool = True) -> None:
    """Runs analyses of a finished run (by default those that its entry asks for) and tells W&B in its own run."""
    choose_device(experiment.device)
    if experiment.threads:
        torch.set_num_threads(experiment.threads)
    run_analyses(experiment, missing_analyses(experiment) if wanted is None else wanted, quiet)
    Tracker(ExperimentSubject(experiment, tags)).finish()


def finish_evaluation(experiments: Sequence[Experiment], tags: tuple[str, ...]) -> None:
    """Puts together the parts of an evaluation of several systems and tells W&B, each in its own run."""
    dataset = datasets.load(experiments[0].dataset)
    for experiment in experiments:
        merge(experiment, dataset)
        Tracker(ExperimentSubject(experiment, tags)).finish()
