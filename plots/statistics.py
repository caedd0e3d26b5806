"""Intervals of a mean (Student's t over seeds, the percentile bootstrap over images), McNemar's test and Holm's correction."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, stdtrit

RESAMPLES = 2_000
BLOCK = 100  # resamples: what is held in memory at once


class Interval(NamedTuple):
    """A mean and the bounds of its interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The interval mean +- t s / sqrt(n) of n independent values, t the quantile of Student's distribution with n - 1 degrees of freedom.

    ValueError for fewer than two values.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"a t interval needs two values or more, got an array of shape {x.shape}")
    mean = float(x.mean())
    half = float(stdtrit(len(x) - 1, (1 + confidence) / 2) * x.std(ddof=1) / np.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half)


def bootstrap_intervals(values_nk: ArrayLike, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """The percentile bootstrap interval (Efron, 1979) of the mean over the n rows, for each of the k columns.

    Rows are drawn with replacement, the same for every column. ValueError where there are no rows.
    """
    x = np.asarray(values_nk, dtype=np.float64)
    if x.ndim != 2 or len(x) == 0:
        raise ValueError(f"expected values of shape (n, k) with n > 0, got {x.shape}")
    means = resampled_means(x, resamples, seed)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return [Interval(*map(float, bounds)) for bounds in zip(x.mean(axis=0), low, high)]


def resampled_means(values_nk: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means (resamples, k) of n rows drawn with replacement."""
    n = len(values_nk)
    generator = np.random.default_rng(seed)
    blocks = []
    for start in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - start)
        drawn = generator.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        blocks.append(weights.astype(np.float64) @ values_nk / n)
    return np.concatenate(blocks)


def reach(means: ArrayLike, lows: ArrayLike, highs: ArrayLike) -> NDArray[np.float64]:
    """How far intervals reach below and above their means (2, n), as error bars take it: never negative, 0 where there is no interval (NaN)."""
    mean, low, high = (np.asarray(values, dtype=np.float64) for values in (means, lows, highs))
    # A bound of a constant may differ from its mean in the last digit.
    return np.nan_to_num(np.maximum([mean - low, high - mean], 0.0))


def mcnemar(n10: ArrayLike, n01: ArrayLike) -> NDArray[np.float64]:
    """The two-sided p values of McNemar's exact test (McNemar, 1947): whether two classifiers are right on equally many images.

    Of the same independent images, `n10` are classified correctly by the first alone and `n01` by the second alone (arrays of counts of one shape);
    under the hypothesis n10 is Binomial(n10 + n01, 1/2). 1 where both are 0. ValueError for a negative count.
    """
    first, second = np.asarray(n10, dtype=np.int64), np.asarray(n01, dtype=np.int64)
    if np.any(first < 0) or np.any(second < 0):
        raise ValueError("counts must not be negative")
    return np.minimum(1.0, 2 * bdtr(np.minimum(first, second).astype(np.float64), first + second, 0.5))


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P values (n,) corrected for being n (Holm, 1979): those below a level are rejected with at most that probability of any false rejection."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected
