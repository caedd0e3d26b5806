"""Matrices: an entry some of whose values are lists stands for all their combinations, which are written as a flat list.

A field whose value is a list by itself (`corruptions`, `levels`, `compositions`, `delta` ...) varies where its value is a list of lists. Values inside nested
parts (`backbone: {lr: [0.1, 0.01]}`) vary likewise; the last one that is named varies fastest.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from analysis.options import OPTIONS
from errors import InputError
from train.build import build
from train.fields import FieldError

# Fields of every method that are lists by themselves; what analyses take is in their options.
LISTS = {"tags", "metrics", "analyses", "counterfactuals", "mechanism", "corruptions", "levels", "compositions"}
ANALYSIS_LISTS = {name for options in OPTIONS.values() for name, field in options.model_fields.items() if "tuple" in str(field.annotation)}


def expand(entry: Any) -> list[dict[str, Any]]:
    """All combinations of an entry, each once, in order; FieldError where it is no mapping or a list is empty."""
    if not isinstance(entry, Mapping):
        raise FieldError("", f"must be a mapping of keys, got {entry!r}")
    return list(combine(entry, ""))


def combine(fields: Mapping[str, Any], path: str) -> Iterator[dict[str, Any]]:
    """All combinations of the values of a mapping."""
    choices = [values_of(str(key), value, f"{path}{key}") for key, value in fields.items()]
    for values in itertools.product(*choices):
        yield {str(key): value for key, value in zip(fields, values)}


def values_of(key: str, value: Any, path: str) -> list[Any]:
    """The values that a field takes, one after the other."""
    if isinstance(value, Mapping):
        return list(combine(value, f"{path}."))
    if not isinstance(value, list):
        return [value]
    if not value:
        raise FieldError(path, "is an empty list, which stands for no experiment")
    if is_list(key, path) and not all(isinstance(own, list) for own in value):
        return [value]
    return value


def is_list(key: str, path: str) -> bool:
    """Whether a field's value is a list by itself."""
    return key in LISTS or ("analyses." in path and key in ANALYSIS_LISTS)


def flatten(name: str, entries: list[Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The combinations of every entry of a matrix as a block with a title; each is validated, and equal ones stand once. InputError with the entry's place,
    also where what differs are the analyses of one experiment."""
    blocks: list[tuple[str, list[dict[str, Any]]]] = []
    seen: dict[str, Any] = {}
    for number, entry in enumerate(entries):
        try:
            found = expand(entry)
            kept = []
            for own in found:
                experiment = build(own)
                looked_at = own.get("analyses")
                if experiment.hash not in seen:
                    seen[experiment.hash] = looked_at
                    kept.append(own)
                elif seen[experiment.hash] != looked_at:
                    raise FieldError(
                        "analyses",
                        f"differ between two entries of one experiment ({looked_at} after {seen[experiment.hash]}), where one would take the other's place",
                    )
        except FieldError as error:
            raise InputError(f"{name}: entry {number}: {error}") from None
        if kept:
            blocks.append((title_of(entry), kept))
    return blocks


def title_of(entry: Mapping[str, Any]) -> str:
    """Which fields vary, in words; the method where none does."""
    return "; ".join(varying(entry, "")) or str(entry.get("method", ""))


def varying(fields: Mapping[str, Any], path: str) -> list[str]:
    """The fields of a mapping that vary, with their values."""
    words = []
    for key, value in fields.items():
        if isinstance(value, Mapping):
            words += varying(value, f"{path}{key}.")
        elif len(values_of(str(key), value, f"{path}{key}")) > 1:
            words.append(f"{path}{key} {', '.join(map(str, value))}")
    return words
