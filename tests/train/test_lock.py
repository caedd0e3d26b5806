"""The lock: one process holds it, others see who; a dead owner's lock is taken over by one of many."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest

from errors import RunError
from train import lock
from train.lock import BEAT, Lock, holder


def test_a_second_one_sees_the_first_and_takes_over_after_it(tmp_path):
    first, second = Lock(tmp_path), Lock(tmp_path)
    assert first.acquire() is None
    owner = second.acquire()
    assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
    first.release()
    assert second.acquire() is None
    second.release()
    assert list(tmp_path.iterdir()) == []


def dead_owner(tmp_path, **changes):
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    owner = {"host": socket.gethostname(), "pid": int(process.stdout), "started": "1", "job": "", "token": "x"} | changes
    (tmp_path / "lock").write_text(json.dumps(owner))


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    dead_owner(tmp_path)
    taker = Lock(tmp_path)
    assert taker.acquire() is None
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    taker.release()


def test_a_pid_that_now_belongs_to_another_process_is_dead(tmp_path):
    dead_owner(tmp_path, pid=os.getpid(), started="1")
    assert holder(tmp_path / "lock") is None
    dead_owner(tmp_path, pid=os.getpid(), started=lock.process_state(os.getpid())[1])
    assert holder(tmp_path / "lock") is not None


def test_a_process_that_ended_but_was_not_waited_for_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.time() + 10
    while lock.process_state(process.pid)[0] != "Z" and time.time() < deadline:
        time.sleep(0.01)
    dead_owner(tmp_path, pid=process.pid, started=lock.process_state(process.pid)[1])
    assert holder(tmp_path / "lock") is None
    process.wait()


def test_an_owner_on_another_host_lives_as_long_as_its_heart_beats(tmp_path):
    dead_owner(tmp_path, host="elsewhere")
    assert holder(tmp_path / "lock")["host"] == "elsewhere"
    old = time.time() - 10.5 * BEAT
    os.utime(tmp_path / "lock", (old, old))
    assert holder(tmp_path / "lock") is None


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.02)
    held = Lock(tmp_path)
    held.acquire()
    os.utime(held.path, (1, 1))
    deadline = time.time() + 10
    while held.path.stat().st_mtime == 1 and time.time() < deadline:
        time.sleep(0.01)
    assert held.path.stat().st_mtime > 1
    held.release()


def test_who_lost_the_lock_stops(tmp_path):
    held = Lock(tmp_path)
    held.acquire()
    held.check()
    held.path.unlink()
    with pytest.raises(RunError, match="lock was lost"):
        held.check()


def try_to_take(folder, barrier, results):
    barrier.wait()
    mine = Lock(folder)
    results.put(mine.acquire() is None)
    time.sleep(1)


def test_of_many_that_find_a_dead_owner_one_takes_over(tmp_path):
    dead_owner(tmp_path)
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(8), context.Queue()
    takers = [context.Process(target=try_to_take, args=(tmp_path, barrier, results)) for _ in range(8)]
    for taker in takers:
        taker.start()
    won = [results.get(timeout=30) for _ in takers]
    for taker in takers:
        taker.join()
    assert sum(won) == 1
