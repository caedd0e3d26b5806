"""Searches on Slurm: agents as an array, a job after them that writes the winner, the second step after that; what is interrupted goes on."""

import csv
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.slurm.conftest import jsonl, until
from tests.sweep.searches import one_step, two_step
from train.lists import read

pytestmark = pytest.mark.slurm

SCRIPT = "submit_scripts/submit_sweep.sh"


@pytest.fixture
def search(cluster, online, monkeypatch):
    """A cluster that has a W&B server."""
    monkeypatch.setenv("PALIMPSEST_RUNS", str(cluster.runs))
    return cluster


@pytest.fixture
def steps(tmp_path):
    short = {"epochs": {"value": 1}}
    return (
        one_step(tmp_path, lr={"values": [0.001, 0.1]}, **short),
        two_step(tmp_path, **{"module.lr": {"values": [0.001, 0.1]}, "module.weight": {"value": 1}}, **short),
    )


def long(folder, lrs):
    """A search whose trials can be met at work while they are paced."""
    path = one_step(folder, lr={"values": lrs}, epochs={"value": 24}, batch_size={"value": 64})
    path.write_text(path.read_text().replace("tests.sweep.tiny", "tests.slurm.paced_sweep"))
    return path


def jobs_of(text):
    """The jobs that the command says it submitted."""
    return [int(job) for job in re.findall(r"^job (\d+): ", text, re.MULTILINE)]


def logs(cluster, job):
    return [path.read_text() for path in sorted((cluster.runs / "slurm").glob(f"{job}_*.out"))]


def trials(cluster, name):
    with open(cluster.runs / "sweeps" / name / "trials.csv") as file:
        return list(csv.DictReader(file))


def assert_complete(cluster):
    rows = trials(cluster, "two")
    assert [(row["search"], row["state"]) for row in rows] == [("one", "done")] * 2 + [("two", "done")] * 2
    values = {float(row["module.lr"]): float(row["value"]) for row in rows[2:]}
    found = read(cluster.runs / "sweeps" / "two" / "list.yaml")
    assert len(found) == 3
    assert {values[entry.experiment.module.lr] for entry in found} == {max(values.values())}


def epochs(cluster):
    """The epochs of the network that is searched for, and how often it was started."""
    rows, starts = (
        [row for path in cluster.runs.glob(f"FashionMNIST-mini/*/{name}.jsonl") for row in jsonl(path)] for name in ("metrics", "attempts")
    )
    return [row["epoch"] for row in rows], len(starts)


def test_two_agents_then_the_winner_then_the_second_step(search, steps, online):
    with ThreadPoolExecutor() as pool:
        with search.halted():
            waiting = pool.submit(partial(search.submit, *steps, "--agents", 2, "--wait", script=SCRIPT))
            until(lambda: len(search.queue()) == 6)
            queued = search.queue("%j %E")
        said = waiting.result().stdout
    first, best_first, second, best_second = jobs_of(said)
    after = "afterok:{}_*(unfulfilled)".format
    assert queued == {
        f"{first}_0": "search-one (null)", f"{first}_1": "search-one (null)", f"{best_first}_0": f"best-one {after(first)}",
        f"{second}_0": f"search-two {after(best_first)}", f"{second}_1": f"search-two {after(best_first)}",
        f"{best_second}_0": f"best-two {after(second)}",
    }  # fmt: skip
    # It shows what the last job wrote.
    assert f"{search.runs}/sweeps/two/list.yaml: " in said.split("start 1 on")[-1]
    assert_complete(search)
    for sweep, name in zip(re.findall(r"W&B sweep \S+/(\w+)$", said, re.MULTILINE), ("one", "two"), strict=True):
        stored = online.sweep(sweep)
        assert (stored["config"]["name"], stored["state"]) == (name, "FINISHED")
        assert [run["state"] for run in stored["runs"]] == ["finished"] * 2
        assert len({run["agent"] for run in stored["runs"]}) == 2
    for job, tasks in ((first, 2), (best_first, 1), (second, 2), (best_second, 1)):
        assert [text.count("start 1 on") for text in logs(search, job)] == [1] * tasks
        assert all(text.rstrip().endswith("ended with exit code 0") for text in logs(search, job))


