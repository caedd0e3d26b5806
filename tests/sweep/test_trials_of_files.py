"""A trial of a committed sweep file of every kind, as an agent calls it: the published networks on a few images, for an epoch."""

import json
import math
import os
import re
import subprocess
import sys

import pytest
import yaml

from train.entry import ROOT
from train.sweep.file import read_sweep

pytestmark = pytest.mark.slow

FOLDER = ROOT / "configs/sweeps"
SWEEP, RUN = "0a1b2c3d", "4e5f6a7b"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder of runs for all files, so that step two finds the parts that step one trained."""
    return tmp_path_factory.mktemp("runs")


def shortened(values):
    """The values of a point for one epoch; the search of a level goes over one, too, where the network is small."""
    values = values | {"epochs": 1}
    if values.get("module.level") != "auto":
        return values
    return values | ({"module.level": 1} if values["dataset"] == "FaceScrub" else {"module.search_epochs": 1})


def write_winners(runs, values):
    """The winners of other searches that these values name: the first points of these, shortened."""
    for value in values.values():
        if match := re.fullmatch(r"runs/sweeps/(\w+)/best\.yaml", str(value)):
            winner = shortened(read_sweep(FOLDER / f"{match[1]}.yaml").points()[0])
            if (winner["dataset"], winner["method"]) == ("FaceScrub", "Identity"):
                # After a few steps, the statistics of its batch norm are so far off that the frozen network overflows.
                winner["epochs"] = 20
            path = runs / "sweeps" / match[1] / "best.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump([winner]))


def inspected(folder, *options):
    """What the W&B client wrote, read back by its own command."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def of_every_kind():
    """Of files that search the same fields, EMNIST's alone, whose images are the smallest; reading builds the points of all."""
    kinds = {}
    for path in sorted(FOLDER.glob("*.yaml"), key=lambda path: (not path.stem.startswith("emnist"), path.stem)):
        parameters = read_sweep(path).parameters
        searched = frozenset(key for key, own in parameters.items() if len(own.points() or "ab") > 1)
        kinds.setdefault((*(parameters["method"].points() or ()), searched), path)
    return list(kinds.values())


@pytest.mark.parametrize("path", of_every_kind(), ids=lambda path: path.stem)
def test_a_trial_of_the_file(path, runs):
    sweep = read_sweep(path)
    values = shortened(sweep.points()[0] if sweep.method == "grid" else sweep.draw(0))
    write_winners(runs, values)
    words = {
        "python": [sys.executable],
        "train.sweep": ["tests.sweep.tiny"],
        "${args}": [f"--{key}={value}" for key, value in values.items()],
    }
    command = [own for word in sweep.command for own in words.get(word, [word])]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "PALIMPSEST_"))}
    environment |= {"WANDB_SWEEP_ID": f"{SWEEP}{sweep.name}", "WANDB_RUN_ID": RUN, "WANDB_MODE": "offline", "PALIMPSEST_RUNS": str(runs)}
    environment |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TINY_TRAIN": "4", "TINY_VALID": "2", "TINY_PRETENDED": "3"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr

    folder = runs / "sweeps" / f"wandb-{SWEEP}{sweep.name}" / RUN
    trial = json.loads((folder / "trial.json").read_text())
    assert trial["state"] == "done"
    assert trial["values"] == values
    metric = trial["metrics"][sweep.metric.name]
    assert math.isfinite(metric)
    assert f"{sweep.metric.name} {metric:.6g}" in ended.stdout.splitlines()
    assert not any(key.startswith("composition") for key in trial["metrics"])

    (record,) = folder.glob("wandb/offline-run-*")
    records = [json.loads(line) for line in inspected(record).splitlines()]
    (started,) = (own["run"] for own in records if own["type"] == "run")
    assert (started["run_id"], started["sweep_id"]) == (RUN, f"{SWEEP}{sweep.name}")
    summary = json.loads(inspected(record, "--summary"))["summary"]
    assert summary[sweep.metric.name] == metric
    told = {key for own in records if own["type"] == "history" for key in own["history"]["item"]} | set(summary)
    assert sweep.metric.name in told
    assert not [key for key in told if key.startswith("composition")]
