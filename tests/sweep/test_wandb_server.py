"""The tests' own W&B server as a server of sweeps: what it proposes, which run an agent gets, and the real client's commands against it."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.train.wandb_runs import wait_until
from tests.wandb_server import search, store
from tests.wandb_server.schema import Missing
from tests.wandb_server.server import WandbServer

GRID: dict[str, Any] = {"method": "grid", "parameters": {"b": {"values": [0.5, 0.25]}, "a": {"values": [1, 2]}}}
POINTS = [(1, 0.5), (1, 0.25), (2, 0.5), (2, 0.25)]
# A trial logs its score. Told `preempt`, its first attempt leaves its mark, is preempted at half time and goes on when it comes again.
TRIAL = """
import argparse, json, os, pathlib, sys, time, wandb

parser = argparse.ArgumentParser()
parser.add_argument("--a", type=int)
parser.add_argument("--b", type=float)
options = parser.parse_args()
behaviour = os.environ["TRIAL"]
run = wandb.init(resume="allow")
folder = pathlib.Path(os.environ["WANDB_DIR"])
mark = folder / f"{run.id}.json"
first = not mark.exists()
mark.write_text(json.dumps([sys.argv[1:], dict(run.config)]))
if behaviour == "wait":
    time.sleep(60)
if first:
    run.log({"half": 1}, step=0)
if behaviour == "preempt" and first:
    run.mark_preempting()
    run.finish(exit_code=85)
    sys.exit(85)
