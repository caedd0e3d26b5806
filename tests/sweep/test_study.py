"""The study of a local search without its trainings: which points are taken, in which order, and what is found after a kill."""

import itertools
import os
import signal
import warnings

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from sqlalchemy import event
from sqlalchemy.engine import Engine

from errors import InputError
from tests.sweep.searches import write
from train.sweep.file import read_sweep
from train.sweep.study import Study, readable

FIXED = {"dataset": "FashionMNIST-mini", "method": "Identity", "epochs": 27}
GRID = {"lr": {"values": [0.1, 0.01, 1.0]}, "seed": {"values": [2, 1]}}
LR = {"lr": {"distribution": "uniform", "min": 0.001, "max": 1.0}}


def sweep_of(folder, method, parameters, metric="valid/accuracy", **more):
    fixed = {key: {"value": value} for key, value in FIXED.items()}
    return read_sweep(write(folder, "study", metric, fixed | parameters, method=method, **more))


def take_all(study, score=lambda values: 0.5):
    """Takes and ends points until there are none; their values."""
    taken = []
    while (asked := study.take()) is not None:
        taken.append(asked.values)
        study.tell(asked, "done", score(asked.values))
    return taken


def searched(taken):
    return [{key: value for key, value in values.items() if key not in FIXED} for values in taken]


def test_a_grid_is_taken_in_order_once_and_up_to_its_cap(tmp_path):
    product = [{"lr": lr, "seed": seed} for lr, seed in itertools.product([0.1, 0.01, 1.0], [2, 1])]
    study = Study(sweep_of(tmp_path, "grid", GRID), tmp_path)
    first = study.take()
    assert first.values == FIXED | product[0]
    assert (first.point, study.endings) == (0, {0: "running"})
    study.tell(first, "done", 0.5)
    assert searched(take_all(study)) == product[1:]
    (tmp_path / "capped").mkdir()
    capped = sweep_of(tmp_path, "grid", GRID, run_cap=4)
    assert searched(take_all(Study(capped, tmp_path / "capped"))) == product[:4]
    # The cap decides no trial: with a higher one the same study goes on.
    assert searched(take_all(Study(sweep_of(tmp_path, "grid", GRID), tmp_path / "capped"))) == product[4:]


def test_what_was_running_is_found_by_the_next_process(tmp_path):
    sweep = sweep_of(tmp_path, "grid", GRID)
    study = Study(sweep, tmp_path)
    asked = [study.take() for _ in range(4)]
    study.tell(asked[0], "done", 0.5)
    study.tell(asked[2], "diverged")
    again = Study(sweep, tmp_path)
    found = again.unfinished()
    assert [(one.point, one.values) for one in found] == [(1, asked[1].values), (3, asked[3].values)]
    assert again.endings == {0: "done", 1: "running", 2: "diverged", 3: "running"}
    for one in found:
        again.tell(one, "done", 0.25)
    assert again.take().point == 4
    assert [one.point for one in Study(sweep, tmp_path).unfinished()] == [4]


def test_killed_between_any_two_tables_it_is_whole_when_opened_again(tmp_path):
    sweep = sweep_of(tmp_path, "grid", GRID)

    def make(folder, last=None):
        """Opens a study in a process that dies before a statement; how many it had made."""
        folder.mkdir()
        made, tell = os.pipe()
        child = os.fork()
        if child == 0:

            @event.listens_for(Engine, "before_cursor_execute")
            def count(connection, cursor, statement, *more):
                if "CREATE" in statement:
                    os.write(tell, b".")
                    if len(counted) == last:
                        os.kill(os.getpid(), signal.SIGKILL)
                    counted.append(statement)

            counted = []
            try:
                Study(sweep, folder)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(tell)
        status = os.waitpid(child, 0)[1]
        with open(made, "rb") as said:
            return len(said.read()), status

    number, status = make(tmp_path / "whole")
    assert (status, number > 10) == (0, True)
    for last in range(number):
        assert make(tmp_path / f"{last}", last) == (last + 1, signal.SIGKILL)
        # The first opening may look well where the second is not.
        assert [Study(sweep, tmp_path / f"{last}").take().point for _ in range(2)] == [0, 1]


