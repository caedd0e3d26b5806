"""What the W&B client may ask the server and tell it, over a store: viewer, projects, runs, history, files, artifacts that are uploaded.

The client sees dictionaries of values and functions (see graphql.py). A kind of object is a method that makes its dictionary, a
mutation a method whose name starts with `mutation_`.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from tests.wandb_server.store import Store, identifier, timestamp

FEATURES = ["MARK_RUN_FILES_UPLOADED"]
COPIED = {"displayName": "displayName", "notes": "notes", "groupName": "group", "jobType": "jobType", "commit": "commit", "host": "host"}
COPIED |= {"sweep": "sweep", "tags": "tags", "state": "state"}
STREAMS = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "output"}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda value, other: other in value if isinstance(value, list) else value == other,
    "$ne": lambda value, other: value != other,
    "$in": lambda value, others: bool({*value} & {*others}) if isinstance(value, list) else value in others,
    "$nin": lambda value, others: value not in others,
    "$gt": lambda value, other: value is not None and value > other,
    "$gte": lambda value, other: value is not None and value >= other,
    "$lt": lambda value, other: value is not None and value < other,
    "$lte": lambda value, other: value is not None and value <= other,
    "$exists": lambda value, wanted: (value is not None) == wanted,
    "$regex": lambda value, pattern: value is not None and re.search(pattern, value) is not None,
}


class Missing(Exception):
    """There is no such run."""


def lookup(run: dict[str, Any], key: str) -> Any:
    """The value behind a key of a filter or an order, such as `summary_metrics.loss` or `config.lr.value`."""
    names = {"display_name": "displayName", "created_at": "created", "job_type": "jobType", "summary_metrics": "summary"}
    value: Any = run
    for part in (names.get(key) or re.sub(r"^summary_metrics", "summary", key)).split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value["value"] if isinstance(value, dict) and set(value) <= {"value", "desc"} and "value" in value else value


def matches(run: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a run passes a filter of wandb.Api (MongoDB's language)."""
    for key, condition in wanted.items():
        if key in ("$and", "$or"):
            if condition and not (all if key == "$and" else any)(matches(run, part) for part in condition):
                return False
        elif key == "$not":
            if matches(run, condition):
                return False
        else:
            compared = condition if isinstance(condition, dict) and any(k.startswith("$") for k in condition) else {"$eq": condition}
            if not all(COMPARISONS[name](lookup(run, key), other) for name, other in compared.items()):
                return False
    return True


def page(nodes: Sequence[Any], first: int = 50, after: str = "", **_: Any) -> dict[str, Any]:
    """A page of a connection; the cursor is the position."""
    start = int(after or 0)
    chosen = nodes[start : start + first]
    end = start + len(chosen)
    ahead = {
        "__typename": "PageInfo",
        "startCursor": str(start),
        "endCursor": str(end),
        "hasNextPage": end < len(nodes),
        "hasPreviousPage": start > 0,
    }
    return {"edges": [{"node": node, "cursor": str(start + number)} for number, node in enumerate(chosen, 1)], "pageInfo": ahead}


def thinned(rows: list[Any], count: int) -> list[Any]:
    """At most `count` rows, evenly spread, first and last among them."""
    if len(rows) <= count:
        return rows
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)] if count > 1 else rows[-1:]