run.log({"score": options.a + options.b}, step=1)
run.finish()
"""


# What is proposed.


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        # Literally what sweeps.next_runs of the package `sweeps` 0.3.0 gave.
        (GRID["parameters"] | {"c": {"value": 7}}, [{"a": a, "b": b, "c": 7} for a, b in POINTS]),
        ({"z": {"min": 1, "max": 3}, "A": {"values": [0.1, 1e-5]}}, [{"A": a, "z": z} for a in (0.1, 1e-5) for z in (1, 2, 3)]),
        (
            {"n": {"parameters": {"w": {"values": [1, 2]}, "d": {"parameters": {"k": {"values": [True, False]}}}}}, "z": {"values": [5]}},
            [{"n": {"d": {"k": k}, "w": w}, "z": 5} for k in (True, False) for w in (1, 2)],
        ),
        (
            {"q": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.5}, "r": {"values": [1, 1, 2]}},
            [{"q": q, "r": r} for q in (0.0, 0.5) for r in (1, 2)],
        ),
        ({"q": {"distribution": "q_uniform", "min": 1, "max": 6, "q": 2}}, [{"q": q} for q in (1, 3, 5)]),
    ],
)
def test_a_grid_has_the_points_and_the_order_of_wandb(parameters, expected):
    config = {"method": "grid", "parameters": parameters}
    seen: list[search.Point] = []
    while (point := search.suggest(config, "", 0, [search.key(p) for p in seen])) is not None:
        seen.append(point)
    assert [{name: value["value"] for name, value in point.items()} for point in seen] == expected
    assert search.size(config) == len(expected)
    assert search.size(config | {"run_cap": 2}) == 2


CONTINUOUS: dict[str, tuple[dict[str, float], Any]] = {
    "uniform": ({"min": -1.0, "max": 3.0}, stats.uniform(-1, 4)),
    "log_uniform": ({"min": -3, "max": 1}, stats.loguniform(math.exp(-3), math.exp(1))),
    "log_uniform_values": ({"min": 1e-4, "max": 0.1}, stats.loguniform(1e-4, 0.1)),
    "inv_log_uniform": ({"min": -1, "max": 2}, stats.loguniform(math.exp(-2), math.exp(1))),
    "inv_log_uniform_values": ({"min": 1e-3, "max": 1.0}, stats.loguniform(1e-3, 1)),
    "normal": ({"mu": 1, "sigma": 2}, stats.norm(1, 2)),
    "log_normal": ({"mu": 0.5, "sigma": 0.25}, stats.lognorm(0.25, scale=math.exp(0.5))),
    "beta": ({"a": 2, "b": 3}, stats.beta(2, 3)),
}


def draws(parameter, count=1000):
    config = {"method": "random", "parameters": {"x": parameter}}
    points = (search.suggest(config, "seed", number, ()) for number in range(count))
    return [point["x"]["value"] for point in points if point]


@pytest.mark.parametrize("name", CONTINUOUS)
def test_random_values_follow_their_distribution(name):
    limits, expected = CONTINUOUS[name]
    values = draws(limits | {"distribution": name})
    assert stats.kstest(values, expected.cdf).pvalue > 1e-3
    if name in search.QUANTISED:
        coarse = draws(limits | {"distribution": f"q_{name}", "q": 0.25})
        assert coarse == [round(value / 0.25) * 0.25 for value in values]
        assert {type(value) for value in draws(limits | {"distribution": f"q_{name}", "q": 2}, 10)} == {int}


def test_random_choices_have_their_frequencies():
    counts = Counter(draws({"values": ["a", "b", "c"], "probabilities": [0.1, 0.2, 0.7]}))
    assert stats.chisquare([counts["a"], counts["b"], counts["c"]], [100, 200, 700]).pvalue > 1e-3
    assert stats.chisquare(sorted(Counter(draws({"min": 1, "max": 5})).values())).pvalue > 1e-3
    assert draws({"value": [1, 2]}, 3) == [[1, 2]] * 3


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"method": "grid", "parameters": {"x": {"min": 0.0, "max": 1.0}}}, "parameter x: a grid takes"),
        ({"method": "random", "parameters": {"n": {"parameters": {"x": {"min": 0, "max": 1.0}}}}}, "parameter n.x: .* no distribution"),
        ({"method": "random", "parameters": {"x": {"distribution": "q_constant", "value": 1}}}, "no distribution"),
        ({"method": "guess", "parameters": {"x": {"value": 1}}}, "method guess"),
    ],
)
def test_what_cannot_be_searched_is_refused(config, word):
    with pytest.raises(ValueError, match=word):
        search.suggest(config, "", 0, ())


# Which run an agent gets: heartbeats and file streams as the client sends them.


class Agent:
    """Speaks for an agent and its run."""

    def __init__(self, server, sweep):
        self.server = server
        self.run: Any = None
        self.id = mutation(server, "createAgent", host="here", sweep=sweep)["agent"]["id"]

    def beat(self):
        """The types of the commands it gets; it obeys `run` and `resume`."""
        state = json.dumps({self.run: True} if self.run else {})
        commands = json.loads(mutation(self.server, "agentHeartbeat", id=self.id, runState=state)["commands"])
        for command in commands:
            if command["type"] in ("run", "resume"):
                self.run, self.args = command["run_id"], {name: arg["value"] for name, arg in command["args"].items()}
        return [command["type"] for command in commands]

    def begin(self):
        mutation(self.server, "upsertBucket", name=self.run, modelName="palimpsest", host="here")

    def end(self, code, preempting=False):
        """The run ends, and the agent knows; what the file stream answers to the run's last words."""
        answer = self.stream(preempting=preempting) if preempting else {}
        answer |= self.stream(complete=True, exitcode=code)
        self.run = None
        return answer

    def stream(self, **body):
        return self.server.schema.file_stream("local", "palimpsest", self.run, body)


def mutation(server, mutation_name, /, **given):
    return server.schema.mutation()[mutation_name](input=given)


def new_sweep(server, config=GRID, **more):
    return mutation(server, "upsertSweep", config=yaml.safe_dump(config | more), projectName="palimpsest")["sweep"]["name"]


def states(server, sweep):
    return [run["state"] for run in server.sweep(sweep)["runs"]]


