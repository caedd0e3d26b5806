"""Invariance scores of units to corruptions and to their compositions (Mason et al., arXiv 2306.09005), from class means alone.

For a composition c of two or more elementals and a unit, E[r, k] is the unit's mean on class k under r, one of the elementals of c or Identity;
k* is the preferred class, the column of E with the largest sum (the first of equals). With activations scaled to 0..1 by a range (low, high):

    elemental score    1 - (max over r of E[r, k*] - min over r of E[r, k*])     the worst case
    composition score  1 - min over r of |E[r, k*] - c[k*]|                      the closest row

A composition's scores are the medians over units. The published normalisation scales E by its own range, and c by that of E and c's row
together, so that the two sides of the composition score are measured on different scales; the consistent one scales both by the latter.
The published study first divides a unit by its maximum, which no min-max scaling sees.

Left out of the medians: units whose maximum over images and compositions is at most 1e-6 (as published), and units that are constant over E,
which prefer no class and have no range (0 / 0 in the published definition, which does not say).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.files import ClassMeans, Rows

DEAD = 1e-6
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Range:
    """Lowest and highest class mean (U,) of each unit."""

    low_u: Floats
    high_u: Floats

    @classmethod
    def of(cls, rows: Sequence["Range"]) -> "Range":
        """The range of several rows together."""
        return cls(np.min([row.low_u for row in rows], axis=0), np.max([row.high_u for row in rows], axis=0))

    def scale(self, values: Floats) -> Floats:
        """Values (..., U) with this range as 0..1."""
        return (values - self.low_u) / (self.high_u - self.low_u)


# The range that scales E, of E's own and of that of E and the composition's row; by the latter the row itself is scaled.
NORMALISATIONS: dict[str, Callable[[Range, Range], Range]] = {
    "published": lambda grid, both: grid,
    "consistent": lambda grid, both: both,
}


@dataclass(frozen=True)
class Scores:
    """The scores (S,) in 0..1 of S compositions, which stand at `places` among all, and over how many units each is the median."""

    places: NDArray[np.int64]
    elemental_s: Floats
    composition_s: Floats
    units_s: NDArray[np.int64]


def score_file(found: ClassMeans) -> dict[str, Scores]:
    """`score` of an open file of class means."""
    return score(found.names, found.mean, found.max_cu)


def score(names: Sequence[str], mean: Rows, max_cu: NDArray[np.floating]) -> dict[str, Scores]:
    """The scores by normalisation, from class means `mean[c]` (K, U) under compositions in full names and maxima over images (C, U).

    Scored are the compositions of two or more elementals, all of which and Identity are among the names, as far as a unit counts. Held in memory:
    the rows of the elementals, of Identity, and of one composition.
    """
    place_of = {name: place for place, name in enumerate(names)}
    by_set: dict[frozenset[str], list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        members = name.split("-")
        if len(members) > 1 and all(single in place_of for single in (*members, "Identity")):
            by_set[frozenset(members)].append(place)
    alive_u = np.max(max_cu, axis=0) > DEAD
    singles = {name: np.asarray(mean[place_of[name]]) for name in sorted({"Identity"}.union(*by_set))} if by_set else {}
    ranges = {name: range_of(row) for name, row in singles.items()}
    found: dict[str, list[tuple[int, float, float, int]]] = {name: [] for name in NORMALISATIONS}
    for elementals, places in by_set.items():
        rows = [name for name in singles if name in elementals or name == "Identity"]
        grid = Range.of([ranges[name] for name in rows])
        counted = np.flatnonzero(alive_u & (grid.high_u > grid.low_u))
        if not len(counted):
            continue
        preferred = sum((singles[name].astype(np.float64) for name in rows), np.float64(0)).argmax(axis=0)[counted]
        grid_ru = np.array([singles[name][preferred, counted] for name in rows], dtype=np.float64)
        own = Range(grid.low_u[counted], grid.high_u[counted])
        for place in places:
            row = np.asarray(mean[place])
            there = range_of(row)
            both = Range.of([own, Range(there.low_u[counted], there.high_u[counted])])
            value_u = both.scale(row[preferred, counted].astype(np.float64))
            for name, choose in NORMALISATIONS.items():
                scaled_ru = choose(own, both).scale(grid_ru)
                elemental_u = 1 - (scaled_ru.max(axis=0) - scaled_ru.min(axis=0))
                composition_u = 1 - np.abs(scaled_ru - value_u).min(axis=0)
                found[name].append((place, float(np.median(elemental_u)), float(np.median(composition_u)), len(counted)))
    return {name: put_together(rows) for name, rows in found.items()}


def range_of(row_ku: NDArray[np.floating]) -> Range:
    """The range of each unit over the classes."""
    return Range(row_ku.min(axis=0).astype(np.float64), row_ku.max(axis=0).astype(np.float64))


def put_together(rows: Sequence[tuple[int, float, float, int]]) -> Scores:
    """Scores in the order of their compositions."""
    ordered = sorted(rows)
    places, elemental, composition, units = zip(*ordered) if ordered else ((), (), (), ())
    return Scores(np.array(places, np.int64), np.array(elemental, float), np.array(composition, float), np.array(units, np.int64))
