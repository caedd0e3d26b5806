"""What is around a run: a W&B server that goes away, a second process on the same run, clocks that are set back."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.faults.cases import Bench, Case, Process, expect
from benchmarks.faults.trials import Outcome, Trial

HOUR = 3600.0
# What a server that is gone may cost at most, in seconds: the time for an answer and that for the last uploads.
SERVER_SECONDS = 90


def trials(bench: Bench, quick: bool) -> Iterator[Trial]:
    """Servers that are lost in four ways, two processes on one run, three kinds of wrong clocks."""
    identity, contrastive = bench.entries("Identity")[0], bench.entries("Contrastive")[0]
    system = bench.entries("ModularSystem")[0]
    for way in ("absent", "hangs") if quick else ("absent", "hangs", "closes", "dies"):
        yield Trial("W&B server lost", partial(lose_server, bench, identity, way), waits=True)
    for index in [identity] if quick else [identity, contrastive, system]:
        yield Trial("two processes: one is at work", partial(second_process, bench, index))
        yield Trial("two processes: started at once", partial(both_at_once, bench, index))
        yield Trial("clock: the heartbeat's an hour off", partial(heartbeat, bench, index))
    for index in [identity] if quick else bench.entries()[::2]:
        yield Trial("clock: goes back while training", partial(clock_back, bench, index))


class Silent(BaseHTTPRequestHandler):
    """Takes requests and never answers (`hangs`), or closes the connection at once."""

    def do_POST(self) -> None:
        while self.server.hangs and not self.server.over.wait(0.1):  # type: ignore[attr-defined]
            pass
        self.close_connection = True

    do_GET = do_POST

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def server(way: str) -> Iterator[str]:
    """The address of a server on this machine that is absent, hangs, closes every connection, or hangs and is gone after some seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if way == "absent":
        yield f"http://127.0.0.1:{port}"
        return
    found = ThreadingHTTPServer(("127.0.0.1", port), Silent)
    found.daemon_threads, found.block_on_close = True, False
    over = threading.Event()
    found.hangs, found.over = way != "closes", over  # type: ignore[attr-defined]
    threading.Thread(target=found.serve_forever, daemon=True).start()
    gone = threading.Event()

    def end() -> None:
        over.set()
        if not gone.is_set():
            gone.set()
            found.shutdown()
            found.server_close()

    timer = threading.Timer(4.0, end)
    if way == "dies":
        timer.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        timer.cancel()
        end()


def lose_server(bench: Bench, index: int, way: str) -> Outcome:
    """Ends well in a bounded time with all its results; the seconds are those beyond an undisturbed run's."""
    with bench.case(index) as case, server(way) as address:
        environment = {"WANDB_MODE": "online", "WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40}
        environment |= {f"WANDB_{kind}_DIR": str(case.runs / kind.lower()) for kind in ("CONFIG", "CACHE", "DATA")}
        process = case.start(environment=environment)
        begin = case.until_started(process)
        ending = process.end()
        seconds = time.perf_counter() - begin - bench.seconds[index]
        expect(ending.code == 0, f"server {way}: {ending}")
        expect(ending.lines() and all(line.startswith("W&B: ") for line in ending.lines()), f"server {way}: does not say so: {ending}")
        expect(seconds < SERVER_SECONDS, f"server {way}: took {seconds:.0f} s more")
        case.compare()
    return Outcome(went_on=True, seconds=seconds)


@contextmanager
def paused(case: Case) -> Iterator[Process]:
    """A process that holds the run and rests, so that it cannot end before another comes."""
    process = case.start()
    case.until_started(process)
    process.send(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.send(signal.SIGCONT)


def refused(case: Case, holder: Process) -> None:
    """Another start ends at once and says who holds the run."""
    case.failed_clearly(case.start().end(), [2], f"held by process {holder.pid} on ")


def finish(case: Case, process: Process) -> None:
    ending = process.end()
    expect(ending.code == 0, f"the holder of the run: {ending}")
    case.compare()


def second_process(bench: Bench, index: int) -> Outcome:
    with bench.case(index) as case:
        with paused(case) as process:
            refused(case, process)
        finish(case, process)
    return Outcome(failed_clearly=True, went_on=True)


def both_at_once(bench: Bench, index: int) -> Outcome:
    """One trains; the other is refused, or comes late and finds it done."""
    with bench.case(index) as case:
        both = [case.start(), case.start()]
        endings = [process.end() for process in both]
        codes = sorted(ending.code for ending in endings)
        late = sum("done already" in ending.out for ending in endings)
        expect(codes == ([0, 0] if late else [0, 2]), f"two processes: {endings[0]}; {endings[1]}")
        if not late:
            case.failed_clearly(next(ending for ending in endings if ending.code == 2), [2], "held by process ")
        case.compare()
    return Outcome(failed_clearly=not late, went_on=True)


def heartbeat(bench: Bench, index: int) -> Outcome:
    """The holder's beat is an hour ahead or behind: others are refused as long as it lives, here or, where only the beat tells, elsewhere."""
    with bench.case(index) as case:
        with paused(case) as process:
            lock = case.directory / "lock"
            text = lock.read_text()
            now = lock.stat().st_mtime
            for shift in (HOUR, -HOUR):
                os.utime(lock, (now + shift, now + shift))
                refused(case, process)
            lock.write_text(json.dumps(json.loads(text) | {"host": "elsewhere", "space": "elsewhere"}))
            os.utime(lock, (now + HOUR, now + HOUR))
            refused(case, process)
            lock.write_text(text)
        finish(case, process)
    return Outcome(failed_clearly=True, went_on=True)


def clock_back(bench: Bench, index: int) -> Outcome:
    """The wall clock goes back an hour before the third epoch: everything is the same."""
    with bench.case(index) as case:
        ending = case.start("clock:3").end()
        expect(ending.code == 0 and ending.died == "clock", f"with the clock set back: {ending}")
        case.compare()
    return Outcome(went_on=True)
