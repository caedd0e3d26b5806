"""Sends runs to W&B that are not, or not wholly, there: recorded offline, cut off, or finished after a client failed.

python -m train sync configs/demo.yaml                       the runs of a list and of what it rests on
python -m train sync configs/demo.yaml configs/modules.yaml  of several lists
python -m train sync configs/demo.yaml --index 0-5,9         of some entries
python -m train sync configs/demo.yaml --dry-run             what would be sent
python -m train sync ENTITY/PROJECT/SWEEP                    the trials of a W&B sweep, into that sweep

The same command again goes on where one stopped; what was sent is left out. A run is sent by `wandb sync`: the client's own record of
it where that is complete and the server does not know the run, else one written from the run directory that holds just the steps
that the server lacks. So every step arrives once, however often a run was started, and only what the server then says it has
counts as sent.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from errors import Arguments, InputError, RunError, report_errors
from train.frozen import list_name
from train.lists import Entry, plan, read, read_overrides
from train.subject import ExperimentSubject, Subject
from train.sweep.trials import TrialSubject, read_trials, sweep_folder
from train.tracking import (
    ANSWER_SECONDS,
    WandbRun,
    abandon,
    destination,
    first_line,
    has_account,
    host_and_port,
    project,
    read_record,
    unreachable,
    write_record,
)

# `wandb sync`, which ends when its standard input does: with the process that started it, however that ended.
COMMAND = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
from wandb.cli.cli import cli
cli(["sync", *sys.argv[1:]])
"""
# How many runs go through one `wandb sync` for each of its uploads side by side, and how long it may say nothing before it is ended.
BATCH = 8
SILENT_SECONDS = 60
# How long the server may take until what was uploaded can be read back.
ARRIVAL_SECONDS = 10


@dataclass(frozen=True)
class Sending:
    """A run to send, and the folder that holds what is sent."""

    subject: Subject
    folder: Path | None = None


def parser() -> Arguments:
    arguments = Arguments("python -m train sync", description=__doc__)
    arguments.add_argument("config", nargs="+", help="YAML lists of experiments, or a W&B sweep")
    arguments.add_argument("--index", metavar="LIST", help="the entries to send, with what they rest on: numbers and ranges (0-5,9)")
    arguments.add_argument("--workers", type=int, default=4, metavar="K", help="uploads side by side (default: 4)")
    arguments.add_argument("--dry-run", action="store_true", help="show what would be sent")
    return arguments


def main(argv: Sequence[str]) -> int:
    options, rest = parser().parse_known_args(argv)
    return report_errors(lambda: sync(options, rest))