@pytest.fixture
def server():
    with WandbServer() as running:
        yield running


def test_a_sweep_from_pending_to_finished(server):
    sweep = new_sweep(server)
    assert server.sweeps() == [sweep]
    assert server.sweep(sweep)["state"] == "PENDING"
    agent = Agent(server, sweep)
    for point in POINTS:
        assert agent.beat() == ["run"]
        assert (agent.args["a"], agent.args["b"]) == point
        assert server.sweep(sweep)["state"] == "RUNNING"
        # One at a time.
        assert agent.beat() == []
        agent.begin()
        agent.end(0)
    assert agent.beat() == ["exit"]
    assert server.sweep(sweep)["state"] == "FINISHED"
    assert states(server, sweep) == ["finished"] * 4


def test_run_cap_ends_a_random_sweep_and_its_draws_come_again_elsewhere(server):
    config = {"method": "random", "run_cap": 3, "parameters": {"x": {"min": 0.0, "max": 1.0}}}

    def drawn(where):
        sweep = new_sweep(where, config)
        agent = Agent(where, sweep)
        values = []
        while agent.beat() == ["run"]:
            values.append(agent.args["x"])
            agent.begin()
            agent.end(0)
        assert where.sweep(sweep)["state"] == "FINISHED"
        return values

    values = drawn(server)
    assert len(set(values)) == 3
    with WandbServer() as other:
        assert drawn(other) == values
        assert not set(drawn(other)) & set(values)


def test_many_agents_at_once_share_the_points(server):
    config = {"method": "grid", "parameters": {"x": {"min": 1, "max": 24}}}
    sweep = new_sweep(server, config)

    def work():
        agent = Agent(server, sweep)
        while agent.beat() == ["run"]:
            agent.begin()
            agent.end(0)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run["args"]["x"]["value"] for run in server.sweep(sweep)["runs"]) == list(range(1, 25))
    assert states(server, sweep) == ["finished"] * 24


STEPS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["beat", "begin", "finish", "fail", "preempt", "lose"])), max_size=40)


def test_every_point_is_given_once_and_only_what_was_preempted_comes_again(server):
    @given(STEPS)
    @settings(max_examples=60, deadline=None)
    def check(steps):
        sweep = new_sweep(server)
        agents = [Agent(server, sweep) for _ in range(3)]
        began: set[int] = set()
        issued: set[Any] = set()
        waiting: list[str] = []
        for number, what in [*steps, (0, "beat"), (1, "beat"), (2, "beat")]:
            agent = agents[number]
            if what == "beat" and agent.run is None:
                expected = ["resume"] if waiting else ["run"] if len(issued) < 4 else ["exit"]
                assert agent.beat() == expected
                if expected == ["resume"]:
                    assert agent.run == waiting.pop(0)
                elif expected == ["run"]:
                    assert agent.run not in issued
                    issued.add(agent.run)
            elif what == "beat":
                assert agent.beat() == []
            elif what == "begin" and agent.run:
                agent.begin()
                began.add(number)
            elif what == "lose" or number in began:
                if what == "preempt":
                    waiting.append(agent.run)
                if what == "lose":
                    agent.run = None
                else:
                    agent.end({"finish": 0, "fail": 1, "preempt": 85}[what], preempting=what == "preempt")
                began.discard(number)
        runs = server.sweep(sweep)["runs"]
        assert {run["name"] for run in runs} == issued
        assert [(run["args"]["a"]["value"], run["args"]["b"]["value"]) for run in runs] == POINTS[: len(runs)]

    check()