@pytest.mark.parametrize(("ending", "state"), [("failed", "FAIL"), ("diverged", "PRUNED"), ("pruned", "PRUNED"), ("done", "RUNNING")])
def test_a_process_that_is_killed_while_it_tells_an_ending(tmp_path, monkeypatch, ending, state):
    class Killed(BaseException):
        pass

    def die(*arguments, **options):
        raise Killed

    sweep = sweep_of(tmp_path, "grid", GRID)
    study = Study(sweep, tmp_path)
    asked = study.take()
    with monkeypatch.context() as patch:
        patch.setattr(study.study, "tell", die)
        with pytest.raises(Killed):
            study.tell(asked, ending, 0.5)
    again = Study(sweep, tmp_path)
    found = again.unfinished()
    assert again.study.trials[0].state.name == state
    # The metric of one that was done is measured again.
    assert [one.point for one in found] == ([0] if ending == "done" else [])
    assert again.endings == {0: ending}
    assert again.take().point == 1


def test_a_failed_point_is_taken_again_as_another_trial(tmp_path):
    sweep = sweep_of(tmp_path, "grid", GRID)
    study = Study(sweep, tmp_path)
    asked = study.take()
    study.tell(asked, "failed")
    assert study.endings == {0: "failed"}
    second = study.take_again(0)
    assert (second.point, second.values) == (asked.point, asked.values)
    assert second.trial.number != asked.trial.number
    assert [one.trial.number for one in Study(sweep, tmp_path).unfinished()] == [second.trial.number]
    study.tell(second, "done", 0.75)
    again = Study(sweep, tmp_path)
    assert again.endings == {0: "done"}
    assert again.unfinished() == []
    assert again.take().point == 1


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 7), min_size=1, max_size=3))
def test_random_points_are_the_same_however_often_it_is_opened(tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("random")
    sweep = sweep_of(folder, "random", LR, run_cap=8)
    whole = [sweep.draw(number) for number in range(8)]
    taken, study = [], Study(sweep, folder)
    while (asked := study.take()) is not None:
        taken.append(asked.values)
        if asked.point in cuts:
            # Killed; what was running goes on.
            study = Study(sweep, folder)
            (asked,) = study.unfinished()
        study.tell(asked, "done", 0.5)
    assert taken == whole


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_no_point_is_taken_twice_and_a_space_that_is_used_up_ends_it(tmp_path, method):
    sweep = sweep_of(tmp_path, method, GRID, run_cap=50)
    taken = searched(take_all(Study(sweep, tmp_path)))
    assert sorted(taken, key=repr) == sorted(({"lr": lr, "seed": seed} for lr in [0.1, 0.01, 1.0] for seed in [2, 1]), key=repr)
    again = Study(sweep, tmp_path)
    assert again.take() is None
    # Proposals of points that there were leave nothing behind.
    assert len(again.study.trials) == 6


def near(values):
    return 1 - abs(values["lr"] - 0.3)


def test_bayes_learns_and_proposes_the_same_however_often_it_is_killed(tmp_path):
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    sweep = sweep_of(tmp_path, "bayes", LR, run_cap=25)
    whole = searched(take_all(Study(sweep, folders[0]), near))
    killed = []
    study = Study(sweep, folders[1])
    for number in range(25):
        if number % 4 == 0:
            # A proposal that nobody lived to note.
            next(study.points)
            study = Study(sweep, folders[1])
        asked = study.take()
        killed.append({"lr": asked.values["lr"]})
        if number % 3 == 0:
            study = Study(sweep, folders[1])
            (asked,) = study.unfinished()
        study.tell(asked, "done", near(asked.values))
    assert killed == whole
    assert len({values["lr"] for values in whole}) == 25

    def distance(taken):
        return sum(1 - near(values) for values in taken) / len(taken)

    # Uniform points are 0.29 away on average; the first ten are random.
    assert distance(whole[15:]) < 0.2 < distance(whole[:10])


def test_bayes_avoids_where_trials_diverge(tmp_path):
    study = Study(sweep_of(tmp_path, "bayes", LR, run_cap=25), tmp_path)
    taken = []
    while (asked := study.take()) is not None:
        taken.append(asked.values["lr"])
        diverges = asked.values["lr"] > 0.4
        study.tell(asked, "diverged" if diverges else "done", None if diverges else 0.5)
    # Of ten uniform ones six would.
    assert sum(lr > 0.4 for lr in taken[:10]) >= 4
    assert sum(lr > 0.4 for lr in taken[15:]) <= 3


def test_optuna_reads_the_study(tmp_path):
    sweep = sweep_of(tmp_path, "grid", GRID)
    study = Study(sweep, tmp_path)
    study.tell(study.take(), "done", 0.125)
    study.tell(study.take(), "diverged")
    study.tell(study.take(), "failed")
    study.take()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = optuna.load_study(study_name="study", storage=f"sqlite:///{tmp_path / 'study.sqlite'}")
    assert read.direction.name == "MAXIMIZE"
    assert [trial.state for trial in read.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert read.best_trial.values == [0.125]
    assert [trial.params for trial in read.trials] == [{"lr": lr, "seed": seed} for lr, seed in [(0.1, 2), (0.1, 1), (0.01, 2), (0.01, 1)]]
    attributes = [trial.user_attrs for trial in read.trials]
    assert [own["point"] for own in attributes] == [0, 1, 2, 3]
    assert [own.get("ending") for own in attributes] == ["done", "diverged", "failed", None]
    assert all(own["values"] == FIXED | trial.params for own, trial in zip(attributes, read.trials))


def test_trials_that_are_somebody_elses_do_no_harm(tmp_path):
    sweep = sweep_of(tmp_path, "bayes", LR, run_cap=3)
    study = Study(sweep, tmp_path)
    study.study.ask()
    study.study.add_trial(optuna.create_trial(value=0.5))
    again = Study(sweep, tmp_path)
    assert again.unfinished() == []
    assert len(take_all(again)) == 3
    assert sorted(again.endings) == [0, 1, 2]


def test_values_that_optuna_cannot_hold_are_kept(tmp_path):
    severities = {"severities": {"values": [{"GaussianBlur": 1}, {"GaussianBlur": 2}]}, "method": {"value": "CrossEntropy"}}
    rounded = {"lr": {"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.1}}
    sweep = sweep_of(tmp_path, "random", severities | rounded, run_cap=40)
    taken = take_all(Study(sweep, tmp_path))
    # Multiples of 0.1 as floating point has them: 0.30000000000000004 is more than optuna's 0.3.
    assert {values["lr"] for values in taken} == {0.1, 0.2, 3 * 0.1}
    assert len(taken) == 6
    assert [trial.user_attrs["values"] for trial in Study(sweep, tmp_path).study.trials] == taken


def test_hyperband_stops_at_bands_and_an_epoch_is_reported_once(tmp_path):
    sweep = sweep_of(tmp_path, "grid", {"seed": {"values": list(range(40))}, "lr": {"value": 0.1}},
                     early_terminate={"type": "hyperband", "min_iter": 3, "eta": 3})  # fmt: skip
    study = Study(sweep, tmp_path)
    stopped = []
    for number in range(20):
        asked = study.take()
        for epoch in range(1, 11):
            if number % 5 == 4 and epoch == 2:
                # Killed; the search reads the same epochs again.
                study = Study(sweep, tmp_path)
                (asked,) = study.unfinished()
                assert not study.report(asked, 1, 0.1)
            if study.report(asked, epoch, 0.9 if number == 0 else 0.5 - number / 100):
                stopped.append((number, epoch))
                study.tell(asked, "pruned")
                break
        else:
            study.tell(asked, "done", 0.9 if number == 0 else 0.5 - number / 100)
    assert {3} <= {epoch for _, epoch in stopped} <= {3, 9}
    assert 0 not in dict(stopped)
    assert len(stopped) >= 10
    trials = study.study.trials
    assert [list(trial.intermediate_values) for trial in trials] == [list(range(1, dict(stopped).get(n, 10) + 1)) for n in range(20)]
    assert study.study.best_trial.number == 0


@pytest.mark.parametrize("content", [b"nonsense" * 500, None], ids=["damaged", "a folder"])
def test_a_study_that_cannot_be_read_is_one_line(tmp_path, content):
    path = tmp_path / "study.sqlite"
    path.write_bytes(content) if content else path.mkdir()
    with (
        pytest.raises(InputError, match=r"study\.sqlite: cannot be used \(.*\); if it is damaged, delete it") as caught,
        readable(tmp_path),
    ):
        Study(sweep_of(tmp_path, "grid", GRID), tmp_path)
    assert "\n" not in str(caught.value)
