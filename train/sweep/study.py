"""The study of a local search: which points there are, which were taken and how each ended, kept by optuna in an SQLite file.

The points of a grid and of a random search are the file's own, so they are the same however often the search is killed; those of `bayes`
are proposed by optuna's TPE from the trials that have ended, each by a sampler seeded by its number. A point is noted in one transaction, with
its values: a process that is killed leaves a trial that is known, or none.
"""

import hashlib
import itertools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from errors import InputError
from train.run import write_atomically
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
    """The study of a sweep file in a folder, opened by one process at a time. Trials in it that have no point are somebody else's."""

    def __init__(self, sweep: SweepFile, folder: Path):
        optuna.logging.set_verbosity(logging.WARNING)
        # Its hyperband is called experimental.
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.sweep = sweep
        self.distributions = {key: parameter.optuna() for key, parameter in sweep.searched.items() if has_optuna(parameter)}
        path = folder.absolute() / "study.sqlite"
        if not path.exists():
            write_new(path, sweep)
        self.study = study_in(path, sweep)
        self.values: dict[int, dict[str, Any]] = {}
        # How each point's last trial ended: done, diverged, pruned, failed, or running.
        self.endings: dict[int, str] = {}
        for stored in self._trials():
            self.values[stored.user_attrs["point"]] = stored.user_attrs["values"]
            self.endings[stored.user_attrs["point"]] = stored.user_attrs.get("ending", "running")
        self.points = self._proposals() if sweep.method == "bayes" else self._draws()

    def unfinished(self) -> list[Asked]:
        """The points that were running when the process that ran them ended."""
        found = []
        for stored in self._trials(TrialState.RUNNING):
            asked = Asked(stored.user_attrs["point"], stored.user_attrs["values"], optuna.trial.Trial(self.study, stored._trial_id))
            ending = stored.user_attrs.get("ending", "done")
            if ending == "done":
                found.append(asked)
            else:
                # Killed while it was told; of one that was done the metric is measured again.
                self.tell(asked, ending)
        return found

    def take(self) -> Asked | None:
        """The next new point; None where there is none."""
        point = len(self.values)
        if point >= self.sweep.trials:
            return None
        values = next(self.points, None)
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

    def _proposals(self) -> Iterator[dict[str, Any]]:
        """The points that TPE proposes, each once; those that nobody takes leave no trial."""
        while True:
            # The study as it is now, in memory.
            copy = optuna.create_study(study_name=self.sweep.name, direction=self.sweep.metric.goal, pruner=pruner(self.sweep))
            copy.add_trials(self.study.get_trials(deepcopy=False))
            for repeat in range(REPEATS):
                copy.sampler = TPESampler(seed=seed(self.sweep.hash, len(self.values), repeat))
                trial = copy.ask(self.distributions)
                values = {key: trial.params.get(key, getattr(parameter, "value", None)) for key, parameter in self.sweep.parameters.items()}
                if values not in self.values.values():
                    yield values
                    break
                copy.tell(trial, state=TrialState.FAIL)
            else:
                return

    def _noted(self, point: int, values: Mapping[str, Any]) -> Asked:
        """A new trial of a point. Of a value that optuna's distribution has not (a rounding, a list) it knows the attribute alone."""
        known = {key: distribution for key, distribution in self.distributions.items() if has(distribution, values[key])}
        stored = optuna.trial.create_trial(
            state=TrialState.RUNNING, params={key: values[key] for key in known}, distributions=known,
            user_attrs={"point": point, "values": dict(values)},
        )  # fmt: skip
        self.study.add_trial(stored)
        self.values[point] = dict(values)
        self.endings[point] = "running"
        return Asked(point, dict(values), optuna.trial.Trial(self.study, self.study.get_trials(deepcopy=False)[-1]._trial_id))

    def _trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        """The trials (in these states) that have a point, in the order in which they were noted."""
        return [stored for stored in self.study.get_trials(deepcopy=False, states=states or None) if "point" in stored.user_attrs]


def study_in(path: Path, sweep: SweepFile) -> optuna.Study:
    """A sweep's study in an SQLite file, made where it is not there."""
    return optuna.create_study(
        storage=f"sqlite:///{path}", study_name=sweep.name, load_if_exists=True, direction=sweep.metric.goal, pruner=pruner(sweep)
    )


def write_new(path: Path, sweep: SweepFile) -> None:
    """A file with an empty study, whole from the first moment.

    Optuna makes tables and indexes one by one: a file whose maker is killed between a table and its index never gets the index, and then two
    studies of one name.
    """
    with TemporaryDirectory() as folder:
        made = Path(folder, path.name)
        study_in(made, sweep)
        write_atomically(path, made.read_bytes())


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """InputError in place of what optuna raises where a folder's study cannot be read or written."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).splitlines()[0]
        raise InputError(
            f"{folder / 'study.sqlite'}: cannot be used ({reason}); if it is damaged, delete it: what is finished is found again"
        ) from None


def has(distribution: optuna.distributions.BaseDistribution, value: object) -> bool:
    return distribution._contains(distribution.to_internal_repr(value))


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
