"""Being told to stop: SIGTERM, which a cluster sends before it takes a node away, only sets a flag; work stops where it can go on exactly.

A signal may come twice (the cluster sends it to every process of a job, and parents hand it on), so the handler does nothing else, and takes
no lock: the second one may come while the first is handled.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from errors import Interrupted

_told = False


def listen(*more: signal.Signals) -> None:
    """From now on SIGTERM sets the flag, and so do `more` the first time, unless they are ignored. For the entry points, in their main thread."""
    signal.signal(signal.SIGTERM, _note)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    for number in more:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _once)


def _note(number: int, frame: object) -> None:
    global _told
    _told = True


def _once(number: int, frame: object) -> None:
    _note(number, frame)
    # Who asks again will not wait.
    signal.signal(number, signal.SIG_DFL)


def told() -> bool:
    """Whether this process was told to stop."""
    return _told


def stop_if_told(where: str) -> None:
    """Interrupted with `where` (what was stopped and how it goes on) if this process was told to stop."""
    if told():
        raise Interrupted(where)


@contextmanager
def shielded() -> Iterator[None]:
    """Helper processes that start inside never see SIGTERM: they inherit a mask that blocks it. One that comes here is not lost, it waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
