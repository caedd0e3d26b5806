"""The real client's commands against the tests' own W&B server of sweeps: sweep, agent, sync, the API."""

import json
import os
import signal
import subprocess
import sys

import pytest
import yaml

from tests.train.wandb_runs import wait_until
from tests.wandb_server.calls import GRID, POINTS, new_sweep, states

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