def sync(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Sends what is to be sent, and says of every entry what became of it; RunError where something was not sent."""
    if options.workers < 1:
        raise InputError(f"--workers {options.workers}: must be at least 1")
    planned = gather(options.config, options.index, rest)
    if not options.dry_run:
        check_server()
    reasons, damaged = {}, 0
    for subject in planned:
        try:
            reasons[subject.id] = reason_to_leave(subject)
        except InputError as error:
            reasons[subject.id] = f"NOT SENT: {error}"
            damaged += 1
    todo = [Sending(subject) for subject in planned if not reasons[subject.id]]
    for subject in planned:
        reason = reasons[subject.id]
        if reason or options.dry_run:
            print(f"{subject.label}: {reason or f'would be sent ({subject.n_steps()} steps)'}")
    if options.dry_run or not todo:
        print(f"{len(todo)} to send, {len(planned) - len(todo)} not")
        if damaged and not options.dry_run:
            raise RunError(f"{damaged} of {len(planned)} not sent")
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        os.environ |= {"WANDB_MODE": "online", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
        os.environ |= {"WANDB_DIR": scratch, "WANDB_CACHE_DIR": f"{scratch}/cache", "WANDB_DATA_DIR": f"{scratch}/data"}
        sent = send_all(connect(), todo, options.workers, Path(scratch))
    if sent < len(todo) + damaged:
        raise RunError(f"{len(todo) + damaged - sent} of {len(todo) + damaged} not sent; the same command sends the rest")


def send_all(api: Any, todo: Sequence[Sending], workers: int, scratch: Path) -> int:
    """Sends batch after batch and returns how many were sent; RunError at once where the server is gone."""
    sent, size = 0, BATCH * workers
    for start in range(0, len(todo), size):
        batch = todo[start : start + size]
        try:
            problems = send(api, batch, workers, scratch)
        except Exception as error:
            # The client's own errors have no common class; what they say of a server that went away matters, not where.
            abandon()
            raise RunError(
                f"W&B: {first_line(error)}; {len(todo) - sent} of {len(todo)} not sent; the same command sends the rest"
            ) from None
        for number, (sending, problem) in enumerate(zip(batch, problems), start + 1):
            print(f"[{number}/{len(todo)}] {sending.subject.label}: {problem or f'sent ({sending.subject.n_steps()} steps)'}", flush=True)
            sent += not problem
    return sent


def gather(configs: Sequence[str], indices: str | None, rest: Sequence[str]) -> list[Subject]:
    """The experiments of the lists and what they rest on, each once, tagged by the lists it stands in; or the trials of a sweep.

    For a sweep the environment is made to name its entity and project. InputError where it has no trials here.
    """
    sweeps = [config for config in configs if is_sweep(config)]
    if sweeps:
        if len(configs) > 1 or indices or rest:
            raise InputError(f"{sweeps[0]}: a sweep is sent by itself, without lists, --index and overrides")
        os.environ["WANDB_ENTITY"], os.environ["WANDB_PROJECT"], sweep = sweeps[0].split("/")
        trials: list[Subject] = [TrialSubject(trial) for trial in read_trials(sweep_folder(sweep))]
        if not trials:
            raise InputError(f"{sweeps[0]}: no trial of this sweep ran with these runs (none lies in {sweep_folder(sweep)})")
        return trials
    found: dict[str, tuple[Entry, tuple[str, ...]]] = {}
    for config in configs:
        for entry in plan(read(config, read_overrides(rest), indices)):
            before = found.get(entry.experiment.hash, (entry, ()))
            found[entry.experiment.hash] = (before[0], (*before[1], list_name(config)))
    return [ExperimentSubject(entry.experiment, tags, entry.index) for entry, tags in found.values()]


def is_sweep(config: str) -> bool:
    """Whether a word names a W&B sweep (ENTITY/PROJECT/ID), not a file."""
    return config.count("/") == 2 and not config.endswith((".yaml", ".yml", ".json")) and not Path(config).exists()


def reason_to_leave(subject: Subject) -> str:
    """Why a run is not sent; empty where it is to be sent. InputError where its files are damaged."""
    reason = subject.reason_to_leave()
    if reason:
        return reason
    record = read_record(subject)
    return "sent already" if record and record["sent"] == destination() else ""


def check_server() -> None:
    """InputError where there is no API key or nothing takes a connection."""
    import wandb

    host, _ = host_and_port(wandb)
    if not has_account(wandb):
        raise InputError(f"W&B: no API key for {host}; set WANDB_API_KEY, or run: wandb login")
    problem = unreachable(wandb)
    if problem:
        raise InputError(f"W&B: {problem}; WANDB_BASE_URL says which server")


def connect() -> Any:
    """A wandb.Api; InputError where the server does not take the key or does not answer."""
    import wandb

    host, port = host_and_port(wandb)
    try:
        return wandb.Api(timeout=ANSWER_SECONDS)
    except Exception as error:
        abandon()
        raise InputError(f"W&B: {host}:{port}: {first_line(error)}") from None


def steps_on_server(api: Any, batch: Sequence[Sending]) -> dict[str, tuple[int, str]]:
    """How many steps the server has of each run that it knows, and the run's state there, by run id."""
    api.flush()
    path = "/".join([os.environ.get("WANDB_ENTITY") or api.default_entity, project()])
    runs = api.runs(path, filters={"name": {"$in": [sending.subject.id for sending in batch]}}, per_page=len(batch))
    try:
        return {run.id: (run.lastHistoryStep + 1, run.state) for run in runs}
    except ValueError as error:
        # A project comes into being with its first run.
        if "Could not find project" in str(error):
            return {}
        raise


def send(api: Any, batch: Sequence[Sending], workers: int, scratch: Path) -> list[str]:
    """Sends a batch side by side; what went wrong with each, empty where it arrived."""
    known = steps_on_server(api, batch)
    held = [sending.subject.contents() for sending in batch]
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as place:
        prepared, damage = [], []
        for sending in batch:
            try:
                prepared.append(prepare(sending, known.get(sending.subject.id), Path(place)))
                damage.append("")
            except (InputError, OSError) as error:
                prepared.append(sending)
                damage.append(f"its files cannot be read: {first_line(error)}")
        said = wandb_sync([sending.folder for sending in prepared if sending.folder], workers, scratch)
    deadline = time.monotonic() + (0 if said or any(damage) else ARRIVAL_SECONDS)
    while any(problems := problems_of(batch, steps_on_server(api, batch))) and time.monotonic() < deadline:
        time.sleep(1)
    problems = [damaged or (problem and problem + (f" ({said})" if said else "")) for problem, damaged in zip(problems, damage)]
    for sending, problem, before in zip(prepared, problems, held):
        if not problem and before == sending.subject.contents():
            write_record(sending.subject, sending.folder.name if sending.folder else "", destination())
    return [f"NOT SENT: {problem}" if problem else "" for problem in problems]


def problems_of(batch: Sequence[Sending], known: dict[str, tuple[int, str]]) -> list[str]:
    problems = []
    for sending in batch:
        steps, at = known.get(sending.subject.id, (0, "unknown"))
        lacking = steps < sending.subject.n_steps() or at in ("unknown", "running", "pending")
        problems.append(f"the server has {steps} of {sending.subject.n_steps()} steps, the run is {at} there" if lacking else "")
    return problems


def prepare(sending: Sending, known: tuple[int, str] | None, place: Path) -> Sending:
    """The run with the folder to send: the client's record where complete and the server knows no run, else a new one in `place`."""
    subject = sending.subject
    record = read_record(subject)
    if known in (None, (0, "pending")) and record is not None and record["folder"].startswith("offline-run-"):
        folder = subject.directory / "wandb" / record["folder"]
        if any(folder.glob("*.wandb")):
            return replace(sending, folder=folder)
    run = WandbRun(subject, False, place, known[0] if known else 0)
    run.finish(subject.exit_code())
    return replace(sending, folder=run.folder)


def wandb_sync(folders: Sequence[Path], workers: int, scratch: Path) -> str:
    """Runs `wandb sync` on records; the last thing it complained about. Ended when it says nothing for SILENT_SECONDS."""
    # What it tells at the end is no proof: it calls a run synced, with exit code 0, whose upload the server refused.
    log = scratch / "sync.log"
    command = [sys.executable, "-c", COMMAND, "--include-synced", "--no-skip-online", "-n", str(workers), *map(str, folders)]
    environment = {key: value for key, value in os.environ.items() if key not in ("WANDB_SILENT", "WANDB_SERVICE")}
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.PIPE, cwd=scratch, env=environment)
    with ended(process):
        size, since = 0, time.monotonic()
        while process.poll() is None:
            if log.stat().st_size > size:
                size, since = log.stat().st_size, time.monotonic()
            if time.monotonic() - since > SILENT_SECONDS:
                return f"`wandb sync` got no answer within {SILENT_SECONDS} s"
            time.sleep(0.05)
    complaints = [line for line in log.read_text(errors="replace").splitlines() if "ERROR" in line]
    return complaints[-1].partition("ERROR")[2].strip() if complaints else ""


@contextmanager
def ended(process: subprocess.Popen) -> Iterator[None]:
    """The process runs no longer than what is inside."""
    try:
        yield
    finally:
        process.kill()
        process.communicate()
