"""What all faults share: the list of experiments, undisturbed runs of it, and a case: one entry in a folder of its own, disturbed and compared."""

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

from train.entry import Experiment, Trained
from train.lists import read

_TRAINED = "dataset: 0, seed: 5, epochs: 6, batch_size: 64, threads: 1, evaluation: {images: 100, compositions: elementals}"
_SYSTEM = "dataset: 0, seed: 5, epochs: 6, batch_size: 64, threads: 1, evaluation: {images: 100}, corruptions: [ImpulseNoise]"
# Every method of the menu. The prerequisites of an entry are entries too.
LIST = f"""
- &base {{{_TRAINED}, method: Identity, lr: 0.05}}
- {{<<: *base, method: CrossEntropy}}
- {{<<: *base, method: CrossEntropy, batching: independent}}
- {{<<: *base, method: Contrastive, weight: 0.1}}
- {{<<: *base, method: Module, corruption: ImpulseNoise, level: auto, search_epochs: 2, weight: 0.1, backbone: {{lr: 0.05}}}}
- {{<<: *base, method: Autoencoder, corruption: ImpulseNoise}}
- {{<<: *base, method: Router, corruptions: [ImpulseNoise]}}
- {{<<: *base, method: JointClassifier, corruptions: [ImpulseNoise], autoencoder: {{lr: 0.05}}}}
- {{{_SYSTEM}, method: ModularSystem, backbone: {{lr: 0.05}}, module: {{level: auto, search_epochs: 2, lr: 0.05, weight: 0.1}}}}
- {{{_SYSTEM}, method: ImgSpaceIdentity, autoencoder: {{lr: 0.05}}, classifier: {{lr: 0.05}}}}
- {{{_SYSTEM}, method: ImgSpaceJoint, autoencoder: {{lr: 0.05}}, classifier: {{lr: 0.05}}}}
- {{<<: *base, method: Teacher, mechanism: B}}
- {{<<: *base, method: Student, mechanism: P, loss: CRD, augmentation: Mixup, teacher: {{mechanism: B, lr: 0.05}}}}
"""
# How long a start may take on a busy machine before it counts as hanging, in seconds.
PATIENCE = 300
TIMES = ("seconds", "images_per_second")


class Lost(Exception):
    """A result is not what it is without the fault, or something finished was harmed."""


class Unclear(Exception):
    """A fault did not end as it should: another exit code, no line or several that say what happened, a process that hangs."""


def expect(condition: object, problem: str) -> None:
    if not condition:
        raise Unclear(problem)


@dataclass(frozen=True)
class Ending:
    """How a process ended: exit code (negative: the signal), its output, what killed it from inside ("" if nothing)."""

    code: int
    out: str
    err: str
    died: str

    def lines(self) -> list[str]:
        return self.err.splitlines()

    def __str__(self) -> str:
        return f"exit code {self.code}, {self.err.strip() or 'nothing on stderr'}"


# Each exit code can be read once from multiprocessing, whose start() reads those of all children: of two threads that read at once, one would get 255.
_MULTIPROCESSING = threading.Lock()


class Process:
    """A process that was started, running; one thread may wait for it while others start and wait for theirs."""

    def __init__(self, process: ForkServerProcess, output: Path):
        self._process, self._output = process, output
        with _MULTIPROCESSING:
            process.start()
        assert process.pid is not None
        self.pid: int = process.pid

    def runs(self) -> bool:
        with _MULTIPROCESSING:
            return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, seconds: float = PATIENCE) -> Ending:
        """Waits for the end; Unclear where it does not come."""
        hangs = not wait([self._process.sentinel], seconds)
        if hangs:
            self.send(signal.SIGKILL)
            wait([self._process.sentinel])
        with _MULTIPROCESSING:
            self._process.join()
        expect(not hangs, f"did not end within {seconds:g} s")
        texts = [Path(f"{self._output}{suffix}") for suffix in (".out", ".err", ".died")]
        out, err, died = (path.read_text() if path.exists() else "" for path in texts)
        assert self._process.exitcode is not None
        return Ending(self._process.exitcode, out, err, died)


