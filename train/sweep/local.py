"""A search with no server: the file that `wandb sweep` takes, run on this machine by one pool of processes.

    runs/sweeps/<name>/local-<12 hex of what decides the trials>/
        study.sqlite      optuna's study
        <point>/          a trial each: trial.json, log.txt

One process takes the points and starts their trials, so none is taken twice. What was running when it was killed goes on when the same command
is given again, and what failed is tried again.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import datasets
from errors import COME_AGAIN, Diverged, InputError, RunError
from train import interrupt
from train.entry import Experiment
from train.fields import FieldError
from train.pool import Job, Outcome, Pool, cores
from train.run import locked
from train.sweep.entry import entry_of
from train.sweep.file import SweepFile
from train.sweep.study import Asked, Study, readable
from train.sweep.trial import conclude_trial, diverged, jobs_of, parts_of, read_values
from train.sweep.trials import ENDINGS, Trial, begin_trial, read_trial, sweeps_root

# How often a trial that fails (for another reason than its values) is tried in one call of the command.
ATTEMPTS = 2
# What a file with the winner of another search ends in.
SUFFIXES = (".yaml", ".yml")


def study_folder(sweep: SweepFile) -> Path:
    """The folder of a file's local search: named by what decides its trials, the winners of other searches included.

    InputError where such a winner is not there.
    """
    extremes = {key: parameter.extremes() for key, parameter in sweep.parameters.items()}
    first = {key: values[0] for key, values in extremes.items()}
    files = [(key, value) for key, values in extremes.items() for value in values if isinstance(value, str) and value.endswith(SUFFIXES)]
    try:
        winners = [entry_of(first | {key: value}) for key, value in files]
    except FieldError as error:
        raise InputError(f"{sweep.path}: parameters.{error}") from None
    return sweeps_root() / sweep.name / f"local-{hashlib.sha256(f'{sweep.hash} {winners}'.encode()).hexdigest()[:12]}"


def search(sweep: SweepFile, workers: int) -> None:
    """Runs a search to its end, `workers` processes side by side.

    InputError where it cannot begin or another process is at it, Interrupted where it was told to stop, RunError where trials failed.
    """
    folder = study_folder(sweep)
    # Each trial would fail for want of it.
    for name in sweep.datasets:
        datasets.require(name)
    with locked(folder), readable(folder):
        Search(sweep, folder, workers).run()


@dataclass
class Open:
    """A trial that has begun: its jobs, how many epochs were reported, and whether it was told to stop since others are better."""

    asked: Asked
    trial: Trial
    jobs: list[Job]
    reported: int = 0
    pruned: bool = False


class Search:
    """A local search in an open folder."""

    def __init__(self, sweep: SweepFile, folder: Path, workers: int):
        self.sweep, self.folder, self.workers = sweep, folder, workers
        self.study = Study(sweep, folder)
        self.unfinished = self.study.unfinished()
        self.attempts: Counter[int] = Counter()
        self.open: dict[str, Open] = {}
        self.started: set[str] = set()
        self.outcomes: dict[str, Outcome] = {}

    def run(self) -> None:
        """All trials that are not over yet."""
        if self.sweep.early_terminate:
            print("early_terminate: optuna's hyperband decides here; it compares other trials than W&B's does and may stop others")
        over = len(self.study.endings) - len(self.unfinished) - self.count("failed")
        print(f"{self.sweep.name}: at most {self.sweep.trials} trials, {over} over already; in {self.folder}", flush=True)
        with Pool(self.workers, max(1, cores() // self.workers)) as pool:
            while not interrupt.told():
                while pool.free and (job := self.ready()) is not None:
                    self.started.add(job.key)
                    pool.start(job)
                # What waits for a part that another trial trains is one of the open ones, too.
                if pool.free and len(self.open) < self.workers and (asked := self.take()) is not None:
                    self.begin(asked)
                    continue
                if not self.open:
                    break
                self.outcomes |= {job.key: outcome for job, outcome in pool.ended()}
                self.prune(pool)
                self.close()
        interrupt.stop_if_told(f"{self.sweep.name}, {len(self.open)} trials in the middle; the same command goes on there")
        self.tell()

    def count(self, ending: str) -> int:
        return sum(found == ending for found in self.study.endings.values())

    def take(self) -> Asked | None:
        """The next point to try: one that was not finished, a new one, one that failed."""
        if self.unfinished:
            return self.unfinished.pop(0)
        asked = self.study.take()
        if asked is not None:
            return asked
        failed = [point for point, ending in self.study.endings.items() if ending == "failed" and self.attempts[point] < ATTEMPTS]
        return self.study.take_again(failed[0]) if failed else None

    def begin(self, asked: Asked) -> None:
        """Notes a trial and lines up its jobs: its parts, then its last step."""
        self.attempts[asked.point] += 1
        entry: dict[str, Any] = {}
        experiments: list[Experiment] = []
        jobs: list[Job] = []
        problem = None
        try:
            entry, experiments = read_values(asked.values)
            jobs = jobs_of(parts_of(experiments))
        except (InputError, Diverged) as error:
            problem = error
        trial = begin_trial(self.folder / str(asked.point), asked.values, entry, experiments)
        if problem is not None:
            self.end(asked, trial.end("diverged" if isinstance(problem, Diverged) else "failed", error=str(problem)))
            return
        key = f"trial {asked.point}"
        # A part that failed for another trial is tried again for this one.
        for job in jobs:
            if job.key in self.outcomes:
                self.started.discard(job.key)
                del self.outcomes[job.key]
        last = Job(key, key, conclude_trial, (trial.directory,), trial.directory / "log.txt", frozenset(job.key for job in jobs))
        self.started.discard(key)
        self.outcomes.pop(key, None)
        self.open[key] = Open(asked, trial, [*jobs, last])

    def ready(self) -> Job | None:
        """A job that can start, of the trial that began first; none of one of which a part failed."""
        for opened in self.open.values():
            for job in opened.jobs if not self.failed(opened) else ():
                if job.key not in self.started and all(self.succeeded(key) for key in job.requires):
                    return job
        return None

    def succeeded(self, key: str) -> bool:
        return key in self.outcomes and self.outcomes[key].exit_code == 0

    def failed(self, opened: Open) -> list[Job]:
        return [job for job in opened.jobs if job.key in self.outcomes and not self.succeeded(job.key)]

    def prune(self, pool: Pool) -> None:
        """Tells the study of the epochs that are new, and the trials that are to be stopped to stop; one that has ended stays as it is."""
        if self.sweep.early_terminate is None:
            return
        for key, opened in self.open.items():
            for row in opened.trial.rows()[opened.reported :] if key in self.started and not opened.pruned else ():
                opened.reported += 1
                value = row.get(self.sweep.metric.name.replace("/", "_"))
                # Rows between epochs do not have it.
                worse = value is not None and self.study.report(opened.asked, row["epoch"], value)
                if worse and key not in self.outcomes:
                    opened.pruned = True
                    pool.stop(key)
                    break

    def close(self) -> None:
        """Ends the trials whose last job has ended, or can never start because a part failed."""
        for key, opened in list(self.open.items()):
            failed = self.failed(opened)
            at_work = [job for job in opened.jobs if job.key in self.started and job.key not in self.outcomes]
            if at_work or not (failed or key in self.outcomes):
                continue
            stopped = [job for job in failed if self.outcomes[job.key].exit_code == COME_AGAIN]
            if stopped and not opened.pruned:
                # Somebody told it to stop, perhaps this process as well, which shall then find it where it is; else it goes on.
                opened.trial.write()
                for job in stopped:
                    self.started.discard(job.key)
                    del self.outcomes[job.key]
                continue
            trial = read_trial(opened.trial.directory) or opened.trial
            if trial.state in ENDINGS:
                # It says so itself, also where it was told to stop a moment too late.
                pass
            elif opened.pruned:
                trial = opened.trial.end("pruned", error="stopped by hyperband")
            else:
                state = "diverged" if any(is_diverged(job) for job in failed) else "failed"
                trial = opened.trial.end(state, error=self.outcomes[failed[0].key].said)
            del self.open[key]
            self.end(opened.asked, trial)

    def end(self, asked: Asked, trial: Trial) -> None:
        """Notes how a trial ended, and says so."""
        value = trial.metrics.get(self.sweep.metric.name)
        self.study.tell(asked, trial.state, value)
        ending = f"{self.sweep.metric.name} {value:.6g}" if value is not None else f"{trial.state.upper()}: {trial.error}"
        point = ", ".join(f"{key}={asked.values[key]}" for key in self.sweep.searched)
        over = len(self.study.endings) - self.count("running") - self.count("failed")
        print(f"[{over}/{self.sweep.trials}] trial {asked.point}: {point}: {ending} ({trial.seconds:.0f} s)", flush=True)

    def tell(self) -> None:
        """Says how many trials ended how; RunError where some failed or none was done."""
        counts = Counter(self.study.endings.values())
        print(f"{self.sweep.name}: " + ", ".join(f"{number} {ending}" for ending, number in counts.most_common()), flush=True)
        if counts["done"]:
            print(f"its winner: python -m train.sweep best {self.sweep.path}", flush=True)
        if counts["failed"]:
            raise RunError(f"{counts['failed']} of {len(self.study.endings)} trials failed; the same command tries them again")
        if not counts["done"]:
            raise RunError("no trial was done, so there is no best one")


def is_diverged(job: Job) -> bool:
    """Whether the part that a job trains diverged."""
    return isinstance(job.arguments[0], Experiment) and diverged(job.arguments[0])
