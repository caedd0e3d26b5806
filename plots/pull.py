"""Runs pulled from a W&B server. What was pulled is kept, so that the next pull asks for what has changed since and no more."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from errors import InputError, RunError
from plots.logged import LoggedRun, Wanted
from plots.pulled import read_pulled, write_pulled
from train.entry import runs_root
from train.sync import check_server, connect
from train.tracking import abandon, first_line, host_and_port, notice

# Runs of a page of the listing, runs whose contents are asked for at once (and then kept), and histories side by side.
PAGE = 500
BATCH = 100
THREADS = 8
# The server tells the time of a run's last change in whole seconds: one that changed in so many is asked for again the next time.
SETTLED = 60
# Seconds between the attempts of a request; a server that limits the rate lets go within a minute.
PAUSES = (1, 2, 4, 8, 15, 30)

T = TypeVar("T")


def pull(project: str, wanted: Wanted) -> list[LoggedRun]:
    """The runs of ENTITY/PROJECT that are wanted, the oldest first.

    InputError where there is no account, no server, no such project or no such run; RunError where the server fails for good: what was pulled
    by then is kept, and the same call goes on.
    """
    check_server()
    api = connect()
    path = place(project)
    listed = listing(api, project, wanted)
    if not listed:
        raise InputError(f"{project}: holds no run{describe(wanted)}")
    known = read_pulled(path)
    changed = [run.id for run in listed if run.id not in known or known[run.id].stamp != stamp(run) or not known[run.id].stamp]
    for start in range(0, len(changed), BATCH):
        ids = changed[start : start + BATCH]
        try:
            known |= {run.id: run for run in contents(api, project, ids)}
        except RunError as error:
            raise RunError(f"{error}; {start} of {len(changed)} runs are pulled and kept, the same command goes on") from None
        write_pulled(path, known.values())
    gone = [] if wanted != Wanted() else [key for key in known if key not in {run.id for run in listed}]
    if gone:
        write_pulled(path, [run for key, run in known.items() if key not in gone])
    return [known[run.id] for run in listed if run.id in known]


def place(project: str) -> Path:
    """Where the runs of a project are kept, for each server apart."""
    import wandb

    host, port = host_and_port(wandb)
    return runs_root() / "pulled" / f"{host}-{port}" / f"{project}.parquet"


def describe(wanted: Wanted) -> str:
    words = [f"of sweep {wanted.sweep}"] if wanted.sweep else []
    words += [f"of group {wanted.group!r}"] if wanted.group else []
    words += [f"with tag {tag!r}" for tag in wanted.tags]
    return "".join(f" {word}" for word in words)


def listing(api: Any, project: str, wanted: Wanted) -> Sequence[Any]:
    """The client's runs, without their contents."""
    filters: dict[str, Any] = {"sweep": wanted.sweep} if wanted.sweep else {}
    filters |= {"group": wanted.group} if wanted.group else {}
    filters |= {"$and": [{"tags": {"$in": [tag]}} for tag in wanted.tags]} if wanted.tags else {}

    def ask() -> list[Any]:
        api.flush()
        return list(api.runs(project, filters=filters, order="+created_at", per_page=PAGE, lazy=True))

    return attempt(project, ask)


def contents(api: Any, project: str, ids: Sequence[str]) -> list[LoggedRun]:
    """Runs with their configs, summaries and histories."""

    def ask() -> list[Any]:
        api.flush()
        return list(api.runs(project, filters={"name": {"$in": list(ids)}}, per_page=len(ids), lazy=False))

    def logged(run: Any) -> LoggedRun:
        lines = max(run.lastHistoryStep + 1, 1)
        history = attempt(project, lambda: run.history(samples=lines, pandas=False))
        rows = tuple(dict(row) for row in history if "epoch" in row)
        return LoggedRun(
            run.id, run.name, run.state, run.group or "", run.sweep_name or "", tuple(run.tags), dict(run.config),
            dict(run.summary_metrics), rows, stamp(run),
        )  # fmt: skip

    found = attempt(project, ask)
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(logged, found))


def stamp(run: Any) -> str:
    """What differs when the server's side of a run has changed; empty where it may be changing now."""
    age = time.time() - datetime.fromisoformat(run.heartbeat_at).timestamp()
    return json.dumps([run.heartbeat_at, run.state, run.name, run.group, sorted(run.tags)]) if age >= SETTLED else ""


def attempt(project: str, ask: Callable[[], T]) -> T:
    """What a request gives, tried again where the server fails or limits the rate; InputError where it says that there is no such thing."""
    for pause in (*PAUSES, None):
        try:
            return ask()
        except Exception as error:
            # The client's own errors have no common class; what it makes of something that is not there is a ValueError, or wraps one.
            if isinstance(getattr(error, "exc", error), ValueError):
                raise InputError(f"{project}: W&B: {first_line(error)}") from None
            if pause is None:
                abandon()
                raise RunError(f"{project}: W&B: {first_line(error)}") from None
            notice(f"{project}: W&B: {first_line(error)}; again in {pause} s")
            time.sleep(pause)
    raise AssertionError("unreachable")
