"""Pearson's correlation with its interval and test, and the line of least squares."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr

FEWEST = 4  # points: with fewer there is no interval


class Correlation(NamedTuple):
    """Pearson's r over n points, the bounds of its interval, and the two-sided p of no correlation; NaN where there is none."""

    n: int
    r: float
    low: float
    high: float
    p: float


def correlate(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Correlation:
    """Pearson's r of n pairs, its interval by Fisher's z (normal, standard error 1 / sqrt(n - 3)), and p by Student's t with n - 2 degrees of freedom.

    All NaN where one side does not vary or there are fewer than four pairs. ValueError where the sides differ in length.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"expected two rows of equal length, got {a.shape} and {b.shape}")
    n = len(a)
    if n < FEWEST or flat(a) or flat(b):
        return Correlation(n, *[math.nan] * 4)
    a, b = a - a.mean(), b - b.mean()
    r = float(np.clip((a / np.linalg.norm(a)) @ (b / np.linalg.norm(b)), -1, 1))
    if abs(r) == 1:
        return Correlation(n, r, r, r, 0.0)
    half = float(ndtri((1 + confidence) / 2)) / math.sqrt(n - 3)
    t = abs(r) * math.sqrt((n - 2) / ((1 - r) * (1 + r)))
    return Correlation(n, r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), 2 * float(stdtr(n - 2, -t)))


def regress(x: ArrayLike, y: ArrayLike) -> tuple[float, float] | None:
    """Slope and intercept of the line of least squares; None where x does not vary."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 2 or flat(a):
        return None
    centred = a - a.mean()
    slope = float(centred @ (b - b.mean()) / (centred @ centred))
    return slope, float(b.mean() - slope * a.mean())


def flat(values: NDArray[np.float64]) -> bool:
    """Whether values are equal but for rounding."""
    return bool(np.ptp(values) <= 1e-13 * np.abs(values).max())
