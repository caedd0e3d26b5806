"""The study of a local search: which points there are, which were taken and how each ended, kept by optuna in an SQLite file.

The points of a grid and of a random search are the file's own, so they are the same however often the search is killed; those of `bayes`
are proposed by optuna's TPE from the trials that have ended, each by a sampler seeded by its number.
"""

import hashlib
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from train.sweep.file import SweepFile

# How many draws or proposals in a row may be points that there were before until the space counts as used up.
REPEATS = 100


@dataclass(frozen=True)
class Asked:
    """A point that was taken, its values by dotted name, and optuna's trial of it."""

    point: int
    values: dict[str, Any]
    trial: optuna.trial.Trial


class Study:
    """The study of a sweep file in a folder, opened by one process at a time."""

    def __init__(self, sweep: SweepFile, folder: Path):
        optuna.logging.set_verbosity(logging.WARNING)
        # Its pruner and constant_liar are called experimental.
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.sweep = sweep
        self.distributions = {key: parameter.optuna() for key, parameter in sweep.searched.items() if has_optuna(parameter)}
        self.study = optuna.create_study(
            storage=f"sqlite:///{folder.absolute() / 'study.sqlite'}", study_name=sweep.name, load_if_exists=True,
            direction=sweep.metric.goal, pruner=pruner(sweep),
        )  # fmt: skip
        self.values: dict[int, dict[str, Any]] = {}
        # How each point's last trial ended: done, diverged, pruned, failed, or running.
        self.endings: dict[int, str] = {}
        for stored in self.study.get_trials(deepcopy=False):
            if "point" in stored.user_attrs:
                point = stored.user_attrs["point"]
                self.values[point] = stored.user_attrs["values"]
                self.endings[point] = stored.user_attrs.get("ending", "running")
        self.draws = self._draws()

    def unfinished(self) -> list[Asked]:
        """The points that were running when the process that ran them ended."""
        found = []
        for stored in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial = optuna.trial.Trial(self.study, stored._trial_id)
            if "point" in stored.user_attrs:
                found.append(Asked(stored.user_attrs["point"], stored.user_attrs["values"], trial))
            else:
                # Killed between a proposal and its note.
                self.study.tell(trial, state=TrialState.FAIL)
        return found

    def take(self) -> Asked | None:
        """The next new point; None where there is none."""
        point = len(self.values)
        if point >= self.sweep.trials:
            return None
        if self.sweep.method == "bayes":
            return self._proposed(point)
        values = next(self.draws, None)
        return None if values is None else self._noted(point, values)

    def take_again(self, point: int) -> Asked:
        """A point that failed."""
        return self._noted(point, self.values[point])

    def report(self, asked: Asked, epoch: int, value: float) -> bool:
        """Notes the metric after an epoch; whether the trial is to be stopped."""
        if epoch not in self.study._storage.get_trial(asked.trial._trial_id).intermediate_values:
            asked.trial.report(value, epoch)
        return asked.trial.should_prune()

    def tell(self, asked: Asked, ending: str, value: float | None = None) -> None:
        """Notes how a trial ended: done with its metric, pruned, diverged or failed."""
        asked.trial.set_user_attr("ending", ending)
        self.endings[asked.point] = ending
        if ending == "done":
            self.study.tell(asked.trial, value)
        else:
            # To TPE a trial that was pruned with nothing to show is worse than any other, which is what diverging means; a failed one says nothing.
            self.study.tell(asked.trial, state=TrialState.FAIL if ending == "failed" else TrialState.PRUNED)

    def _draws(self) -> Iterator[dict[str, Any]]:
        """The points of a grid or a random search that are not taken, in order; of a random search each value once."""
        if self.sweep.method == "grid":
            yield from itertools.islice(self.sweep.each_point(), len(self.values), None)
            return
        seen: list[dict[str, Any]] = []
        repeats = 0
        for number in itertools.count():
            values = self.sweep.draw(number)
            if values in seen:
                repeats += 1
                if repeats == REPEATS:
                    return
                continue
            repeats = 0
            seen.append(values)
            if len(seen) > len(self.values):
                yield values

    def _proposed(self, point: int) -> Asked | None:
        for repeat in range(REPEATS):
            self.study.sampler = TPESampler(seed=seed(self.sweep.hash, point, repeat), constant_liar=True)
            trial = self.study.ask(self.distributions)
            values = {key: trial.params.get(key, getattr(parameter, "value", None)) for key, parameter in self.sweep.parameters.items()}
            if values not in self.values.values():
                return self._note(Asked(point, values, trial))
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _noted(self, point: int, values: Mapping[str, Any]) -> Asked:
        """A trial of these values, which optuna did not propose."""
        params = {key: values[key] for key in self.distributions}
        stored = optuna.trial.create_trial(
            state=TrialState.RUNNING, params=params, distributions=self.distributions, user_attrs={"point": point, "values": dict(values)}
        )
        self.study.add_trial(stored)
        return self._note(Asked(point, dict(values), optuna.trial.Trial(self.study, self.study.trials[-1]._trial_id)))

    def _note(self, asked: Asked) -> Asked:
        asked.trial.set_user_attr("point", asked.point)
        asked.trial.set_user_attr("values", asked.values)
        self.values[asked.point] = asked.values
        self.endings[asked.point] = "running"
        return asked


def has_optuna(parameter: Any) -> bool:
    try:
        parameter.optuna_arguments()
    except ValueError:
        return False
    return True


def pruner(sweep: SweepFile) -> optuna.pruners.BasePruner:
    """Optuna's hyperband at the rungs of W&B's: it compares a trial with those that reported that epoch before it, and within its own bracket."""
    if sweep.early_terminate is None:
        return optuna.pruners.NopPruner()
    reduction = max(2, round(sweep.early_terminate.eta))
    return optuna.pruners.HyperbandPruner(min_resource=sweep.early_terminate.bands[0], max_resource="auto", reduction_factor=reduction)


def seed(*words: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:4])
