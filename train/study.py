"""Running a list on this machine: its entries side by side in dependency order, then one evaluation of all its systems.

What needs torch runs in the pool's processes; this one stays light.
"""

import sys
import time
from collections.abc import Collection, Sequence

from tqdm import tqdm

from data import datasets
from errors import COME_AGAIN, InputError, RunError
from train.entry import Experiment
from train.evaluate import evaluate_systems
from train.lists import Entry, label
from train.pool import Job, Outcome, run_jobs
from train.run import state


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
    systems = [e for entry in todo if (e := entry.experiment).hash in asked and e.is_system and state(e).name == "trained"]
    failures = sum(outcome.exit_code != 0 for outcome in outcomes.values()) + evaluate_systems(systems, tags, workers)
    print(
        f"start {started - begin:.1f} s, train {trained - started:.0f} s, evaluate {time.perf_counter() - trained:.0f} s "
        f"({workers} side by side; {total - len(jobs)} of {total} were trained already)"
    )
    if failures:
        codes = [outcome.exit_code for outcome in outcomes.values() if outcome.exit_code]
        message = f"{failures} of {len(todo)} did not finish; the same command runs them again"
        raise InputError(message) if codes and set(codes) == {2} else RunError(message)


def train_entry(experiment: Experiment, tags: tuple[str, ...]) -> None:
    from train.runner import run_experiment

    run_experiment(experiment, tags, evaluation=False)
