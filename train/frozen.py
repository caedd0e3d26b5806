"""Frozen lists: what a submission to a cluster runs, written once, so that editing the list later changes no task that waits.

runs/slurm/<list>-<12 hex of the contents>.json
    config     the list as the user named it
    together   [[0, 1], [2, 3], ...]: entries that share a task; the first one's position is the task's index
    entries    position in the list -> the resolved experiment; prerequisites that stand in no list come after the last position
    hashes     position -> the experiment's hash, which its run directory is named by
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InputError
from train.entry import Experiment, runs_root
from train.run import read_jsonl, write_atomically


@dataclass(frozen=True)
class Frozen:
    """A frozen list: raw entries and hashes by position, and the positions that a task runs, by its index."""

    entries: Mapping[int, Any]
    hashes: Mapping[int, str]
    tasks: Mapping[int, Sequence[int]]


def folder() -> Path:
    """Where frozen lists and the logs of tasks lie."""
    return runs_root() / "slurm"


def freeze(config: str, experiments: Mapping[int, Experiment], together: Sequence[Sequence[int]]) -> Path:
    """Writes a frozen list (once: equal contents are one file) and returns its path."""
    contents = {
        "config": config,
        "runs": str(runs_root().absolute()),
        "together": [list(positions) for positions in together],
        "entries": {str(position): dump(experiment) for position, experiment in experiments.items()},
        "hashes": {str(position): experiment.hash for position, experiment in experiments.items()},
    }
    data = json.dumps(contents, separators=(",", ":")).encode()
    stem = re.sub(r"[^A-Za-z0-9._]+", "-", Path(config).stem)
    path = folder() / f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}.json"
    if not path.exists():
        write_atomically(path, data)
    return path


def dump(experiment: Experiment) -> dict[str, Any]:
    """An entry from which `build` makes the same experiment, also when defaults of its surroundings change."""
    return experiment.model_dump(mode="json", exclude_none=True)


def is_frozen(path: str | Path) -> bool:
    return Path(path).suffix == ".json"


def thaw(path: str | Path) -> Frozen:
    """Reads a frozen list; InputError where it is missing or damaged."""
    try:
        contents = json.loads(Path(path).read_text())
        return Frozen(
            {int(position): entry for position, entry in contents["entries"].items()},
            {int(position): found for position, found in contents["hashes"].items()},
            {positions[0]: positions for positions in contents["together"]},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise InputError(f"{path}: missing or damaged as a frozen list; submit the list again") from None


def note_submission(job: int, path: Path, offset: int, indices: Sequence[int]) -> None:
    """Notes which tasks of a frozen list a job has."""
    row = {"job": job, "list": path.name, "offset": offset, "indices": list(indices)}
    with open(folder() / "submissions.jsonl", "a") as file:
        file.write(json.dumps(row, separators=(",", ":")) + "\n")


def last_tasks(wanted: Collection[str]) -> dict[str, str]:
    """The last task, `A_a`, that was submitted for each of these experiments (hashes), as far as there was one."""
    found: dict[str, str] = {}
    lists: dict[str, Frozen | None] = {}
    left = set(wanted)
    for row in reversed(read_jsonl(folder() / "submissions.jsonl")):
        if not left:
            break
        path = folder() / row["list"]
        if path.name not in lists:
            lists[path.name] = thaw(path) if path.exists() else None
        contents = lists[path.name]
        if contents is not None:
            for index in row["indices"]:
                for position in contents.tasks.get(index + row["offset"], ()):
                    if contents.hashes[position] in left:
                        left.remove(contents.hashes[position])
                        found[contents.hashes[position]] = f"{row['job']}_{index}"
    return found


def list_name(path: str | Path) -> str:
    """A list's name, for tags: the file's stem, for a frozen one that of the list it was made from."""
    stem = Path(path).stem
    return re.sub(r"-[0-9a-f]{12}$", "", stem) if is_frozen(path) else stem
