"""How a benchmark's figures are given: medians with their range, and one row per comparison."""

import multiprocessing
import signal
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import torch


def spread(figures: Sequence[float]) -> str:
    """Median (minimum .. maximum)."""
    digits = 2 if statistics.median(figures) < 100 else 0
    return f"{statistics.median(figures):>12,.{digits}f}  ({min(figures):,.{digits}f} .. {max(figures):,.{digits}f})"


def processes(count: int) -> ProcessPoolExecutor:
    """Fresh processes with one thread of torch each; control-C ends them without a word."""
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)


# What is to be high; all else is to be low.
HIGH = ("images/s", "share", "FLOP/s")


@dataclass(frozen=True)
class Figure:
    """One line of the table: what both sides took in every round, and the goal of their ratio; no figures where it could not be measured.

    What it is in says whether that is at least (HIGH) or at most.
    """

    name: str
    ours: Sequence[float]
    other: Sequence[float]
    goal: float | None = None
    unit: str = "images/s"

    @property
    def at_most(self) -> bool:
        """Whether less is better, as of times."""
        return self.unit not in HIGH

    @property
    def measured(self) -> bool:
        return bool(self.ours and self.other)

    @property
    def ratio(self) -> float:
        """Ours over the other's: the median over rounds, whose sides come one after the other, so what the machine does beside falls on both."""
        if len(self.ours) == len(self.other):
            return statistics.median(a / b for a, b in zip(self.ours, self.other))
        return statistics.median(self.ours) / statistics.median(self.other)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest ratio of a round; of the medians alone where rounds are not paired."""
        ratios = [a / b for a, b in zip(self.ours, self.other)] if len(self.ours) == len(self.other) else [self.ratio]
        return min(ratios), max(ratios)

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none or nothing was measured."""
        if self.goal is None or not self.measured:
            return None
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds of every side in every round, one after the other; a first round, which warms up, does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, call in sides.items():
            start = perf_counter()
            call()
            if number:
                seconds[name].append(perf_counter() - start)
    return seconds