def test_a_preempted_run_is_given_to_the_next_agent_even_after_the_last_point(server):
    sweep = new_sweep(server, run_cap=2)
    first, second, third = (Agent(server, sweep) for _ in range(3))
    assert (first.beat(), second.beat(), third.beat()) == (["run"], ["run"], ["exit"])
    name, args = second.run, second.args
    second.begin()
    second.stream(preempting=True)
    assert states(server, sweep) == ["pending", "preempting"]
    second.end(85)
    assert states(server, sweep) == ["pending", "preempted"]
    assert third.beat() == ["resume"]
    assert (third.run, third.args) == (name, args)
    # The agent that lost it has no say in it any more.
    assert second.beat() == ["exit"]
    third.begin()
    assert second.beat() == ["exit"]
    assert states(server, sweep) == ["pending", "running"]
    third.end(0)
    assert states(server, sweep) == ["pending", "finished"]


def test_a_run_that_its_agent_lost_has_failed_unless_it_never_began_here(server):
    sweep = new_sweep(server)
    agent = Agent(server, sweep)
    for begins in (True, False):
        assert agent.beat() == ["run"]
        if begins:
            agent.begin()
        agent.run = None
    agent.beat()
    assert states(server, sweep) == ["failed", "pending", "pending"]
    agent.begin()
    agent.stream(preempting=True)
    agent.run = None
    assert agent.beat() == ["resume"]


def test_a_cancelled_sweep_stops_its_runs_and_gives_no_others(server):
    sweep = new_sweep(server)
    agents = [Agent(server, sweep) for _ in range(4)]
    for agent in agents[:3]:
        agent.beat()
    for agent in agents[:2]:
        agent.begin()
    assert agents[0].stream() == {"exitcode": None, "limits": {}, "stopped": False}
    server.cancel(sweep)
    assert server.sweep(sweep)["state"] == "CANCELED"
    assert agents[0].stream()["stopped"] is True
    assert [agent.beat() for agent in agents] == [["stop"], ["stop"], ["stop"], ["exit"]]
    assert agents[0].end(85, preempting=True)["stopped"] is True
    agents[1].run = agents[2].run = None
    assert [agent.beat() for agent in agents] == [["exit"]] * 4
    assert states(server, sweep) == ["killed"] * 3


def test_a_stopped_run_is_killed_and_the_sweep_goes_on(server):
    sweep = new_sweep(server, run_cap=3)
    agent = Agent(server, sweep)
    agent.beat()
    agent.begin()
    server.stop_run(agent.run)
    assert agent.beat() == ["stop"]
    agent.end(85, preempting=True)
    assert states(server, sweep) == ["killed"]
    assert agent.beat() == ["run"]
    agent.begin()
    name = agent.run
    agent.end(85, preempting=True)
    # One that waits for an agent is not given either.
    server.stop_run(name)
    assert agent.beat() == ["run"]
    agent.begin()
    server.stop_run(agent.run)
    # Too late: it was done.
    agent.end(0)
    assert agent.beat() == ["exit"]
    assert states(server, sweep) == ["killed", "killed", "finished"]
    with pytest.raises(Missing):
        server.stop_run("other")
    with pytest.raises(Missing):
        server.cancel("other")


def test_a_run_that_falls_silent(server, monkeypatch):
    sweep = new_sweep(server)
    agents = [Agent(server, sweep) for _ in range(3)]
    for agent in agents:
        agent.beat()
        agent.begin()
    name = agents[1].run
    agents[1].stream(preempting=True)
    server.stop_run(agents[2].run)
    monkeypatch.setattr(store, "CRASHED_AFTER", 0)
    assert states(server, sweep) == ["crashed", "preempted", "killed"]
    another = Agent(server, sweep)
    assert (another.beat(), another.run) == (["resume"], name)


# The real client.


