"""W&B: one run per experiment, online where there is an account and a server that answers, else offline. Training never waits for it.

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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from data.compositions import n_corruptions
from errors import COME_AGAIN
from train.entry import Experiment
from train.run import evaluated, read_json, read_jsonl, resolved, write_json

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
    """An experiment's W&B run. Its calls may wait and may raise whatever the client raises.

    It starts with all that the run directory holds. `known` is for a record that `wandb sync` adds to a run of which the server has
    that many steps: it holds the others alone, counted from 0, as `wandb sync` goes on counting where the server's history ends.
    """

    def __init__(self, experiment: Experiment, tags: Sequence[str], online: bool, place: Path, known: int = 0):
        self.experiment, self.online, self.shift = experiment, online, known
        for variable in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            os.environ.setdefault(variable, str(place / "wandb" / variable.split("_")[1].lower()))
        import wandb

        self.run = wandb.init(
            mode="online" if online else "offline",
            project=project(),
            group=" ".join(filter(None, [experiment.dataset, experiment.study])),
            job_type=experiment.method,
            name=experiment.name,
            id=run_id(experiment),
            resume="allow",
            reinit="create_new",
            tags=sorted({*experiment.tags, *tags}),
            config=resolved(experiment),
            dir=str(place),
            settings=wandb.Settings(
                init_timeout=ANSWER_SECONDS, finish_timeout=max(1, FINISH_SECONDS - MARGIN_SECONDS), finish_timeout_raises=True,
                silent=True, console="off", disable_git=True, disable_code=True,
            ),
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
        """Tells what the run directory holds and was not told: rows, the facts about the training, the evaluation."""
        experiment = self.experiment
        for step, row in enumerate(read_jsonl(experiment.directory / "metrics.jsonl")):
            self.epoch(row, step)
        self.summary(read_json(experiment.directory / "done.json") or {})
        if experiment.is_system and evaluated(experiment):
            self.evaluation()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Logs values as one step, unless that step or a later one is there already."""
        if step > self.last:
            # One that fails is not tried again: with a server that is gone, the client ponders over a table for 20 s.
            self.last = step
            self.run.log(dict(values), step=step - self.shift)

    def epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Logs a row of metrics.jsonl: training curves, or those of a level of the search."""
        keys = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
        curves = {key.replace("_", "/", 1): row[key] for key in keys if key in row}
        if row["stage"] != "train":
            curves = {f"search/{row['stage'].removeprefix('search-')}/{key}": value for key, value in curves.items()}
        self.log(curves | {"epoch": row["epoch"], "lr": row["lr"], "images_per_second": row["images_per_second"]}, step)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Sets values of the run's summary."""
        self.run.summary.update(dict(values))

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Logs a W&B table as one step, likewise."""
        if step > self.last:
            import wandb

            self.log({key: wandb.Table(columns=list(columns), data=list(rows))}, step)

    def evaluation(self) -> None:
        """Logs the finished evaluation: the accuracy of every composition, the means by number of corruptions, and one table."""
        import h5py

        with h5py.File(self.experiment.directory / "evaluation" / f"{self.experiment.testing.key}.h5") as file:
            names = [name.decode() for name in file["composition"][()]]
            accuracies, losses = file["accuracy"][()].tolist(), file["loss"][()].tolist()
            n = int(file.attrs["n"])
        values = {f"composition/{name}/accuracy": accuracy for name, accuracy in zip(names, accuracies)}
        counts = [n_corruptions(tuple(name.split("-"))) for name in names]
        for count in sorted(set(counts)):
            group = [accuracy for accuracy, own in zip(accuracies, counts) if own == count]
            values[f"corruptions/{count}/accuracy"] = sum(group) / len(group)
        values["compositions/accuracy"] = sum(accuracies) / len(accuracies)
        step = len(read_jsonl(self.experiment.directory / "metrics.jsonl"))
        self.log(values, step)
        self.summary(values)
        rows = [list(row) for row in zip(names, counts, accuracies, losses, [n] * len(names))]
        self.table("compositions", ["composition", "n_corruptions", "accuracy", "loss", "n"], rows, step + 1)

    def finish(self, exit_code: int) -> None:
        """Ends the run: finished (0), failed, or, where it goes on later (COME_AGAIN), preempted.

        Waits for the uploads; TimeoutError where they do not end.
        """
        if exit_code == COME_AGAIN:
            self.run.mark_preempting()
        self.run.finish(exit_code=exit_code)


class Tracker:
    """What a training tells W&B, in a thread that alone waits for the client; nothing where WANDB_MODE is disabled.

    A client that fails costs one line on stderr and never raises; its service process is started again where it was killed. What the run's
    W&B record holds when it ends well is noted in wandb/record.json.
    """

    def __init__(self, experiment: Experiment, directory: Path, tags: tuple[str, ...] = ()):
        self._experiment, self._directory, self._tags = experiment, directory, tags
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
        self._tell(lambda run: run.epoch(row, step))

    def finish(self, exit_code: int = 0, seconds: float | None = None) -> None:
        """Ends the run as WandbRun.finish does, after all that the run directory holds, so an evaluation need not be told.

        In at most `seconds` (default: FINISH_SECONDS, or STOP_SECONDS for COME_AGAIN): uploads that take longer are cut off, and
        can be sent later.
        """
        if self._thread is None:
            return
        seconds = (STOP_SECONDS if exit_code == COME_AGAIN else FINISH_SECONDS) if seconds is None else seconds
        self._tell(WandbRun.catch_up)
        self._tell(lambda run: self._end(run, exit_code))
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
        _teardown()

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
        _teardown()
        return True

    def _open(self) -> WandbRun | None:
        """The run, offline where it cannot be online; None where the client does not work at all."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        place = self._directory / "wandb"
        try:
            place.mkdir(exist_ok=True)
            import wandb

            online = not self._offline and has_account(wandb) and self._answers(wandb)
        except (Exception, SystemExit) as error:
            self._fail(first_line(error))
            return None
        while True:
            try:
                run = WandbRun(self._experiment, self._tags, online, self._directory)
                self._service = service()
                return run
            except (Exception, SystemExit) as error:
                if self._may_restart():
                    continue
                if not online or self._over:
                    self._fail(first_line(error))
                    return None
                notice(f"W&B: {first_line(error)}; this run is recorded offline in {place}")
                _teardown()
                online = False

    def _answers(self, wandb: Any) -> bool:
        problem = unreachable(wandb)
        if problem:
            notice(f"W&B: {problem}; this run is recorded offline")
        return not problem

    def _end(self, run: WandbRun, exit_code: int) -> None:
        run.finish(exit_code)
        if self._whole:
            write_record(self._experiment, run.folder.name, destination() if run.online else "")

    def _fail(self, problem: str) -> None:
        """Notes that the W&B run lacks something; says so the first time."""
        if self._whole:
            self._whole = False
            notice(f"W&B: {problem}; the run itself goes on, `python -m train sync` sends it to W&B later")