class Bench:
    """The list, a scratch folder and the undisturbed runs; `seconds` from start-up (the row in attempts.jsonl) to the end, by entry."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.seed = folder, seed
        self.list = folder / "list.yaml"
        self.list.write_text(LIST)
        self.experiments: list[Experiment] = [e.experiment for e in read(str(self.list))]
        self.reference = folder / "undisturbed"
        self.seconds: dict[int, float] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torch._dynamo", "benchmarks.faults.child"])
        self._numbers = iter(range(10**9))
        self._generators = iter(range(10**9))

    def number(self) -> int:
        """A new number, for the name of a file or folder."""
        return next(self._numbers)

    def random(self) -> Random:
        """A generator of its own for a trial, so that what it draws does not depend on the others."""
        return Random(f"{self.seed} {next(self._generators)}")

    def start(self, index: int, runs: Path, fault: str, limit: int, environment: Mapping[str, str]) -> Process:
        from benchmarks.faults import child

        output = self.folder / f"start-{self.number()}"
        given = {"PALIMPSEST_RUNS": str(runs), "WANDB_MODE": "disabled"} | dict(environment)
        arguments = ([str(self.list), "--index", str(index)], given, output, fault, limit)
        return Process(self._context.Process(target=child.start, args=arguments), output)

    def entries(self, *methods: str) -> list[int]:
        """The indices of the entries of these methods (default: all that train)."""
        if methods:
            return [index for index, experiment in enumerate(self.experiments) if experiment.method in methods]
        return [index for index, experiment in enumerate(self.experiments) if isinstance(experiment, Trained)]

    def waves(self) -> list[list[int]]:
        """The entries in waves, each after those it needs."""
        waves: list[list[int]] = []
        known: set[str] = set()
        left = dict(enumerate(self.experiments))
        while left:
            waves.append([index for index, e in left.items() if all(part.hash in known for part in e.requires())])
            known |= {left.pop(index).hash for index in waves[-1]}
        return waves

    def run_undisturbed(self, index: int) -> None:
        case = Case(self, index, self.reference)
        process = case.start()
        begin = case.until_started(process)
        ending = process.end()
        expect(ending.code == 0, f"undisturbed: {ending}")
        self.seconds[index] = time.perf_counter() - begin

    @contextmanager
    def case(self, index: int, place: Path | None = None) -> Iterator["Case"]:
        """A case in a fresh folder (or `place`) that holds the finished prerequisites; the folder is removed."""
        runs = place or self.folder / f"case-{self.number()}"
        for part in needed(self.experiments[index]):
            shutil.copytree(self.reference / relative(part), runs / relative(part))
        try:
            yield Case(self, index, runs)
        finally:
            if place is None:
                shutil.rmtree(runs)


def relative(experiment: Experiment) -> Path:
    """A run directory's place in the folder of runs."""
    return Path(experiment.dataset) / experiment.name


def needed(experiment: Experiment) -> list[Experiment]:
    """The prerequisites of an experiment, and theirs, each once."""
    found = {e.hash: e for part in experiment.requires() for e in (part, *needed(part))}
    return list(found.values())


