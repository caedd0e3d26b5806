"""Two processes on one run: one trains, the other says who holds it; the run of a killed one is taken over at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from train.lists import read
from train.run import state

LIST = """
- {dataset: 0, seed: 8, epochs: 6, batch_size: 64, threads: 1, evaluation: {images: 100, compositions: elementals}, method: CrossEntropy, lr: 0.05}
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("TINY_TRAIN", "20")
    (tmp_path / "list.yaml").write_text(LIST)
    return tmp_path / "list.yaml"


def start(path):
    command = [sys.executable, "-m", "tests.train.tiny", str(path), "--index", "0"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)


def ended(process):
    """Exit code, and the lines of stdout and stderr."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out.splitlines(), err.splitlines()


def wait_for(condition, process):
    """Waits until a condition holds; fails where the process ends before."""
    deadline = time.time() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.time() < deadline
        time.sleep(0.002)


def rows(directory):
    file = directory / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def assert_done_once(experiment, attempts):
    assert state(experiment).name == "done"
    assert [row["epoch"] for row in rows(experiment.directory)] == list(range(1, 7))
    lines = (experiment.directory / "attempts.jsonl").read_text().splitlines()
    assert [json.loads(line)["pid"] for line in lines] == attempts
    assert not list(experiment.directory.glob("lock*"))
    assert not (experiment.directory / "failed.json").exists()


def test_of_two_that_start_at_once_one_trains_and_the_other_says_who(path):
    experiment = read(path)[0].experiment
    both = [start(path), start(path)]

    def holders():
        try:
            owner = json.loads((experiment.directory / "lock").read_text())["pid"]
        except (OSError, ValueError):
            return []
        return [process for process in both if process.pid == owner]

    wait_for(holders, both[0])
    (winner,) = holders()
    (loser,) = (process for process in both if process is not winner)
    # Paused, so that it cannot have ended before the other arrives, however busy the machine is.
    winner.send_signal(signal.SIGSTOP)
    try:
        assert state(experiment).name == "running"
        refused = ended(loser)
    finally:
        winner.send_signal(signal.SIGCONT)
    holder = f"process {winner.pid} on {socket.gethostname()}"
    assert refused == (2, [], [f"error: {experiment.directory}: held by {holder}; wait for it, or stop it and start again"])
    code, out, err = ended(winner)
    assert (code, err) == (0, [])
    assert out[-1].endswith(f"done, in {experiment.directory}")
    assert_done_once(experiment, [winner.pid])


def test_the_run_of_a_killed_one_is_taken_over_at_once(path):
    experiment = read(path)[0].experiment
    first = start(path)
    saved = experiment.directory / "checkpoint" / "last.pt"
    wait_for(lambda: len(rows(experiment.directory)) >= 2 and saved.exists(), first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert json.loads((experiment.directory / "lock").read_text())["pid"] == first.pid
    assert not (experiment.directory / "done.json").exists()
    assert state(experiment).name == "lost"
    second = start(path)
    code, _, err = ended(second)
    assert (code, err) == (0, [])
    assert_done_once(experiment, [first.pid, second.pid])
