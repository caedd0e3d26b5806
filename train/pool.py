"""The pool: jobs side by side, each in a process of its own, every job after the jobs that it requires.

Processes are forked from a server that has imported torch already, so a job starts in a fraction of a second. A job's output
goes to its log file; its exit code says how it ended (0 done, 1 failed, 2 bad input, 85 told to stop). Told to stop (SIGTERM), the pool
hands that on and waits until its jobs have saved what they need to go on.
"""

import multiprocessing
import os
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

# torch._dynamo: the first optimizer of a process imports it, which takes longer than anything else here.
PRELOADED = ["torch", "torch._dynamo", "train.runner"]


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


def cores() -> int:
    """The cores that this process may use: those of its Slurm task, also where the cluster does not bind tasks to cores."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(found, int(os.environ.get("SLURM_CPUS_PER_TASK") or found))


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


def run_jobs(
    jobs: Sequence[Job], workers: int, report: Callable[[Job, Outcome], None], started: Callable[[Job], None] = lambda job: None
) -> dict[str, Outcome]:
    """Runs the jobs, at most `workers` at once, in the given order as far as their requirements allow.

    `report` is called as each ends. A job whose requirement failed never starts. Returns the outcome of every job by key; raises Interrupted,
    when all have ended, where this process was told to stop.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # First, since its start lifts the shield.
    resource_tracker.ensure_running()
    with interrupt.shielded():
        forkserver.ensure_running()
    threads = max(1, cores() // min(workers, max(1, len(jobs))))
    waiting = list(jobs)
    running: dict[Any, tuple[Job, Any, float, int]] = {}
    outcomes: dict[str, Outcome] = {}
    keys = {job.key for job in jobs}
    handed_on = False
    try:
        while waiting or running:
            if interrupt.told() and not handed_on:
                handed_on, waiting = True, []
                for _, process, _, _ in running.values():
                    process.terminate()
            for job in list(waiting):
                needed = job.requires & keys
                if any(key in outcomes and outcomes[key].exit_code != 0 for key in needed):
                    failed = next(
                        other.name for other in jobs if other.key in needed and other.key in outcomes and outcomes[other.key].exit_code != 0
                    )
                    waiting.remove(job)
                    outcomes[job.key] = Outcome(None, 0.0, f"not started, since {failed} failed")
                    report(job, outcomes[job.key])
                elif len(running) < workers and needed <= outcomes.keys():
                    waiting.remove(job)
                    process = context.Process(target=_child, args=(job, threads), name=job.name)
                    size = job.log.stat().st_size if job.log.exists() else 0
                    process.start()
                    started(job)
                    running[process.sentinel] = (job, process, time.perf_counter(), size)
            # A signal's handler runs, but does not end the waiting.
            for sentinel in wait(list(running), timeout=0.2) if running else []:
                job, process, start, size = running.pop(sentinel)
                process.join()
                if (process.exitcode or 0) < 0:
                    note_signal(job.log, -(process.exitcode or 0))
                error = "" if process.exitcode == 0 else last_line(job.log, size)
                outcomes[job.key] = Outcome(process.exitcode, time.perf_counter() - start, error)
                report(job, outcomes[job.key])
    finally:
        for _, process, _, _ in running.values():
            process.terminate()
            process.join()
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