class Schema:
    """The roots of queries and mutations for one store and one entity; `url` is the server's own."""

    def __init__(self, store: Store, entity: str, url: str):
        self.store, self.entity, self.url = store, entity, url

    def query(self) -> dict[str, Any]:
        def project(name: str = "uncategorized", entityName: str = "", **_: Any) -> dict[str, Any]:
            return self.project(entityName or self.entity, name)

        def projects(entityName: str = "", **paging: Any) -> dict[str, Any]:
            owner = entityName or self.entity
            return page([self.project(owner, name) for name in self.store.projects(owner)], **paging)

        versions = json.dumps({"max_cli_version": "99.0.0"})
        features = [{"name": name, "isEnabled": True} for name in FEATURES]
        return {
            "viewer": self.user,
            "project": project,
            "model": project,
            "models": projects,
            "entity": lambda name="", **_: self.owner(name or self.entity),
            "organization": None,
            "serverInfo": {"features": features, "cliVersionInfo": versions, "latestLocalVersionInfo": None},
        }

    def mutation(self) -> dict[str, Any]:
        def call(method: Callable[..., Any], input: dict[str, Any] | None = None, **_: Any) -> Any:
            with self.store.lock:
                return method(**{key: value for key, value in (input or {}).items() if value is not None})

        prefix = "mutation_"
        return {name.removeprefix(prefix): partial(call, getattr(self, name)) for name in dir(self) if name.startswith(prefix)}

    def user(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"__typename": "User", "id": identifier("user", self.entity), "name": self.entity, "username": self.entity}
        facts |= {"email": f"{self.entity}@localhost", "admin": False, "flags": "{}", "entity": self.entity, "deletedAt": None}
        return facts | {"apiKeys": {"edges": []}, "teams": {"edges": [{"node": {"name": self.entity}}]}}

    def owner(self, name: str) -> dict[str, Any]:
        return {"id": identifier("entity", name), "name": name, "organization": None, "isTeam": False, "defaultAccess": "USER_WRITE"}

    def project(self, entity: str, name: str) -> dict[str, Any]:
        def runs(filters: str = "{}", order: str = "+created_at", **paging: Any) -> dict[str, Any]:
            found = [run for run in self.store.runs(entity, name) if matches(run, json.loads(filters))]
            key = order.split(",")[0]
            known = sorted(
                (run for run in found if lookup(run, key.lstrip("+-")) is not None), key=lambda run: lookup(run, key.lstrip("+-"))
            )
            ordered = known[::-1] if key.startswith("-") else known
            return page([self.run(run) for run in ordered + [run for run in found if run not in known]], **paging)

        def run(**given: Any) -> dict[str, Any] | None:
            found = self.store.run(entity, name, given["name"])
            return self.run(found) if found else None

        facts: dict[str, Any] = {
            "__typename": "Project",
            "id": identifier("project", name, entity),
            "internalId": "1",
            "name": name,
            "entityName": entity,
        }
        facts |= {"entity": self.owner(entity), "user": self.user, "access": "USER_WRITE", "readOnly": False, "isBenchmark": False}
        facts |= {"createdAt": timestamp(time.time()), "description": "", "views": "{}"}
        count = lambda filters="{}", **_: sum(matches(run, json.loads(filters)) for run in self.store.runs(entity, name))  # noqa: E731
        return facts | {"run": run, "bucket": run, "runs": runs, "runCount": count}

    def run(self, run: dict[str, Any]) -> dict[str, Any]:
        store, own = self.store, run["id"]

        def stream(name: str) -> list[str]:
            return store.lines(own, name)

        def history(minStep: int = 0, maxStep: float = float("inf"), samples: int = 10**9, **_: Any) -> list[str]:
            rows = [row for row in store.history(own) if minStep <= row.get("_step", 0) < maxStep]
            return [json.dumps(row) for row in thinned(rows, samples)]

        def sampled(specs: str | list[str], **_: Any) -> list[list[dict[str, Any]]]:
            answers = []
            # GraphQL takes one value for a list of one.
            for spec in map(json.loads, [specs] if isinstance(specs, str) else specs):
                keys = spec.get("keys") or []
                rows = [{key: row[key] for key in keys} for row in store.history(own) if all(key in row for key in keys)]
                answers.append(thinned(rows, spec.get("samples") or 500))
            return answers

        def keys() -> dict[str, Any] | None:
            rows = store.history(own)
            found: dict[str, Any] = {}
            for row in rows:
                for key, value in row.items():
                    kind = "number" if isinstance(value, int | float) else "string"
                    counted = found.setdefault(
                        key, {"typeCounts": [{"type": kind, "count": 0}], "monotonic": False, "previousValue": value}
                    )
                    counted["typeCounts"][0]["count"] += 1
            return {"sets": [], "keys": found, "lastStep": max(row.get("_step", 0) for row in rows)} if rows else None

        def files(names: Sequence[str] = (), pattern: str = "", **paging: Any) -> dict[str, Any]:
            like = re.compile(re.escape(pattern).replace("%", ".*")) if pattern else None
            nodes = [
                {"id": identifier("file", name, own), "name": name, "displayName": name, "sizeBytes": size, "mimetype": "", "md5": ""}
                | {"url": self.file_url(own, name), "directUrl": self.file_url(own, name), "updatedAt": timestamp(run["heard"])}
                for name, size in store.files(own).items()
                if (not names or name in names) and (like is None or like.fullmatch(name))
            ]
            return page(nodes, **paging)

        def parquet(liveKeys: Sequence[str] = (), **_: Any) -> dict[str, Any]:
            return {"parquetUrls": [], "liveData": [row for row in store.history(own) if all(key in row for key in liveKeys)]}

        plain = {
            key: run[key] for key in ("name", "displayName", "state", "group", "jobType", "notes", "host", "commit", "tags", "exitcode")
        }
        facts = {
            "__typename": "Run",
            "id": own,
            "projectId": "1",
            "groupName": run["group"],
            "sweepName": run["sweep"],
            "description": run["notes"],
        }
        facts |= {"createdAt": timestamp(run["created"]), "heartbeatAt": timestamp(run["heard"]), "readOnly": False, "runInfo": None}
        facts |= {
            "shouldStop": run["stop"],
            "stopped": run["stop"],
            "failed": run["state"] == "failed",
            "running": run["state"] == "running",
        }
        facts |= {"config": json.dumps(run["config"]), "summaryMetrics": json.dumps(run["summary"]), "user": self.user}
        facts |= {
            f"{name}LineCount": partial(lambda which: len(stream(which)), stored)
            for name, stored in (("history", "history"), ("events", "events"), ("log", "output"))
        }
        facts |= {f"{name}Tail": partial(lambda which: json.dumps(stream(which)[-1:]), name) for name in ("history", "events")}
        facts |= {
            "systemMetrics": lambda: (stream("events") or ["{}"])[-1],
            "events": lambda samples=10**9, **_: thinned(stream("events"), samples),
        }
        facts |= {"wandbConfig": lambda **_: json.dumps({"t": 1}), "project": lambda: self.project(run["entity"], run["project"])}
        facts |= {"history": history, "sampledHistory": sampled, "historyKeys": keys, "parquetHistory": parquet}
        return plain | facts | {"files": files, "fileCount": lambda: len(store.files(own))}

    def file_url(self, owner: str, name: str) -> str:
        return f"{self.url}/stored/{quote(owner, safe='')}/{quote(name)}"

    def mutation_upsertBucket(
        self, id: str = "", name: str = "", modelName: str = "uncategorized", entityName: str = "", **given: Any
    ) -> dict[str, Any]:
        entity = entityName or self.entity
        run = self.store.run_of_id(id) if id else self.store.run(entity, modelName, name)
        if id and run is None:
            raise Missing("run not found")
        inserted = run is None
        if run is None:
            run = self.store.new_run(entity, modelName, name or uuid.uuid4().hex[:8])
        if "config" in given:
            run["config"] |= json.loads(given["config"])
        if "summaryMetrics" in given:
            run["summary"] = json.loads(given["summaryMetrics"])
        run |= {stored: given[key] for key, stored in COPIED.items() if key in given}
        if "state" not in given and "host" in given:
            # A client that starts, for the first time or again.
            run |= {"state": "running", "preempting": False, "exitcode": None}
        run["heard"] = time.time()
        self.store.save_run(run)
        return {"bucket": self.run(run), "inserted": inserted}

    def mutation_upsertModel(self, name: str, entityName: str = "", **_: Any) -> dict[str, Any]:
        project = self.project(entityName or self.entity, name)
        return {"project": project, "model": project, "inserted": True}

    def mutation_deleteRun(self, id: str, **_: Any) -> dict[str, Any]:
        self.store.delete_run(id)
        return {"clientMutationId": None, "success": True}

    def mutation_stopRun(self, id: str, **_: Any) -> dict[str, Any]:
        run = self.store.run_of_id(id)
        if run is None:
            raise Missing("run not found")
        self.stop_run(run)
        return {"clientMutationId": None, "success": True}

    def stop_run(self, run: dict[str, Any]) -> None:
        """From now on the run is told to stop; one that waits for an agent to go on will not. No start takes that back."""
        self.store.save_run(run | {"stop": True, "state": "killed" if run["state"] == "preempted" else run["state"]})

    def mutation_createRunFiles(self, entityName: str, projectName: str, runName: str, files: Sequence[str], **_: Any) -> dict[str, Any]:
        run = self.store.run(entityName, projectName, runName)
        if run is None:
            raise Missing("run not found")
        targets = [{"name": name, "uploadUrl": self.file_url(run["id"], name)} for name in files]
        return {"runID": run["id"], "uploadHeaders": [], "files": targets}

    def mutation_markRunFilesUploaded(self, **_: Any) -> dict[str, Any]:
        return {"success": True}

    def mutation_createArtifact(
        self, entityName: str, projectName: str, artifactTypeName: str = "", digest: str = "", **given: Any
    ) -> dict[str, Any]:
        name = given.get("artifactCollectionName") or (given.get("artifactCollectionNames") or ["artifact"])[0]
        sequence = {
            "id": identifier("sequence", name),
            "name": name,
            "project": self.project(entityName, projectName),
            "latestArtifact": None,
        }
        artifact: dict[str, Any] = {
            "__typename": "Artifact",
            "id": identifier("artifact", name, digest),
            "state": "PENDING",
            "digest": digest,
            "commitHash": "",
        }
        artifact |= {"versionIndex": 0, "artifactType": {"id": "type", "name": artifactTypeName}, "aliases": [], "files": None}
        return {"artifact": artifact | {"artifactSequence": sequence}}

    def mutation_createArtifactManifest(self, artifactID: str, name: str, **_: Any) -> dict[str, Any]:
        file = {"id": name, "uploadUrl": self.file_url(artifactID, name), "uploadHeaders": []}
        return {"artifactManifest": {"id": identifier("manifest", artifactID), "file": file}}

    def mutation_updateArtifactManifest(self, artifactManifestID: str, **_: Any) -> dict[str, Any]:
        file = {"id": "manifest", "uploadUrl": self.file_url(artifactManifestID, "manifest.json"), "uploadHeaders": []}
        return {"artifactManifest": {"id": artifactManifestID, "file": file}}

    def mutation_createArtifactFiles(self, artifactFiles: Sequence[dict[str, Any]], **_: Any) -> dict[str, Any]:
        nodes: list[dict[str, Any]] = [
            {
                "id": file["name"],
                "name": file["name"],
                "displayName": file["name"],
                "storagePath": f"local/{file['name']}",
                "uploadHeaders": [],
            }
            | {
                "uploadUrl": self.file_url(file["artifactID"], file["name"]),
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in artifactFiles
        ]
        return {"files": {"edges": [{"node": node} for node in nodes]}}

    def mutation_commitArtifact(self, artifactID: str, **_: Any) -> dict[str, Any]:
        return {"artifact": {"id": artifactID, "digest": "", "state": "COMMITTED"}}

    def mutation_useArtifact(self, artifactID: str, **_: Any) -> dict[str, Any]:
        return {"artifact": {"id": artifactID, "digest": "", "state": "COMMITTED"}}

    def file_stream(self, entity: str, project: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Takes a message of a run's file stream: lines at an offset, the summary, whether the run is complete or about to be preempted."""
        with self.store.lock:
            run = self.store.run(entity, project, name)
            if run is None:
                raise Missing("run not found")
            for file, chunk in (body.get("files") or {}).items():
                lines = chunk.get("content") or []
                if file in STREAMS:
                    self.store.put_lines(run["id"], STREAMS[file], chunk.get("offset", 0), lines)
                elif file == "wandb-summary.json" and lines:
                    run["summary"] = json.loads(lines[-1])
            run["heard"] = time.time()
            if run["state"] == "crashed":
                run["state"] = "running"
            if body.get("preempting"):
                run |= {"preempting": True, "state": "preempting"}
            if body.get("complete"):
                run["exitcode"] = body.get("exitcode", 0)
                ended = "killed" if run["stop"] else "preempted" if run["preempting"] else "failed"
                run["state"] = "finished" if run["exitcode"] == 0 else ended
            self.store.save_run(run)
            return {"exitcode": None, "limits": {}, "stopped": run["stop"]}
