"""What W&B is told, and that no server holds a training up: the real client against a loopback server that fails on purpose."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from errors import COME_AGAIN
from tests.train.wandb_runs import assert_complete, experiment, row, wait_until, write_end, write_rows
from tests.wandb_server.server import HANG, WandbServer
from train import tracking
from train.subject import FORM, ExperimentSubject, run_id
from train.tracking import Tracker, read_record

# Generous on a busy machine; a blocked call or end would take longer still. IMPATIENT is for ends that must be cut off.
BLOCKED = 1
FINISH = 30
IMPATIENT = 4
ANSWER = 2


@pytest.fixture
def online(online, monkeypatch):
    """The server, and a client that soon gives up asking."""
    monkeypatch.setattr(tracking, "FINISH_SECONDS", FINISH)
    monkeypatch.setattr(tracking, "MARGIN_SECONDS", 2)
    monkeypatch.setattr(tracking, "ANSWER_SECONDS", ANSWER)
    return online


def tell(tracker, made, first, last):
    """Epochs first..last as the loop logs them: into the run directory, then to W&B. No call may take long."""
    for epoch in range(first, last + 1):
        write_rows(made, epoch)
        start = time.monotonic()
        tracker.epoch(row(epoch), epoch - 1)
        assert time.monotonic() - start < BLOCKED


def end(tracker, made, code=0):
    """The end of a training and its evaluation."""
    write_end(made)
    start = time.monotonic()
    tracker.finish(code)
    return time.monotonic() - start


def begin(made):
    write_rows(made, 0)
    start = time.monotonic()
    tracker = Tracker(ExperimentSubject(made, ("list",)))
    assert time.monotonic() - start < BLOCKED
    return tracker


def test_a_run_arrives_whole(online, capfd):
    made = experiment(study="mine")
    tracker = begin(made)
    tell(tracker, made, 1, 5)
    assert end(tracker, made) < FINISH
    stored = online.run(run_id(made))
    assert_complete(stored)
    assert (stored["group"], stored["jobType"], stored["displayName"], stored["tags"]) == (
        "FashionMNIST-mini mine",
        "Identity",
        made.name,
        ["list"],
    )
    assert any(name.startswith("media/table/compositions") for name in stored["files"])
    assert read_record(ExperimentSubject(made))["sent"] == tracking.destination()
    assert online.errors == []
    assert capfd.readouterr().err == ""
    assert not tracking.service_runs()


def test_a_run_that_was_told_to_stop_goes_on(online, capfd):
    made = experiment()
    tracker = begin(made)
    tell(tracker, made, 1, 3)
    tracker.finish(COME_AGAIN)
    assert online.run(run_id(made))["state"] == "preempted"
    tracker = Tracker(ExperimentSubject(made, ("list",)))
    # The epoch after the checkpoint is computed again.
    tell(tracker, made, 3, 4)
    wait_until(lambda: online.run(run_id(made))["state"] == "running")
    tell(tracker, made, 5, 5)
    end(tracker, made)
    assert_complete(online.run(run_id(made)))
    assert online.runs() == [run_id(made)]
    assert capfd.readouterr().err == ""


def test_a_failed_run_is_failed(online):
    made = experiment()
    tracker = begin(made)
    tell(tracker, made, 1, 2)
    tracker.finish(1)
    assert online.run(run_id(made))["state"] == "failed"


FAILURES = {
    "dies": WandbServer.stop,
    "500": lambda server: server.fail(500),
    "429": lambda server: server.fail(429),
    "hangs": lambda server: server.fail(HANG),
    "hangs for data": lambda server: server.fail(HANG, "file_stream"),
}


SLOW = [pytest.param(failure, marks=pytest.mark.slow) for failure in ("500", "429", "hangs")]


@pytest.mark.parametrize("failure", ["dies", *SLOW, pytest.param("hangs for data", marks=pytest.mark.slow)])
def test_a_server_that_fails_in_the_middle_holds_nothing_up(online, monkeypatch, capfd, failure):
    monkeypatch.setattr(tracking, "FINISH_SECONDS", IMPATIENT)
    made = experiment()
    tracker = begin(made)
    tell(tracker, made, 1, 2)
    wait_until(tracker._calls.empty)
    FAILURES[failure](online)
    tell(tracker, made, 3, 5)
    assert end(tracker, made) < FINISH
    told = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(told) == 1
    assert "`python -m train sync` sends it to W&B later" in told[0]
    assert read_record(ExperimentSubject(made)) is None
    assert not tracking.service_runs()


@pytest.mark.parametrize("failure", ["dies", *SLOW])
def test_a_server_that_fails_from_the_start_makes_the_run_an_offline_one(online, capfd, failure):
    made = experiment()
    FAILURES[failure](online)
    tracker = begin(made)
    tell(tracker, made, 1, 5)
    assert end(tracker, made) < ANSWER + FINISH
    told = [line for line in capfd.readouterr().err.splitlines() if line]
    assert len(told) == 1
    assert "recorded offline" in told[0]
    record = read_record(ExperimentSubject(made))
    assert record["sent"] == ""
    online.recover()
    if failure == "dies":
        online.start()
    sync(made.directory / "wandb" / record["folder"])
    assert_complete(online.run(run_id(made)))


def test_a_host_that_swallows_packets_makes_the_run_an_offline_one(online, monkeypatch, capfd):
    # A full backlog: the kernel answers no further connection.
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen(0)
    clients = [socket.socket() for _ in range(4)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(silent.getsockname())
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
    made = experiment()
    tracker = begin(made)
    tell(tracker, made, 1, 5)
    assert end(tracker, made) < ANSWER + FINISH
    assert "does not answer (timed out)" in capfd.readouterr().err
    assert read_record(ExperimentSubject(made))["folder"].startswith("offline-run-")
    for opened in (silent, *clients):
        opened.close()


def sync(folder):
    subprocess.run([sys.executable, "-m", "wandb", "sync", str(folder)], check=True, capture_output=True, timeout=60, cwd=folder)


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize(
    ("number", "when"), [(signal.SIGTERM, "in the middle"), (signal.SIGKILL, "in the middle"), (signal.SIGKILL, "early")]
)
def test_the_record_is_whole_though_the_service_was_killed(online, monkeypatch, capfd, mode, number, when):
    monkeypatch.setenv("WANDB_MODE", mode)
    made = experiment()
    tracker = begin(made)
    tell(tracker, made, 1, 2)
    if when == "in the middle":
        wait_until(tracker._calls.empty)
    wait_until(tracking.service_runs)
    os.kill(tracking.service().pid, number)
    tell(tracker, made, 3, 5)
    end(tracker, made)
    record = read_record(ExperimentSubject(made))
    assert capfd.readouterr().err == ""
    if mode == "offline":
        sync(made.directory / "wandb" / record["folder"])
    assert_complete(online.run(run_id(made)))


def test_disabled_is_nothing(online, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    made = experiment()
    tracker = begin(made)
    tell(tracker, made, 1, 5)
    assert end(tracker, made) < BLOCKED
    assert not (made.directory / "wandb").exists()
    assert online.runs() == []


def test_a_client_that_does_not_work_at_all_costs_one_line(online, monkeypatch, capfd):
    made = experiment()
    write_rows(made, 0)
    (made.directory / "wandb").write_text("not a folder")
    tracker = begin(made)
    tell(tracker, made, 1, 5)
    assert end(tracker, made) < FINISH
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_record_is_complete_only_for_what_it_holds(online):
    made = experiment()
    write_rows(made, 3)
    (made.directory / "wandb").mkdir()
    tracking.write_record(ExperimentSubject(made), "offline-run-1", "")
    assert ExperimentSubject(made).contents() == {"form": FORM, "rows": 3, "done": False, "evaluation": ""}
    assert read_record(ExperimentSubject(made))["folder"] == "offline-run-1"
    write_rows(made, 4)
    assert read_record(ExperimentSubject(made)) is None
    write_end(made)
    assert ExperimentSubject(made).contents() == {"form": FORM, "rows": 4, "done": True, "evaluation": made.testing.key}
    assert json.loads((made.directory / "wandb" / "record.json").read_text())["contents"]["rows"] == 3
