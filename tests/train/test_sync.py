"""`python -m train sync`: however its attempts ended, a run becomes one W&B run with every step once; real client, loopback server."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from errors import COME_AGAIN
from tests.train.wandb_runs import assert_complete, experiment, finished, wait_until, write_end, write_rows
from tests.wandb_server.server import HANG, WandbServer
from train.lists import read
from train.lock import Lock
from train.subject import FORM, ExperimentSubject, run_id
from train.tracking import FINISH_SECONDS, read_record

ENTRY = {"dataset": 0, "method": "Identity", "lr": 0.1, "epochs": 5}


def write_list(path, seeds):
    path.write_text(yaml.safe_dump([ENTRY | {"seed": seed} for seed in seeds]))
    return path


def arguments(*words):
    return [sys.executable, "-m", "train", "sync", *map(str, words)]


def sync(*words, **environment):
    return subprocess.run(arguments(*words), capture_output=True, text=True, timeout=120, env=os.environ | environment)


def track(made, first, last, code=None, mode="online", cut=lambda: None):
    """An attempt that computes the epochs first..last (counted from 1) and ends with an exit code; None is a kill."""
    os.environ["WANDB_MODE"] = mode
    script = f"""
import os, signal, time
from tests.train.wandb_runs import experiment, row, write_end, write_rows
from train.subject import ExperimentSubject
from train.tracking import Tracker
from train import tracking
tracking.FINISH_SECONDS, tracking.MARGIN_SECONDS = 3, 1
made = experiment({made.seed})
write_rows(made, {first - 1})
tracker = Tracker(ExperimentSubject(made))
for epoch in range({first}, {last} + 1):
    write_rows(made, epoch)
    tracker.epoch(row(epoch), epoch - 1)
while not tracker._calls.empty():
    time.sleep(0.01)
