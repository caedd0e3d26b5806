"""The lock of a run directory: one process trains an experiment, any other sees who.

A file made with O_EXCL holds host, pid, the process's start time, the Slurm job and a token. Its modification time is the heartbeat. It is taken over
when its owner is seen dead on the same host, or when ten beats are missing.
"""

import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from errors import RunError

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
            age = time.time() - path.stat().st_mtime
            return json.loads(path.read_text()), age
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError):
            # Being written at this very moment, or torn by a crash: then only its age can tell.
            time.sleep(0.01)
    return {}, time.time() - _mtime(path)


def lives(owner: dict, age: float) -> bool:
    """Whether an owner with a heartbeat of this age still works."""
    if abs(age) > 10 * BEAT:
        return False
    return owner.get("host") != socket.gethostname() or is_alive(owner["pid"], owner.get("started", ""))


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
    job = f", job {owner['job']}" if owner.get("job") else ""
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
            "pid": os.getpid(),
            "started": process_state(os.getpid())[1],
            "job": os.environ.get("SLURM_JOB_ID", ""),
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
            with os.fdopen(descriptor, "w") as file:
                json.dump(me, file)
            threading.Thread(target=self._beat, daemon=True).start()
            return None

    def _clear(self) -> None:
        """Removes a dead owner's lock; the guard lets only one of several waiting processes do it."""
        guard = self.path.with_name("lock.takeover")
        try:
            os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if time.time() - _mtime(guard) > 10 * BEAT:
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
        while not self._stop.wait(BEAT):
            try:
                if json.loads(self.path.read_text()).get("token") != self.token:
                    self._lost = True
                    return
                os.utime(self.path)
            except (OSError, ValueError):
                self._lost = True
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
