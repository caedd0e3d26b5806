"""A search on a W&B server: registering its file, reading its trials back."""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from errors import InputError, RunError
from train.run import read_json, write_json
from train.sweep.check import words_for_wandb
from train.sweep.file import read_sweep
from train.sweep.trials import parse_sweep, sweeps_root
from train.sync import check_server, connect
from train.tracking import PROJECT, abandon, destination, first_line

# How long `wandb sweep` may take.
REGISTER_SECONDS = 60


def register(path: str) -> str:
    """Registers a sweep file; its ENTITY/PROJECT/ID. InputError where the file is wrong or the server does not take it."""
    sweep = read_sweep(path)
    if words_for_wandb(sweep):
        raise InputError(f"{path}: parameters: W&B takes numbers such as 1e-2 for words; write 0.01, or 1.0e-2")
    check_server()
    # The client's own default is the name of the folder.
    named = os.environ.get("WANDB_PROJECT") or sweep.raw.get("project") or PROJECT
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        environment = {key: value for key, value in os.environ.items() if key != "WANDB_SILENT"} | {"WANDB_DIR": scratch}
        command = [sys.executable, "-m", "wandb", "sweep", "--project", named, path]
        try:
            done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=REGISTER_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise InputError(f"{path}: the W&B server gave no answer within {REGISTER_SECONDS} s") from None
    said = done.stdout + done.stderr
    found = re.search(r"wandb agent (\S+)", said)
    if done.returncode or not found:
        lines = [line for line in said.splitlines() if line.strip()]
        raise InputError(f"{path}: `wandb sweep` failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return found[1]


@dataclass(frozen=True)
class ServerSweep:
    """A sweep as the server has it: its state, its configuration, and its runs (id, state, config, summary)."""

    state: str
    config: dict[str, Any]
    runs: list[dict[str, Any]]

    @property
    def goes_on(self) -> bool:
        """Whether its agents still get trials, or all came to a result."""
        results = all(run["state"] == "finished" or run["summary"].get("state") == "diverged" for run in self.runs)
        return self.state in ("PENDING", "RUNNING", "PAUSED") or (self.state == "FINISHED" and results)


def read_server_sweep(path: str) -> ServerSweep:
    """A W&B sweep; InputError where there is no such sweep, RunError where the server fails in the middle."""
    parse_sweep(path)
    check_server()
    api = connect()
    try:
        sweep = api.sweep(path)
        runs = [{"id": run.id, "state": run.state, "config": dict(run.config), "summary": dict(run.summary_metrics)} for run in sweep.runs]
    except Exception as error:
        # The client's own errors have no common class; what it makes of a sweep that is not there wraps a ValueError.
        if isinstance(getattr(error, "exc", error), ValueError):
            raise InputError(f"{path}: there is no such W&B sweep") from None
        abandon()
        raise RunError(f"{path}: W&B: {first_line(error)}") from None
    return ServerSweep(sweep.state, dict(sweep.config), runs)


def register_once(path: str) -> tuple[str, bool]:
    """The W&B sweep of a file, and whether it was registered before: one that goes on, of the same file, on the same server, is taken again."""
    sweep = read_sweep(path)
    check_server()
    note = sweeps_root() / sweep.name / "registered.json"
    same = {"file": hashlib.sha256(sweep.path.read_bytes()).hexdigest(), "server": destination()}
    before = read_json(note)
    if before and {key: before[key] for key in same} == same:
        with suppress(InputError):
            if read_server_sweep(before["path"]).goes_on:
                return before["path"], True
    found = register(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, same | {"path": found})
    return found, False
