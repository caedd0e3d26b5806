"""The faults' benchmark: it notices every result that is lost, its planted faults strike where they say, and a short run of it loses nothing."""

import json
import multiprocessing
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from random import Random

import h5py
import numpy as np
import pytest

import info_dicts
from benchmarks.faults import damage, trials
from benchmarks.faults.cases import LIST, TIMES, Bench, Case, Ending, Lost, Process, Unclear, compare_runs, needed, read_rows
from benchmarks.faults.trials import Outcome, Trial, run_trials, table
from train.entry import ROOT
from train.lists import read

WEIGHTS = np.random.default_rng(0).bytes(200)
ROWS = [{"epoch": e, "train_loss": 1 / e, "seconds": 1.5 * e, "images_per_second": 100.0, "stage": "train"} for e in (1, 2, 3)]
DONE = {"best_epoch": 2, "valid_loss": 0.1, "train_seconds": 4.5}


def make_run(directory, weights=WEIGHTS, rows=ROWS, done=DONE, correct=0b10110010, n=8):
    (directory / "evaluation").mkdir(parents=True)
    (directory / "weights.safetensors").write_bytes(weights)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "done.json").write_text(json.dumps(done))
    with h5py.File(directory / "evaluation" / "test.h5", "w") as file:
        file["correct"], file["composition"] = np.array([correct], dtype=np.uint8), ["Contrast"]
        file.attrs["n"] = n
    return directory


def flipped(data, bit):
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def test_times_are_no_results(tmp_path):
    other = [row | {"seconds": 9.0, "images_per_second": 1.0} for row in ROWS]
    compare_runs(make_run(tmp_path / "a", rows=other, done=DONE | {"train_seconds": 9.0}), make_run(tmp_path / "b"))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("weights.safetensors differs", {"weights": flipped(WEIGHTS, bit)}) for bit in (0, 777, 1599)),
        ("weights.safetensors differs", {"weights": WEIGHTS[:-1]}),
        ("metrics.jsonl differs", {"rows": ROWS[:2]}),
        ("metrics.jsonl differs", {"rows": [*ROWS, ROWS[2]]}),
        ("metrics.jsonl differs", {"rows": [*ROWS[:2], ROWS[2] | {"train_loss": np.nextafter(1 / 3, 1)}]}),
        ("done.json differs", {"done": DONE | {"best_epoch": 3}}),
        (r"evaluation/test\.h5 differs", {"correct": 0b10110011}),
        (r"evaluation/test\.h5 differs", {"n": 9}),
    ],
)
def test_the_smallest_difference_is_a_lost_result(tmp_path, name, change):
    with pytest.raises(Lost, match=name):
        compare_runs(make_run(tmp_path / "a", **change), make_run(tmp_path / "b"))


@pytest.mark.parametrize("name", ["weights.safetensors", "metrics.jsonl", "done.json", "evaluation/test.h5"])
def test_a_missing_file_is_a_lost_result(tmp_path, name):
    run, whole = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (run / name).unlink()
    with pytest.raises(Lost):
        compare_runs(run, whole)


@pytest.mark.parametrize("name", ["lock", "failed.json", "stopped.json"])
def test_what_an_end_should_have_removed_is_noticed(tmp_path, name):
    run, whole = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (run / name).write_text("{}")
    with pytest.raises(Unclear, match=name):
        compare_runs(run, whole)


@pytest.mark.parametrize(
    ("ending", "clear"),
    [
        (Ending(1, "", "failed: last.pt: cannot be written\n", ""), True),
        (Ending(0, "", "failed: last.pt: cannot be written\n", ""), False),
        (Ending(-9, "", "failed: last.pt: cannot be written\n", ""), False),
        (Ending(1, "", "Traceback\nfailed: last.pt: cannot be written\n", ""), False),
        (Ending(1, "", "failed: something\n", ""), False),
        (Ending(1, "", "", ""), False),
    ],
)
def test_a_clear_failure_is_its_exit_code_and_one_line(tmp_path, ending, clear):
    case = Case(Bench(tmp_path, 0), 0, tmp_path)
    if clear:
        case.failed_clearly(ending, [1], "cannot be written")
    else:
        with pytest.raises(Unclear):
            case.failed_clearly(ending, [1], "cannot be written")


def test_the_list_has_every_method_and_its_own_prerequisites(tmp_path):
    bench = Bench(tmp_path, 0)
    (tmp_path / "again.yaml").write_text(LIST)
    assert {e.method for e in bench.experiments} == set(info_dicts.METHODS.values()) - {"Regression"}
    hashes = [entry.experiment.hash for entry in read(str(tmp_path / "again.yaml"))]
    assert all({part.hash for part in needed(e)} <= set(hashes) for e in bench.experiments)
    order = [index for wave in bench.waves() for index in wave]
    assert sorted(order) == list(range(len(hashes)))
    for position, index in enumerate(order):
        assert {part.hash for part in needed(bench.experiments[index])} <= {hashes[earlier] for earlier in order[:position]}
    assert {e.threads for e in bench.experiments} == {1}


