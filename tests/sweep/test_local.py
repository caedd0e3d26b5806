"""`python -m train.sweep run` on real trainings of tiny data: what it tries, what a kill changes (nothing), and what it says."""

import json
import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress

import optuna
import pytest

from errors import COME_AGAIN, InputError
from tests.sweep.searches import call, command, environment, write
from train.entry import ROOT
from train.sweep.best import local_outcome
from train.sweep.entry import entry_of, experiments_of
from train.sweep.file import read_sweep
from train.sweep.local import search

NETWORK = {"dataset": "FashionMNIST-mini", "method": "Identity", "seed": 3, "epochs": 4, "batch_size": 50}
SYSTEM = {
    "dataset": "FashionMNIST-mini",
    "method": "ModularSystem",
    "seed": 3,
    "epochs": 1,
    "batch_size": 50,
    "backbone.lr": 0.1,
    "module.level": 3,
}
LRS = [0.003, 0.03, 0.1, 0.3, 1e6, 2e6]
ELEMENTALS, CLEAN = "selection/elementals_accuracy", "selection/clean_accuracy"
TINY = {"TINY_TRAIN": "20", "WANDB_MODE": "disabled"}
PATIENCE = 150  # seconds


def file(folder, name, fixed, searched, metric=CLEAN, **more):
    """A sweep file; one thread, so that the number of workers changes no bit."""
    constants = {key: {"value": value} for key, value in (fixed | {"evaluation.images": 50, "threads": 1}).items()}
    return write(folder, name, metric, constants | searched, **more)


def run(path, runs, workers=1, code=0):
    return call(runs, "run", path, "--workers", workers, code=code, **TINY)


def study_of(runs, path):
    (folder,) = runs.glob(f"sweeps/{path.stem}/local-*")
    return folder


def trials(runs, path):
    """The trials by point: values, state, metrics."""
    records = {int(record.parent.name): json.loads(record.read_text()) for record in study_of(runs, path).glob("*/trial.json")}
    return {point: (record["values"], record["state"], record["metrics"]) for point, record in sorted(records.items())}


def results(runs, path):
    """All that a search leaves but for times: its trials, what its study says of them, and the weights of every network."""
    study = optuna.load_study(study_name=path.stem, storage=f"sqlite:///{study_of(runs, path) / 'study.sqlite'}")
    stored = {trial.user_attrs["point"]: (trial.params, trial.values, trial.state, trial.user_attrs) for trial in study.trials}
    weights = {own.parent.name: own.read_bytes() for own in runs.glob("*/*/weights.safetensors")}
    return trials(runs, path), stored, weights


def states(runs, path):
    return [state for _, state, _ in trials(runs, path).values()]


def directory(path, runs, point, monkeypatch):
    """The run directory of a point of a grid."""
    monkeypatch.setenv("PALIMPSEST_RUNS", str(runs))
    return experiments_of(entry_of(read_sweep(path).points()[point]))[0].directory


def ended(runs):
    """How many trials have ended."""
    records = [json.loads(record.read_text()) for record in runs.glob("sweeps/*/local-*/*/trial.json")]
    return sum(record["state"] in ("done", "diverged") for record in records)


def at_work(runs, method=""):
    """Whether a network (of a method) is being trained or evaluated at this moment."""
    # An empty lock, of a process that is killed while it makes it, keeps others away until ten beats are missing.
    with suppress(FileNotFoundError):
        return any(lock.stat().st_size for lock in runs.glob(f"*/{method}*/lock"))
    return False


