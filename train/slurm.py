"""What Slurm is asked and told: the queue, whether a job is still there, arrays to submit. Commands of the command line only.

States of jobs never say whether an experiment is finished; its files do. Here they only tell what waits and what runs.
"""

import functools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from errors import InputError

# A controller that is gone makes squeue retry for about nine seconds; one that hangs must not hold us longer than this.
PATIENCE = 90
# States in which the processes of a job may still be at work; a requeued job is PENDING again.
AT_WORK = {"RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}


@dataclass(frozen=True)
class Task:
    """A task of a job array that stands in the queue: `A_a`, its own job's id, its job's name, its state and the reason why it waits."""

    array: int
    index: int
    job: str
    name: str
    state: str
    reason: str

    @property
    def id(self) -> str:
        return f"{self.array}_{self.index}"


def available() -> bool:
    """Whether this machine can submit to Slurm."""
    return shutil.which("sbatch") is not None


def this_job() -> str:
    """The id of the job that this process is part of, empty outside Slurm. A requeued task keeps its id; `this_restart` counts on."""
    return os.environ.get("SLURM_JOB_ID", "")


def this_restart() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def this_task() -> str:
    """`A_a` where the batch script started this process, else the job's id."""
    return os.environ.get("PALIMPSEST_TASK") or this_job()


def ask(command: Sequence[str], text: str | None = None, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs one of Slurm's commands; InputError where it is not there or does not answer."""
    surroundings = os.environ | dict(environment or {})
    try:
        return subprocess.run(command, input=text, env=surroundings, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not on this machine; on one without Slurm use --local") from None
    except subprocess.TimeoutExpired as error:
        # What it said before: sbatch tries again and again where the queue is full.
        said = last_line((error.stderr or b"").decode()) if error.stderr else "no answer"
        raise InputError(f"{command[0]}: {said} (given up after {PATIENCE} s); the same command goes on with what is missing") from None


class Refused(InputError):
    """Slurm says no to what is asked of it, and would again."""


def last_line(text: str) -> str:
    """The last line that Slurm said, without the command's name before it."""
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith("Try ")]
    return re.sub(r"^\w+: ((error|fatal): )?", "", lines[-1]) if lines else "no answer"


@functools.lru_cache(maxsize=1)
def _queue(moment: int) -> list[Task]:
    answer = ask(["squeue", "--me", "-r", "-h", "-o", "%F|%K|%A|%T|%r|%j"])
    if answer.returncode != 0:
        raise InputError(
            f"squeue: {last_line(answer.stderr)}; what is queued is unknown; try again later, or run the list on this machine: bash submit_array.sh CONFIG --local"
        )
    tasks = []
    for line in answer.stdout.splitlines():
        array, index, job, state, reason, name = line.split("|", 5)
        if index.isdigit():
            tasks.append(Task(int(array), int(index), job, name, state, reason))
    return tasks


def queue() -> list[Task]:
    """Every task of this user's job arrays that is queued or running; asked at most once a second.

    InputError where the controller does not answer: that is no empty queue.
    """
    return _queue(int(time.monotonic()))


def is_at_work(job: str) -> bool | None:
    """Whether the processes of a job may still run, by its id; None where Slurm cannot tell (another cluster, no answer)."""
    try:
        mine = [task.state in AT_WORK for task in queue() if task.job == job]
        if any(mine):
            return True
        # Gone, or another user's.
        answer = ask(["squeue", "-r", "-h", "-j", job, "-o", "%A %T"])
    except InputError:
        return None
    if answer.returncode == 0:
        # One task of an array has the array's own id, and by it Slurm shows all of them.
        return any(own == job and state in AT_WORK for own, state in map(str.split, answer.stdout.splitlines()))
    return False if "Invalid job id" in answer.stderr else None


def max_array_size() -> int:
    """Slurm's MaxArraySize: the highest array index is one less. InputError where the controller does not answer."""
    answer = ask(["scontrol", "show", "config"])
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.stdout, re.MULTILINE)
    if answer.returncode != 0 or not found:
        raise InputError(f"scontrol: {last_line(answer.stderr)}; nothing is submitted; try again later")
    return int(found[1])


def sbatch(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Submits a job array with more in its environment and returns its id; Refused with what sbatch said where it does."""
    answer = ask(["sbatch", "--parsable", *arguments], environment=environment)
    _queue.cache_clear()
    # On a federation the cluster's name follows the id.
    job = answer.stdout.strip().split(";")[0]
    if answer.returncode != 0 or not job.isdigit():
        raise Refused(f"sbatch refused: {last_line(answer.stderr)}")
    return int(job)


def depend(dependencies: Sequence[tuple[str, str]], held: int) -> None:
    """Gives tasks of a held array (`17_[1,3-5]`) dependencies of their own (`afterok:16_0`) and lets it go.

    Refused where Slurm refuses one: then the array is cancelled, so that nothing runs too early or waits for ever.
    """
    lines = [f"update JobId={tasks} Dependency={condition}" for tasks, condition in dependencies]
    answer = ask(["scontrol"], "\n".join([*lines, f"release {held}", "quit", ""]))
    if answer.returncode != 0 or "error" in answer.stderr.lower():
        cancel([held])
        raise Refused(f"scontrol: {last_line(answer.stderr)}")


def cancel(jobs: Sequence[int]) -> None:
    """Takes jobs out of the queue."""
    ask(["scancel", *map(str, jobs)])
    _queue.cache_clear()


def reasons(jobs: Sequence[int]) -> dict[int, set[str]]:
    """Why the tasks of jobs wait, by job; empty where Slurm does not say."""
    answer = ask(["squeue", "-h", "-j", ",".join(map(str, jobs)), "-o", "%F|%r"])
    found: dict[int, set[str]] = {}
    for line in answer.stdout.splitlines():
        job, reason = line.split("|", 1)
        found.setdefault(int(job), set()).add(reason)
    return found


def seconds(limit: str) -> int | None:
    """Seconds of a time limit as sbatch takes it (minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s); None for one without end, ValueError for none of these."""
    if limit.upper() in ("UNLIMITED", "INFINITE", "-1", "0"):
        return None
    days, dash, clock = limit.rpartition("-")
    numbers = [days, *clock.split(":")] if dash else clock.split(":")
    if not all(number.isdigit() for number in numbers) or len(numbers) > 3 + bool(dash):
        raise ValueError(f"{limit!r} is no time limit; write minutes, hours:minutes:seconds or days-hours")
    units = (86400, 3600, 60, 1) if dash else {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}[len(numbers)]
    return sum(int(number) * unit for number, unit in zip(numbers, units))
