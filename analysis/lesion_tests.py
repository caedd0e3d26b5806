"""What single and double lesions tell of the clusters of a network: kinds of importance, and of dependency (Filan et al., arXiv 2003.04881). Loads without torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.null_tests import against

# The numbers of kinds are those of the table's rows; the first that fits counts.
KINDS = {
    1: "complete", 2: "small", 3: "important", 4: "prunable", 5: "least important", 6: "significant but no difference", 7: "difference but not significant",
    8: "other",
}  # fmt: skip
COMPLETE, SMALL, IMPORTANT = 1, 2, 3
SMALL_UNITS = 12
LOSS = -0.01  # of accuracy, from which on a lesion matters

# Whether X matters though Y is gone, and Y though X is gone -> the type of their dependency, X in an earlier layer.
DEPENDENCIES = {(False, False): 1, (True, False): 2, (False, True): 3, (True, True): 4}


def kind_of(difference: float, p: float, trials: int, proportion: float = 0.0, units: int | None = None) -> int:
    """The kind of a lesion: its difference in accuracy (negative is damage), its p among so many random ones, the share of its layer and its units.

    With `units` None, as for pairs, the first two kinds are passed over.
    """
    minimal = p < 1 / trials
    if units is not None:
        if proportion == 1:
            return COMPLETE
        if units <= SMALL_UNITS:
            return SMALL
    if minimal and difference <= LOSS:
        return IMPORTANT
    if p == 1:
        return 4 if difference > LOSS else 5
    if minimal and difference >= LOSS:
        return 6
    if not minimal and difference < LOSS:
        return 7
    return 8


@dataclass(frozen=True)
class Group:
    """The units of a cluster in a layer."""

    layer: str
    label: int
    units: NDArray[np.int64]
    proportion: float

    @property
    def name(self) -> str:
        return f"{self.layer}/{self.label}"


def groups_of(labels: dict[str, NDArray[np.int64]], layers: Sequence[str]) -> list[Group]:
    """The clusters of these layers; their share is of the units that are not left out."""
    found = []
    for layer in layers:
        own = labels[layer]
        total = int((own >= 0).sum())
        for label in np.unique(own[own >= 0]).tolist():
            units = np.flatnonzero(own == label)
            found.append(Group(layer, label, units, len(units) / total))
    return found


def relabelled(labels: NDArray[np.int64], draw: np.random.Generator, fixed: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Labels of a layer permuted at random over its units that have one, but for those that are fixed."""
    free = labels >= 0
    if fixed is not None:
        free = free.copy()
        free[fixed] = False
    found = labels.copy()
    found[free] = draw.permutation(labels[free])
    return found


@dataclass(frozen=True)
class Verdict:
    """A lesion beside random ones of the same size."""

    accuracy: float
    difference: float
    mean: float
    deviation: float
    z: float
    p: float
    kind: int


def verdict(accuracy: float, null: NDArray[np.float64], base: float, proportion: float = 0.0, units: int | None = None) -> Verdict:
    """What an accuracy says beside those of random lesions; the difference is from `base`."""
    test = against(accuracy, null)
    deviation = float(null.std(ddof=1)) if len(null) > 1 else 0.0
    deviation = 0.0 if np.ptp(null) == 0 else deviation
    difference = accuracy - base
    return Verdict(
        accuracy, difference, test.mean, deviation, (accuracy - test.mean) / deviation if deviation else test.z, test.p,
        kind_of(difference, test.p, len(null), proportion, units),
    )  # fmt: skip


def coherence(true_k: NDArray[np.float64], null_rk: NDArray[np.float64], intact_k: NDArray[np.float64]) -> tuple[float, float]:
    """The range over classes of what a lesion changes of their accuracies, and its right-sided p among random lesions: whether the units serve some classes more than others.

    Of the changes as they are, since shares of a mean change have no bounds where that is small.
    """
    own = float(np.ptp(true_k - intact_k))
    return own, against(own, np.ptp(null_rk - intact_k, axis=1), right=True).p
