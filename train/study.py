"""Running a list on this machine: its entries side by side in dependency order, then one evaluation of all its systems.

What needs torch runs in the pool's processes; this one stays light.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

from tqdm import tqdm

from data import datasets
from errors import InputError, RunError
from train.experiment import Experiment
from train.lists import Entry, label
from train.pool import Job, Outcome, run_jobs
from train.run import open_run, state

JOBS_PER_WORKER = 4


def run_study(todo: Sequence[Entry], planned: Sequence[Entry], tags: tuple[str, ...], workers: int, begin: float) -> None:
    """Runs the entries that are `todo` of a plan, side by side, then one evaluation of all their systems; says where the time went.

    InputError where all failures are bad input, RunError where an entry failed.
    """
    started = time.perf_counter()
    # Missing data is an error before anything is written, and a damaged cache is mended once, not by every process.
    for name in {entry.experiment.dataset for entry in todo}:
        datasets.load(name)
    by_hash = {entry.experiment.hash: entry for entry in todo}
    experiments = [entry.experiment for entry in planned]
    training = [entry.experiment for entry in todo if state(entry.experiment).name != "trained"]
    jobs = [
        Job(e.hash, e.name, train_entry, (e, tags), e.directory / "log.txt", frozenset(part.hash for part in e.requires()))
        for e in training
    ]
    bar = tqdm(total=len(jobs), unit="entry", disable=not sys.stderr.isatty() or not jobs)
    skipped = len(planned) - len(todo)
    done = len(planned) - len(jobs)

    def report(job: Job, outcome: Outcome) -> None:
        nonlocal done
        done += outcome.exit_code == 0
        bar.update()
        ending = (
            f"trained in {outcome.seconds:.0f} s"
            if outcome.exit_code == 0
            else outcome.error.removeprefix("failed: ").removeprefix("error: ")
        )
        if outcome.exit_code:
            ending = f"FAILED: {ending} (log: {job.log})"
        tqdm.write(f"[{done}/{len(planned)}] {label(by_hash[job.key])}: {ending}")
        sys.stdout.flush()

    outcomes = run_jobs(jobs, workers, report)
    bar.close()
    trained = time.perf_counter()
    systems = [e for e in experiments if e.is_system and state(e).name == "trained"]
    failures = sum(outcome.exit_code != 0 for outcome in outcomes.values()) + evaluate_systems(systems, tags, workers)
    print(
        f"start {started - begin:.1f} s, train {trained - started:.0f} s, evaluate {time.perf_counter() - trained:.0f} s "
        f"({workers} side by side; {skipped} of {len(planned)} were done already)"
    )
    if failures:
        codes = [outcome.exit_code for outcome in outcomes.values() if outcome.exit_code]
        message = f"{failures} of {len(todo)} did not finish; the same command runs them again"
        raise InputError(message) if codes and set(codes) == {2} else RunError(message)


def train_entry(experiment: Experiment, tags: tuple[str, ...]) -> None:
    from train.runner import run_experiment

    run_experiment(experiment, tags, evaluation=False)


def evaluate_systems(systems: Sequence[Experiment], tags: tuple[str, ...], workers: int) -> int:
    """Evaluates finished systems, those that share pixels in one pass; returns how many passes failed."""
    groups: dict[tuple[str, str, int, str], list[Experiment]] = {}
    for experiment in systems:
        groups.setdefault((experiment.dataset, experiment.testing.key, experiment.test_images, experiment.device), []).append(experiment)
    failures = 0
    for members in groups.values():
        with ExitStack() as stack:
            for experiment in members:
                stack.enter_context(open_run(experiment))
            failures += evaluate_group(members, tags, workers)
    return failures


def evaluate_group(members: Sequence[Experiment], tags: tuple[str, ...], workers: int) -> int:
    first = members[0]
    title = f"evaluation {first.testing.key} of {len(members)} systems on {first.dataset}"
    log = first.directory / "log.txt"
    # A few jobs per worker: progress can be seen, and starting processes does not count.
    size = -(-first.evaluation_parts // (JOBS_PER_WORKER * workers))
    shares = [range(i, min(i + size, first.evaluation_parts)) for i in range(0, first.evaluation_parts, size)]
    jobs = [
        Job(f"{i}", f"{title}, part {i + 1} of {len(shares)}", evaluate_parts, (list(members), share), log)
        for i, share in enumerate(shares)
    ]
    last = Job(title, title, finish_group, (list(members), tags), log, frozenset(job.key for job in jobs))
    bar = tqdm(total=len(jobs), unit="part", desc=title, disable=not sys.stderr.isatty())
    failed = []

    def report(job: Job, outcome: Outcome) -> None:
        if job is not last:
            bar.update()
        if outcome.exit_code != 0:
            failed.append(job)
            tqdm.write(f"{job.name}: FAILED: {outcome.error} (log: {job.log})")
        elif job is last:
            tqdm.write(f"{title}: done")

    run_jobs([*jobs, last], workers, report)
    bar.close()
    return bool(failed)


def evaluate_parts(experiments: Sequence[Experiment], parts: Sequence[int]) -> None:
    from train.evaluate import evaluate_part

    for part in parts:
        evaluate_part(experiments, part)


def finish_group(experiments: Sequence[Experiment], tags: tuple[str, ...]) -> None:
    from train.runner import finish_evaluation

    finish_evaluation(experiments, tags)
