"""submit_sweep.sh on this machine: a search in two steps from its files to its winner's list, what is refused, and being told to stop."""

import csv
import os
import re
import signal
import subprocess

import pytest

from errors import COME_AGAIN
from tests.sweep.searches import call, command, environment, one_step, two_step
from tests.sweep.test_agents import epochs, register
from tests.train.wandb_runs import wait_until
from train.entry import ROOT
from train.lists import read

SCRIPT = str(ROOT / "submit_scripts" / "submit_sweep.sh")
ALONE = {"WANDB_MODE": "disabled"}
SHORT = {"lr": {"values": [0.001, 0.1]}, "epochs": {"value": 1}}


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def steps(tmp_path):
    return one_step(tmp_path, **SHORT), two_step(
        tmp_path, **{"module.lr": {"values": [0.001, 0.1]}, "module.weight": {"value": 1}, "epochs": {"value": 1}}
    )


def script(runs, *words, cwd=ROOT, **more):
    """The real script, as a user types it; what it says apart."""
    return subprocess.run(["bash", SCRIPT, *map(str, words)], cwd=cwd, env=environment(runs, **more), text=True, capture_output=True)


def refused(runs, *words, cwd=ROOT, **more):
    """What the script says that refuses in one line."""
    done = script(runs, *words, cwd=cwd, **ALONE | more)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def trials(runs, name="two"):
    with open(runs / "sweeps" / name / "trials.csv") as file:
        return list(csv.DictReader(file))


def assert_complete(runs, searches, seeds=3):
    """All trials of both steps are done, and the winner stands in a list that submit_array.sh takes."""
    rows = trials(runs)
    assert [row["search"] for row in rows] == searches
    assert {row["state"] for row in rows} == {"done"}
    assert all(0 <= float(row["value"]) <= 1 for row in rows)
    found = read(runs / "sweeps" / "two" / "list.yaml")
    assert len({entry.experiment.seed for entry in found}) == len(found) == seeds
    values = {float(row["module.lr"]): float(row["value"]) for row in rows if row["search"] == "two"}
    assert {entry.experiment.module.lr for entry in found} == {max(values, key=values.get)}
    firsts = {float(row["lr"]): float(row["value"]) for row in rows if row["search"] == "one"}
    assert {entry.experiment.backbone.lr for entry in found} == {max(firsts, key=firsts.get)}


def test_two_steps_without_a_server_end_with_a_list_and_all_trials(runs, steps):
    said = call(runs, "submit", *steps, "--local", "--no-server", "--seeds", "1,2", **ALONE)
    assert said.startswith("one (2 trials) then two (2 trials); on this machine, without a W&B server\n")
    assert_complete(runs, ["one", "one", "two", "two"], seeds=2)
    listed = str(runs / "sweeps" / "two" / "list.yaml")
    assert f"bash submit_array.sh {listed}" in said.splitlines()[-1]
    words = ["bash", str(ROOT / "submit_array.sh"), listed, "--dry-run", "--local"]
    dry = subprocess.run(words, cwd=ROOT, env=environment(runs, **ALONE), text=True, capture_output=True)
    assert dry.returncode == 0, dry.stderr
    # A backbone and six modules for each of the two systems; no network of the search itself has one of these seeds.
    assert "16 to run, 0 done already" in dry.stdout
    # What is finished is not run again.
    before = {path: path.stat().st_mtime_ns for path in runs.glob("FashionMNIST-mini/*/*.jsonl")}
    again = call(runs, "submit", *steps, "--local", "--no-server", **ALONE)
    assert again.count("2 over already") == 2
    assert {path: path.stat().st_mtime_ns for path in runs.glob("FashionMNIST-mini/*/*.jsonl")} == before
    assert_complete(runs, ["one", "one", "two", "two"], seeds=3)


@pytest.mark.slow
def test_two_agents_share_the_trials_of_both_steps(runs, steps, online):
    said = call(runs, "submit", *steps, "--local", "--agents", 2)
    assert_complete(runs, ["one", "one", "two", "two"])
    first, second = map(online.sweep, re.findall(r"W&B sweep \S+/(\w+)$", said, re.MULTILINE))
    for sweep, name in ((first, "one"), (second, "two")):
        assert (sweep["config"]["name"], sweep["state"]) == (name, "FINISHED")
        assert len({run["agent"] for run in sweep["runs"]}) == 2
        assert {run["state"] for run in sweep["runs"]} == {"finished"}
    # Registered sweeps that are over: only their winners are written again.
    (runs / "sweeps" / "two" / "list.yaml").unlink()
    paths = [f"local/palimpsest/{sweep['name']}" for sweep in (first, second)]
    again = call(runs, "submit", *paths, "--local", "--seeds", "7")
    assert again.startswith(f"one ({paths[0]}) then two ({paths[1]}); on this machine, as W&B sweeps\n")
    assert_complete(runs, ["one", "one", "two", "two"], seeds=1)
    assert [len(online.sweep(sweep["name"])["runs"]) for sweep in (first, second)] == [2, 2]