print(flush=True)
input()
if {code} is None:
    os.kill(tracking.service().pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
if {code} == 0:
    write_end(made)
tracker.finish({code})
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    cut()
    process.communicate("\n", timeout=60)
    assert process.returncode == (-signal.SIGKILL if code is None else 0)


def test_a_list_is_sent_once(online, tmp_path):
    path = write_list(tmp_path / "mine.yaml", range(4))
    made = [finished(seed) for seed in range(3)]
    dry = sync(path, "--dry-run")
    assert (dry.returncode, dry.stdout.count("would be sent (7 steps)")) == (0, 3)
    assert dry.stdout.endswith("3 to send, 1 not\n")
    assert online.runs() == []
    sent = sync(path)
    assert sent.returncode == 0, sent.stderr
    assert sent.stderr == ""
    lines = sent.stdout.splitlines()
    assert "entry 3: " in lines[0]
    assert "left out, new" in lines[0]
    assert [line.endswith(": sent (7 steps)") for line in lines[1:]] == [True] * 3
    assert sorted(online.runs()) == sorted(map(run_id, made))
    for run in made:
        stored = online.run(run_id(run))
        assert_complete(stored)
        assert (stored["tags"], stored["displayName"], stored["group"]) == (["mine"], run.name, "FashionMNIST-mini")
    online.counts.clear()
    again = sync(path)
    assert (again.returncode, again.stdout.count("sent already")) == (0, 3)
    assert online.counts["file_stream"] == 0
    assert [sorted(run.directory.glob("wandb/*"))[0].name for run in made] == ["record.json"] * 3
    # Somewhere else it is not sent yet.
    assert sync(path, "--dry-run", WANDB_PROJECT="other").stdout.endswith("3 to send, 1 not\n")


def test_what_was_sent_is_read_back_by_the_client(online, tmp_path):
    made = finished()
    assert sync(write_list(tmp_path / "mine.yaml", [0])).returncode == 0
    script = f"""
import json, wandb
run = wandb.Api().run("local/palimpsest/{run_id(made)}")
rows = [row["valid/loss"] for row in run.scan_history(keys=["valid/loss"])]
print(json.dumps([run.state, run.config["lr"], run.summary["compositions/accuracy"], rows, [file.name for file in run.files()]]))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    state, lr, accuracy, rows, files = json.loads(answer.stdout.splitlines()[-1])
    assert (state, lr, accuracy) == ("finished", 0.1, 0.5)
    assert rows == [2 / epoch for epoch in range(1, 6)]
    assert any(name.startswith("media/table/compositions") for name in files)
    assert online.unknown <= {"artifact"}


@pytest.mark.slow
def test_an_offline_record_that_is_whole_is_sent_as_it_is(online, tmp_path):
    made = experiment()
    track(made, 1, 5, 0, "offline")
    folder = read_record(ExperimentSubject(made))["folder"]
    assert folder.startswith("offline-run-")
    assert sync(write_list(tmp_path / "mine.yaml", [0])).returncode == 0
    assert_complete(online.run(run_id(made)))
    assert list(made.directory.glob(f"wandb/{folder}/*.synced"))


ATTEMPTS = {
    "offline twice": [(1, 3, COME_AGAIN, "offline"), (3, 5, 0, "offline")],
    "offline, both killed": [(1, 3, None, "offline"), (3, 5, None, "offline")],
    "killed online, then offline": [(1, 3, None, "online"), (4, 5, 0, "offline")],
    "stopped online, then offline": [(1, 3, COME_AGAIN, "online"), (3, 5, 0, "offline")],
    "offline, then online": [(1, 3, COME_AGAIN, "offline"), (3, 5, 0, "online")],
}


SLOW = ("offline, both killed", "killed online, then offline", "stopped online, then offline", "offline, then online")


@pytest.mark.parametrize(
    "attempts", [pytest.param(ATTEMPTS[name], id=name, marks=[pytest.mark.slow] if name in SLOW else []) for name in ATTEMPTS]
)
def test_several_attempts_are_one_run(online, tmp_path, monkeypatch, attempts):
    path = write_list(tmp_path / "mine.yaml", [0])
    made = experiment()
    monkeypatch.setenv("WANDB_MODE", "online")
    for attempt in attempts:
        track(made, *attempt)
    write_end(made)
    sent = sync(path)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert_complete(online.run(run_id(made)))
    assert online.runs() == [run_id(made)]
    assert "sent already" in sync(path).stdout


def test_a_run_whose_server_died_in_the_middle_is_sent_later(online, tmp_path, monkeypatch):
    path = write_list(tmp_path / "mine.yaml", [0])
    made = experiment()
    track(made, 1, 3, COME_AGAIN)
    track(made, 4, 5, 0, cut=online.stop)
    assert read_record(ExperimentSubject(made)) is None
    online.start()
    assert len(online.run(run_id(made))["history"]) == 3
    monkeypatch.setenv("WANDB_MODE", "online")
    assert sync(path).returncode == 0
    assert_complete(online.run(run_id(made)))


@pytest.mark.slow
def test_a_stopped_run_is_sent_so_far_and_goes_on_online(online, tmp_path, monkeypatch):
    path = write_list(tmp_path / "mine.yaml", [0])
    made = experiment()
    write_rows(made, 2)
    assert sync(path).returncode == 0
    stored = online.run(run_id(made))
    assert (stored["state"], len(stored["history"])) == ("preempted", 2)
    write_rows(made, 3)
    assert "sent (3 steps)" in sync(path).stdout
    track(made, 4, 5, 0)
    assert_complete(online.run(run_id(made)))
    assert "sent already" in sync(path).stdout


def test_a_run_that_someone_works_on_is_left_out(online, tmp_path):
    path = write_list(tmp_path / "mine.yaml", [0, 1])
    held, _ = finished(0), finished(1)
    lock = Lock(held.directory)
    assert lock.acquire() is None
    sent = sync(path)
    lock.release()
    assert sent.returncode == 0
    assert f"left out, process {os.getpid()} on " in sent.stdout
    assert held.directory.exists()
    assert run_id(held) not in online.runs()
    assert len(online.runs()) == 1


PROBLEMS = {
    "no key": (lambda server: None, {"WANDB_API_KEY": ""}, "no API key for 127.0.0.1; set WANDB_API_KEY, or run: wandb login"),
    "no server": (WandbServer.stop, {}, "does not answer ([Errno 111] Connection refused)"),
    "a server that hangs": (lambda server: server.fail(HANG), {}, "W&B: 127.0.0.1:"),
    "a server that refuses": (lambda server: server.fail(500), {}, "W&B: 127.0.0.1:"),
}


@pytest.mark.parametrize(
    ("problem", "environment", "words"),
    [pytest.param(*PROBLEMS[name], id=name, marks=[pytest.mark.slow] if name.startswith("a ") else []) for name in PROBLEMS],
)
def test_without_a_server_nothing_is_tried(online, tmp_path, problem, environment, words):
    path = write_list(tmp_path / "mine.yaml", [0])
    made = finished()
    problem(online)
    start = time.monotonic()
    refused = sync(path, **environment)
    assert time.monotonic() - start < 30
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    assert words in refused.stderr
    assert not (made.directory / "wandb").exists()


def test_one_that_fails_stops_no_other_and_the_same_command_sends_the_rest(online, tmp_path):
    path = write_list(tmp_path / "mine.yaml", range(3))
    made = [finished(seed) for seed in range(3)]
    # `wandb sync` calls this one synced, too.
    online.fail(404, f"{run_id(made[1])}/file_stream")
    sent = sync(path)
    assert sent.returncode == 1
    assert sent.stderr == "failed: 1 of 3 not sent; the same command sends the rest\n"
    assert [": sent (7 steps)" in line for line in sent.stdout.splitlines()] == [True, False, True]
    assert "NOT SENT: the server has 0 of 7 steps" in sent.stdout
    online.recover()
    sent = sync(path)
    assert (sent.returncode, sent.stdout.count("sent already")) == (0, 2)
    for run in made:
        assert_complete(online.run(run_id(run)))


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(online, tmp_path):
    path = write_list(tmp_path / "mine.yaml", range(12))
    made = [finished(seed) for seed in range(12)]
    process = subprocess.Popen(arguments(path, "--workers", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: online.counts["file_stream"] >= 6)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not all(read_record(ExperimentSubject(run)) for run in made)
    # What it started ends with it.
    time.sleep(1)
    before = online.counts["file_stream"]
    time.sleep(1)
    assert online.counts["file_stream"] == before
    sent = sync(path)
    assert sent.returncode == 0, sent.stdout
    for run in made:
        assert_complete(online.run(run_id(run)))


@pytest.mark.slow
def test_a_training_whose_server_dies_ends_by_itself_and_is_sent_later(online, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("- {dataset: 0, method: Identity, lr: 0.05, epochs: 25, batch_size: 16, evaluation: {images: 100}}\n")
    made = read(path)[0].experiment
    command = [sys.executable, "-m", "tests.train.tiny", str(path), "--index", "0"]
    training = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: online.runs() and ExperimentSubject(made).contents()["rows"] > 2)
    online.stop()
    start = time.monotonic()
    _, told = training.communicate(timeout=200)
    assert training.returncode == 0
    assert time.monotonic() - start < FINISH_SECONDS + 30
    assert len(told.splitlines()) == 1
    assert ExperimentSubject(made).contents() == {"form": FORM, "rows": 25, "done": True, "evaluation": made.testing.key}
    online.start()
    assert sync(path).returncode == 0
    stored = online.run(run_id(made))
    assert stored["state"] == "finished"
    assert [line["_step"] for line in stored["history"]] == list(range(27))
    assert sum(key.endswith("/accuracy") and key.startswith("composition/") for key in stored["history"][25]) == 167


def test_prerequisites_are_sent_too_and_an_experiment_of_two_lists_once(online, tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("- {dataset: 0, method: Module, corruption: Invert, level: 1, lr: 0.1, weight: 1, epochs: 5, backbone: {lr: 0.1}}\n")
    write_list(second, [0])
    backbone = read(second)[0].experiment
    assert backbone.hash == read(first)[0].experiment.requires()[0].hash
    write_rows(backbone, 5)
    write_end(backbone)
    sent = sync(first, second)
    assert sent.returncode == 0, sent.stderr
    assert "left out, new" in sent.stdout
    assert online.run(run_id(backbone))["tags"] == ["first", "second"]


def test_a_damaged_run_stops_no_other(online, tmp_path):
    path = write_list(tmp_path / "mine.yaml", range(3))
    made = [finished(seed) for seed in range(3)]
    (made[0].directory / "metrics.jsonl").write_text("torn\n{}\n")
    (made[1].directory / "evaluation" / f"{made[1].testing.key}.h5").write_bytes(b"torn")
    sent = sync(path)
    assert sent.returncode == 1
    assert sent.stderr == "failed: 2 of 3 not sent; the same command sends the rest\n"
    assert f"NOT SENT: {made[0].directory / 'metrics.jsonl'}: line 1 is damaged" in sent.stdout
    assert sent.stdout.count("NOT SENT") == 2
    assert_complete(online.run(run_id(made[2])))


def test_mistakes_are_one_line(online, tmp_path):
    path = write_list(tmp_path / "mine.yaml", [0])
    for words in (["--workers", "0"], ["--index", "7"], ["--nonsense"], ["--workers", "many"]):
        refused = sync(path, *words)
        assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1)
    assert "python -m train sync" in sync("--help").stdout
