"""How a benchmark's figures are given: medians with their range, and one row per comparison."""

import statistics
from collections.abc import Sequence
from typing import Any


def spread(figures: Sequence[float]) -> str:
    """Median (minimum .. maximum)."""
    digits = 2 if statistics.median(figures) < 100 else 0
    return f"{statistics.median(figures):>12,.{digits}f}  ({min(figures):,.{digits}f} .. {max(figures):,.{digits}f})"


def row(name: str, ours: Sequence[float], other: Sequence[float], goal: float | None) -> dict[str, Any]:
    """One line of the table: medians of both sides, in images/s, and their ratio."""
    a, b = statistics.median(ours), statistics.median(other)
    return {"name": name, "ours": a, "other": b, "unit": "images/s", "ratio": a / b, "goal": goal}
