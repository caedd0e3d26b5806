"""Disks that are full or read-only, and run directories that are deleted under a process."""

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.faults.cases import Bench, Case, Unclear, expect
from benchmarks.faults.trials import Outcome, Trial

FULL_SPACE = "32m"
# Bytes that a file may have at most: too few for experiment.json, the first checkpoint, one with its best weights, the weights.
LIMITS = (700, 50_000, 500_000, 1_000_000)


def trials(bench: Bench, quick: bool) -> Iterator[Trial]:
    """Files that may not grow, a file system that fills up (root), one that becomes read-only, and deleted run directories."""
    trained = bench.entries()
    for number, limit in enumerate(LIMITS):
        for index in trained[number : number + 1] if quick else [trained[number], trained[-1 - number]]:
            yield Trial("disk full: files may not grow", partial(limited, bench, index, limit))
    if can_mount(bench.folder):
        for index in trained[:1] if quick else [*trained[1:5], bench.entries("ModularSystem")[0]]:
            yield Trial("disk full: a file system fills up", partial(full, bench, index, bench.random(), False))
        yield Trial("disk full: from the start", partial(full, bench, trained[0], bench.random(), True))
    # Root may write wherever the file system lets it.
    if can_mount(bench.folder) or os.geteuid() != 0:
        for index in trained[:1] if quick else trained[::3]:
            yield Trial("directory turns read-only", partial(read_only, bench, index, bench.random()))
    for index in trained[4:5] if quick else [*trained[::3], bench.entries("ModularSystem")[0]]:
        yield Trial("run directory deleted", partial(deleted, bench, index, bench.random()))


def can_mount(folder: Path) -> bool:
    """Whether this process may mount file systems."""
    place = folder / "mount"
    place.mkdir(exist_ok=True)
    if os.geteuid() != 0 or mount(place, "size=1m").returncode:
        return False
    unmount(place)
    return True


def mount(place: Path, options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)


def unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)


def remount(place: Path, options: str) -> None:
    """Changes a mounted file system; tried again while a file is open for writing there."""
    deadline = time.perf_counter() + 10
    while subprocess.run(["mount", "-o", f"remount,{options}", str(place)], capture_output=True).returncode:
        expect(time.perf_counter() < deadline, f"{place}: cannot be remounted with {options}")


@contextmanager
def mounted(bench: Bench, index: int, size: str) -> Iterator[Case]:
    """A case on a small file system of its own, which is unmounted in any case."""
    place = bench.folder / f"disk-{bench.number()}"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        with bench.case(index, place) as case:
            yield case
    finally:
        unmount(place)


def limited(bench: Bench, index: int, limit: int) -> Outcome:
    """No file may exceed some size: fails with one line and goes on once that is over."""
    with bench.case(index) as case:
        ending = case.start(limit=limit).end()
        case.failed_clearly(ending, [1], "cannot be written: File too large")
        case.go_on()
    return Outcome(failed_clearly=True, went_on=True)


def full(bench: Bench, index: int, random: Random, at_once: bool) -> Outcome:
    """The file system is filled by something else, at a random moment or before the start: fails with one line and goes on when there is space."""
    with mounted(bench, index, FULL_SPACE) as case:
        other = case.runs / "other"
        for _ in range(20):
            if not at_once:
                process = case.start()
                begin = case.until_started(process)
                sleep_until(begin + random.uniform(0, 0.8 * bench.seconds[index]))
            fill(other)
            if at_once:
                process = case.start()
            ending = process.end()
            other.unlink()
            if ending.code != 0:
                case.failed_clearly(ending, [2 if at_once else 1], "No space left on device")
                case.go_on()
                return Outcome(failed_clearly=True, went_on=True)
            case.compare()
            shutil.rmtree(case.directory)
    raise Unclear("ended before the disk was full in 20 starts")


def fill(path: Path) -> None:
    """Takes all the space that a file system has left."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.perf_counter()))


def read_only(bench: Bench, index: int, random: Random) -> Outcome:
    """Turns read-only at a random moment: fails with one line, a start there is refused with one, and it goes on when it can be written again."""
    if os.geteuid() == 0:
        with mounted(bench, index, FULL_SPACE) as case:
            return refuse_writing(bench, case, random, errno.EROFS, lambda: remount(case.runs, "ro"), lambda: remount(case.runs, "rw"))
    with bench.case(index) as case:
        return refuse_writing(
            bench, case, random, errno.EACCES, lambda: set_modes(case.directory, 0o555), lambda: set_modes(case.directory, 0o755)
        )


def set_modes(directory: Path, mode: int) -> None:
    """The permissions of a directory, and of the directories in it."""
    for place in (*(path for path in directory.rglob("*") if path.is_dir()), directory):
        place.chmod(mode)


def refuse_writing(bench: Bench, case: Case, random: Random, reason: int, shut: Callable[[], None], reopen: Callable[[], None]) -> Outcome:
    for _ in range(20):
        process = case.start()
        begin = case.until_started(process)
        sleep_until(begin + random.uniform(0, 0.8 * bench.seconds[case.index]))
        shut()
        try:
            ending = process.end()
            if ending.code != 0:
                case.failed_clearly(ending, [1], os.strerror(reason))
                case.failed_clearly(case.start().end(), [2], "cannot be written")
        finally:
            reopen()
        if ending.code != 0:
            case.go_on()
            return Outcome(failed_clearly=True, went_on=True)
        shutil.rmtree(case.directory)
    raise Unclear("ended before the directory was read-only in 20 starts")


def deleted(bench: Bench, index: int, random: Random) -> Outcome:
    """Deleted at a random moment: fails with one line, harms no other run, and begins again."""
    with bench.case(index) as case:
        for _ in range(20):
            process = case.start()
            begin = case.until_started(process)
            sleep_until(begin + random.uniform(0, 0.8 * bench.seconds[index]))
            aside = case.runs / "deleted"
            case.directory.rename(aside)
            shutil.rmtree(aside)
            ending = process.end()
            if ending.code != 0:
                case.failed_clearly(ending, [1, 2])
                case.go_on()
                return Outcome(failed_clearly=True, went_on=True)
            expect(not case.directory.exists(), f"its directory was deleted, yet it says that it is done: {ending.out}")
    raise Unclear("ended before its directory was deleted in 20 starts")
