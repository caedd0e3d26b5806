"""Lists: a YAML file of entries, read with overrides, validated, and put in the order in which its experiments can run."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from errors import InputError
from train.build import build
from train.entry import Experiment
from train.fields import FieldError
from train.frozen import is_frozen, thaw

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # a PyYAML built without libyaml reads the same, slower
    from yaml import SafeLoader  # type: ignore[assignment]


class Loader(SafeLoader):
    """Plain data only: no tags that make objects, no key twice in a mapping; `1e-2` is a number."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                raise yaml.constructor.ConstructorError(None, None, f"a key must be a word, got {key!r}", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# PyYAML follows YAML 1.1, where 1e-2 is a string; YAML 1.2 and every user mean a number.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)|[0-9]+\.[0-9]*|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def parse(text: str) -> Any:
    """The value of one YAML document, by the same rules for files and overrides."""
    return yaml.load(text, Loader)


@dataclass(frozen=True)
class Entry:
    """One entry of a list: its index there (None for a prerequisite that stands in no list) and its experiment."""

    index: int | None
    experiment: Experiment


def read(path: str | Path, overrides: Mapping[str, Any] | None = None, indices: str | None = None) -> list[Entry]:
    """The entries of a list that `indices` names (a number, or numbers and ranges such as `0-5,9`); all where it is None.

    `overrides` maps (dotted) keys to values and is applied to each of them. Of a frozen list an index names a task: all entries
    that share it. Raises InputError with the file, the index, the key and what is allowed.
    """
    entries: Mapping[int, Any]
    chosen: Iterable[int]
    if is_frozen(path):
        entries, chosen = read_frozen(path, indices)
    else:
        entries = dict(enumerate(read_yaml(path)))
        chosen = entries if indices is None else select(path, len(entries), indices)
    read = []
    for index in chosen:
        try:
            read.append(Entry(index, build(override(entries[index], overrides or {}))))
        except FieldError as error:
            ours = indices is None and len(entries) > 1 and error.key in (overrides or {})
            hint = "; an override is for every entry, unless --index names those it is for" if ours else ""
            raise InputError(f"{path}: entry {index}: {error}{hint}") from None
    return read


def read_frozen(path: str | Path, indices: str | None) -> tuple[Mapping[int, Any], Sequence[int]]:
    """The raw entries of a frozen list by position, and the positions that `indices` names by their tasks."""
    found = thaw(path)
    if indices is None:
        return found.entries, list(found.entries)
    tasks = select(path, max(found.tasks, default=-1) + 1, indices)
    if unknown := [task for task in tasks if task not in found.tasks]:
        raise InputError(f"--index {indices}: {path} has no task {unknown[0]}, but {ranges(found.tasks)}")
    return found.entries, [position for task in tasks for position in found.tasks[task]]


def read_yaml(path: str | Path) -> list[Any]:
    """The raw entries of a list file; InputError where it is no non-empty YAML list."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list: {getattr(error, 'strerror', None) or error}") from None
    try:
        entries = parse(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{path}: {line}{problem}") from None
    if not isinstance(entries, list) or not entries:
        found = "nothing" if not entries else f"a {type(entries).__name__}"
        if isinstance(entries, dict) and "parameters" in entries:
            raise InputError(f"{path}: is a sweep, not a list; search with: bash submit_scripts/submit_sweep.sh {path}")
        raise InputError(f"{path}: must be a YAML list of experiments, each starting with '- ', but holds {found}")
    return entries


def override(raw: Any, overrides: Mapping[str, Any]) -> Any:
    """A copy of an entry with (dotted) keys set to new values."""
    if not isinstance(raw, Mapping):
        return raw
    entry = dict(raw)
    for key, value in overrides.items():
        first, _, rest = key.partition(".")
        if not rest:
            entry[first] = value
        else:
            inner = entry.get(first, {})
            if not isinstance(inner, Mapping):
                raise FieldError(first, f"has no key {rest!r} to override, it is {inner!r}")
            entry[first] = override(inner, {rest: value})
    return entry


def read_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """`--lr=0.1 --module.weight=1` as a mapping; InputError where an argument has another form."""
    overrides = {}
    for argument in arguments:
        match = re.fullmatch(r"--([A-Za-z_][\w.]*)=(.*)", argument, re.DOTALL)
        if not match:
            raise InputError(f"unknown argument {argument!r}; overrides have the form --key=value (no space) or --module.key=value")
        try:
            overrides[match[1]] = parse(match[2])
        except (yaml.YAMLError, ValueError):
            raise InputError(f"override --{match[1]}: {match[2]!r} is not a YAML value") from None
    return overrides


def plan(entries: Sequence[Entry]) -> list[Entry]:
    """All experiments of a list and their prerequisites, each once, every prerequisite before what needs it."""
    index_of = {entry.experiment.hash: entry.index for entry in reversed(entries)}
    planned: dict[str, Entry] = {}

    def add(experiment: Experiment) -> None:
        if experiment.hash in planned:
            return
        for part in experiment.requires():
            add(part)
        planned[experiment.hash] = Entry(index_of.get(experiment.hash), experiment)

    # The list's own entries come last so that they, with their tags and evaluation, replace equal nested ones.
    own = {entry.experiment.hash: entry for entry in reversed(entries)}
    for entry in entries:
        add(entry.experiment)
    return [own.get(key, entry) for key, entry in planned.items()]


def select(path: str | Path, count: int, indices: str) -> list[int]:
    """The positions in a list of `count` entries that `--index` names, each once, in the order given."""
    chosen: list[int] = []
    for word in indices.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word.strip())
        if not match:
            raise InputError(f"--index {indices}: {word!r} is not a number or a range; write for instance 0-5,9")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= count:
            raise InputError(f"--index {indices}: {path} has entries 0 to {count - 1}")
        chosen += range(first, last + 1)
    return list(dict.fromkeys(chosen))


def ranges(indices: Iterable[int]) -> str:
    """Indices as `--index` takes them: `0-5,9`."""
    runs: list[list[int]] = []
    for index in sorted(set(indices)):
        if runs and index == runs[-1][-1] + 1:
            runs[-1][1:] = [index]
        else:
            runs.append([index])
    return ",".join("-".join(map(str, run)) for run in runs)


def brief(indices: Iterable[int], width: int = 100) -> str:
    """The same for a reader: cut where it is longer than `width`."""
    text = ranges(indices)
    return text if len(text) <= width else f"{text[:width].rpartition(',')[0]},..."


def label(entry: Entry) -> str:
    """An entry in words."""
    return f"entry {entry.index}: {entry.experiment.name}" if entry.index is not None else f"prerequisite {entry.experiment.name}"