def run_id(experiment: Experiment) -> str:
    """The id of an experiment's W&B run."""
    return experiment.hash[:16]


def project() -> str:
    return os.environ.get("WANDB_PROJECT") or PROJECT


def destination() -> str:
    """Where runs are sent to, as the environment says."""
    return "/".join([os.environ.get("WANDB_BASE_URL", ""), os.environ.get("WANDB_ENTITY", ""), project()])


def contents(experiment: Experiment) -> dict[str, Any]:
    """What the run directory holds for W&B: how many rows, whether the training is done, which evaluation."""
    return {
        "rows": len(read_jsonl(experiment.directory / "metrics.jsonl")),
        "done": (experiment.directory / "done.json").exists(),
        "evaluation": experiment.testing.key if experiment.is_system and evaluated(experiment) else "",
    }


def write_record(experiment: Experiment, folder: str, sent: str) -> None:
    """Notes that the W&B folder holds all that the run directory does now, and where that was sent (empty: nowhere yet)."""
    place = experiment.directory / "wandb"
    place.mkdir(exist_ok=True)
    write_json(place / "record.json", {"contents": contents(experiment), "folder": folder, "sent": sent})


def read_record(experiment: Experiment) -> dict[str, Any] | None:
    """The note about the run's W&B record, if that is complete as of now."""
    now = contents(experiment)
    record = read_json(experiment.directory / "wandb" / "record.json")
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


def _teardown() -> None:
    """Ends the client's service; processes of the pool end without the client's own exit hook."""
    process = service()
    if "wandb" in sys.modules:
        with suppress(Exception, SystemExit):
            sys.modules["wandb"].teardown(0)
    kill(process)