def test_two_threads_each_get_the_exit_codes_of_their_own_processes(tmp_path, monkeypatch):
    """Starts in one thread look at the children of the other; between "it has ended" and reading its code there is some time here."""
    read_signed = forkserver.read_signed

    def read_later(descriptor):
        time.sleep(0.02)
        return read_signed(descriptor)

    monkeypatch.setattr(forkserver, "read_signed", read_later)
    context = multiprocessing.get_context("forkserver")
    with ThreadPoolExecutor(2) as pool:
        endings = pool.map(lambda code: Process(context.Process(target=sys.exit, args=(code,)), tmp_path / "none").end(), range(40))
    assert [ending.code for ending in endings] == list(range(40))


def test_the_table_counts_what_was_tried_and_what_was_lost():
    def lost():
        raise Lost("weights differ")

    def unclear():
        raise Unclear("two lines")

    def broken():
        raise KeyError("x")

    said = []
    rows = run_trials(
        [
            Trial("kill", lambda: Outcome(2, went_on=True, notes=("training", "evaluation"))),
            Trial("kill", lambda: Outcome(went_on=True, notes=("training",))),
            Trial("disk", lambda: Outcome(failed_clearly=True, went_on=True)),
            *(Trial("disk", run) for run in (lost, unclear, broken)),
            *(Trial("server", lambda seconds=seconds: Outcome(went_on=True, seconds=seconds), waits=True) for seconds in (1.0, 7.0)),
        ],
        said.append,
    )
    lines = table(rows)
    assert lines[1].split() == ["kill", *"33000", "2", "in", "training,", "1", "in", "evaluation"]
    assert lines[2].split() == ["disk", *"41121"]
    assert lines[3].split() == ["server", *"22000", "at", "most", "7.00", "s"]
    assert lines[-1] == "9 faults tried, 1 results lost, 2 ended unclearly"
    assert [line.split()[0] for line in said] == ["LOST", "UNCLEAR", "UNCLEAR"]
    assert "KeyError: 'x'" in said[2]


def test_damage_is_a_cut_or_a_few_other_bytes(tmp_path):
    random, path = Random(0), tmp_path / "last.pt"
    for _ in range(100):
        path.write_bytes(WEIGHTS)
        damage.damage(path, "cut", random)
        assert WEIGHTS.startswith(path.read_bytes())
        assert len(path.read_bytes()) < len(WEIGHTS)
        path.write_bytes(WEIGHTS)
        damage.damage(path, "flip", random)
        data = path.read_bytes()
        assert len(data) == len(WEIGHTS)
        assert 1 <= sum(a != b for a, b in zip(data, WEIGHTS)) <= 8


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """With an undisturbed run of the first entry alone."""
    bench = Bench(tmp_path_factory.mktemp("faults"), 0)
    bench.run_undisturbed(0)
    return bench


def files(case):
    return sorted(path.name for path in (*case.directory.glob("checkpoint/*"), *case.directory.glob("evaluation/*.parts/*")))


@pytest.mark.parametrize(
    ("fault", "rows", "left"),
    [
        ("training:3", [2], ["last.pt", "previous.pt"]),
        ("validation:3", [2], ["last.pt", "previous.pt"]),
        # On a busy machine some are written inside an epoch.
        ("checkpoint write:1", [0, 1], [".tmp"]),
        ("checkpoint rename:3", [0, 1, 2, 3], [".tmp", "previous.pt"]),
        ("weights write:1", [6], ["last.pt", "previous.pt"]),
        ("evaluation:10", [6], ["00000.npz"]),
        ("evaluation write:3", [6], [".tmp", "00000.npz", "00001.npz"]),
    ],
)
def test_a_planted_fault_kills_where_it_says(bench, fault, rows, left):
    with bench.case(0) as case:
        case.die(fault)
        assert len(read_rows(case.directory / "metrics.jsonl")) in rows
        assert [re.sub(r"^\..*\.tmp$", ".tmp", name) for name in files(case)] == left
        assert (case.directory / "done.json").exists() == fault.startswith("evaluation")
        assert bool(list(case.directory.glob(".weights*.tmp"))) == fault.startswith("weights")
        assert case.where() == ("evaluation" if fault.startswith("evaluation") else "training")
        case.go_on()
        assert all(set(row).isdisjoint(TIMES) for row in read_rows(case.directory / "metrics.jsonl"))


def test_a_fault_that_never_strikes_is_not_taken_for_one(bench):
    with bench.case(0) as case, pytest.raises(Unclear, match="did not die"):
        case.die("training:99")


@pytest.mark.slow
def test_a_short_run_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ended = subprocess.run([sys.executable, "-m", "benchmarks.faults", "--quick"], capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    tried, lost = re.fullmatch(r"(\d+) faults tried, (\d+) results lost", lines[-2]).groups()
    assert (int(tried) >= 30, lost) == (True, "0")
    assert f", {trials.SIDE_BY_SIDE} processes at a time; " in lines[-1]
    assert list(tmp_path.iterdir()) == []
