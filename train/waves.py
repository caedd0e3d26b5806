"""What of a list remains to be done on a cluster, in waves: an entry's prerequisites lie in earlier waves, are finished, or are queued already."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from train import frozen, slurm
from train.entry import Experiment
from train.lists import Entry
from train.run import State, read_json, state

# States of which a task makes something: all but finished, running and stale ones.
OPEN = {"new", "failed", "stopped", "lost", "trained"}


@dataclass
class Remainder:
    """Waves of entries to submit, and those that wait for what this submission cannot wait for, with the reason."""

    waves: list[list[Entry]] = field(default_factory=list)
    left_out: list[tuple[Entry, str]] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        return [entry for wave in self.waves for entry in wave]


def remainder(planned: Sequence[Entry], asked: Collection[str], states: Mapping[str, State], queued: Mapping[str, slurm.Task]) -> Remainder:
    """What a submission of planned entries (prerequisites first) would submit: what is neither finished nor queued nor running.

    A prerequisite that nobody `asked` for has to be trained only. What needs an entry that runs outside the queue is left out, since
    no job can wait for it.
    """
    found = Remainder()
    depth: dict[str, int] = {}
    excluded: dict[str, str] = {}
    for entry in planned:
        key, now = entry.experiment.hash, states[entry.experiment.hash]
        if now.name == "done" or (now.name == "trained" and key not in asked) or key in queued:
            continue
        needed = [part for part in entry.experiment.requires() if part.hash in depth or part.hash in excluded]
        if now.name not in OPEN:
            excluded[key] = f"{now.name}: {now.detail}"
        else:
            lacking = next((part for part in needed if part.hash in excluded), None)
            if lacking is not None:
                excluded[key] = f"needs {lacking.name}, which is {excluded[lacking.hash].partition(':')[0]}"
        if key in excluded:
            found.left_out.append((entry, excluded[key]))
            continue
        depth[key] = 1 + max((depth[part.hash] for part in needed), default=-1)
        while len(found.waves) <= depth[key]:
            found.waves.append([])
        found.waves[depth[key]].append(entry)
    return found


def queued_experiments() -> dict[str, slurm.Task]:
    """The tasks in the queue by the hash of the experiments that they run; nothing is asked where nothing was ever submitted from these runs.

    InputError where Slurm does not answer.
    """
    folder = frozen.folder()
    if not folder.is_dir() or not slurm.available():
        return {}
    found: dict[str, slurm.Task] = {}
    lists: dict[str, frozen.Frozen | None] = {}
    for task in slurm.queue():
        named = re.fullmatch(r"(.+-[0-9a-f]{12})(?:\+(\d+))?", task.name)
        if named is None:
            continue
        path = folder / f"{named[1]}.json"
        if named[1] not in lists:
            lists[named[1]] = frozen.thaw(path) if path.exists() else None
        contents = lists[named[1]]
        if contents is not None:
            for position in contents.tasks.get(task.index + int(named[2] or 0), ()):
                found[contents.hashes[position]] = task
    return found


def read_states(planned: Sequence[Entry]) -> dict[str, State]:
    """The states of planned entries by hash, from their files."""
    return {entry.experiment.hash: state(entry.experiment) for entry in planned}


def full_states(planned: Sequence[Entry], states: Mapping[str, State], queued: Mapping[str, slurm.Task]) -> dict[str, State]:
    """States from files, with what the queue and the logs of tasks add.

    The files say how a run ended, the queue what is still to come, and a task's log why a run that was submitted never began.
    """
    tasks = frozen.last_tasks([key for key, now in states.items() if now.name in ("new", "failed") and key not in queued])
    found: dict[str, State] = {}
    for entry in planned:
        experiment = entry.experiment
        now = states[experiment.hash]
        lacking = [part for part in experiment.requires() if found[part.hash].name not in ("done", "trained")]
        if now.name not in ("done", "running", "stale") and experiment.hash in queued:
            now = in_queue(queued[experiment.hash])
        elif now.name in ("new", "failed") and experiment.hash in tasks:
            now = after_task(experiment, now, tasks[experiment.hash])
        if now.name in ("new", "cancelled") and lacking and found[lacking[0].hash].name not in ("new", "queued", "running"):
            now = State(now.name, "; ".join(filter(None, [now.detail, f"needs {lacking[0].name}, which is {found[lacking[0].hash].name}"])))
        found[experiment.hash] = now
    return found


def in_queue(task: slurm.Task) -> State:
    if task.state in slurm.AT_WORK:
        return State("running", f"job {task.id}, {'ending' if task.state == 'COMPLETING' else 'starting'}")
    return State("queued", f"{task.id}, {task.reason}")


def after_task(experiment: Experiment, now: State, task: str) -> State:
    """The state of a run that is new or failed and whose last task has left the queue: a task that ended before the run began has only its log."""
    log = frozen.folder() / f"{task}.out"
    if not log.exists():
        return now if now.name == "failed" else State("cancelled", f"task {task} never started")
    failure = read_json(experiment.directory / "failed.json") if now.name == "failed" else None
    if failure is not None and (failure.get("task") == task or failure["time"] > log.stat().st_mtime):
        return now
    # The batch script's own last line only gives the code.
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip() and f"task {task}: ended with" not in line]
    said = lines[-1] if lines else "nothing was said"
    return State("stopped" if ": saved; " in said else "failed", f"{said} (log: {log})")


def job_name(path: Path, offset: int) -> str:
    """The name by which `queued_experiments` finds a job's frozen list again: the file's stem, and the offset of a block."""
    return path.stem + (f"+{offset}" if offset else "")
