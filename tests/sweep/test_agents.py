"""Agents of a W&B sweep: what becomes of a trial that is preempted, cancelled, fails, diverges, was finished before, or runs offline."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.sweep.searches import call, command, environment, one_step
from tests.train.wandb_runs import wait_until
from train.entry import ROOT
from train.sweep.server import register_once

# Each starts agents and trials as processes of their own.
pytestmark = pytest.mark.slow


def register(runs, path):
    return call(runs, "register", path).strip().splitlines()[-1]


def start(runs, sweep, **more):
    return subprocess.Popen(
        command("agent", sweep), cwd=ROOT, env=environment(runs, **more), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def end(process, code):
    said, _ = process.communicate(timeout=120)
    assert process.returncode == code, said
    return said


def trials(runs, sweep):
    """The trial.json files of a W&B sweep by run id."""
    folder = runs / "sweeps" / f"wandb-{sweep.rpartition('/')[2]}"
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/trial.json")}


def epochs(runs):
    """How many epochs were trained so far."""
    return sum(len(path.read_text().splitlines()) for path in runs.glob("FashionMNIST-mini/*/metrics.jsonl"))


@pytest.fixture
def runs(tmp_path, online):
    return tmp_path / "runs"


def test_a_preempted_agents_trial_goes_on_with_another_agent(tmp_path, runs, online):
    sweep = register(runs, one_step(tmp_path, lr={"values": [0.1]}, epochs={"value": 200}))
    first = start(runs, sweep)
    wait_until(lambda: epochs(runs) > 2, 60)
    first.send_signal(signal.SIGTERM)
    assert "saved and goes on with whoever asks" in end(first, 85)
    [(run, trial)] = trials(runs, sweep).items()
    assert trial["state"] == "stopped"
    assert online.run(run)["state"] == "preempted"
    end(start(runs, sweep), 0)
    [(again, trial)] = trials(runs, sweep).items()
    assert (again, trial["state"]) == (run, "done")
    stored = online.run(run)
    assert stored["state"] == "finished"
    assert [row["epoch"] for row in stored["history"] if "epoch" in row][:200] == list(range(1, 201))
    assert [row["_step"] for row in stored["history"]] == list(range(201))
    assert stored["summary"]["selection/clean_accuracy"] == trial["metrics"]["selection/clean_accuracy"]
    # The second attempt went on from the first one's checkpoint.
    attempts = (runs / trial["main"] / "attempts.jsonl").read_text().splitlines()
    assert len(attempts) == 2
    assert online.runs() == [run]


def processes_of(runs):
    """The processes that have these runs in their environment, in the order in which they were started."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"PALIMPSEST_RUNS={runs}\0".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
    return sorted(found)


def test_of_an_agent_all_of_whose_processes_are_told_twice_the_trial_goes_on(tmp_path, runs, online):
    """As a cluster does when it preempts a job."""
    sweep = register(runs, one_step(tmp_path, lr={"values": [0.1]}, epochs={"value": 200}))
    agent = start(runs, sweep)
    wait_until(lambda: epochs(runs) > 2, 60)
    for _ in range(2):
        for process in processes_of(runs):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        time.sleep(0.2)
    end(agent, 85)
    [(run, trial)] = trials(runs, sweep).items()
    assert (trial["state"], online.run(run)["state"]) == ("stopped", "preempted")
    wait_until(lambda: processes_of(runs) == [])


def test_a_cancelled_sweep_stops_its_trial_for_good(tmp_path, runs, online):
    sweep = register(runs, one_step(tmp_path, lr={"values": [0.1, 0.2]}, epochs={"value": 200}))
    agent = start(runs, sweep)
    wait_until(lambda: epochs(runs) > 2, 60)
    online.cancel(sweep.rpartition("/")[2])
    end(agent, 0)
    [(run, trial)] = trials(runs, sweep).items()
    assert trial["state"] == "stopped"
    assert online.run(run)["state"] == "killed"
    # W&B gives a run that calls itself preempted to the next agent.
    assert not online.run(run)["preempting"]
    assert "none of 1 trials is done" in call(runs, "best", sweep, code=1)


def test_an_agent_whose_trials_fail_fails(tmp_path, runs):
    sweep = register(runs, one_step(tmp_path, device={"value": "cuda:7"}))
    said = call(runs, "agent", sweep, code=1)
    assert "3 trials failed one after the other" in said
    assert "device: cuda:7 is not there" in said.splitlines()[-1]
    assert [trial["state"] for trial in trials(runs, sweep).values()].count("failed") >= 3