def test_what_comes_after_an_agent_that_fails_is_cancelled(search, steps):
    failing = one_step(search.folder, device={"value": "cuda:7"})
    ended = search.submit(failing, steps[1], "--wait", code=1, script=SCRIPT)
    assert search.queue() == {}
    [problem] = ended.stderr.splitlines()
    [agent, *others] = jobs_of(ended.stdout)
    assert problem.startswith("failed: the search did not come to its end; failed: agent of local/palimpsest/")
    assert "3 trials failed one after the other" in problem
    assert "cuda:7 is not there" in problem
    assert problem.endswith(f"(log: {search.runs}/slurm/{agent}_0.out)")
    assert [logs(search, job) for job in others] == [[], [], []]
    assert not list(search.runs.glob("sweeps/*/best.yaml"))


def test_an_agent_that_is_warned_and_preempted_goes_on_with_its_trial(search, online):
    search.pace(0.5)
    path = long(search.folder, [0.1])
    agent, best = jobs_of(search.submit(path, "--", "--partition=low", script=SCRIPT).stdout)
    task = f"{agent}_0"
    until(lambda: len(epochs(search)[0]) > 1)
    search.ask("scancel", "--batch", "--signal=USR2", task)
    until(lambda: search.queue() == {task: "PENDING", f"{best}_0": "PENDING"})
    [run] = online.runs()
    assert online.run(run)["state"] == "preempted"
    done = len(epochs(search)[0])
    until(lambda: epochs(search)[1] == 2 and len(epochs(search)[0]) > done + 1)
    # Slurm takes its time to preempt (see test_interruptions.py).
    search.pace(1)
    search.ask("sbatch", "--partition=main", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 2")
    until(lambda: search.restarts(task) == 2)
    search.pace(0)
    search.empty()
    text = logs(search, agent)[0]
    assert text.index("queued again after warning") < text.index("preempted, and queued again by Slurm") < text.index("start 3 on")
    assert epochs(search) == (list(range(1, 25)), 3)
    assert online.runs() == [run]
    stored = online.run(run)
    assert stored["state"] == "finished"
    assert [row["epoch"] for row in stored["history"] if "epoch" in row][:24] == list(range(1, 25))
    assert [row["_step"] for row in stored["history"]] == list(range(25))
    assert [(row["trial"], row["state"]) for row in trials(search, "one")] == [(run, "done")]


def test_a_search_that_is_cancelled_is_saved_and_stays_away(search, steps, online):
    search.pace(0.5)
    path = long(search.folder, [0.1, 0.2])
    said = search.submit(path, steps[1], "--agents", 2, script=SCRIPT).stdout
    until(lambda: epochs(search)[1] == 2 and len(epochs(search)[0]) > 2)
    [cancel] = re.findall(r"stop it all with: (scancel [\d ]+)$", said, re.MULTILINE)
    search.ask(*cancel.split())
    search.empty(60)
    # Longer than a requeued job waits.
    time.sleep(7)
    assert search.queue() == {}
    assert [online.run(run)["state"] for run in online.runs()] == ["preempted"] * 2
    assert len(list(search.runs.glob("FashionMNIST-mini/*/stopped.json"))) == 2
    agents, *others = jobs_of(said)
    assert all("cancelled, so not queued again" in text for text in logs(search, agents))
    assert [logs(search, job) for job in others] == [[], [], []]


def test_without_a_server_a_search_is_one_task(cluster, steps):
    with cluster.halted():
        said = cluster.submit(*steps, "--no-server", "--seeds", "1,2,3", "--", "--cpus-per-task=2", script=SCRIPT).stdout
        # What waits is not touched by files that are edited or deleted.
        for path in steps:
            path.unlink()
        jobs = jobs_of(said)
        assert set(cluster.queue()) == {f"{job}_0" for job in jobs}
    cluster.empty()
    assert_complete(cluster)
    assert [len(logs(cluster, job)) for job in jobs] == [1] * 4
    assert "trial 1: lr=0.1: selection/clean_accuracy" in logs(cluster, jobs[0])[0]
