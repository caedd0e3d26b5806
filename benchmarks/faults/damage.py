"""Damaged files: checkpoints cut and flipped at random bytes, torn logs, in the directories of runs that were killed in the middle."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.faults.cases import Bench, expect
from benchmarks.faults.trials import Outcome, Trial
from train.run import read_jsonl

LAST, PREVIOUS = ("last.pt",), ("previous.pt",)
BOTH = LAST + PREVIOUS
# (row of the table, files, cut or flipped, what the program has to say)
CHECKPOINTS = [
    ("checkpoint cut: last.pt", LAST, "cut", "going on from previous.pt"),
    ("checkpoint cut: previous.pt", PREVIOUS, "cut", ""),
    ("checkpoint cut: both", BOTH, "cut", "the training begins again"),
    ("checkpoint with flipped bytes: last.pt", LAST, "flip", "going on from previous.pt"),
    ("checkpoint with flipped bytes: both", BOTH, "flip", "the training begins again"),
]
# In which epoch of its training a run is killed whose files are damaged then: a module is in its last training, after its search.
EPOCH = {"Module": 13}


class Killed:
    """Directories of runs that were killed in the middle of an epoch, made once each."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self._locks = {index: threading.Lock() for index in range(len(bench.experiments))}

    def runs(self, index: int) -> Path:
        """The folder of runs with the killed run of an entry."""
        runs = self.bench.folder / f"killed-{index}"
        with self._locks[index]:
            if not runs.exists():
                with self.bench.case(index, runs) as case:
                    case.die(f"training:{EPOCH.get(case.experiment.method, 4)}")
                    expect(all((case.directory / "checkpoint" / name).exists() for name in BOTH), "no two checkpoints to damage")
        return runs


def trials(bench: Bench, quick: bool) -> Iterator[Trial]:
    """Every kind of damage for every method that trains; quick: one method each, in turn."""
    killed = Killed(bench)
    trained = bench.entries()
    for number, (row, names, how, says) in enumerate(CHECKPOINTS):
        for index in [trained[number % len(trained)]] if quick else trained:
            yield Trial(
                row,
                partial(damage_checkpoints, killed, index, names, how, says, bench.random()),
            )
    for name in ("metrics.jsonl", "attempts.jsonl"):
        for index in trained[4:5] if quick else trained[::2]:
            yield Trial(f"{name} torn", partial(tear, killed, index, name, bench.random()))


def damage(path: Path, how: str, random: Random) -> None:
    """Cuts a file at a random byte, or changes up to eight random bytes."""
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[random.randrange(len(data)) :]
    else:
        for position in random.sample(range(len(data)), random.randint(1, 8)):
            data[position] ^= random.randint(1, 255)
    path.write_bytes(data)


def damage_checkpoints(killed: Killed, index: int, names: tuple[str, ...], how: str, says: str, random: Random) -> Outcome:
    """Goes on from the checkpoint before or begins again, says so in one line, and ends the same."""
    with killed.bench.case(index) as case:
        shutil.copytree(killed.runs(index), case.runs, dirs_exist_ok=True)
        for name in names:
            damage(case.directory / "checkpoint" / name, how, random)
        ending = case.go_on()
        expect(len(ending.lines()) == bool(says) and says in ending.err, f"does not say {says!r}: {ending}")
    return Outcome(went_on=True)


def tear(killed: Killed, index: int, name: str, random: Random) -> Outcome:
    """The last line of a log is cut, as by a crash of the machine; the run is killed once more before it goes on to the end."""
    with killed.bench.case(index) as case:
        shutil.copytree(killed.runs(index), case.runs, dirs_exist_ok=True)
        path = case.directory / name
        data = path.read_bytes()
        begin = data.rstrip(b"\n").rfind(b"\n") + 1
        path.write_bytes(data[: random.randint(begin + 1, len(data) - 2)])
        whole = len(read_jsonl(path))
        # What is written behind the torn line is not lost, and the log can be read after another kill.
        case.die("training:2")
        case.go_on()
        expect(len(read_jsonl(path)) >= whole + (2 if name == "attempts.jsonl" else 0), f"{name}: lines are missing")
    return Outcome(went_on=True)
