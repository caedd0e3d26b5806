"""A finished run as the table takes it, wherever it was read from: run directories, W&B's files, or a W&B server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.table import Row
from data.compositions import n_corruptions
from errors import InputError
from train.build import build, experiment_class
from train.entry import Experiment
from train.evaluations import Tested


@dataclass(frozen=True)
class Record:
    """A finished run: its experiment, the rows of its metrics.jsonl, its numbers as a whole by metric, and its evaluations.

    `analyses` are the tables of what was looked at in its layers, by analysis. `directory` is where it lies; None where it was read from W&B, so that nothing of single images is at hand.
    """

    experiment: Experiment
    epochs: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)
    tested: tuple[Tested, ...] = ()
    directory: Path | None = None
    analyses: Mapping[str, Sequence[Row]] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a source holds: finished runs, what is missing (in words), smaller evaluations that give way, and a key for every run of it."""

    source: str
    runs: tuple[Record, ...]
    missing: tuple[str, ...] = ()
    smaller: frozenset[Path] = frozenset()
    asked: frozenset[str] = frozenset()


def identify(identity: Mapping[str, Any], place: str, **more: Any) -> Experiment:
    """The experiment that an identity names (canonical form, hash and recipes, of an experiment.json or of W&B's config).

    `more` are fields that are not part of the form. InputError with its place where it is not of this version or of present recipes.
    """
    try:
        experiment = rebuild(identity["canonical"], **more)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{place} (not readable by this version)") from None
    if experiment.hash != identity.get("hash"):
        raise InputError(f"{place} (not readable by this version: its hash is {identity.get('hash')}, here {experiment.hash})")
    if experiment.recipes() != identity.get("recipes"):
        raise InputError(f"{place} (stale: made by recipe {identity.get('recipes')}, now {experiment.recipes()})")
    return experiment


def rebuild(canonical: Mapping[str, Any], **more: Any) -> Experiment:
    """The experiment of a canonical form. `more` are fields that are not part of the form, such as study.

    What a canonical form leaves out is the default, so a nested prerequisite is built from its own fields and inherits nothing.
    """
    fields = {**canonical, **more}
    if "severities" in fields:
        fields["severities"] = {int(number): severity for number, severity in fields["severities"].items()}
    cls = experiment_class(canonical["method"])
    for key, method in cls.nested.items():
        if fields.get(key) is not None:
            fields[key] = rebuild({"method": method} | cls.part(key, canonical) | fields[key])
    return build(fields)


@lru_cache(maxsize=8)
def counts(names: tuple[str, ...]) -> NDArray[np.int64]:
    """The numbers of corruptions of compositions in full names (Identity has 0)."""
    return np.array([n_corruptions(tuple(name.split("-"))) for name in names], dtype=np.int64)


def describe_condition(experiment: Experiment, severities: Mapping[str, int]) -> str:
    """What tells a run from the plain form of its method, tested at the published severities; empty for the plain form."""
    return ", ".join(filter(None, [experiment.condition, *(f"{name} severity {severity}" for name, severity in severities.items())]))
