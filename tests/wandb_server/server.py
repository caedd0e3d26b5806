"""A W&B server on the loopback interface for the tests: the real client logs, reads, syncs and sweeps with it. It can fail on purpose."""

import gzip
import json
import re
import socket
import threading
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import yaml

from tests.wandb_server.graphql import Unsupported, execute, parse
from tests.wandb_server.schema import Missing
from tests.wandb_server.store import Store, identifier
from tests.wandb_server.sweeps import SweepSchema

HANG = 0
KEY = "0" * 40


@dataclass
class Failure:
    """Requests whose path contains `where` are answered with `status`, or never where it is HANG; `times` of them (None: all)."""

    status: int
    where: str = ""
    times: int | None = None


class WandbServer:
    """The server, in threads of this process. `start` and `stop` may alternate: port and data stay.

    `counts` counts the requests by what they were, `unknown` holds the fields that clients asked for and got null.
    """

    def __init__(self, port: int = 0, database: str | Path = ":memory:", entity: str = "local"):
        self.store, self.entity, self.port = Store(database), entity, port
        self.counts: Counter[str] = Counter()
        self.unknown: set[str] = set()
        self.errors: list[str] = []
        self.failure: Failure | None = None
        self.released = threading.Event()
        self._http: _Http | None = None

    def start(self) -> "WandbServer":
        self._http = _Http(self, self.port)
        self.port = self._http.server_address[1]
        self.schema = SweepSchema(self.store, self.entity, self.url)
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Dies: refuses connections, cuts those that there are. The data stay."""
        if self._http is not None:
            self._http.die()
            self._http = None

    def __enter__(self) -> "WandbServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.recover()
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home: Path) -> dict[str, str]:
        """The variables with which a client finds this server, and keeps away from the user's own files."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_ENTITY": self.entity, "WANDB_MODE": "online", "HOME": str(home)}

    def fail(self, status: int, where: str = "", times: int | None = None) -> None:
        """From now on answers with an HTTP status, or HANG: never. `where`: only to paths that contain this, `times`: only so often."""
        self.released.clear()
        self.failure = Failure(status, where, times)

    def recover(self) -> None:
        """Answers again; requests that were left hanging are cut."""
        self.failure = None
        self.released.set()

    def run(self, name: str, project: str = "palimpsest") -> dict[str, Any] | None:
        """A run as stored (state, config, summary, tags, ...) with its `history` rows and `files`; None where there is none."""
        found = self.store.run(self.entity, project, name)
        return found and found | {"history": self.store.history(found["id"]), "files": self.store.files(found["id"])}

    def runs(self, project: str = "palimpsest") -> list[str]:
        """The ids of a project's runs."""
        return [run["name"] for run in self.store.runs(self.entity, project)]

    def sweeps(self, project: str = "palimpsest") -> list[str]:
        """The ids of a project's sweeps."""
        return [sweep["name"] for sweep in self.store.sweeps(self.entity, project)]

    def sweep(self, sweep_id: str) -> dict[str, Any]:
        """A sweep as stored (state, name, project, ...) with its `config` as a dictionary and its `runs` as stored, the oldest first.

        A run's `args` are its point, its `agent` the id of the agent that has or had it. Missing where there is no such sweep.
        """
        found = self.schema.found(sweep_id)
        return found | {"config": yaml.safe_load(found["config"]), "runs": self.store.sweep_runs(found)}

    def cancel(self, sweep_id: str) -> None:
        """Cancels a sweep, as `wandb sweep --cancel` does."""
        with self.store.lock:
            self.schema.mutation_upsertSweep(sweep_id, state="CANCELED")

    def stop_run(self, name: str, project: str = "palimpsest") -> None:
        """Tells a run to stop, as the web page's button does. Missing where there is no such run."""
        with self.store.lock:
            self.schema.mutation_stopRun(identifier("run", name, project, self.entity))

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and answer (bytes, or what becomes JSON) of a request."""
        if path == "/graphql":
            return self._graphql(json.loads(body))
        if match := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path):
            self.counts["file_stream"] += 1
            entity, project, name = map(unquote, match.groups())
            return 200, self.schema.file_stream(entity, project, name, json.loads(body))
        if match := re.fullmatch(r"/stored/([^/]+)/(.+)", path):
            self.counts[f"{method} file"] += 1
            owner, name = map(unquote, match.groups())
            if method == "PUT":
                self.store.put_file(owner, name, body)
                return 200, {}
            stored = self.store.file(owner, name)
            return (404, {"error": "not found"}) if stored is None else (200, stored)
        self.counts[f"{method} {path}"] += 1
        return (200, {}) if path == "/" else (404, {"error": "not found"})

    def _graphql(self, request: dict[str, Any]) -> tuple[int, Any]:
        operation = parse(request["query"])
        self.counts[f"{operation.kind} {operation.name}"] += 1
        root = self.schema.mutation() if operation.kind == "mutation" else self.schema.query()
        return 200, {"data": execute(operation, root, request.get("variables") or {}, self.unknown.add)}

    def injected(self, path: str) -> int | None:
        """The status with which this request is to fail."""
        failure = self.failure
        if failure is None or failure.where not in path:
            return None
        if failure.times is not None:
            failure.times -= 1
            if failure.times < 0:
                self.failure = None
                return None
        return failure.status


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, server: WandbServer, port: int):
        self.server = server
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are part of the tests."""

    def die(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""

    def handle_request(self) -> None:
        server, path = self.server.server, urlparse(self.path).path
        body = self.read_body()
        status = server.injected(path)
        if status == HANG:
            server.counts["hung"] += 1
            server.released.wait()
            self.close_connection = True
            return
        if status is not None:
            server.counts[f"answered {status}"] += 1
            self.send(status, {"error": "on purpose"})
            return
        try:
            self.send(*server.respond(self.command, path, body))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Missing as error:
            self.send(404, {"errors": [{"message": str(error)}]})
        except Exception as error:
            # 4xx, since the client tries again for a long time on 5xx.
            server.errors.append(traceback.format_exc())
            what = f"not supported: {error}" if isinstance(error, Unsupported) else repr(error)
            self.send(400, {"errors": [{"message": what}]})

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = handle_request

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def send(self, status: int, answer: Any) -> None:
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
