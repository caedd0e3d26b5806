"""Trials: a point of a search each, with a directory of its own that says what was run and how it ended. Loads without torch.

    runs/sweeps/wandb-<sweep id>/<run id>/     a trial that an agent of a W&B sweep ran
    runs/sweeps/<name>/local-<hash>/<number>/  one that `python -m train.sweep run` ran
        trial.json    values, experiments, state, metrics
        wandb/        W&B's folders (of an agent's trial)

What was trained lies in ordinary run directories, so a trial whose experiment is finished, by whatever trained it, is over at once.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from errors import COME_AGAIN, InputError, RunError
from train.entry import Experiment, Trained, runs_root
from train.experiment import OneCorruption
from train.lock import describe, holder
from train.run import log_path, read_json, read_jsonl, write_json
from train.subject import FORM, Subject, read_identity, values_of

# How a trial may end, beside `stopped`, which goes on, and `pruned`, which the search itself decided.
ENDINGS = ("done", "diverged", "failed")


def sweeps_root() -> Path:
    return runs_root() / "sweeps"


def sweep_folder(sweep: str) -> Path:
    """Where the trials of a W&B sweep lie, by its id."""
    return sweeps_root() / f"wandb-{sweep}"


def parse_sweep(text: str) -> tuple[str, str, str]:
    """Entity, project and id of a W&B sweep; InputError where the text has another form."""
    words = text.split("/")
    if len(words) != 3 or not all(words):
        raise InputError(f"{text}: must be a W&B sweep as ENTITY/PROJECT/ID, as `wandb sweep` prints it")
    return words[0], words[1], words[2]


@dataclass(frozen=True)
class Trial:
    """A trial as its trial.json has it. `main` is the run directory of the network that it trains itself, below the runs' root."""

    directory: Path
    values: dict[str, Any]
    entry: dict[str, Any]
    experiments: list[str]
    main: str = ""
    sweep: str = ""
    state: str = "running"
    metrics: dict[str, float] = field(default_factory=dict)
    error: str = ""
    begin: float = 0.0
    seconds: float = 0.0
    agent: str = ""
    log: str = ""

    @property
    def id(self) -> str:
        return self.directory.name

    def write(self) -> None:
        """Writes trial.json; RunError where it cannot be written."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.directory}: cannot be written: {error.strerror}") from None
        write_json(self.directory / "trial.json", {key: value for key, value in vars(self).items() if key != "directory"})

    def end(self, state: str, metrics: Mapping[str, float] | None = None, error: str = "") -> "Trial":
        """The trial as it ended, written."""
        now = replace(self, state=state, metrics=dict(metrics or {}), error=error, seconds=self.seconds + time.time() - self.begin)
        now.write()
        return now

    def identity(self) -> dict[str, Any]:
        """What names the network that it trains itself; empty where it trains parts."""
        return read_identity(runs_root() / self.main) if self.main else {}

    def rows(self) -> list[dict[str, Any]]:
        """The epochs of the network that it trains itself."""
        return read_jsonl(runs_root() / self.main / "metrics.jsonl") if self.main else []


def begin_trial(
    directory: Path, values: Mapping[str, Any], entry: Mapping[str, Any], experiments: Sequence[Experiment], sweep: str = ""
) -> Trial:
    """Notes that a trial begins, or goes on."""
    before = read_trial(directory)
    trial = Trial(
        directory, dict(values), dict(entry), [str(e.directory.relative_to(runs_root())) for e in experiments],
        main=str(experiments[0].directory.relative_to(runs_root())) if experiments and trains_itself(experiments) else "",
        sweep=sweep, begin=time.time(), seconds=before.seconds if before else 0.0,
        agent=os.environ.get("PALIMPSEST_AGENT", ""), log=log_path(),
    )  # fmt: skip
    trial.write()
    return trial


def trains_itself(experiments: Sequence[Experiment]) -> bool:
    """Whether a trial is the training of one network, not of parts."""
    return isinstance(experiments[0], Trained) and not isinstance(experiments[0], OneCorruption)


def read_trial(directory: Path) -> Trial | None:
    """The trial of a directory, None where there is none; InputError where its file is damaged."""
    record = read_json(directory / "trial.json")
    return None if record is None else Trial(directory, **record)


def read_trials(folder: Path) -> list[Trial]:
    """The trials of a search by the time of their (last) beginning."""
    found = [trial for path in folder.glob("*/trial.json") if (trial := read_trial(path.parent)) is not None]
    return sorted(found, key=lambda trial: (trial.begin, trial.id))


class TrialSubject(Subject):
    """A trial as a W&B run of its sweep: the epochs of the network that it trains itself, then the metrics to select by; never a composition."""

    def __init__(self, trial: Trial):
        self.directory, self.id, self.sweep = trial.directory, trial.id, trial.sweep.rpartition("/")[2]
        self.label = f"trial {trial.id}: {', '.join(f'{key}={value}' for key, value in trial.values.items())}"

    @property
    def trial(self) -> Trial:
        """The trial as its file is now."""
        found = read_trial(self.directory)
        if found is None:
            raise FileNotFoundError(self.directory / "trial.json")
        return found

    def arguments(self) -> dict[str, Any]:
        trial = self.trial
        return {
            "group": str(trial.entry.get("dataset", "")),
            "job_type": "trial",
            "name": Path(trial.experiments[0]).name if trial.experiments else self.id,
            "config": {**trial.values, "entry": trial.entry, "experiments": trial.experiments, "identity": trial.identity()},
        }

    def steps(self) -> list[dict[str, Any]]:
        trial = self.trial
        return [*map(values_of, trial.rows()), *([trial.metrics] if trial.state == "done" else [])]

    def n_steps(self) -> int:
        trial = self.trial
        return len(trial.rows()) + (trial.state == "done")

    def summary(self) -> dict[str, Any]:
        trial = self.trial
        return {"state": trial.state, "seconds": trial.seconds, **trial.metrics, **({"error": trial.error} if trial.error else {})}

    def contents(self) -> dict[str, Any]:
        trial = self.trial
        return {"form": FORM, "rows": len(trial.rows()), "state": trial.state}

    def exit_code(self) -> int:
        return {"done": 0, "diverged": 1, "failed": 1}.get(self.trial.state, COME_AGAIN)

    def reason_to_leave(self) -> str:
        owner = holder(self.directory / "lock")
        return f"left out, {describe(owner)} is at work on it" if owner is not None else ""
