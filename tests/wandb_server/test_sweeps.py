"""Which run an agent of a sweep gets from the tests' own W&B server: heartbeats and file streams as the client sends them."""

import json
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wandb_server import store
from tests.wandb_server.calls import POINTS, mutation, new_sweep, states
from tests.wandb_server.schema import Missing
from tests.wandb_server.server import WandbServer


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
