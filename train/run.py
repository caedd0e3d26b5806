"""Run directories: named by their contents, opened by one process at a time, with a state that is read from their files.

    runs/<dataset>/<method>-<bits>-s<seed>-<12 hex>/
        experiment.json      the resolved experiment, the data's checksum, recipe numbers; compared on opening
        attempts.jsonl       one line per start: host, job, log, commit, versions, time
        metrics.jsonl        one line per epoch and stage
        checkpoint/          where a killed run goes on: last.pt, and previous.pt should that be damaged
        weights.safetensors  the best weights by validation loss; of a pruning also unpruned.safetensors, those before it
        evaluation/<key>.h5  accuracy, loss and per-image correctness of every composition
        wandb/               W&B's folders
        done.json            last: the run is finished; failed.json: how it failed; stopped.json: where it was told to stop

Loads without torch, so that `--list` is quick.
"""

import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from errors import Diverged, Held, InputError, Interrupted, RunError
from train import slurm
from train.analysed import missing_analyses
from train.entry import ROOT, Experiment
from train.fields import MENUS, number_of
from train.lock import Lock, describe, holder


@dataclass(frozen=True)
class State:
    """What the files of a run say, with a detail.

    done, trained (evaluation or an analysis missing), running, failed, stopped (told to, where it goes on), lost (started, but nobody works on it and no
    end was written: killed, out of memory, a dead node), stale or new.
    """

    name: str
    detail: str = ""


def write_atomically(path: Path, data: bytes, keep: Path | None = None) -> None:
    """Writes a file so that at any moment, also after a crash, either the old or the new one is there, whole.

    The old one is kept as `keep`. RunError where it cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot be written: {error.strerror}") from None


def sync_directory(directory: Path) -> None:
    """Makes renames in a directory last through a crash of the machine, where its file system offers that."""
    with suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """The file's value, None where there is no file; InputError where it is damaged."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        raise InputError(f"{path}: damaged; delete the file or its run directory to run the experiment again") from None


def read_jsonl(path: Path) -> list[dict]:
    """The whole lines of a JSON-lines file; a torn last line (of a killed process) is left out."""
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines) - 1:
                raise InputError(f"{path}: line {number + 1} is damaged") from None
    return rows


def resolved(experiment: Experiment) -> dict[str, Any]:
    """Every field of an experiment by name, for experiment.json and W&B; nested prerequisites likewise."""
    fields = experiment.model_dump(mode="json")
    numbers = {f"{key}_number": number_of(key, fields[key]) for key in MENUS if isinstance(fields.get(key), str)}
    return fields | numbers


def commit() -> str:
    """The project's git commit, with `+` where the working tree differs from it; empty outside a checkout."""
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return out.stdout.strip()


def evaluated(experiment: Experiment) -> bool:
    """Whether the evaluation that the experiment asks for is there (parts are not evaluated)."""
    return not experiment.is_system or (experiment.directory / "evaluation" / f"{experiment.testing.key}.h5").exists()


def state(experiment: Experiment) -> State:
    """The state of an experiment's run, from its files alone."""
    directory = experiment.directory
    written = read_json(directory / "experiment.json")
    if written is not None and written["recipes"] != experiment.recipes():
        return State("stale", f"made by recipe {written['recipes']}, now {experiment.recipes()}; move {directory} away to run it again")
    owner = holder(directory / "lock")
    if owner is not None:
        return State("running", f"{describe(owner)}, {progress(directory)}")
    if (directory / "done.json").exists():
        lacking = [] if evaluated(experiment) else [f"evaluation {experiment.testing.key}"]
        lacking += [f"analysis {name}" for name in missing_analyses(experiment)]
        return State("trained", f"{', '.join(lacking)} missing") if lacking else State("done")
    failure = read_json(directory / "failed.json")
    if failure is not None:
        return State("failed", f"{failure['error'].removeprefix(experiment.name + ': ')}{log_of(failure)}")
    if written is None:
        return State("new")
    stopped = read_json(directory / "stopped.json")
    if stopped is not None:
        return State("stopped", f"{stopped['where']}{log_of(stopped)}")
    last = (read_jsonl(directory / "attempts.jsonl") or [{}])[-1]
    return State("lost", f"no end was written, goes on from its last checkpoint{log_of(last)}")


def log_of(row: Mapping[str, Any]) -> str:
    """Where the output of an attempt stands, in words; nothing where it went to a terminal."""
    return f" (log: {row['log']})" if row.get("log") else ""


def progress(directory: Path) -> str:
    """How far a running experiment is, from the rows of its finished epochs: epoch and minutes left at the pace of the last five."""
    if (directory / "done.json").exists():
        return f"evaluation, {len(list(directory.glob('evaluation/*.parts/*.npz')))} parts done"
    # The rows of epochs: others are of iterations.
    rows = [row for row in read_jsonl(directory / "metrics.jsonl") if "left" in row]
    if not rows:
        return "epoch 1"
    recent = rows[-6:]
    pace = (recent[-1]["seconds"] - recent[0]["seconds"]) / (len(recent) - 1) if len(recent) > 1 else recent[0]["seconds"]
    total = len(rows) + rows[-1]["left"]
    minutes = round(pace * rows[-1]["left"] / 60)
    return f"epoch {min(len(rows) + 1, total)} of {total}, {minutes or 'less than 1'} min left"


