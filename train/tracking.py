"""W&B: one run per experiment or trial, online where there is an account and a server that answers, else offline. Training never waits for it.

The loop tells a tracker what happens and never asks whether there is one. A thread of the tracker's own talks to the client, so a
server that is gone, hangs or refuses holds nothing up, and no error of the client reaches the training. The local record is
complete without W&B: whatever did not arrive is sent from it later, by the next start of the run or by `python -m train sync`.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from errors import COME_AGAIN
from train.run import read_json, write_json
from train.subject import Subject, Table, values_of

PROJECT = "palimpsest"
# How long the server may take to answer before the run goes offline.
ANSWER_SECONDS = 8
# How long uploads may hold up the end of a run, and that of one that was told to stop; the client gives up by itself that much earlier.
FINISH_SECONDS = 60
STOP_SECONDS = 10
MARGIN_SECONDS = 10
# How often a client's service that was killed is started again in one run.
RESTARTS = 3


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def notice(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class WandbRun:
    """The W&B run of a subject. Its calls may wait and may raise whatever the client raises.

    It starts with all that the subject's files hold, and lies in `place`. `known` is for a record that `wandb sync` adds to a run of which
    the server has that many steps: it holds the others alone, counted from 0, as `wandb sync` goes on counting where the server's history ends.
    """

    def __init__(self, subject: Subject, online: bool, place: Path, known: int = 0):
        self.subject, self.online, self.shift = subject, online, known
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(variable, str(place / "wandb" / variable.split("_")[1].lower()))
        import wandb

        self.run = wandb.init(
            mode="online" if online else "offline",
            project=project(),
            id=subject.id,
            resume="allow",
            reinit="create_new",
            dir=str(place),
            settings=wandb.Settings(
                init_timeout=ANSWER_SECONDS, finish_timeout=max(1, FINISH_SECONDS - MARGIN_SECONDS), finish_timeout_raises=True,
                silent=True, console="off", disable_git=True, disable_code=True,
                sweep_id=subject.sweep or None, stop_fn=stop_this_process if subject.sweep else None,
            ),
            **subject.arguments(),
        )  # fmt: skip
        self.folder = Path(self.run.dir).parent
        # The last step that is told: a step is never told twice.
        self.last = (known or self.run.starting_step) - 1
        self.run.define_metric("epoch", hidden=True)
        for metrics in ("train/*", "valid/*", "lr", "images_per_second", "search/*"):
            self.run.define_metric(metrics, step_metric="epoch")
        try:
            self.catch_up()
        except Exception:
            # Damaged files, or a client that fails: left open, it would stay the client's active run.
            with suppress(Exception):
                self.run.finish(exit_code=1)
            raise

    def catch_up(self) -> None:
        """Tells what the subject's files hold and was not told."""
        for step, values in enumerate(self.subject.steps()):
            self.log(values, step)
        self.run.summary.update(self.subject.summary())

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Logs values as one step, unless that step or a later one is there already."""
        if step > self.last:
            # One that fails is not tried again: with a server that is gone, the client ponders over a table for 20 s.
            self.last = step
            self.run.log({key: client_form(value) for key, value in values.items()}, step=step - self.shift)

    def finish(self, exit_code: int, preempted: bool = True) -> None:
        """Ends the run: finished (0), failed, or, where it goes on later (COME_AGAIN), preempted (or else killed).

        Waits for the uploads; TimeoutError where they do not end.
        """
        if exit_code == COME_AGAIN and preempted:
            self.run.mark_preempting()
        self.run.finish(exit_code=exit_code)


def client_form(value: Any) -> Any:
    """A logged value as the client takes it."""
    if not isinstance(value, Table):
        return value
    import wandb

    return wandb.Table(columns=list(value.columns), data=list(value.rows))


def stop_this_process() -> None:
    """What the server's wish to stop a trial does: the training saves and ends."""
    os.kill(os.getpid(), signal.SIGTERM)


