"""Trials of faults, two side by side, and the table of how they ended."""

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from benchmarks.faults.cases import Lost, Unclear

SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class Outcome:
    """How a trial of one or more faults ended: it failed clearly where it should, and went on to results that are the same to the bit.

    `seconds` are those that the row's note gives the largest of; `notes` are counted there.
    """

    faults: int = 1
    failed_clearly: bool = False
    went_on: bool = False
    seconds: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A row of the table and the fault to try; `waits` where it mostly waits and so needs no core."""

    row: str
    run: Callable[[], Outcome]
    waits: bool = False


@dataclass
class Row:
    """The sums of a row."""

    tried: int = 0
    went_on: int = 0
    failed_clearly: int = 0
    unclear: int = 0
    lost: int = 0
    seconds: list[float] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def note(self) -> str:
        counted = ", ".join(f"{count} in {note}" for note, count in self.notes.most_common())
        return counted or (f"at most {max(self.seconds):.2f} s" if self.seconds else "")


def run_trials(trials: Sequence[Trial], say: Callable[[str], None]) -> dict[str, Row]:
    """Runs all trials; `say` takes a line for each that ended badly."""
    rows = {trial.row: Row() for trial in trials}
    with ThreadPoolExecutor(SIDE_BY_SIDE) as working, ThreadPoolExecutor(SIDE_BY_SIDE) as waiting:
        futures = [(trial, (waiting if trial.waits else working).submit(trial.run)) for trial in trials]
        try:
            for trial, future in futures:
                add(rows[trial.row], trial.row, future, say)
        finally:
            # Interrupted from the keyboard, only what runs is waited for.
            for _, future in futures:
                future.cancel()
    return rows


def add(row: Row, name: str, future: "Future[Outcome]", say: Callable[[str], None]) -> None:
    """Adds the outcome of a trial to its row."""
    try:
        outcome = future.result()
    except Lost as problem:
        row.tried += 1
        row.lost += 1
        say(f"LOST     {name}: {problem}")
    except Exception as problem:
        row.tried += 1
        row.unclear += 1
        said = problem if isinstance(problem, Unclear) else "".join(traceback.format_exception(problem))
        say(f"UNCLEAR  {name}: {said}")
    else:
        row.tried += outcome.faults
        row.went_on += outcome.faults * outcome.went_on
        row.failed_clearly += outcome.faults * outcome.failed_clearly
        row.seconds += [] if outcome.seconds is None else [outcome.seconds]
        row.notes.update(outcome.notes)


def table(rows: dict[str, Row]) -> list[str]:
    """The lines of the table, the last one the sum."""
    width = max(len(name) for name in rows)
    lines = [f"{'fault':<{width}} {'tried':>6} {'went on':>8} {'failed clearly':>15} {'unclear':>8} {'lost':>5}"]
    for name, row in rows.items():
        line = f"{name:<{width}} {row.tried:>6} {row.went_on:>8} {row.failed_clearly:>15} {row.unclear:>8} {row.lost:>5}  {row.note()}"
        lines.append(line.rstrip())
    tried, lost, unclear = (sum(getattr(row, key) for row in rows.values()) for key in ("tried", "lost", "unclear"))
    return [*lines, "", f"{tried} faults tried, {lost} results lost" + (f", {unclear} ended unclearly" if unclear else "")]