@contextmanager
def running(path, runs, workers=1):
    """The command in a session of its own, of which nothing is left at the end."""
    process = subprocess.Popen(
        command("run", path, "--workers", workers), cwd=ROOT, env=environment(runs, **TINY), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(moment, process):
    deadline = time.monotonic() + PATIENCE
    while not moment():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill_at(moments, path, runs, workers=1):
    """Starts the command and kills all its processes, at each moment once; then runs it to its end."""
    for moment in moments:
        with running(path, runs, workers) as process:
            wait_for(moment, process)
    return run(path, runs, workers)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A grid, some points of which diverge, run undisturbed by two workers: file, runs, what was said."""
    folder = tmp_path_factory.mktemp("grid")
    path = file(folder, "grid", NETWORK, {"lr": {"values": LRS}})
    return path, folder / "runs", run(path, folder / "runs", workers=2)


def test_a_grid_has_a_trial_for_each_point_with_the_metrics_of_its_run(grid, monkeypatch):
    path, runs, said = grid
    found = trials(runs, path)
    assert [values["lr"] for values, _, _ in found.values()] == LRS
    assert [state for _, state, _ in found.values()] == ["done"] * 4 + ["diverged"] * 2
    for point, (_, state, metrics) in found.items():
        own = directory(path, runs, point, monkeypatch)
        if state == "done":
            facts = json.loads((own / "done.json").read_text())
            assert metrics["valid/loss"] == facts["valid_loss"]
            assert metrics["valid/accuracy"] == facts["valid_accuracy"]
            rows = [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]
            assert metrics["valid/loss"] == min(row["valid_loss"] for row in rows)
        else:
            assert json.loads((own / "failed.json").read_text())["diverged"]
            assert metrics == {}
    assert len({metrics[CLEAN] for _, state, metrics in found.values() if state == "done"}) > 1
    assert "grid: at most 6 trials, 0 over already" in said
    assert "grid: 4 done, 2 diverged" in said.splitlines()
    assert [line.partition("]")[0] for line in said.splitlines() if "trial " in line] == [f"[{n}/6" for n in range(1, 7)]


def test_the_winner_is_the_best_of_the_trials(grid, monkeypatch):
    path, runs, _ = grid
    monkeypatch.setenv("PALIMPSEST_RUNS", str(runs))
    done = [(metrics[CLEAN], values["lr"]) for values, state, metrics in trials(runs, path).values() if state == "done"]
    best = max(value for value, _ in done)
    winner = local_outcome(str(path)).winner()
    assert winner.value == best
    assert winner.values["lr"] in [lr for value, lr in done if value == best]


def test_the_same_command_again_does_nothing(grid):
    path, runs, _ = grid
    before = {own: own.stat().st_mtime_ns for own in runs.glob("*/*/*.json*")}, results(runs, path)
    said = run(path, runs)
    assert "6 over already" in said
    assert "grid: 4 done, 2 diverged" in said.splitlines()
    assert ({own: own.stat().st_mtime_ns for own in runs.glob("*/*/*.json*")}, results(runs, path)) == before


def test_stopped_and_killed_it_ends_as_if_nothing_had_happened(grid, tmp_path, monkeypatch):
    path, undisturbed, _ = grid
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path))
    with running(path, tmp_path) as process:
        wait_for(lambda: ended(tmp_path) >= 1 and at_work(tmp_path), process)
        with pytest.raises(InputError, match=f"held by process {process.pid} on .*; wait for it, or stop it and start again"):
            search(read_sweep(path), 1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == COME_AGAIN, said
    assert said.splitlines()[-1].startswith("stopped: grid, ")
    assert "Traceback" not in said
    assert not list(tmp_path.glob("**/lock"))
    stopped_at = ended(tmp_path)
    assert stopped_at < 6
    kill_at([lambda: at_work(tmp_path) and ended(tmp_path) >= min(3, stopped_at + 1)], path, tmp_path)
    assert results(tmp_path, path) == results(undisturbed, path)


def test_what_is_finished_is_not_trained_again(grid, tmp_path):
    _, runs, _ = grid
    other = file(tmp_path, "other", NETWORK, {"lr": {"values": LRS[::-1]}})
    trained = {own: (own.stat().st_mtime_ns, own.read_bytes()) for own in runs.glob("FashionMNIST-mini/*/*.json*")}
    assert len(trained) >= 6 * 3
    said = run(other, runs, workers=2)
    assert {own: (own.stat().st_mtime_ns, own.read_bytes()) for own in runs.glob("FashionMNIST-mini/*/*.json*")} == trained
    by_lr = {values["lr"]: (state, metrics) for values, state, metrics in trials(runs, other).values()}
    assert by_lr == {values["lr"]: (state, metrics) for values, state, metrics in trials(runs, grid[0]).values()}
    assert "other: 4 done, 2 diverged" in said.splitlines()


def test_what_failed_is_tried_again(tmp_path, monkeypatch):
    path, runs = file(tmp_path, "failing", NETWORK | {"epochs": 1}, {"lr": {"values": [0.1, 0.2, 0.3]}}), tmp_path / "runs"
    in_the_way, stale = directory(path, runs, 0, monkeypatch), directory(path, runs, 1, monkeypatch)
    stale.mkdir(parents=True)
    in_the_way.write_text("in the way")
    (stale / "experiment.json").write_text(json.dumps({"recipes": {"Identity": -1}}))
    said = run(path, runs, code=1)
    assert states(runs, path) == ["failed", "failed", "done"]
    assert said.splitlines()[-1] == "failed: 2 of 3 trials failed; the same command tries them again"
    assert [line.partition(":")[0] for line in said.splitlines() if "FAILED" in line] == [
        "[0/3] trial 0", "[0/3] trial 1", "[1/3] trial 0", "[1/3] trial 1",
    ]  # fmt: skip
    in_the_way.unlink()
    (stale / "experiment.json").unlink()
    said = run(path, runs)
    assert "at most 3 trials, 1 over already" in said
    assert "failing: 3 done" in said.splitlines()
    assert states(runs, path) == ["done"] * 3
    endings = [
        trial.user_attrs["ending"]
        for trial in optuna.load_study(study_name="failing", storage=f"sqlite:///{study_of(runs, path)}/study.sqlite").trials
    ]
    assert sorted(endings) == ["done"] * 3 + ["failed"] * 4


def test_workers_never_take_the_same_point(tmp_path):
    searched = {"lr": {"values": [0.01, 0.1]}, "seed": {"values": [1, 2, 3]}}
    path, runs = file(tmp_path, "random", NETWORK | {"epochs": 1}, searched, method="random", run_cap=30), tmp_path / "runs"
    said = run(path, runs, workers=4)
    assert "random: 6 done" in said.splitlines()
    points = [(values["lr"], values["seed"]) for values, _, _ in trials(runs, path).values()]
    assert sorted(points) == [(lr, seed) for lr in (0.01, 0.1) for seed in (1, 2, 3)]
    assert [len(own.read_text().splitlines()) for own in runs.glob("*/*/attempts.jsonl")] == [1] * 6


# Each is worse than those before it.
FALLING = {"lr": {"values": [0.1, 0.03, 0.01, 0.003, 0.001, 0.0003]}}
HYPERBAND = {"type": "hyperband", "min_iter": 2, "eta": 2}
LONG = NETWORK | {"epochs": 60}


def check_hyperband(path, runs, monkeypatch):
    """Some were stopped, and what was not is whole; the winner is the best of these."""
    monkeypatch.setenv("PALIMPSEST_RUNS", str(runs))
    found = trials(runs, path)
    assert {state for _, state, _ in found.values()} == {"done", "pruned"}
    for point, (_, state, metrics) in found.items():
        epochs = len((directory(path, runs, point, monkeypatch) / "metrics.jsonl").read_text().splitlines())
        assert (epochs < 60, metrics == {}) == (state == "pruned", state == "pruned")
    done = [metrics["valid/loss"] for _, state, metrics in found.values() if state == "done"]
    assert local_outcome(str(path)).winner().value == min(done)
    assert {result.value for result in local_outcome(str(path)).results if result.state == "pruned"} == {None}


def test_hyperband_stops_trials(tmp_path, monkeypatch):
    path = file(tmp_path, "hyperband", LONG, FALLING, "valid/loss", early_terminate=HYPERBAND)
    said = run(path, tmp_path / "runs")
    assert "early_terminate: optuna's hyperband decides here" in said.splitlines()[0]
    check_hyperband(path, tmp_path / "runs", monkeypatch)


def test_missing_data_is_one_line_before_anything_begins(tmp_path, monkeypatch):
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PALIMPSEST_DATA", str(tmp_path))
    path = file(tmp_path, "missing", NETWORK, {"lr": {"values": [0.1]}, "dataset": {"values": ["FashionMNIST-mini", "MNIST"]}})
    with pytest.raises(InputError, match="python -m data prepare MNIST"):
        search(read_sweep(path), 1)
    assert not (tmp_path / "runs").exists()


def moments(runs, number, part="Identity"):
    """Five moments: when the study has just been made, in a training, at once when a trial has ended, and again, the last one near the end."""
    return [
        lambda: list(runs.glob("sweeps/*/*/study.sqlite")),
        lambda: at_work(runs, part),
        lambda: ended(runs) >= number // 3,
        lambda: ended(runs) >= number // 2 and at_work(runs, part),
        lambda: ended(runs) >= number - 2,
    ]


SEARCHES = {
    "grid": (NETWORK, {"lr": {"values": LRS}}, {}),
    # More than the ten at random with which TPE begins; a search at random alone is killed in tests/sweep/test_study.py.
    "bayes": (NETWORK | {"epochs": 1}, {"lr": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e6}}, {"method": "bayes", "run_cap": 13}),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_killed_five_times_it_ends_as_if_nothing_had_happened(tmp_path, name):
    fixed, searched, more = SEARCHES[name]
    path = file(tmp_path, name, fixed, searched, **more)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(path, whole)
    number = len(trials(whole, path))
    assert number == read_sweep(path).trials
    kill_at(moments(killed, number), path, killed)
    assert results(killed, path) == results(whole, path)
    assert "done" in states(whole, path)


@pytest.mark.slow
def test_a_search_of_systems_killed_in_their_parts(tmp_path):
    searched = {"module.lr": {"values": [0.01, 1e9, 0.1]}, "module.weight": {"values": [0]}}
    path = file(tmp_path, "systems", SYSTEM, searched, ELEMENTALS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(path, whole, workers=4)
    assert states(whole, path) == ["done", "diverged", "done"]
    in_parts = [
        lambda: at_work(killed, "Identity"),
        lambda: at_work(killed, "Module-Rotate90"),
        lambda: at_work(killed, "ModularSystem"),
        lambda: ended(killed) >= 1,
        lambda: ended(killed) >= 2 and at_work(killed, "Module-"),
    ]
    kill_at(in_parts, path, killed)
    one, other = results(killed, path), results(whole, path)
    # Of a trial whose first part diverges, others may have been trained at the same time.
    assert one[:2] == other[:2]
    assert one[2] == {name: other[2][name] for name in one[2]}


@pytest.mark.slow
def test_a_trial_of_which_a_part_failed_trains_no_further_parts(tmp_path, monkeypatch):
    path = file(tmp_path, "systems", SYSTEM, {"module.lr": {"values": [0.01, 0.1]}, "module.weight": {"value": 0}}, ELEMENTALS)
    runs = tmp_path / "runs"
    system = directory(path, runs, 0, monkeypatch)
    part = experiments_of(entry_of(read_sweep(path).points()[0]))[0].requires()[1]
    part.directory.parent.mkdir(parents=True)
    part.directory.write_text("in the way")
    said = run(path, runs, workers=2, code=1)
    assert states(runs, path) == ["failed", "done"]
    assert said.count("FAILED") == 2
    # Of five others: at each of the two attempts the one that was begun at the same time.
    assert len(list(runs.glob("*/Module-*-lr0.01-*/done.json"))) <= 2
    assert len(list(runs.glob("*/Module-*-lr0.1-*/done.json"))) == 6
    assert not system.exists()
    part.directory.unlink()
    run(path, runs)
    assert states(runs, path) == ["done", "done"]


@pytest.mark.slow
def test_trials_that_wait_for_a_part_of_another_are_no_reason_to_begin_more(tmp_path):
    searched = {"module.lr": {"distribution": "uniform", "min": 0.01, "max": 0.1}, "module.weight": {"value": 0}}
    path, runs = file(tmp_path, "waiting", SYSTEM, searched, ELEMENTALS, method="bayes", run_cap=5), tmp_path / "runs"
    with running(path, runs, workers=3) as process:
        wait_for(lambda: at_work(runs, "Module-"), process)
    assert len(trials(runs, path)) <= 3


@pytest.mark.slow
def test_hyperband_that_is_killed_goes_on(tmp_path, monkeypatch):
    path, runs = file(tmp_path, "hyperband", LONG, FALLING, "valid/loss", early_terminate=HYPERBAND), tmp_path / "runs"
    training = [lambda: ended(runs) >= 1 and at_work(runs), lambda: "pruned" in states(runs, path)]
    kill_at(training, path, runs, workers=2)
    check_hyperband(path, runs, monkeypatch)
    assert "6 over already" in run(path, runs)


@pytest.mark.slow
def test_what_hyperband_stopped_can_be_trained_and_what_is_finished_is_not_stopped(tmp_path):
    """Stopped by one search, trained to the end by a second one, then reported at once to a third that would stop it."""
    runs = tmp_path / "runs"
    stops, whole, finished = (
        file(tmp_path, name, LONG, FALLING, "valid/loss", **more)
        for name, more in [("stops", {"early_terminate": HYPERBAND}), ("whole", {}), ("rungs", {"early_terminate": HYPERBAND})]
    )
    run(stops, runs)
    run(whole, runs)
    assert "pruned" in states(runs, stops)
    assert states(runs, whole) == ["done"] * 6
    run(finished, runs, workers=2)
    assert trials(runs, finished) == trials(runs, whole)