def test_an_agent_whose_trials_never_begin_fails(tmp_path, runs):
    path = one_step(tmp_path, lr={"values": [1, 2, 3, 4, 5, 6, 7, 8]})
    path.write_text(path.read_text().replace("- python\n- -m\n- tests.sweep.tiny\n- trial", "- /bin/false"))
    said = call(runs, "agent", register(runs, path), code=1)
    assert "it ended before it began" in said.splitlines()[-1]


def test_an_agent_of_no_sweep_says_so_in_one_line(runs):
    said = call(runs, "agent", "local/palimpsest/nothing", code=2)
    assert said == "error: local/palimpsest/nothing: there is no such W&B sweep\n"
    assert not runs.exists()


def test_a_file_is_registered_once(tmp_path, runs, online, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(runs))
    # The client keeps what it read of the environment first, for the tests after this one.
    monkeypatch.setenv("WANDB_SILENT", "true")
    path = one_step(tmp_path)
    first, before = register_once(str(path))
    assert (register_once(str(path)), before) == ((first, True), False)
    online.cancel(first.rpartition("/")[2])
    second, before = register_once(str(path))
    assert not before
    path.write_text(path.read_text().replace("- 0.3\n", "- 0.35\n"))
    third, before = register_once(str(path))
    assert (len({first, second, third}), before) == (3, False)


def test_trials_that_diverge_are_a_result(tmp_path, runs, online):
    sweep = register(runs, one_step(tmp_path, lr={"values": [1e7, 1e8, 1e9, 1e10, 0.1]}))
    said = call(runs, "agent", sweep)
    assert "5 trials (4 diverged, 1 done)" in said
    states = {run: trial["state"] for run, trial in trials(runs, sweep).items()}
    assert {run: online.run(run)["state"] for run in states} == {
        run: "finished" if state == "done" else "failed" for run, state in states.items()
    }
    diverged = next(run for run, state in states.items() if state == "diverged")
    assert "not finite" in online.run(diverged)["summary"]["error"]
    assert "4 diverged, 1 done" in call(runs, "best", sweep)


def test_a_trial_of_a_finished_experiment_reports_at_once(tmp_path, runs, online):
    path = one_step(tmp_path, lr={"values": [0.1, 0.2]})
    call(runs, "run", path, WANDB_MODE="disabled")
    before = {file: file.stat().st_mtime_ns for file in runs.glob("FashionMNIST-mini/*/*.jsonl")}
    sweep = register(runs, path)
    call(runs, "agent", sweep)
    assert {file: file.stat().st_mtime_ns for file in runs.glob("FashionMNIST-mini/*/*.jsonl")} == before
    for run, trial in trials(runs, sweep).items():
        stored = online.run(run)
        assert stored["sweep"] == sweep.rpartition("/")[2]
        assert [row.get("epoch") for row in stored["history"]] == [1, 2, 3, 3]
        assert stored["summary"]["selection/clean_accuracy"] == trial["metrics"]["selection/clean_accuracy"]


def test_offline_trials_are_sent_into_their_sweep(tmp_path, runs, online):
    path = one_step(tmp_path, lr={"values": [0.1, 0.2, 0.3]})
    path.write_text(path.read_text().replace("- python\n", "- /usr/bin/env\n- WANDB_MODE=offline\n- python\n"))
    sweep = register(runs, path)
    call(runs, "agent", sweep)
    assert {online.run(run)["state"] for run in online.runs()} <= {"pending", "failed", "crashed", "killed"}
    sync = ["-m", "train", "sync", sweep]
    said = subprocess.run([command()[0], *sync], cwd=ROOT, env=environment(runs), text=True, capture_output=True)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.count(": sent (4 steps)") == 3
    for run, trial in trials(runs, sweep).items():
        stored = online.run(run)
        assert (stored["state"], stored["sweep"]) == ("finished", sweep.rpartition("/")[2])
        assert [row.get("epoch") for row in stored["history"]] == [1, 2, 3, 3]
        assert stored["summary"]["selection/clean_accuracy"] == trial["metrics"]["selection/clean_accuracy"]
    again = subprocess.run([command()[0], *sync], cwd=ROOT, env=environment(runs), text=True, capture_output=True)
    assert "0 to send, 3 not" in again.stdout
    assert "3 trials (3 done)" in call(runs, "best", sweep)


def test_a_trial_that_is_killed_has_failed(tmp_path, runs, online):
    sweep = register(runs, one_step(tmp_path, lr={"values": [0.1]}, epochs={"value": 500}))
    agent = start(runs, sweep)
    wait_until(lambda: epochs(runs) > 2, 60)
    [lock] = runs.glob("sweeps/wandb-*/*/lock")
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    said = end(agent, 1)
    assert "1 trials (1 failed)" in said
    assert "it was killed" in said.splitlines()[-1]