@pytest.fixture
def client(tmp_path, monkeypatch, server):
    """A folder with a trial's program; the environment in which the client finds the server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    for name, value in server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRIAL", "")
    (tmp_path / "trial.py").write_text(TRIAL)
    return tmp_path


def sweep_file(folder, *environment, **more):
    config = GRID | {"project": "palimpsest", "metric": {"name": "score", "goal": "maximize"}, "program": str(folder / "trial.py")} | more
    command = ["${env}", *environment, sys.executable, "${program}", "${args}"]
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config | {"command": command}))
    return folder / "sweep.yaml"


def wandb(*words):
    done = subprocess.run([sys.executable, "-m", "wandb", *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def start_agent(sweep, *options):
    command = [sys.executable, "-m", "tests.wandb_server.agent", f"local/palimpsest/{sweep}", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(agent):
    log = agent.communicate(timeout=90)[1]
    assert agent.returncode == 0, log
    return log


def assert_clean(server):
    assert server.unknown == set()
    assert server.errors == []


def test_two_agents_work_a_sweep_off_and_the_api_reads_it(client, server):
    printed = wandb("sweep", sweep_file(client, name="mine"))
    (sweep,) = server.sweeps()
    assert f"wandb agent local/palimpsest/{sweep}" in printed
    agents = [start_agent(sweep), start_agent(sweep)]
    logs = [ended(agent) for agent in agents]
    stored = server.sweep(sweep)
    assert stored["state"] == "FINISHED"
    assert [(run["args"]["a"]["value"], run["args"]["b"]["value"]) for run in stored["runs"]] == POINTS
    for run, (a, b) in zip(stored["runs"], POINTS, strict=True):
        words, config = json.loads((client / f"{run['name']}.json").read_text())
        assert (words, config) == ([f"--a={a}", f"--b={b}"], {"a": a, "b": b})
        assert (run["state"], run["summary"]["score"], run["sweep"]) == ("finished", a + b, sweep)
        assert (run["config"]["a"], run["config"]["b"]["value"]) == ({"value": a}, b)
        assert sum(run["name"] in log for log in logs) == 1
    assert len({run["agent"] for run in stored["runs"]}) == 2
    script = f"""
import json, wandb
api = wandb.Api()
sweep = api.sweep("local/palimpsest/{sweep}")
best = sweep.best_run()
agents = [[run.id for run in agent.runs()] for agent in sweep.agents()]
facts = [sweep.state, sweep.name, sweep.expected_run_count, sweep.config["parameters"], [run.id for run in sweep.runs]]
facts += [best.id, best.config["a"], best.summary["score"], best.sweep_name, best.sweep.id, agents]
print(json.dumps(facts + [[sweep.id for sweep in api.project("palimpsest", "local").sweeps()]]))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    state, name, expected, parameters, runs, best, a, score, sweep_name, sweep_id, per_agent, sweeps = json.loads(answer.stdout)
    assert (state, name, expected, parameters) == ("FINISHED", "mine", 4, GRID["parameters"])
    assert runs == [run["name"] for run in stored["runs"]]
    assert (best, a, score, sweep_name, sweep_id) == (runs[2], 2, 2.5, sweep, sweep)
    assert (sorted(run for runs_of_one in per_agent for run in runs_of_one), sweeps) == (sorted(runs), [sweep])
    assert_clean(server)


def test_a_preempted_run_goes_on_at_another_agent(client, server, monkeypatch):
    monkeypatch.setenv("TRIAL", "preempt")
    sweep = new_sweep(server, yaml.safe_load(sweep_file(client, run_cap=1).read_text()))
    ended(start_agent(sweep, "--count", "1"))
    assert states(server, sweep) == ["preempted"]
    log = ended(start_agent(sweep))
    assert "Agent received command: resume" in log
    (run,) = server.sweep(sweep)["runs"]
    assert (run["state"], run["summary"]["score"]) == ("finished", 1.5)
    assert [(row["_step"], row.get("half"), row.get("score")) for row in server.store.history(run["id"])] == [(0, 1, None), (1, None, 1.5)]
    assert_clean(server)


