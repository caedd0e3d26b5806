"""A search on a W&B server: registering its file, reading its trials back."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from errors import InputError, RunError
from train.sweep.agents import parse_sweep
from train.sweep.file import read_sweep
from train.sync import check_server, connect
from train.tracking import PROJECT, first_line

# How long `wandb sweep` may take.
REGISTER_SECONDS = 60


def register(path: str) -> str:
    """Registers a sweep file; its ENTITY/PROJECT/ID. InputError where the file is wrong or the server does not take it."""
    sweep = read_sweep(path)
    # The client reads YAML 1.1, where 1e-2 is a word.
    if yaml.safe_load(Path(path).read_text(encoding="utf-8"))["parameters"] != sweep.raw["parameters"]:
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


def read_server_sweep(path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The configuration of a W&B sweep and its runs: id, state, config, summary, seconds.

    InputError where there is no such sweep, RunError where the server fails in the middle.
    """
    parse_sweep(path)
    check_server()
    api = connect()
    try:
        sweep = api.sweep(path)
        runs = [
            {
                "id": run.id,
                "state": run.state,
                "config": dict(run.config),
                "summary": dict(run.summary_metrics),
            }
            for run in sweep.runs
        ]
    except Exception as error:
        # The client's own errors have no common class; what it makes of a sweep that is not there wraps a ValueError.
        if isinstance(getattr(error, "exc", error), ValueError):
            raise InputError(f"{path}: there is no such W&B sweep") from None
        raise RunError(f"{path}: W&B: {first_line(error)}") from None
    return dict(sweep.config), runs