class Case:
    """An entry in a folder of runs that holds its prerequisites and otherwise nothing."""

    def __init__(self, bench: Bench, index: int, runs: Path):
        self.bench, self.index, self.runs = bench, index, runs
        self.experiment = bench.experiments[index]
        self.directory = runs / relative(self.experiment)
        self.whole = bench.reference / relative(self.experiment)

    def start(self, fault: str = "", limit: int = 0, environment: Mapping[str, str] | None = None) -> Process:
        return self.bench.start(self.index, self.runs, fault, limit, environment or {})

    def until_started(self, process: Process) -> float:
        """Waits until the process has noted its attempt; the time (perf_counter) of that. Unclear where it ends before."""
        deadline = time.perf_counter() + PATIENCE
        while f'"pid": {process.pid},' not in self.text("attempts.jsonl"):
            if not process.runs():
                raise Unclear(f"ended too early: {process.end()}")
            expect(time.perf_counter() < deadline, "did not get to work")
            time.sleep(0.001)
        return time.perf_counter()

    def at_random(self, random: Random, number: signal.Signals, code: int) -> tuple[Ending, float]:
        """Sends a signal at a uniformly drawn moment between start-up and end; the ending that has that code, and the seconds it took.

        Where the process had ended by itself, all is put back and another moment drawn, now from the time that this start really takes.
        """
        span = self.bench.seconds[self.index]
        aside = self.directory.with_name("aside")
        for _ in range(50):
            if self.directory.exists():
                shutil.copytree(self.directory, aside)
            process = self.start()
            begin = self.until_started(process)
            moment = random.uniform(0, span)
            while process.runs() and time.perf_counter() < begin + moment:
                time.sleep(0.001)
            sent = time.perf_counter()
            process.send(number)
            ending = process.end()
            took = time.perf_counter() - sent
            if ending.code != 0:
                expect(ending.code == code, f"after {number.name}: {ending}")
                shutil.rmtree(aside, ignore_errors=True)
                return ending, took
            span = min(span, sent - begin)
            shutil.rmtree(self.directory)
            if aside.exists():
                aside.rename(self.directory)
        raise Unclear(f"ended before {number.name} in 50 starts")

    def die(self, fault: str) -> None:
        """Runs until the planted fault kills it."""
        ending = self.start(fault).end()
        expect(ending.code == -signal.SIGKILL and ending.died == fault.partition(":")[0], f"did not die in {fault}: {ending}")

    def go_on(self) -> Ending:
        """The same command to the end, then compares: Lost where a result differs."""
        ending = self.start().end()
        if ending.code != 0:
            raise Lost(f"does not go on: {ending}")
        self.compare()
        return ending

    def failed_clearly(self, ending: Ending, codes: Collection[int], *words: str) -> None:
        """Unclear unless it ended with one of these codes and one line that has these words; Lost where a finished run was harmed."""
        expect(ending.code in codes and len(ending.lines()) == 1, f"no clear failure: {ending}")
        expect(all(word in ending.err for word in words), f"does not say {', '.join(words)}: {ending}")
        if (self.directory / "done.json").exists():
            compare_trainings(self.directory, self.whole)
        self.compare_prerequisites()

    def text(self, name: str) -> str:
        path = self.directory / name
        return path.read_text() if path.exists() else ""

    def where(self) -> str:
        """What it was at, as its files say."""
        if (self.directory / "done.json").exists():
            return "evaluation"
        stages = [row["stage"] for row in read_rows(self.whole / "metrics.jsonl")] if (self.whole / "metrics.jsonl").exists() else []
        at = min(self.text("metrics.jsonl").count("\n"), len(stages) - 1)
        return "evaluation" if not stages else "level search" if stages[at].startswith("search") else "training"

    def compare(self) -> None:
        """Lost unless this run and its prerequisites hold what the undisturbed ones do, to the bit."""
        compare_runs(self.directory, self.whole)
        self.compare_prerequisites()

    def compare_prerequisites(self) -> None:
        for part in needed(self.experiment):
            compare_runs(self.runs / relative(part), self.bench.reference / relative(part))


def compare_trainings(run: Path, whole: Path) -> None:
    """Lost unless weights, metrics and facts (without times) of a finished training equal those of another to the bit."""
    for name, read_file in READERS.items():
        if (whole / name).exists() and not (run / name).exists():
            raise Lost(f"{run.name}: {name} is missing")
        if (whole / name).exists() and read_file(run / name) != read_file(whole / name):
            raise Lost(f"{run.name}: {name} differs")


def compare_runs(run: Path, whole: Path) -> None:
    """Lost unless a finished run's training and its evaluations equal those of another to the bit."""
    compare_trainings(run, whole)
    evaluations = [sorted(path.name for path in (place / "evaluation").glob("*.h5")) for place in (run, whole)]
    if evaluations[0] != evaluations[1]:
        raise Lost(f"{run.name}: evaluations {evaluations[0]}, not {evaluations[1]}")
    for name in evaluations[0]:
        if not same_arrays(run / "evaluation" / name, whole / "evaluation" / name):
            raise Lost(f"{run.name}: evaluation/{name} differs")
    left = [name for name in ("failed.json", "stopped.json", "lock") if (run / name).exists()]
    expect(not left, f"finished, but {', '.join(left)} is there")


def read_rows(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def read_done(path: Path) -> dict[str, Any]:
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "train_seconds"}


READERS: dict[str, Any] = {"weights.safetensors": Path.read_bytes, "metrics.jsonl": read_rows, "done.json": read_done}


def same_arrays(first: Path, second: Path) -> bool:
    """Whether two HDF5 files hold the same arrays and attributes, to the bit."""
    with h5py.File(first) as a, h5py.File(second) as b:
        return (
            set(a) == set(b)
            and all(np.asarray(a[key]).dtype == np.asarray(b[key]).dtype and np.array_equal(a[key][()], b[key][()]) for key in a)
            and dict(a.attrs) == dict(b.attrs)
        )