def finished(experiment: Experiment) -> bool:
    """Whether the training of an experiment is finished by the present recipes, so that others can build on it."""
    return (experiment.directory / "done.json").exists() and state(experiment).name != "stale"


class Run:
    """An open run directory: this process holds its lock."""

    def __init__(self, experiment: Experiment, lock: Lock):
        self.experiment, self.lock = experiment, lock
        self.directory = experiment.directory

    def log(self, row: dict[str, Any]) -> None:
        """Appends a row to metrics.jsonl."""
        self._append("metrics.jsonl", row)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        try:
            with open(self.directory / name, "a") as file:
                file.write(json.dumps(row, sort_keys=True) + "\n")
        except OSError as error:
            raise RunError(f"{self.directory / name}: cannot be written: {error.strerror}") from None

    def _rewrite(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        write_atomically(self.directory / name, "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows).encode())

    def restore_rows(self, rows: Sequence[dict[str, Any]]) -> None:
        """Makes metrics.jsonl those rows, which a checkpoint holds: later ones are computed again, ones that a crash swallowed come back."""
        self._rewrite("metrics.jsonl", rows)

    def start(self, checksum: str) -> None:
        """Writes or compares experiment.json, and notes the attempt."""
        now = {
            "experiment": resolved(self.experiment),
            "canonical": self.experiment.canonical(),
            "hash": self.experiment.hash,
            "data": checksum,
            "recipes": self.experiment.recipes(),
        }
        path = self.directory / "experiment.json"
        before = read_json(path)
        if before is None:
            write_json(path, now)
        else:
            for key in ("canonical", "hash", "data", "recipes"):
                if before.get(key) != json.loads(json.dumps(now[key])):
                    raise InputError(
                        f"{path}: {key} differs from this experiment's ({before.get(key)} there, {now[key]} here); move {self.directory} away to run it again"
                    )
        for name in ("failed.json", "stopped.json"):
            (self.directory / name).unlink(missing_ok=True)
        # What a killed process was about to write.
        for left in (*self.directory.glob(".*.tmp"), *self.directory.glob("checkpoint/.*.tmp")):
            left.unlink(missing_ok=True)
        versions = {name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "wandb")}
        attempt = {"host": socket.gethostname(), "pid": os.getpid(), "job": slurm.this_job(), "log": log_path(), "start": time.time()}
        attempt |= {"commit": commit(), "python": platform.python_version(), "versions": versions}
        # Not appended: it would be spoilt by a line before it that a crash tore.
        self._rewrite("attempts.jsonl", [*read_jsonl(self.directory / "attempts.jsonl"), attempt])

    def finish(self, facts: dict[str, Any]) -> None:
        """Writes done.json."""
        self.lock.check()
        write_json(self.directory / "done.json", facts)

    def fail(self, error: str, diverged: bool = False) -> None:
        """Writes failed.json, as far as the directory still takes it."""
        ending = {"error": error, "diverged": diverged, "time": time.time(), "log": log_path(), "task": slurm.this_task()}
        with suppress(OSError, RunError):
            write_json(self.directory / "failed.json", ending)

    def stop(self, where: str) -> None:
        """Writes stopped.json, likewise."""
        with suppress(OSError, RunError):
            write_json(self.directory / "stopped.json", {"where": where, "time": time.time(), "log": log_path(), "task": slurm.this_task()})


def log_path() -> str:
    """Where this process's output goes, as whoever started it says (the pool, the batch script); empty for a terminal."""
    return os.environ.get("PALIMPSEST_LOG", "")


@contextmanager
def locked(directory: Path) -> Iterator[Lock]:
    """A directory, made where it is not there, under its lock; InputError where it cannot be written, Held where another process has it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = Lock(directory)
        owner = lock.acquire()
    except OSError as error:
        raise InputError(f"{directory}: cannot be written ({error.strerror}); set PALIMPSEST_RUNS to a folder that can") from None
    if owner is not None:
        raise Held(f"{directory}: held by {describe(owner)}; wait for it, or stop it and start again")
    try:
        yield lock
    finally:
        lock.release()


def remove_dead_lock(experiment: Experiment) -> None:
    """Takes away the lock that a process left which was killed after its last result was written; nobody opens a finished run again."""
    if (experiment.directory / "lock").exists():
        with suppress(InputError), locked(experiment.directory):
            pass


@contextmanager
def open_run(experiment: Experiment) -> Iterator[Run]:
    """Opens an experiment's run directory under its lock.

    InputError where it cannot be made or written, Held where another process has it. How the work inside ends is written to
    failed.json (whatever it failed of) or stopped.json.
    """
    with locked(experiment.directory) as lock:
        run = Run(experiment, lock)
        try:
            yield run
        except Interrupted as error:
            run.stop(str(error))
            raise
        except KeyboardInterrupt:
            run.stop("interrupted from the keyboard; goes on from its last checkpoint")
            raise
        except InputError:
            raise
        except Exception as error:
            run.fail(str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}", isinstance(error, Diverged))
            raise
