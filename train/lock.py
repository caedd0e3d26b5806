"""The lock of a run directory: one process trains an experiment, any other sees who.

A file made with O_EXCL holds host, pid, the process's start time, the Slurm job with its restart and a token. Its modification time is the heartbeat.
It is taken over when its owner is seen dead: the process on the same host, the job that is gone from Slurm's queue (or was started again since), or, where
neither can be asked, ten beats that are missing. Beats are compared with the file system's own clock, so clocks of nodes may differ or jump.
"""

import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from errors import RunError
from train import slurm

BEAT = 10.0  # seconds


def process_state(pid: int) -> tuple[str, str]:
    """State letter and start time (in the kernel's ticks) of a process, which tell it from a later one of the same pid; empty where unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "", ""


def is_alive(pid: int, started: str) -> bool:
    """Whether that very process still runs on this host; one that has ended but was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    letter, now = process_state(pid)
    return letter != "Z" and (not started or not now or started == now)


def read_owner(path: Path) -> tuple[dict, float] | None:
    """The owner that stands in a lock and how old its heartbeat is, in seconds; None where there is no lock, {} as owner of one that is torn."""
    for _ in range(50):
        try:
            return json.loads(path.read_text()), file_clock(path.parent) - path.stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError):
            # Being written at this very moment, or torn by a crash: then only its age can tell.
            time.sleep(0.01)
    return {}, file_clock(path.parent) - _mtime(path)


def file_clock(directory: Path) -> float:
    """The time by the clock that stamps files in a directory, which is a server's where the directory is shared; this machine's where nothing can be written."""
    probe = directory / f".clock.{secrets.token_hex(4)}.tmp"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()
    except OSError:
        return time.time()


def here() -> str:
    """The space in which process ids have one meaning: the host, and inside it the pid namespace (containers have their own)."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def lives(owner: dict, age: float) -> bool:
    """Whether an owner with a heartbeat of this age (seconds; one from the future is fresh) still works."""
    if owner.get("space", owner.get("host")) == (here() if "space" in owner else socket.gethostname()):
        return is_alive(owner["pid"], owner.get("started", ""))
    if age > 10 * BEAT:
        return False
    job = owner.get("job")
    if not job:
        return True
    if job == slurm.this_job():
        # A job runs at one place at a time: an earlier start of ours is over.
        return owner.get("restart", 0) >= slurm.this_restart()
    return slurm.is_at_work(job) is not False


def holder(path: Path) -> dict | None:
    """Who holds the lock now, or None where nobody alive does."""
    found = read_owner(path)
    return found[0] if found is not None and lives(*found) else None


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def describe(owner: dict) -> str:
    """Who holds a lock, in words."""
    job = f", job {owner.get('task') or owner['job']}" if owner.get("job") else ""
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}{job}"


class Lock:
    """Held while the process works in a run directory; a thread keeps the heartbeat.

    `acquire` returns None when taken, or the holder's description. `check` raises RunError where the lock was lost.
    """

    def __init__(self, directory: Path):
        self.path = directory / "lock"
        self.token = secrets.token_hex(8)
        self._stop = threading.Event()
        self._lost = False

    def acquire(self) -> dict | None:
        """Takes the lock; returns None, or who holds it."""
        me = {
            "host": socket.gethostname(),
            "space": here(),
            "pid": os.getpid(),
            "started": process_state(os.getpid())[1],
            "job": slurm.this_job(),
            "task": slurm.this_task(),
            "restart": slurm.this_restart(),
            "token": self.token,
        }
        while True:
            try:
                descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                owner = holder(self.path)
                if owner is not None:
                    return owner
                self._clear()
                continue
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(me, file)
            except OSError:
                # The disk is full: an empty lock would keep others away for ten beats.
                self.path.unlink(missing_ok=True)
                raise
            threading.Thread(target=self._beat, daemon=True).start()
            return None

    def _clear(self) -> None:
        """Removes a dead owner's lock; the guard lets only one of several waiting processes do it."""
        guard = self.path.with_name("lock.takeover")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if file_clock(guard.parent) - _mtime(guard) > 10 * BEAT:
                guard.unlink(missing_ok=True)
            time.sleep(0.05)
            return
        try:
            # One that is gone already was given back, and may be another's by the time it would be removed.
            found = read_owner(self.path)
            if found is not None and not lives(*found):
                self.path.unlink(missing_ok=True)
        finally:
            guard.unlink(missing_ok=True)

    def _beat(self) -> None:
        missed = 0
        while not self._stop.wait(BEAT):
            try:
                self._lost = json.loads(self.path.read_text()).get("token") != self.token
                if not self._lost:
                    os.utime(self.path)
                missed = 0
            except (FileNotFoundError, ValueError):
                self._lost = True
            except OSError:
                # A shared file system may be away for a while; others take over after ten beats.
                missed += 1
                self._lost = missed > 8
            if self._lost:
                return

    def check(self) -> None:
        """RunError where another process took the lock over, or the run directory was deleted."""
        if self._lost or not self.path.exists():
            raise RunError(f"{self.path.parent}: the lock was lost (taken over, or the directory was deleted); stopped without saving")

    def release(self) -> None:
        """Gives the lock back, if it is still ours."""
        self._stop.set()
        try:
            if json.loads(self.path.read_text()).get("token") == self.token:
                self.path.unlink()
        except (OSError, ValueError):
            pass
