"""Further scores of a system's answers under every condition: those of the menu, as after the epochs of a training."""

from pathlib import Path

from analysis.options import Metrics
from analysis.seen import Seen
from analysis.table import Row
from losses.metrics import Tally


def run(seen: Seen, options: Metrics, folder: Path) -> list[Row]:
    """A row for each condition and metric."""
    rows: list[Row] = []
    for condition in seen.pictures.conditions:
        tally, start = Tally(seen.classes, seen.device), 0
        labels = seen.pictures.labels(options.split, condition, options.images)
        for logits in seen.responses(seen.system, options.split, condition, options.images):
            tally.add(logits, labels[start : start + len(logits)])
            start += len(logits)
        cells = seen.pictures.cells(options.split, condition)
        rows += [Row(name, value, **cells) for name, value in tally.values(options.metrics).items()]
    return rows
