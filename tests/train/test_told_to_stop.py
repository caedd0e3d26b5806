"""SIGTERM anywhere in a run: it saves, ends with code 85 and, started again, ends with the same bits; in a list, every process does."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from errors import COME_AGAIN
from train.lists import read
from train.run import state

BASE = "{dataset: 0, seed: 5, epochs: 3, batch_size: 64, threads: 1, evaluation: {images: 40, compositions: 167}, lr: 0.05"
LIST = f"""
- &base {BASE}, method: CrossEntropy}}
- {{<<: *base, method: Module, corruption: ImpulseNoise, level: auto, search_epochs: 2, weight: 0.1, backbone: {{lr: 0.05}}}}
- {{<<: *base, method: Identity}}
"""

# Runs the real command, and sends itself SIGTERM at the so-manieth call of a function: where the signal comes is exact.
AT = """
import os, signal, sys
import torch
import tests.train.tiny
from train import evaluation, loop
from train.__main__ import main

where, count = sys.argv[1], int(sys.argv[2])
owner, name = {"step": (loop.Loop, "step"), "validation": (loop.Sums, "add"), "evaluation": (evaluation, "cross_entropy")}[where]
original, calls = getattr(owner, name), 0

def counted(*arguments, **options):
    global calls
    # Sums take batches of training and of validation; only these are outside of autograd.
    calls += where != "validation" or not torch.is_grad_enabled()
    if calls == count:
        calls += 1
        os.kill(os.getpid(), signal.SIGTERM)
    return original(*arguments, **options)

setattr(owner, name, counted)
torch.set_num_threads(1)
sys.exit(main(sys.argv[3:]))
"""


# Ends when the signals that come all the time have been handled for a second.
BUSY = """
import os, time
from train import interrupt

interrupt.listen()
print("listening", flush=True)
while not interrupt.told():
    pass
end = time.monotonic() + 1
while time.monotonic() < end:
    pass
