"""Running a list on this machine: its entries side by side in dependency order, then one evaluation of all its systems.

What needs torch runs in the pool's processes; this one stays light.
"""

import sys
import time
from collections.abc import Collection, Sequence

from tqdm import tqdm

from data import datasets
from errors import COME_AGAIN, InputError, RunError
from train.analysed import missing_analyses
from train.entry import Experiment
from train.evaluate import evaluate_systems
from train.lists import Entry, label
from train.pool import Job, Outcome, run_jobs
from train.run import evaluated, state


def run_study(todo: Sequence[Entry], skipped: int, asked: Collection[str], tags: tuple[str, ...], workers: int, begin: float) -> None:
    """Runs the entries that are `todo` of a plan, side by side, then one evaluation of the systems whose hash is `asked`; says where the time went.

    InputError where all failures are bad input, RunError where an entry failed.
    """
    started = time.perf_counter()
    # Missing data is an error before anything is written, and a damaged cache is mended once, not by every process.
    for name in {entry.experiment.dataset for entry in todo}:
        datasets.load(name)
    by_hash = {entry.experiment.hash: entry for entry in todo}
    training = [entry.experiment for entry in todo if state(entry.experiment).name != "trained"]
    jobs = [
        Job(e.hash, e.name, train_entry, (e, tags), e.directory / "log.txt", frozenset(part.hash for part in e.requires()))
        for e in training
    ]
    bar = tqdm(total=len(jobs), unit="entry", disable=not sys.stderr.isatty() or not jobs)
    total = skipped + len(todo)
    done = total - len(jobs)

    def report(job: Job, outcome: Outcome) -> None:
        nonlocal done
        done += outcome.exit_code == 0
        bar.update()
        ending = {0: f"trained in {outcome.seconds:.0f} s", COME_AGAIN: f"stopped: {outcome.said}", None: outcome.said}.get(
            outcome.exit_code, f"FAILED: {outcome.said} (log: {job.log})"
        )
        tqdm.write(f"[{done}/{total}] {label(by_hash[job.key])}: {ending}")
        sys.stdout.flush()

    outcomes = run_jobs(jobs, workers, report)
    bar.close()
    trained = time.perf_counter()
    own = [e for entry in todo if (e := entry.experiment).hash in asked and state(e).name == "trained"]
    failures = sum(outcome.exit_code != 0 for outcome in outcomes.values())
    failures += evaluate_systems([e for e in own if not evaluated(e)], tags, workers)
    evaluated_at = time.perf_counter()
    failures += analyse_all([e for e in own if missing_analyses(e)], tags, workers)
    analysing = f"analyse {time.perf_counter() - evaluated_at:.0f} s " if any(e.analyses for e in own) else ""
    print(
        f"start {started - begin:.1f} s, train {trained - started:.0f} s, evaluate {evaluated_at - trained:.0f} s {analysing}"
        f"({workers} side by side; {total - len(jobs)} of {total} were trained already)"
    )
    if failures:
        codes = [outcome.exit_code for outcome in outcomes.values() if outcome.exit_code]
        message = f"{failures} of {len(todo)} did not finish; the same command runs them again"
        raise InputError(message) if codes and set(codes) == {2} else RunError(message)


def analyse_all(experiments: Sequence[Experiment], tags: tuple[str, ...], workers: int) -> int:
    """Runs the analyses that finished runs lack, those of several runs side by side; returns how many runs failed."""
    jobs = [Job(e.hash, f"analyses of {e.name}", analyse_entry, (e, tags), e.directory / "log.txt") for e in experiments]

    def report(job: Job, outcome: Outcome) -> None:
        ending = f"done in {outcome.seconds:.0f} s" if outcome.exit_code == 0 else f"FAILED: {outcome.said} (log: {job.log})"
        tqdm.write(f"{job.name}: {ending}")
        sys.stdout.flush()

    return sum(outcome.exit_code != 0 for outcome in run_jobs(jobs, workers, report).values())


def analyse_entry(experiment: Experiment, tags: tuple[str, ...]) -> None:
    from train.runner import finish_analyses

    finish_analyses(experiment, tags)


def train_entry(experiment: Experiment, tags: tuple[str, ...]) -> None:
    from train.runner import run_experiment

    run_experiment(experiment, tags, evaluation=False)