def test_a_dry_run_starts_nothing_from_wherever_it_is_typed(tmp_path, runs, steps, online):
    shown = script(runs, "one.yaml", "../here/two.yaml", "--dry-run", "--agents", 2, "--local", cwd=here(tmp_path))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == "one (2 trials) then two (2 trials); on this machine, as W&B sweeps\n"
    alone = script(runs, "one.yaml", "--dry-run", "--local", cwd=here(tmp_path), **ALONE)
    assert alone.stdout == "one (2 trials); on this machine, without a W&B server\n"
    assert online.sweeps() == []
    assert not runs.exists()


def here(folder):
    """A folder with the two files, whose names mean something only there."""
    inside = folder / "here"
    inside.mkdir(exist_ok=True)
    for name in ("one.yaml", "two.yaml"):
        (inside / name).write_text((folder / name).read_text())
    return inside


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, runs, steps):
    one, two = steps
    rests = "rests on no step before it: none of its parameters is runs/sweeps/{}/best.yaml".format
    assert rests("two") in refused(runs, two, one, "--local")
    other = one_step(tmp_path, "other", **SHORT)
    assert rests("other") in refused(runs, other, two, "--local")
    assert "two steps are named one" in refused(runs, one, one, "--local")
    unprepared = one_step(tmp_path, "unprepared", dataset={"value": "MNIST"}, model={"value": "SmallNet"})
    assert "python -m data prepare MNIST" in refused(runs, unprepared, "--local", PALIMPSEST_DATA=str(tmp_path / "nothing"))
    assert "unrecognized arguments: --agent=2; see: bash submit_scripts/submit_sweep.sh --help" in refused(runs, one, "--agent=2")
    assert "--agents 0: must be at least 1" in refused(runs, one, "--agents", "0")
    assert "must be different whole numbers" in refused(runs, one, "--seeds", "1,1")
    assert "nowhere.yaml: cannot be read as a sweep: No such file" in refused(runs, "nowhere.yaml", "--local")
    assert "nowhere: must be a W&B sweep as ENTITY/PROJECT/ID" in refused(runs, "nowhere", "--local")
    assert "a/b/c is a registered sweep, which needs its server; give its file" in refused(runs, one, "a/b/c", "--no-server")
    assert "--partition=low: options after -- are sbatch's, and this runs here" in refused(runs, one, "--local", "--", "--partition=low")
    assert "parameters.lr" in refused(runs, one_step(tmp_path, "negative", lr={"values": [-1, 1]}), "--local")
    assert not runs.exists()


def test_what_is_registered_is_looked_at_before_anything_starts(tmp_path, runs, steps, online):
    assert "local/palimpsest/nowhere: there is no such W&B sweep" in refused(
        runs, "local/palimpsest/nowhere", "--local", WANDB_MODE="online"
    )
    sweep = register(runs, one_step(tmp_path, "other", **SHORT))
    assert "rests on no step before it" in refused(runs, sweep, steps[1], "--local", WANDB_MODE="online")
    online.stop()
    assert "does not answer" in refused(runs, sweep, "--local", WANDB_MODE="online")
    online.start()
    assert online.runs() == []
    assert not runs.exists()


def interrupt(runs, words, keyboard, **more):
    """Tells a search at work to stop as a shell does, or as the keyboard does: every process in front; what it said."""
    process = subprocess.Popen(
        command("submit", *words, "--local"), cwd=ROOT, env=environment(runs, **more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        wait_until(lambda: epochs(runs) > 2 or process.poll() is not None, 90)
        if keyboard:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == COME_AGAIN, said
    assert "Traceback" not in said
    assert {path.parent.name for path in runs.glob("FashionMNIST-mini/*/stopped.json")}
    assert not list(runs.glob("*/*/lock"))
    return said


def attempts(runs):
    return sum(len(path.read_text().splitlines()) for path in runs.glob("FashionMNIST-mini/*/attempts.jsonl"))


@pytest.mark.parametrize("keyboard", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_told_to_stop_the_same_command_goes_on(tmp_path, runs, keyboard):
    one = one_step(tmp_path, lr={"values": [0.1]}, epochs={"value": 60})
    said = interrupt(runs, [one, "--no-server"], keyboard, **ALONE)
    assert "the same command goes on there" in said.splitlines()[-1]
    assert not (runs / "sweeps" / "one" / "best.yaml").exists()
    call(runs, "submit", one, "--no-server", "--local", **ALONE)
    assert [row["state"] for row in trials(runs, "one")] == ["done"]
    assert attempts(runs) == 2
    assert epochs(runs) == 60


@pytest.mark.slow
@pytest.mark.parametrize("keyboard", [False, True], ids=["SIGTERM", "Ctrl-C"])
def test_told_to_stop_agents_give_their_trials_back(tmp_path, runs, online, keyboard):
    one = one_step(tmp_path, lr={"values": [0.1]}, epochs={"value": 200})
    said = interrupt(runs, [one], keyboard)
    [go_on] = re.findall(r"go on with: bash submit_scripts/submit_sweep.sh (\S+ --agents 1 --local)$", said, re.MULTILINE)
    [run] = online.runs()
    assert online.run(run)["state"] == "preempted"
    call(runs, "submit", *go_on.split())
    stored = online.run(run)
    assert stored["state"] == "finished"
    assert [row["epoch"] for row in stored["history"] if "epoch" in row][:200] == list(range(1, 201))
    assert attempts(runs) == 2
    assert [row["state"] for row in trials(runs, "one")] == ["done"]
