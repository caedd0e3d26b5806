"""What the server keeps, in SQLite: runs, the lines of their file streams, files, sweeps and their agents."""

import base64
import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

TABLES = """
create table if not exists runs(
    id text primary key, entity text, project text, name text, record text, created real, unique(entity, project, name)
);
create table if not exists lines(run text, stream text, number integer, line text, primary key(run, stream, number));
create table if not exists files(owner text, name text, body blob, primary key(owner, name));
create table if not exists sweeps(id text primary key, entity text, project text, name text unique, record text);
create table if not exists agents(id text primary key, sweep text, record text);
"""
# How long a run may go without a word, in seconds, and what it counts as then, as on the real server.
CRASHED_AFTER = 300.0
SILENT = {"running": "crashed", "preempting": "preempted"}


def identifier(*parts: str) -> str:
    """An opaque id, as the real server's."""
    return base64.b64encode(":".join(parts).encode()).decode()


def timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Store:
    """Thread-safe; `lock` makes several calls one."""

    def __init__(self, path: str | Path = ":memory:"):
        self.lock = threading.RLock()
        self.database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.database.execute("pragma synchronous=off")
        self.database.executescript(TABLES)

    def rows(self, statement: str, *values: Any) -> list[tuple]:
        with self.lock:
            return self.database.execute(statement, values).fetchall()

    def new_run(self, entity: str, project: str, name: str) -> dict[str, Any]:
        now = time.time()
        run: dict[str, Any] = {"id": identifier("run", name, project, entity), "entity": entity, "project": project, "name": name}
        run |= {"displayName": name, "created": now, "heard": now, "state": "running", "exitcode": None, "stop": False, "preempting": False}
        run |= {
            "config": {},
            "summary": {},
            "tags": [],
            "group": None,
            "jobType": None,
            "notes": None,
            "host": None,
            "commit": None,
            "sweep": None,
            "args": {},
            "agent": None,
        }
        self.save_run(run)
        return run

    def save_run(self, run: dict[str, Any]) -> None:
        values = (run["id"], run["entity"], run["project"], run["name"], json.dumps(run), run["created"])
        self.rows("insert into runs values(?,?,?,?,?,?) on conflict(id) do update set record=excluded.record", *values)

    def run(self, entity: str, project: str, name: str) -> dict[str, Any] | None:
        return self._only("select record from runs where entity=? and project=? and name=?", entity, project, name)

    def run_of_id(self, run_id: str) -> dict[str, Any] | None:
        return self._only("select record from runs where id=?", run_id)

    def runs(self, entity: str, project: str) -> list[dict[str, Any]]:
        """The runs of a project, the oldest first."""
        found = self.rows("select record from runs where entity=? and project=? order by created, rowid", entity, project)
        return [self._as_of_now(json.loads(record)) for (record,) in found]

    def projects(self, entity: str) -> list[str]:
        return [project for (project,) in self.rows("select distinct project from runs where entity=?", entity)]

    def delete_run(self, run_id: str) -> None:
        for statement in ("delete from runs where id=?", "delete from lines where run=?", "delete from files where owner=?"):
            self.rows(statement, run_id)

    def _only(self, statement: str, *values: Any) -> dict[str, Any] | None:
        found = self.rows(statement, *values)
        return self._as_of_now(json.loads(found[0][0])) if found else None

    def _as_of_now(self, run: dict[str, Any]) -> dict[str, Any]:
        if run["state"] in SILENT and time.time() - run["heard"] > CRASHED_AFTER:
            run["state"] = "killed" if run["stop"] else SILENT[run["state"]]
        return run

    def save_sweep(self, sweep: dict[str, Any]) -> None:
        values = (sweep["id"], sweep["entity"], sweep["project"], sweep["name"], json.dumps(sweep))
        self.rows("insert into sweeps values(?,?,?,?,?) on conflict(id) do update set record=excluded.record", *values)

    def sweep(self, sweep: str) -> dict[str, Any] | None:
        """By its id or its name."""
        found = self.rows("select record from sweeps where ? in (id, name)", sweep)
        return json.loads(found[0][0]) if found else None

    def sweeps(self, entity: str, project: str) -> list[dict[str, Any]]:
        """The sweeps of a project, the oldest first."""
        found = self.rows("select record from sweeps where entity=? and project=? order by rowid", entity, project)
        return [json.loads(record) for (record,) in found]

    def sweep_runs(self, sweep: dict[str, Any]) -> list[dict[str, Any]]:
        """The runs of a sweep, the oldest first."""
        return [run for run in self.runs(sweep["entity"], sweep["project"]) if run["sweep"] == sweep["name"]]

    def save_agent(self, agent: dict[str, Any]) -> None:
        values = (agent["id"], agent["sweep"], json.dumps(agent))
        self.rows("insert into agents values(?,?,?) on conflict(id) do update set record=excluded.record", *values)

    def agent(self, agent_id: str) -> dict[str, Any] | None:
        found = self.rows("select record from agents where id=?", agent_id)
        return json.loads(found[0][0]) if found else None

    def agents(self, sweep_id: str) -> list[dict[str, Any]]:
        """The agents of a sweep, the oldest first."""
        return [json.loads(record) for (record,) in self.rows("select record from agents where sweep=? order by rowid", sweep_id)]

    def put_lines(self, run_id: str, stream: str, offset: int, lines: list[str]) -> None:
        with self.lock:
            for number, line in enumerate(lines, offset):
                self.database.execute("insert or replace into lines values(?,?,?,?)", (run_id, stream, number, line))

    def lines(self, run_id: str, stream: str) -> list[str]:
        return [line for (line,) in self.rows("select line from lines where run=? and stream=? order by number", run_id, stream)]

    def history(self, run_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines(run_id, "history")]

    def put_file(self, owner: str, name: str, body: bytes) -> None:
        self.rows("insert or replace into files values(?,?,?)", owner, name, body)

    def file(self, owner: str, name: str) -> bytes | None:
        found = self.rows("select body from files where owner=? and name=?", owner, name)
        return found[0][0] if found else None

    def files(self, owner: str) -> dict[str, int]:
        """Sizes in bytes by name."""
        return dict(self.rows("select name, length(body) from files where owner=? order by name", owner))
