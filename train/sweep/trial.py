"""Running a trial: the parts that it needs, then the network that it trains itself or the evaluation of its system, then what it is selected by.

Systems are evaluated on validation images of single corruptions; no trial ever looks at a composition.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from errors import COME_AGAIN, Diverged, Held, InputError, Interrupted, RunError
from train import interrupt
from train.entry import Experiment
from train.experiment import OneCorruption
from train.fields import FieldError
from train.lists import Entry, plan
from train.pool import Job, Outcome, default_workers, run_jobs
from train.run import locked, read_json, state
from train.sweep.agents import obey_agent, was_told
from train.sweep.entry import entry_of, experiments_of
from train.sweep.metrics import measure
from train.sweep.trials import Trial, TrialSubject, begin_trial, read_trial, sweep_folder
from train.tracking import Tracker, project

# How often to look whether another process is done with an experiment that this trial needs too.
LOOK_AGAIN_SECONDS = 2.0
# What an agent tells its trial; runs that are no trials, such as those of its parts, must not see it.
AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")


def run_trial(values: Mapping[str, Any], workers: int | None, quiet: bool) -> None:
    """Runs the trial of these (dotted) values for the agent that the environment tells of, else by hand, and prints its metrics.

    InputError where the values are no experiment or data is missing; Diverged, RunError or Interrupted as it ends.
    """
    sweep, run, _ = [os.environ.pop(name, "") for name in AGENT]
    if not (sweep and run):
        tell(carry_out(read_values(values)[1], workers, quiet))
        return
    obey_agent()
    problem = None
    try:
        entry, experiments = read_values(values)
    except InputError as error:
        entry, experiments, problem = {}, [], error
    directory = sweep_folder(sweep) / run
    with locked(directory):
        trial = begin_trial(directory, values, entry, experiments, "/".join([os.environ.get("WANDB_ENTITY", ""), project(), sweep]))
        tracker = Tracker(TrialSubject(trial))
        code = 1
        try:
            with recorded(trial) as metrics:
                if problem is not None:
                    raise problem
                metrics |= carry_out(experiments, workers, quiet, tracker)
            code = 0
            tell(metrics)
        except (Interrupted, KeyboardInterrupt):
            code = COME_AGAIN
            raise
        finally:
            # What the sweep stopped does not come back; what an agent was told to give up does.
            tracker.finish(code, preempted=was_told())


def read_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[Experiment]]:
    """The entry and the experiments of a trial's values; InputError where they are none."""
    try:
        entry = entry_of(values)
        return entry, experiments_of(entry)
    except FieldError as error:
        raise InputError(f"trial: {error}") from None


def tell(metrics: Mapping[str, float]) -> None:
    for metric, value in metrics.items():
        print(f"{metric} {value:.6g}", flush=True)


@contextmanager
def recorded(trial: Trial) -> Iterator[dict[str, float]]:
    """Writes how the trial ends: done with the metrics that were put into what this yields, diverged, failed, or stopped where it goes on later."""
    metrics: dict[str, float] = {}
    try:
        yield metrics
    except Diverged as error:
        trial.end("diverged", error=str(error))
        raise
    except (Interrupted, KeyboardInterrupt) as error:
        trial.end("stopped", error=str(error))
        raise
    except Exception as error:
        trial.end("failed", error=str(error) if isinstance(error, InputError | RunError) else f"{type(error).__name__}: {error}")
        raise
    trial.end("done", metrics)


def carry_out(experiments: Sequence[Experiment], workers: int | None, quiet: bool, tracker: Tracker | None = None) -> dict[str, float]:
    """Trains and evaluates what a trial needs, as far as it is not there already; returns its metrics."""
    parts = parts_of(experiments)
    jobs = jobs_of(parts)
    if jobs:
        refuse_failed(parts, run_jobs(jobs, workers or default_workers(), lambda job, outcome: report(job, outcome, quiet)))
    return conclude(experiments, quiet, tracker)


def report(job: Job, outcome: Outcome, quiet: bool) -> None:
    if not quiet:
        print(f"{job.name}: {outcome.error or f'trained in {outcome.seconds:.0f} s'}", flush=True)


def parts_of(experiments: Sequence[Experiment]) -> list[Experiment]:
    """What must be trained before the last step of a trial, in order: what its experiment needs, or the parts that it is all about.

    Diverged where one of these or the experiment did so before; InputError where data is missing or a run is stale.
    """
    from data import datasets

    planned = [entry.experiment for entry in plan([Entry(None, experiment) for experiment in experiments])]
    for experiment in planned:
        datasets.require(experiment.dataset)
        found = state(experiment)
        if found.name == "stale":
            raise InputError(f"{experiment.name}: stale: {found.detail}")
        if found.name == "failed" and diverged(experiment):
            raise Diverged(f"{experiment.name} diverged before: {found.detail}")
    return planned if isinstance(experiments[0], OneCorruption) else [part for part in planned if part.hash != experiments[0].hash]


def diverged(experiment: Experiment) -> bool:
    """Whether the loss of an experiment was not finite when it was trained last."""
    return bool((read_json(experiment.directory / "failed.json") or {}).get("diverged"))


def jobs_of(parts: Sequence[Experiment]) -> list[Job]:
    """The jobs that train the parts that are not trained."""
    todo = [part for part in parts if state(part).name not in ("done", "trained")]
    keys = {part.hash for part in todo}
    return [
        Job(
            part.hash,
            part.name,
            train_part,
            (part,),
            part.directory / "log.txt",
            frozenset(needed.hash for needed in part.requires()) & keys,
        )
        for part in todo
    ]


def refuse_failed(parts: Sequence[Experiment], outcomes: Mapping[str, Outcome]) -> None:
    """Diverged, RunError or Interrupted where a part was not trained."""
    for part in parts:
        outcome = outcomes.get(part.hash)
        if outcome is not None and outcome.exit_code not in (0, None):
            if outcome.exit_code == COME_AGAIN:
                raise Interrupted(outcome.said)
            raise (Diverged if outcome.exit_code == 1 and diverged(part) else RunError)(outcome.said)


def train_part(experiment: Experiment) -> None:
    """Trains a part, or waits until another process has done so."""
    from train.runner import run_experiment

    patiently(lambda: run_experiment(experiment, evaluation=False))


def conclude(experiments: Sequence[Experiment], quiet: bool, tracker: Tracker | None = None) -> dict[str, float]:
    """The last step of a trial, when its parts are trained; returns its metrics."""
    if not isinstance(experiments[0], OneCorruption) and state(experiments[0]).name != "done":
        from train.runner import run_experiment

        patiently(lambda: run_experiment(experiments[0], quiet=quiet, told=tracker))
    return measure(experiments)


def patiently(call: Callable[[], None]) -> None:
    """Calls until no other process holds what it needs; Interrupted where this one is told to stop."""
    said = False
    while True:
        try:
            call()
            return
        except Held as error:
            if not said:
                print(f"waits: {error}", flush=True)
            said = True
        interrupt.stop_if_told("while another process had what it needs; the same command goes on")
        time.sleep(LOOK_AGAIN_SECONDS)


def conclude_trial(directory: Path) -> None:
    """The last step of a trial of a local search, in a process of its pool."""
    trial = read_trial(directory)
    assert trial is not None
    with recorded(trial) as metrics:
        metrics |= conclude(experiments_of(trial.entry), quiet=True)
