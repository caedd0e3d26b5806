"""1,000 runs with 167 compositions each, pulled from a W&B server, tabulated and drawn; against a script that asks for one run after the other.

    python -m benchmarks results

The runs are synthetic (outcomes are drawn at random), written by the suite's own writers and told to the server as its own subjects tell them.
The server is the tests' own, a process on the loopback interface, so no request waits for a network: over one, the script's requests in a row
lose more. The script is what W&B's documentation shows: `api.runs`, and `summary`, `config` and `scan_history` of each run.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks._figures import Figure, spread
from plots.box_plot import draw
from plots.results import find
from tests.plots.conftest import CONTRASTIVE, CROSS_ENTROPY, IDENTITY, Study, random_bits
from tests.wandb_server.store import Store
from train.entry import Experiment
from train.subject import ExperimentSubject
from train.sync import connect
from train.tracking import teardown

PROJECT = "local/palimpsest"
SYSTEMS: tuple[dict[str, Any], ...] = (IDENTITY, CROSS_ENTROPY, CONTRASTIVE, {**CONTRASTIVE, "weight": 1})
SEEDS = 250
EPOCHS = 20
ROUNDS = 3  # of ours; the script's thousand requests in a row are one
AGE = 3600  # seconds since the last heartbeat: of a run that ended an hour ago


def write_runs(study: Study, seeds: int = SEEDS) -> list[Experiment]:
    """Finished and evaluated runs: every system with every seed."""
    pairs = itertools.product(SYSTEMS, range(seeds))
    return [study.trained({**entry, "seed": seed, "epochs": EPOCHS}, random_bits(seed)) for entry, seed in pairs]


def tell(store: Store, experiment: Experiment) -> None:
    """Puts a run into the server's store, as its client would leave it there."""
    subject = ExperimentSubject(experiment)
    told = subject.arguments()
    entity, project = PROJECT.split("/")
    run = store.new_run(entity, project, subject.id)
    config = {key: {"value": value} for key, value in told["config"].items()}
    run |= {"displayName": told["name"], "group": told["group"], "jobType": told["job_type"], "tags": told["tags"]}
    run |= {"state": "finished", "exitcode": 0, "config": config, "summary": subject.summary()}
    run |= {"created": run["created"] - AGE, "heard": run["heard"] - AGE}
    store.save_run(run)
    steps = [values for values in subject.steps() if "compositions" not in values]
    store.put_lines(run["id"], "history", 0, [json.dumps({"_step": number, **values}) for number, values in enumerate(steps)])


@contextmanager
def serving(database: Path) -> Iterator[None]:
    """A server with these runs, in a process of its own, and a client in this one that finds it."""
    command = [sys.executable, "-m", "tests.wandb_server", "--port", "0", "--database", str(database)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        names = dict(word.split("=", 1) for word in server.stdout.readline().split()[1:])
        os.environ.update(names | {"WANDB_MODE": "online", "WANDB_SILENT": "true"})
        yield
    finally:
        teardown()
        server.kill()
        server.wait()


def one_after_the_other() -> pd.DataFrame:
    """The rows of all runs, as a script asks for them."""
    rows: list[dict[str, Any]] = []
    for run in connect().runs(PROJECT):
        facts = {"run": run.name, **{key: value for key, value in run.config.items() if not isinstance(value, dict)}}
        rows += [{**facts, "metric": key, "value": value} for key, value in dict(run.summary).items() if not isinstance(value, dict)]
        rows += [
            {**facts, "epoch": line.get("epoch"), "metric": key, "value": value}
            for line in run.scan_history()
            for key, value in line.items()
        ]
    return pd.DataFrame(rows)


def timed(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run() -> list[Figure]:
    """Rows: seconds of the first pull and of the next one over those of the script; of the run directories over the first pull."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        folder = Path(scratch)
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, scratch)
        study = Study(folder, patch)
        experiments = write_runs(study)
        store = Store(folder / "wandb.sqlite")
        for experiment in experiments:
            tell(store, experiment)
        local = [timed(lambda: find(study.runs).table) for _ in range(ROUNDS)]
        first, again, script, drawn = [], [], [], []
        with serving(folder / "wandb.sqlite"):
            for turn in range(ROUNDS):
                patch.setenv("PALIMPSEST_RUNS", str(folder / f"pulled-{turn}"))
                first.append(timed(lambda: find(PROJECT).table))
                again.append(timed(lambda: find(PROJECT).table))
                results = find(PROJECT)
                assert not results.missing
                assert results.table["run"].nunique() == len(experiments)
                drawn.append(timed(partial(draw, results, folder / "figures")))
            script.append(timed(one_after_the_other))
    sides = {"first pull": first, "next pull": again, "run directories": local, "box plot of the table": drawn, "script": script}
    print(f"\n{len(experiments):,} runs of {EPOCHS} epochs and 167 compositions, {len(results.table):,} rows, seconds")
    for name, figures in sides.items():
        print(f"  {name:<24} {spread(figures)}")
    return [
        Figure("1,000 runs pulled and tabulated over a script, run by run", first, script, 1.0, "s"),
        Figure("the same again over a script, run by run", again, script, 0.2, "s"),
        Figure("1,000 run directories tabulated over the first pull", local, first, 1.0, "s"),
    ]