class Tracker:
    """What a training tells W&B, in a thread that alone waits for the client; nothing where WANDB_MODE is disabled.

    A client that fails costs one line on stderr and never raises; its service process is started again where it was killed. What the run's
    W&B record holds when it ends well is noted in wandb/record.json.
    """

    def __init__(self, subject: Subject):
        self._subject = subject
        self._calls: queue.SimpleQueue[Callable[[WandbRun], None] | None] = queue.SimpleQueue()
        self._whole, self._over, self._restarts = True, False, RESTARTS
        self._service: subprocess.Popen | None = None
        self._thread: threading.Thread | None = None
        mode = os.environ.get("WANDB_MODE", "")
        if mode != "disabled":
            self._offline = mode in ("offline", "dryrun")
            self._thread = threading.Thread(target=self._work, name="W&B", daemon=True)
            self._thread.start()

    def epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Logs a row of metrics.jsonl as a step. Steps are given, so a resumed run that computes a row again cannot log it twice."""
        self._tell(lambda run: run.log(values_of(row), step))

    def finish(self, exit_code: int = 0, seconds: float | None = None, preempted: bool = True) -> None:
        """Ends the run as WandbRun.finish does, after all that the subject's files hold, so an evaluation need not be told.

        In at most `seconds` (default: FINISH_SECONDS, or STOP_SECONDS for COME_AGAIN): uploads that take longer are cut off, and
        can be sent later.
        """
        if self._thread is None:
            return
        seconds = (STOP_SECONDS if exit_code == COME_AGAIN else FINISH_SECONDS) if seconds is None else seconds
        self._tell(WandbRun.catch_up)
        self._tell(lambda run: self._end(run, exit_code, preempted))
        self._calls.put(None)
        try:
            self._thread.join(seconds)
        finally:
            if self._thread.is_alive():
                self._over = True
                self._fail(f"not all was sent within {seconds:g} s")
                kill(self._service or service())
                self._thread.join(1)
            self._thread = None

    def _tell(self, call: Callable[[WandbRun], None]) -> None:
        if self._thread is not None:
            self._calls.put(call)

    def _work(self) -> None:
        # Signals are for the thread that trains.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        run = self._open()
        for call in iter(self._calls.get, None):
            while run is not None:
                try:
                    call(run)
                    break
                except (Exception, SystemExit) as error:
                    if self._may_restart():
                        # What the service had been told is in the run directory, and the new run starts with that.
                        run = self._open()
                        continue
                    self._fail(first_line(error))
                    run = run if service_runs() else None
                    break
        teardown()

    def _may_restart(self) -> bool:
        """Whether the service is gone (a cluster sends SIGTERM to every process of a job, and it obeys) and may be started again."""
        process = service()
        if process is not None:
            # Its connections close before it counts as ended.
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
        if service_runs() or self._over or self._restarts == 0:
            return False
        self._restarts -= 1
        teardown()
        return True

    def _open(self) -> WandbRun | None:
        """The run, offline where it cannot be online; None where the client does not work at all."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        place = self._subject.directory / "wandb"
        try:
            place.mkdir(exist_ok=True)
            import wandb

            online = not self._offline and has_account(wandb) and self._answers(wandb)
        except (Exception, SystemExit) as error:
            self._fail(first_line(error))
            return None
        while True:
            try:
                run = WandbRun(self._subject, online, self._subject.directory)
                self._service = service()
                return run
            except (Exception, SystemExit) as error:
                if self._may_restart():
                    continue
                if not online or self._over:
                    self._fail(first_line(error))
                    return None
                notice(f"W&B: {first_line(error)}; this run is recorded offline in {place}")
                teardown()
                online = False

    def _answers(self, wandb: Any) -> bool:
        problem = unreachable(wandb)
        if problem:
            notice(f"W&B: {problem}; this run is recorded offline")
        return not problem

    def _end(self, run: WandbRun, exit_code: int, preempted: bool) -> None:
        run.finish(exit_code, preempted)
        if self._whole:
            write_record(self._subject, run.folder.name, destination() if run.online else "")

    def _fail(self, problem: str) -> None:
        """Notes that the W&B run lacks something; says so the first time."""
        if self._whole:
            self._whole = False
            notice(f"W&B: {problem}; the run itself goes on, `python -m train sync` sends it to W&B later")


def project() -> str:
    return os.environ.get("WANDB_PROJECT") or PROJECT


def destination() -> str:
    """Where runs are sent to, as the environment says."""
    return "/".join([os.environ.get("WANDB_BASE_URL", ""), os.environ.get("WANDB_ENTITY", ""), project()])


def write_record(subject: Subject, folder: str, sent: str) -> None:
    """Notes that the W&B folder holds all that the subject's files do now, and where that was sent (empty: nowhere yet)."""
    place = subject.directory / "wandb"
    place.mkdir(exist_ok=True)
    write_json(place / "record.json", {"contents": subject.contents(), "folder": folder, "sent": sent})


def read_record(subject: Subject) -> dict[str, Any] | None:
    """The note about the W&B record, if that is complete as of now."""
    now = subject.contents()
    record = read_json(subject.directory / "wandb" / "record.json")
    return record if record and record["contents"] == now else None


def host_and_port(wandb: Any) -> tuple[str, int]:
    url = urlparse(os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url)
    return url.hostname or "", url.port or (443 if url.scheme == "https" else 80)


def has_account(wandb: Any) -> bool:
    """Whether an API key stands in the environment or in the netrc file, where `wandb login` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host_and_port(wandb)[0]) is not None
    except (OSError, NetrcParseError):
        return False


def unreachable(wandb: Any) -> str:
    """Why the server takes no connection within seconds; empty where it takes one."""
    host, port = host_and_port(wandb)
    try:
        socket.create_connection((host, port), ANSWER_SECONDS).close()
    except OSError as error:
        return f"{host}:{port} does not answer ({error})"
    return ""


def service() -> Any:
    """The client's service process (a Popen), None where there is none."""
    setup = sys.modules.get("wandb.sdk.wandb_setup")
    connection = getattr(getattr(setup, "_singleton", None), "_connection", None)
    return getattr(getattr(connection, "_proc", None), "_process", None)


def service_runs() -> bool:
    process = service()
    return process is not None and process.poll() is None


def kill(process: subprocess.Popen | None) -> None:
    if process is not None:
        process.kill()
        process.wait()


def abandon() -> None:
    """Ends the client's service at once: told to end while it asks a server that fails, it may never do so, and the process waits for it."""
    kill(service())
    teardown()


def teardown() -> None:
    """Ends the client's service; processes of the pool end without the client's own exit hook."""
    process = service()
    if "wandb" in sys.modules:
        with suppress(Exception, SystemExit):
            sys.modules["wandb"].teardown(0)
    kill(process)
