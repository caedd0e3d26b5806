"""Sweeps and their agents: what the W&B client asks and tells of them, and which run an agent gets next."""

import hashlib
import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

import yaml

from tests.wandb_server.schema import Missing, Schema, lookup, page
from tests.wandb_server.search import key, size, suggest
from tests.wandb_server.store import identifier, timestamp

# What becomes of a run whose agent says no more of it, by the state in which it was left. One that recorded offline stays pending.
LEFT = {"running": "failed", "preempting": "preempted"}


class SweepSchema(Schema):
    """The schema with sweeps in its projects.

    A sweep is PENDING, RUNNING from its first run on, and FINISHED when there is no further point, or as the client says: PAUSED (idle agents
    wait), FINISHED or STOPPED (idle agents end when no preempted run waits), CANCELED (running runs are told to stop, idle agents end).
    Early termination, priors and the client's own controllers are left out.
    """

    def project(self, entity: str, name: str) -> dict[str, Any]:
        def sweep(sweepName: str, **_: Any) -> dict[str, Any] | None:
            found = self.store.sweep(sweepName)
            return self.sweep(found) if found and (found["entity"], found["project"]) == (entity, name) else None

        def sweeps(**paging: Any) -> dict[str, Any]:
            return page([self.sweep(found) for found in self.store.sweeps(entity, name)], **paging)

        facts = {"sweep": sweep, "sweeps": sweeps, "totalSweeps": lambda: len(self.store.sweeps(entity, name))}
        return super().project(entity, name) | facts

    def sweep(self, sweep: dict[str, Any]) -> dict[str, Any]:
        config = yaml.safe_load(sweep["config"])
        metric = config.get("metric") or {}

        def best() -> float | None:
            found = [lookup(run, f"summary_metrics.{metric['name']}") for run in self.store.sweep_runs(sweep)] if metric else []
            reached = [value for value in found if value is not None]
            return (max if metric.get("goal") == "maximize" else min)(reached, default=None)

        def agents() -> list[dict[str, Any]]:
            return [self.agent(agent) for agent in self.store.agents(sweep["id"])]

        facts: dict[str, Any] = {"__typename": "Sweep", "displayName": config.get("name"), "method": config["method"]}
        facts |= {fact: sweep[fact] for fact in ("id", "name", "state", "config")}
        facts |= {"description": config.get("description"), "controller": None, "scheduler": None, "earlyStopJobRunning": False}
        facts |= {
            "createdAt": timestamp(sweep["created"]),
            "heartbeatAt": timestamp(sweep["heard"]),
            "updatedAt": timestamp(sweep["heard"]),
        }
        facts |= {"bestLoss": best, "runCount": lambda: len(self.store.sweep_runs(sweep)), "runCountExpected": lambda: size(config)}
        facts |= {"project": lambda: self.project(sweep["entity"], sweep["project"])}
        facts |= {"runs": lambda first=1000, **paging: page([*map(self.run, self.store.sweep_runs(sweep))], first, **paging)}
        facts |= {"agents": lambda: page(agents(), len(agents()))}
        return facts | {"agent": lambda agentName: next((a for a in agents() if agentName in (a["id"], a["name"])), None)}

    def agent(self, agent: dict[str, Any]) -> dict[str, Any]:
        def runs() -> list[dict[str, Any]]:
            sweep = self.store.sweep(agent["sweep"])
            return [run for run in self.store.sweep_runs(sweep) if run["agent"] == agent["id"]] if sweep else []

        facts = {fact: agent[fact] for fact in ("id", "name", "host")} | {"__typename": "Agent", "state": "RUNNING"}
        facts |= {"createdAt": timestamp(agent["created"]), "heartbeatAt": timestamp(agent["heard"]), "totalRuns": lambda: len(runs())}
        return facts | {"runs": lambda **paging: page([*map(self.run, runs())], **paging)}

    def found(self, sweep_id: str) -> dict[str, Any]:
        """A sweep by its id or name; Missing where there is none."""
        sweep = self.store.sweep(sweep_id)
        if sweep is None:
            raise Missing(f"sweep {sweep_id} not found")
        return sweep

    def mutation_upsertSweep(
        self, id: str = "", config: str = "", state: str = "", entityName: str = "", projectName: str = "uncategorized", **_: Any
    ) -> dict[str, Any]:
        entity, now = entityName or self.entity, time.time()
        if id:
            sweep = self.found(id)
        else:
            # The same again in every server, so that random sweeps draw the same.
            number = len(self.store.sweeps(entity, projectName))
            name = hashlib.sha256(f"{entity}/{projectName}/{number}".encode()).hexdigest()[:8]
            sweep = {"id": identifier("sweep", name, projectName, entity), "name": name, "entity": entity, "project": projectName}
            sweep |= {"created": now, "state": "PENDING", "issued": 0}
        sweep["heard"] = now
        if config:
            # Refused here, as by the real server, not when the first agent asks.
            suggest(yaml.safe_load(config), sweep["name"], 0, ())
            sweep["config"] = config
        if state:
            sweep["state"] = state
        self.store.save_sweep(sweep)
        if state == "CANCELED":
            for run in self.store.sweep_runs(sweep):
                if run["state"] in LEFT:
                    self.stop_run(run)
        return {"sweep": self.sweep(sweep), "configValidationWarnings": []}

    def mutation_createAgent(self, host: str, sweep: str, **_: Any) -> dict[str, Any]:
        name, now = uuid.uuid4().hex[:8], time.time()
        agent = {
            "id": identifier("agent", name),
            "name": name,
            "host": host,
            "sweep": self.found(sweep)["id"],
            "created": now,
            "heard": now,
        }
        self.store.save_agent(agent)
        return {"agent": self.agent(agent)}

    def mutation_agentHeartbeat(self, id: str, runState: str = "{}", **_: Any) -> dict[str, Any]:
        """An agent tells which runs it has; one without a run gets the next one, told to wait (no command) or to exit."""
        agent = self.store.agent(id)
        if agent is None:
            raise Missing("agent not found")
        sweep = self.found(agent["sweep"])
        agent["heard"] = sweep["heard"] = time.time()
        self.store.save_agent(agent)
        reported = json.loads(runState)
        commands: list[dict[str, Any]] = []
        for run in self.store.sweep_runs(sweep):
            if run["agent"] != id:
                continue
            if run["name"] not in reported:
                self._left(run)
            elif run["stop"] or sweep["state"] == "CANCELED":
                self.stop_run(run)
                commands.append({"type": "stop", "run_id": run["name"]})
        if not reported:
            commands += self._next(sweep, id)
        self.store.save_sweep(sweep)
        return {"agent": self.agent(agent), "commands": json.dumps([command | {"id": uuid.uuid4().hex} for command in commands])}

    def _left(self, run: dict[str, Any]) -> None:
        if run["stop"] and run["state"] in ("pending", *LEFT):
            self.store.save_run(run | {"state": "killed"})
        elif run["state"] in LEFT:
            self.store.save_run(run | {"state": LEFT[run["state"]]})

    def _next(self, sweep: dict[str, Any], agent: str) -> Iterable[dict[str, Any]]:
        """The command for an idle agent: the run that was preempted first, else a new point. Failed and crashed runs do not come again."""
        if sweep["state"] == "CANCELED":
            return [{"type": "exit"}]
        if sweep["state"] == "PAUSED":
            return []
        runs, config = self.store.sweep_runs(sweep), yaml.safe_load(sweep["config"])
        waiting = [run for run in runs if run["state"] == "preempted"]
        if waiting:
            run = min(waiting, key=lambda run: run["heard"])
            return [self._given(run, "resume", config, agent)]
        if sweep["state"] not in ("PENDING", "RUNNING"):
            return [{"type": "exit"}]
        point = suggest(config, sweep["name"], sweep["issued"], [key(run["args"]) for run in runs])
        if point is None:
            sweep["state"] = "FINISHED"
            return [{"type": "exit"}]
        sweep["state"], sweep["issued"] = "RUNNING", sweep["issued"] + 1
        run = self.store.new_run(sweep["entity"], sweep["project"], uuid.uuid4().hex[:8])
        run |= {"displayName": f"sweep-{sweep['issued']}", "sweep": sweep["name"], "args": point, "config": dict(point)}
        return [self._given(run, "run", config, agent)]

    def _given(self, run: dict[str, Any], command: str, config: dict[str, Any], agent: str) -> dict[str, Any]:
        self.store.save_run(run | {"agent": agent, "state": "pending"})
        return {"type": command, "run_id": run["name"], "program": config.get("program"), "args": run["args"]}
