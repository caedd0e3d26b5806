"""The pool: jobs side by side, each in a process of its own, every job after the jobs that it requires.

Processes are forked from a server that has imported torch already, so a job starts in a fraction of a second. A job's output
goes to its log file; its exit code says how it ended (0 done, 1 failed, 2 bad input, 85 told to stop). Told to stop (SIGTERM), the pool
hands that on and waits until its jobs have saved what they need to go on.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from errors import report_errors
from train import interrupt

PRELOADED = ["torch", "train.runner"]


@dataclass(frozen=True)
class Job:
    """A call of a module-level function. `requires` holds the keys of jobs that must have ended well before."""

    key: str
    name: str
    target: Callable[..., None]
    arguments: tuple[Any, ...]
    log: Path
    requires: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its exit code (None where it never started) and its last line of error."""

    exit_code: int | None
    seconds: float
    error: str = ""

    @property
    def said(self) -> str:
        """The error without the word that tells its kind, which the exit code tells as well."""
        return re.sub(r"^(failed|error|stopped): ", "", self.error)


def cores() -> int:
    """The cores that this process may use: those of its Slurm task, also where the cluster does not bind tasks to cores; PALIMPSEST_CORES of processes that share a machine."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, *(int(os.environ.get(name) or found) for name in ("SLURM_CPUS_PER_TASK", "PALIMPSEST_CORES")))


def default_workers() -> int:
    """One process per core, or one in all where a GPU does the work."""
    return 1 if Path("/dev/nvidia0").exists() else cores()


def _child(job: Job, threads: int) -> None:
    """A job's process: output to the log, and an end when the parent is gone."""
    interrupt.listen()
    job.log.parent.mkdir(parents=True, exist_ok=True)
    os.environ["PALIMPSEST_LOG"] = str(job.log)
    descriptor = os.open(job.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    # Between processes there is nothing to lock, and tqdm's own lock would be a semaphore that a killed process leaves behind.
    tqdm.set_lock(threading.RLock())
    try:
        code = report_errors(lambda: job.target(*job.arguments))
    except Exception as error:
        traceback.print_exc()
        print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class Pool:
    """At most `workers` jobs at once. A context: what still runs when it is left is told to stop, and waited for."""

    def __init__(self, workers: int, threads: int):
        self.workers, self.threads = workers, threads
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        # First, since its start lifts the shield.
        resource_tracker.ensure_running()
        with interrupt.shielded():
            forkserver.ensure_running()
        self._running: dict[Any, tuple[Job, Any, float, int]] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        for _, process, _, _ in self._running.values():
            process.join()

    @property
    def free(self) -> int:
        """How many more jobs could start now."""
        return self.workers - len(self._running)

    def start(self, job: Job) -> None:
        """Starts a job, whose requirements must have ended."""
        process = self._context.Process(target=_child, args=(job, self.threads), name=job.name)
        size = job.log.stat().st_size if job.log.exists() else 0
        process.start()
        self._running[process.sentinel] = (job, process, time.perf_counter(), size)

    def stop(self, key: str | None = None) -> None:
        """Tells a job, or all, to stop: it saves and ends."""
        for job, process, _, _ in self._running.values():
            if key in (None, job.key):
                process.terminate()

    def ended(self) -> list[tuple[Job, Outcome]]:
        """The jobs that ended, after at most a moment of waiting."""
        found = []
        # A signal's handler runs, but does not end the waiting.
        for sentinel in wait(list(self._running), timeout=0.2) if self._running else []:
            job, process, start, size = self._running.pop(sentinel)
            process.join()
            if (process.exitcode or 0) < 0:
                note_signal(job.log, -(process.exitcode or 0))
            error = "" if process.exitcode == 0 else last_line(job.log, size)
            found.append((job, Outcome(process.exitcode, time.perf_counter() - start, error)))
        return found


def run_jobs(
    jobs: Sequence[Job], workers: int, report: Callable[[Job, Outcome], None], started: Callable[[Job], None] = lambda job: None
) -> dict[str, Outcome]:
    """Runs the jobs, at most `workers` at once, in the given order as far as their requirements allow.

    `report` is called as each ends. A job whose requirement failed never starts. Returns the outcome of every job by key; raises Interrupted,
    when all have ended, where this process was told to stop.
    """
    waiting = list(jobs)
    outcomes: dict[str, Outcome] = {}
    names = {job.key: job.name for job in jobs}
    handed_on = False

    def end(job: Job, outcome: Outcome) -> None:
        outcomes[job.key] = outcome
        report(job, outcome)

    with Pool(workers, max(1, cores() // min(workers, max(1, len(jobs))))) as pool:
        while waiting or pool.free < workers:
            if interrupt.told() and not handed_on:
                handed_on, waiting = True, []
                pool.stop()
            for job in list(waiting):
                needed = job.requires & names.keys()
                failed = next((key for key in needed if key in outcomes and outcomes[key].exit_code != 0), None)
                if failed is not None:
                    waiting.remove(job)
                    end(job, Outcome(None, 0.0, f"not started, since {names[failed]} failed"))
                elif pool.free and needed <= outcomes.keys():
                    waiting.remove(job)
                    pool.start(job)
                    started(job)
            for job, outcome in pool.ended():
                end(job, outcome)
    interrupt.stop_if_told(f"{len(jobs) - len(outcomes)} of {len(jobs)} not begun; the same command goes on")
    return outcomes


def note_signal(log: Path, number: int) -> None:
    """Writes into a job's log what the job itself could not."""
    with suppress(OSError), open(log, "a") as file:
        print(f"ended by signal {number}{' (killed, for instance for want of memory)' if number == signal.SIGKILL else ''}", file=file)


def last_line(log: Path, offset: int) -> str:
    """The last line that was written to a log after an offset."""
    try:
        with open(log, "rb") as file:
            file.seek(offset)
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
