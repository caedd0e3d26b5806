"""W&B: one run per experiment, online where there is an account and a server that answers, else offline. Training never waits for it.

The loop tells a tracker what happens and never asks whether there is one; the local record is complete without it.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from train.entry import Experiment
from train.run import read_jsonl, resolved

PROJECT = "palimpsest"
# How long the server may take to answer before the run goes offline, and how long an upload may hold up the end of a run.
ANSWER_SECONDS = 8
FINISH_SECONDS = 120


def notice(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Tracker:
    """A W&B run, or nothing where WANDB_MODE is disabled."""

    def __init__(self, experiment: Experiment, directory: Path, tags: tuple[str, ...] = ()):
        self.run: Any = None
        mode = os.environ.get("WANDB_MODE", "")
        if mode == "disabled":
            return
        place = directory / "wandb"
        place.mkdir(exist_ok=True)
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(variable, str(place / variable.split("_")[1].lower()))
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        options: dict[str, Any] = {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "group": " ".join(filter(None, [experiment.dataset, experiment.study])),
            "job_type": experiment.method,
            "name": experiment.name,
            "id": experiment.hash[:16],
            "resume": "allow",
            "tags": sorted({*experiment.tags, *tags}),
            "config": resolved(experiment),
            "dir": str(directory),
        }
        settings = wandb.Settings(
            init_timeout=ANSWER_SECONDS, finish_timeout=FINISH_SECONDS, silent=True, console="off", disable_git=True, disable_code=True
        )
        online = mode != "offline" and _has_account(wandb) and _answers(wandb)
        try:
            self.run = wandb.init(mode="online" if online else "offline", settings=settings, **options)
        except Exception as error:  # the client raises its own errors for a server that refuses or is slow: training goes on
            notice(f"W&B: {str(error).splitlines()[0]}; this run is recorded offline in {place}")
            self.run = wandb.init(mode="offline", settings=settings, **options)
        self.run.define_metric("epoch", hidden=True)
        for metrics in ("train/*", "valid/*", "lr", "images_per_second", "search/*"):
            self.run.define_metric(metrics, step_metric="epoch")
        # What a killed process had not sent yet, and what an offline file needs to be complete by itself; known steps are dropped.
        for step, row in enumerate(read_jsonl(directory / "metrics.jsonl")):
            self.epoch(row, step)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Logs values as one step. Steps are given, so a resumed run that computes a row again cannot log it twice."""
        if self.run is not None:
            self.run.log(dict(values), step=step)

    def epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Logs a row of metrics.jsonl: training curves, or those of a level of the search."""
        keys = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
        curves = {key.replace("_", "/", 1): row[key] for key in keys if key in row}
        if row["stage"] != "train":
            curves = {f"search/{row['stage'].removeprefix('search-')}/{key}": value for key, value in curves.items()}
        self.log(curves | {"epoch": row["epoch"], "lr": row["lr"], "images_per_second": row["images_per_second"]}, step)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Sets values of the run's summary."""
        if self.run is not None:
            self.run.summary.update(dict(values))

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Logs a W&B table."""
        if self.run is not None:
            import wandb

            self.run.log({key: wandb.Table(columns=list(columns), data=list(rows))}, step=step)

    def finish(self, exit_code: int = 0) -> None:
        """Ends the run; a server that has died holds this up for FINISH_SECONDS at most, and `wandb sync` sends the run later."""
        if self.run is None:
            return
        import wandb

        self.run.finish(exit_code=exit_code)
        # Processes of the pool end without the client's own exit hook.
        wandb.teardown(exit_code)
        self.run = None


def _host(wandb: Any) -> tuple[str, int]:
    url = urlparse(os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url)
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def _has_account(wandb: Any) -> bool:
    """Whether an API key stands in the environment or in the netrc file, where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc(os.environ.get("NETRC")).authenticators(_host(wandb)[0]) is not None
    except (OSError, NetrcParseError):
        return False


def _answers(wandb: Any) -> bool:
    """Whether the server takes a connection within seconds; says so in one line where it does not."""
    host, port = _host(wandb)
    try:
        socket.create_connection((host, port), ANSWER_SECONDS).close()
    except OSError as error:
        notice(f"W&B: {host}:{port} does not answer ({error}); this run is recorded offline")
        return False
    return True
