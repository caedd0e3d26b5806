"""The table of the benchmarks: goals beside figures, ratios of rounds, what could not be measured; and that every method of the menu has its row."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import metadata

import numpy as np
import pytest
import torch

import info_dicts
from benchmarks import _figures, gpu, scale, steps
from benchmarks.__main__ import main, table
from benchmarks._figures import Figure, in_turns
from train.build import KINDS
from train.entry import Trained


def test_a_ratio_is_the_median_over_rounds_that_both_sides_share():
    drifting = Figure("a", [1.0, 2.0, 30.0], [2.0, 4.0, 20.0], 1.0, "s")
    assert (drifting.ratio, drifting.range) == (0.5, (0.5, 1.5))
    assert Figure("b", [2.0], [1.0, 4.0, 5.0], unit="s").ratio == 0.5


@pytest.mark.parametrize(
    ("unit", "goal", "met"), [("s", 1.0, True), ("s", 0.4, False), ("images/s", 0.5, True), ("images/s", 0.6, False), ("s", None, None)]
)
def test_times_are_to_be_low_and_rates_high(unit, goal, met):
    assert Figure("a", [1.0], [2.0], goal, unit).met is met


def test_the_table_has_every_goal_beside_its_figure_and_says_what_is_missing():
    lines = table(
        [Figure("quick", [1.0], [2.0], 0.6, "s"), Figure("slow", [3.0], [1.0], 5.0), Figure("absent", [], [], 1.0, "s")]
    ).splitlines()
    assert len(lines) == 4
    assert lines[1].split() == ["quick", "1", "2", "s", "0.5", "0.5..0.5", "at", "most", "0.6"]
    assert lines[2].split() == ["slow", "3", "1", "images/s", "3", "3..3", "at", "least", "5", "MISSED"]
    assert lines[3].split() == ["absent", "not", "measured", "at", "most", "1"]


def test_sides_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(_figures, "perf_counter", lambda: next(clock))
    called = []
    taken = in_turns({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 2)
    assert called == ["a", "b"] * 3
    assert taken == {"a": [1, 1], "b": [1, 1]}


def test_every_method_that_trains_has_its_steps_measured():
    trained = {name for name, experiment in KINDS.items() if issubclass(experiment, Trained)}
    assert trained <= {str(name) for name in info_dicts.METHODS.values()}
    assert {entry["method"] for entry in steps.METHODS.values()} == trained


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_rows_say_so_and_the_file_has_them_all(tmp_path, capsys):
    assert main(["gpu", "--json", str(tmp_path / "figures.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.count("not measured") == len(gpu.NAMES) + 1
    written = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in written["figures"]] == list(gpu.NAMES)
    assert all(row["ours"] == [] and row["met"] is None for row in written["figures"])
    assert written["machine"]["torch"] == torch.__version__
    assert {"cpu", "cores", "load", "load_after", "python", "numpy"} <= written["machine"].keys()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gpus"], "no benchmark gpus; allowed: clusterability"),
        (["gpu", "--json", "/nowhere/a.json"], "/nowhere is no folder"),
        (["gpu", "--json", "/"], "/: a folder, but"),
    ],
)
def test_a_mistake_is_one_line(words, said, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_a_library_that_is_compared_with_may_be_missing(monkeypatch, tmp_path, capsys):
    """As after `make demo`: what needs it says how to have it, and what was measured before is kept."""
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.delitem(sys.modules, "benchmarks.corruptions", raising=False)
    monkeypatch.setattr(metadata, "distributions", list)
    assert main(["gpu", "corruptions", "--json", str(tmp_path / "figures.json")]) == 2
    error = capsys.readouterr().err
    assert error == f"error: benchmark corruptions needs kornia; run: {sys.executable} -m pip install -r requirements-dev.txt\n"
    assert len(json.loads((tmp_path / "figures.json").read_text())["figures"]) == len(gpu.NAMES)


def held(megabytes):
    """The peak memory of this process after it has held so much."""
    return len(bytearray(megabytes * 2**20)) and scale.peak_memory()


def test_the_peak_memory_of_a_process_is_its_own():
    """Neither that of the process that started it, nor that of what it holds at the end."""
    large = np.ones(2**30, np.uint8)
    few, many = (scale.alone(partial(held, megabytes)) for megabytes in (1, 301))
    assert 290 < many - few < 310
    assert few < large.nbytes / 2**20


def test_an_interruption_ends_the_processes_of_a_benchmark_without_a_word():
    script = """
import os, sys, time
from benchmarks._figures import processes
from errors import report_errors
def work():
    with processes(2) as pool:
        while len({asked.result() for asked in [pool.submit(os.getpid) for _ in range(2)]}) < 2:
            pass
        waiting = [pool.submit(time.sleep, 60) for _ in range(2)]
        print("up", flush=True)
        waiting[0].result()
sys.exit(report_errors(work, "nothing is kept"))
"""
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "interrupted; nothing is kept\n")


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_runs_on_what_is_here(monkeypatch, tmp_path):
    for name, value in (("PALIMPSEST_RUNS", str(tmp_path)), ("WANDB_MODE", "disabled")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gpu, "WAYS", {"float32": {}, "float32 again": {"batch_size": 32}})
    figures = {own.name: own for own in gpu.measure(torch.device("cpu"), 0.01, 47, 47)}
    assert len(figures) == len(gpu.TABLE) + len(gpu.NAMES)
    assert figures[gpu.NAMES[0]].ours[0] > 0
    assert figures[gpu.NAMES[1]].ours[0] > figures[gpu.NAMES[0]].ours[0]
    assert not figures[gpu.NAMES[3]].measured