def test_cancelling_ends_the_trial_and_the_agent(client, server, monkeypatch):
    monkeypatch.setenv("TRIAL", "wait")
    wandb("sweep", sweep_file(client))
    (sweep,) = server.sweeps()
    agent = start_agent(sweep, "--forward-signals")
    wait_until(lambda: list(client.glob("*.json")))
    wandb("sweep", "--cancel", f"local/palimpsest/{sweep}")
    ended(agent)
    assert (server.sweep(sweep)["state"], states(server, sweep)) == ("CANCELED", ["killed"])
    assert_clean(server)


def test_a_trial_that_recorded_offline_is_the_sweeps_when_it_is_synced(client, server):
    sweep = new_sweep(server, yaml.safe_load(sweep_file(client, "WANDB_MODE=offline", run_cap=1).read_text()))
    ended(start_agent(sweep))
    assert (server.sweep(sweep)["state"], states(server, sweep)) == ("FINISHED", ["pending"])
    (record,) = client.glob("wandb/offline-run-*")
    wandb("sync", record)
    (run,) = server.sweep(sweep)["runs"]
    assert (run["state"], run["summary"]["score"], run["config"]["a"]["value"]) == ("finished", 1.5, 1)
    assert_clean(server)


@pytest.mark.slow
def test_a_sweep_is_paused_goes_on_and_is_stopped(client, server):
    sweep = new_sweep(server, yaml.safe_load(sweep_file(client).read_text()))
    path = f"local/palimpsest/{sweep}"
    ended(start_agent(sweep, "--count", "1"))
    wandb("sweep", "--pause", path)
    agent = start_agent(sweep, "--count", "1")
    wait_until(lambda: len(server.store.agents(server.sweep(sweep)["id"])) == 2)
    beats = server.counts["mutation Heartbeat"]
    wait_until(lambda: server.counts["mutation Heartbeat"] > beats + 5)
    assert (server.sweep(sweep)["state"], states(server, sweep)) == ("PAUSED", ["finished"])
    wandb("sweep", "--resume", path)
    ended(agent)
    assert states(server, sweep) == ["finished"] * 2
    wandb("sweep", "--stop", path)
    assert server.sweep(sweep)["state"] == "FINISHED"
    ended(start_agent(sweep))
    assert states(server, sweep) == ["finished"] * 2
    assert_clean(server)


@pytest.mark.slow
def test_an_agent_told_to_stop_leaves_a_run_that_goes_on(client, server, monkeypatch):
    """Signals reach the trial, which is preempted on its own account; the next agent takes it up."""
    leave = "import signal\n\ndef leave(*_):\n    run.mark_preempting()\n    run.finish(exit_code=85)\n    os._exit(85)\n\n"
    leave += "signal.signal(signal.SIGTERM, leave)\n"
    graceful = TRIAL.replace("time.sleep(60)", "time.sleep(60 if first else 0)").replace("run = wandb.init", leave + "run = wandb.init")
    (client / "trial.py").write_text(graceful)
    monkeypatch.setenv("TRIAL", "wait")
    sweep = new_sweep(server, yaml.safe_load(sweep_file(client, run_cap=1).read_text()))
    agent = start_agent(sweep, "--forward-signals")
    wait_until(lambda: list(client.glob("*.json")))
    assert states(server, sweep) == ["running"]
    agent.send_signal(signal.SIGTERM)
    ended(agent)
    assert states(server, sweep) == ["preempted"]
    ended(start_agent(sweep))
    assert states(server, sweep) == ["finished"]
    assert_clean(server)


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_itself(client, server):
    """The client asks every 15 seconds; on a busy machine it takes its time."""
    # It interrupts its process, which a process that was started in the background ignores.
    script = """
import signal, time, wandb
signal.signal(signal.SIGINT, signal.default_int_handler)
run = wandb.init(project="palimpsest", id="alone")
for step in range(1800):
    run.log({"step": step})
    time.sleep(0.1)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: server.run("alone"))
            server.stop_run("alone")
            assert process.wait(170) != 0
        finally:
            process.kill()
    assert server.run("alone")["state"] == "killed"
