"""A search in two steps from its files to its winner, as a user makes it: with the W&B client against a server, and with no server at all."""

import csv
import json
import re
import subprocess
import sys

import pytest
import yaml

from tests.sweep.searches import call, environment, one_step, two_step
from train.entry import ROOT

# What a researcher types at a Python prompt.
READ = """
import json, sys, wandb
sweep = wandb.Api().sweep(sys.argv[1])
best = sweep.best_run()
runs = [dict(state=run.state, keys=[*run.summary_metrics, *(key for row in run.scan_history() for key in row)]) for run in sweep.runs]
print(json.dumps(dict(state=sweep.state, config=dict(best.config), value=best.summary_metrics[sweep.config["metric"]["name"]], runs=runs)))
"""


def shell(*words, runs, **more):
    done = subprocess.run(words, cwd=ROOT, env=environment(runs, **more), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def with_wandb(runs, path):
    """`wandb sweep` and two `wandb agent`s; the sweep's path."""
    sweep = re.search(r"wandb agent (\S+)", shell(sys.executable, "-m", "wandb", "sweep", str(path), runs=runs))[1]
    agent = [sys.executable, "-m", "tests.wandb_server.agent", sweep]
    agents = [
        subprocess.Popen(agent, cwd=ROOT, env=environment(runs), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in "ab"
    ]
    for process in agents:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    return sweep


def winner(runs, name):
    [entry] = yaml.safe_load((runs / "sweeps" / name / "best.yaml").read_text())
    return entry


def table(runs, name):
    """The values of all trials by what was searched."""
    with open(runs / "sweeps" / name / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    keys = ("lr", "module.lr", "module.weight")
    return {(row["search"], *(float(row[key]) if row[key] else None for key in keys)): float(row["value"]) for row in rows}


@pytest.mark.slow
def test_both_ways_find_the_same_winner(tmp_path, online):
    one = one_step(tmp_path, lr={"values": [0.0001, 0.01, 0.1]})
    two = two_step(tmp_path, **{"module.lr": {"values": [0.1, 0.0001]}})
    served, alone = tmp_path / "served", tmp_path / "alone"

    first = with_wandb(served, one)
    call(served, "best", first)
    second = with_wandb(served, two)
    call(served, "best", first, second, "--seeds", "1,2")

    call(alone, "run", one, "--workers", 2, WANDB_MODE="disabled")
    call(alone, "best", one)
    call(alone, "run", two, "--workers", 2, WANDB_MODE="disabled")
    call(alone, "best", one, two, "--seeds", "1,2")

    # Every trial has the same value, to the bit; the winners are the same, and not the first points.
    assert table(served, "two") == table(alone, "two")
    assert len(table(served, "two")) == 7
    for name in ("one", "two"):
        assert winner(served, name) == winner(alone, name)
    assert winner(alone, "one")["lr"] != 0.0001
    assert (winner(alone, "two")["module"]["lr"], winner(alone, "two")["module"]["weight"]) != (0.1, 0)
    # The second step built on the first one's winner, trained once.
    assert winner(alone, "two")["backbone"] == {"epochs": 3, "lr": winner(alone, "one")["lr"]}
    backbones = list(served.glob("FashionMNIST-mini/Identity-*/attempts.jsonl"))
    assert len(backbones) == 3
    assert all(len(path.read_text().splitlines()) == 1 for path in backbones)

    # What wandb.Api reads is the same winner.
    for sweep, name in ((first, "one"), (second, "two")):
        read = json.loads(shell(sys.executable, "-c", READ, sweep, runs=served).splitlines()[-1])
        assert read["state"] == "FINISHED"
        assert {run["state"] for run in read["runs"]} == {"finished"}
        assert read["value"] == max(value for key, value in table(served, "two").items() if key[0] == name)
        # Selection could not have read a composition: none was evaluated.
        assert not [key for run in read["runs"] for key in run["keys"] if "composition" in key or key.startswith("corruptions/")]
    for runs in (served, alone):
        assert {path.name for path in runs.glob("FashionMNIST-mini/*/evaluation/*")} == {"valid-elementals-50.h5"}

    # The list is ready for submit_array.sh: both seeds, their parts come by themselves.
    listed = shell(sys.executable, "-m", "train", str(alone / "sweeps" / "two" / "list.yaml"), "--list", runs=alone)
    assert "2 entries: 2 new" in listed
    assert "would run 2: 0-1 and 14 of their prerequisites" in listed or "would submit 2: 0-1 and 14 of their prerequisites" in listed
