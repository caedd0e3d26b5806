"""One start of `python -m train` on the first images of every class: the real thing, in seconds, with a fault planted in it where asked.

It runs in a process forked from one that has imported torch, as the pool's processes are, so a start takes a fraction of a second.
A fault is `<place>:<n>`: at the n-th passing of that place the process kills itself (SIGKILL), having left the place's name in a file.
"""

import dataclasses
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from data import datasets
from data.batches import Batch, Batches
from train import entry, evaluation, loop
from train.__main__ import main
from train.prefixes import PrefixedBatches

TRAIN_IMAGES, VALID_IMAGES, PART_IMAGES = 300, 100, 20
# An hour's epoch is followed by a checkpoint, so these short ones are; and one is written inside many of them.
SAVE_RATIO, SAVE_SECONDS = 0.0, 0.2


def start(argv: Sequence[str], environment: Mapping[str, str], output: Path, fault: str, limit: int) -> NoReturn:
    """The whole process: stdout and stderr go to <output>.out and .err, no file may exceed `limit` bytes (0: any), exits as the command does."""
    os.environ.update(environment)
    for number, suffix in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(f"{output}{suffix}", os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    # A killed process would leave tqdm's own lock, a semaphore, behind.
    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(1)
    shrink()
    if fault:
        place, _, count = fault.partition(":")
        PLACES[place](Fuse(place, int(count), Path(f"{output}.died")))
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(main(argv))


def shrink() -> None:
    """From here on this process knows small data sets, small parts of evaluations and frequent checkpoints."""
    full_load = datasets.load

    def load(name: str, root: Path | None = None) -> datasets.DataSet:
        full = full_load(name, root)
        return dataclasses.replace(full, train=first(full.train, TRAIN_IMAGES), valid=first(full.valid, VALID_IMAGES))

    datasets.load = load
    entry.PART = evaluation.PART = PART_IMAGES
    loop.SAVE_RATIO, loop.SAVE_SECONDS = SAVE_RATIO, SAVE_SECONDS


def first(split: datasets.Split, count: int) -> datasets.Split:
    chosen = datasets.class_balanced(split, count)
    return datasets.Split(split.images[chosen], split.labels[chosen], split.ids[chosen])


class Fuse:
    """Counts how often a place is passed."""

    def __init__(self, place: str, count: int, report: Path):
        self.place, self.left, self.report = place, count, report

    def due(self) -> bool:
        """Whether this is the n-th passing."""
        self.left -= 1
        return self.left == 0

    def blow(self) -> None:
        self.report.write_text(self.place)
        os.kill(os.getpid(), signal.SIGKILL)

    def blow_half_written(self, descriptor: int) -> None:
        """As if the kill had come in the middle of writing a file."""
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
        self.blow()


def in_batches(name: str) -> Callable[[Fuse], None]:
    """In the n-th epoch or validation, after its first batch."""

    def plant(fuse: Fuse) -> None:
        # Batches may be made from others, whose epochs and validations are no further ones.
        inside = False

        def counted(full: Callable[..., Iterator[Batch]]) -> Callable[..., Iterator[Batch]]:
            def batches(self: object, *arguments: Any) -> Iterator[Batch]:
                nonlocal inside
                outer, inside = not inside, True
                due = outer and fuse.due()
                for number, batch in enumerate(full(self, *arguments)):
                    if due and number:
                        fuse.blow()
                    yield batch
                if due:
                    fuse.blow()
                if outer:
                    inside = False

            return batches

        for kind in (Batches, PrefixedBatches):
            setattr(kind, name, counted(getattr(kind, name)))

    return plant


def in_search(fuse: Fuse) -> None:
    """In the n-th epoch of a level search, once it is trained and before it is noted."""
    full = loop.Loop.epoch

    def epoch(self: loop.Loop, training: loop.Training, batches: Batches) -> dict[str, Any]:
        row = full(self, training, batches)
        if training.stage.name.startswith("search") and fuse.due():
            fuse.blow()
        return row

    loop.Loop.epoch = epoch  # type: ignore[method-assign]


def in_writing(module: Any, function: str) -> Callable[[Fuse], None]:
    """In the n-th call of a function that writes a file, when half of it is written."""

    def plant(fuse: Fuse) -> None:
        full = getattr(module, function)

        def write(*arguments: Any, **options: Any) -> None:
            if fuse.due():
                os.fsync = fuse.blow_half_written  # type: ignore[assignment]
            full(*arguments, **options)

        setattr(module, function, write)

    return plant


def between_renames(fuse: Fuse) -> None:
    """In the n-th checkpoint, when the one before has its new name and the new one has not."""
    full = loop.save_checkpoint
    rename: Any = os.replace

    def rename_and_die(source: Any, target: Any, **options: Any) -> None:
        rename(source, target, **options)
        fuse.blow()

    def save(directory: Path, state: dict[str, Any]) -> None:
        if fuse.due():
            os.replace = rename_and_die  # type: ignore[assignment]
        full(directory, state)

    loop.save_checkpoint = save


def in_evaluation(fuse: Fuse) -> None:
    """After the n-th composition of an evaluation."""
    full: Any = evaluation.evaluate

    def evaluate(*arguments: Any) -> list[evaluation.Outcomes]:
        *others, tick = arguments

        def count(done: int) -> None:
            if fuse.due():
                fuse.blow()
            tick(done)

        return full(*others, count)

    evaluation.evaluate = evaluate  # type: ignore[assignment]


def clock(fuse: Fuse) -> None:
    """No kill: from the n-th epoch on the wall clock goes an hour behind."""
    full, now = loop.Loop.epoch, time.time

    def epoch(self: loop.Loop, training: loop.Training, batches: Batches) -> dict[str, Any]:
        if fuse.due():
            time.time = lambda: now() - 3600.0
            fuse.report.write_text(fuse.place)
        return full(self, training, batches)

    loop.Loop.epoch = epoch  # type: ignore[method-assign]


PLACES: dict[str, Callable[[Fuse], None]] = {
    "training": in_batches("epoch"),
    "validation": in_batches("validation"),
    "level search": in_search,
    "checkpoint write": in_writing(loop, "save_checkpoint"),
    "checkpoint rename": between_renames,
    "weights write": in_writing(loop, "save_weights"),
    "evaluation": in_evaluation,
    "evaluation write": in_writing(evaluation, "write_atomically"),
    "clock": clock,
}
