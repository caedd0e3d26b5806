"""Tests of a value against values under a null hypothesis, one by one and over many. Loads without torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Against:
    """A value beside its null values: p is one-sided, (1 + number of null values at most as large) / (n + 1), so ties count against it.

    `p_low` to `p_high` is the 95 % interval of the null distribution's share (Clopper and Pearson); `low` to `high` holds 95 % of the null values. z is in
    their deviations (ddof 0): 0 where they all are the value, NaN where they are all another one.
    """

    n: int
    mean: float
    deviation: float
    z: float
    p: float
    p_low: float
    p_high: float
    low: float
    high: float

    @property
    def smallest(self) -> bool:
        """Whether no null value is as small."""
        return self.p == 1 / (self.n + 1)


def against(value: float, null: ArrayLike, right: bool = False) -> Against:
    """How small (with `right`, how large) a value is beside its null values, at least one."""
    values = np.asarray(null, dtype=np.float64)
    own, others = (-value, -values) if right else (value, values)
    n, count = len(values), int((others <= own).sum())
    mean, deviation = float(values.mean()), float(values.std())
    # Equal numbers have a deviation of rounding errors.
    deviation = 0.0 if np.ptp(values) == 0 else deviation
    distance = value - mean if deviation else value - float(values[0])
    z = distance / deviation if deviation else (0.0 if distance == 0 else float("nan"))
    interval = stats.binomtest(count, n).proportion_ci(method="exact")
    low, high = np.quantile(values, [0.025, 0.975])
    return Against(n, mean, deviation, z, (1 + count) / (n + 1), float(interval.low), float(interval.high), float(low), float(high))


def fisher(p_values: Sequence[float], n: int) -> float:
    """Fisher's combination of p-values from n null values each, shifted by half a step to the middle of the ranks; NaN for none."""
    if not len(p_values):
        return float("nan")
    shifted = np.clip(np.asarray(p_values) - 1 / (2 * (n + 1)), 1e-300, 1)
    return float(stats.combine_pvalues(shifted, method="fisher").pvalue)


def rank_chi_square(p_values: Sequence[float], n: int) -> float:
    """The p-value of a chi-square test that the ranks among n null values are uniform; two-sided in nature; NaN for none."""
    if not len(p_values):
        return float("nan")
    ranks = np.round(np.asarray(p_values) * (n + 1)).astype(int) - 1
    return float(stats.chisquare(np.bincount(ranks, minlength=n + 1)).pvalue)


def cohens_d(one: ArrayLike, other: ArrayLike) -> float:
    """The difference of two means over their pooled deviation (ddof 1); 0 for equal samples without any."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    pooled = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2))
    difference = a.mean() - b.mean()
    return float(difference / pooled) if pooled else float(np.copysign(np.inf, difference)) if difference else 0.0


def false_discovery(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Benjamini and Hochberg 1995)."""
    return stats.false_discovery_control(np.asarray(p_values)).tolist() if len(p_values) else []