os._exit(0)
"""


def test_a_signal_that_comes_while_one_is_handled_does_no_harm():
    with subprocess.Popen([sys.executable, "-c", BUSY], text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "listening\n"
        deadline = time.monotonic() + 20
        try:
            while process.poll() is None and time.monotonic() < deadline:
                process.send_signal(signal.SIGTERM)
            assert process.poll() == 0
        finally:
            process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The list, and the folder of its runs without a signal."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "list.yaml").write_text(LIST)
    ended = run(folder / "list.yaml", folder / "runs", "--workers", "2")
    assert ended.returncode == 0, ended.stderr
    return folder / "list.yaml", folder / "runs"


def environment(runs):
    return os.environ | {"PALIMPSEST_RUNS": str(runs), "WANDB_MODE": "disabled", "TINY_TRAIN": "60", "TINY_VALID": "20"}


def run(path, runs, *more):
    words = [sys.executable, "-m", "tests.train.tiny", str(path), *more]
    return subprocess.run(words, env=environment(runs), capture_output=True, text=True, timeout=200)


def told(path, runs, index, where, count):
    words = [sys.executable, "-c", AT, where, str(count), str(path), "--index", str(index)]
    return subprocess.run(words, env=environment(runs), capture_output=True, text=True, timeout=200)


def directory(path, runs, index, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(runs))
    return read(path)[index].experiment.directory


def result(directory):
    """All that a run leaves, but for times."""
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    timeless = [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]
    facts = json.loads((directory / "done.json").read_text()) | {"train_seconds": 0}
    evaluations = [file.read_bytes() for file in sorted(directory.glob("evaluation/*.h5"))]
    return timeless, facts, (directory / "weights.safetensors").read_bytes(), evaluations


@pytest.mark.parametrize(
    ("index", "where", "counts", "said"),
    [
        (0, "validation", (1,), ("epoch 1, after step 67",)),
        (1, "step", (25, 30), ("search-level0, epoch 2, after step 6", "search-level1, epoch 1, after step 17")),
        (0, "evaluation", (300,), ("evaluation of CrossEntropy",)),
    ],
    ids=["in validation", "in an epoch of a search", "in evaluation"],
)
def test_a_run_that_is_told_to_stop_goes_on_where_it_was(whole, tmp_path, monkeypatch, index, where, counts, said):
    path, runs = whole
    if index == 1:
        assert run(path, tmp_path, "--index", "2").returncode == 0
    stopped = directory(path, tmp_path, index, monkeypatch)
    for count, words in zip(counts, said):
        ended = told(path, tmp_path, index, where, count)
        assert ended.returncode == COME_AGAIN, ended.stderr
        (line,) = ended.stderr.splitlines()
        assert line.startswith("stopped: ")
        assert words in line
        assert state(read(path)[index].experiment).name == ("trained" if where == "evaluation" else "stopped")
    ended = run(path, tmp_path, "--index", str(index))
    assert ended.returncode == 0, ended.stderr
    assert result(stopped) == result(directory(path, runs, index, monkeypatch))
    assert not (stopped / "stopped.json").exists()
    assert not (stopped / "checkpoint").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_goes_on_with_the_same_order_schedule_and_best_so_far(whole, tmp_path, monkeypatch):
    path, _ = whole
    on_gpu = ("--device=cuda", "--index", "0")
    assert run(path, tmp_path / "whole", *on_gpu).returncode == 0
    ended = subprocess.run(
        [sys.executable, "-c", AT, "step", "100", str(path), *on_gpu],
        env=environment(tmp_path / "stopped"), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert ended.returncode == COME_AGAIN, ended.stderr
    assert run(path, tmp_path / "stopped", *on_gpu).returncode == 0
    one, other = (result(directory(path, tmp_path / name, 0, monkeypatch)) for name in ("whole", "stopped"))
    for first, second in zip(one[0], other[0], strict=True):
        assert [first[key] for key in ("stage", "epoch", "left", "lr")] == [second[key] for key in ("stage", "epoch", "left", "lr")]
        # Sums of gradients on a GPU may come in another order: the stated tolerance.
        assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-2)
        assert second["valid_loss"] == pytest.approx(first["valid_loss"], rel=1e-2)


def test_a_list_that_is_told_to_stop_stops_all_its_processes(whole, tmp_path, monkeypatch):
    path, runs = whole
    words = [sys.executable, "-m", "tests.train.tiny", str(path), "--workers", "2"]
    # A group of its own, so that the signal reaches every process, the pool's server too, as on a cluster.
    process = subprocess.Popen(
        words, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path))
    deadline = time.time() + 60
    while not list(tmp_path.glob("*/*/metrics.jsonl")):
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == COME_AGAIN, out + err
    assert "the same command goes on" in err.splitlines()[-1]
    assert "Traceback" not in out + err
    assert {state(entry.experiment).name for entry in read(path)} <= {"new", "stopped", "trained", "done"}
    assert not list(tmp_path.glob("*/*/lock"))
    assert run(path, tmp_path, "--workers", "2").returncode == 0
    for index in range(3):
        assert result(directory(path, tmp_path, index, monkeypatch)) == result(directory(path, runs, index, monkeypatch))


@pytest.mark.parametrize("keyboard", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_the_submit_script_that_is_told_to_stop_takes_the_training_along(tmp_path, monkeypatch, keyboard):
    path = tmp_path / "list.yaml"
    path.write_text(f"- {BASE.replace('epochs: 3', 'epochs: 50')}, method: Identity}}\n")
    process = subprocess.Popen(
        ["bash", "submit_array.sh", str(path), "--local"], env=environment(tmp_path / "runs"), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        # As in a terminal; what runs in the background of a script may inherit that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    experiment = read(path)[0].experiment
    deadline = time.time() + 120
    while not (experiment.directory / "metrics.jsonl").exists():
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.01)
    # The keyboard's signal is for every process in front, any other for the one that was typed.
    if keyboard:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == COME_AGAIN, out + err
    assert "Traceback" not in out + err
    assert state(experiment).name == "stopped"
    assert not (experiment.directory / "lock").exists()
