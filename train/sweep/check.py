"""What `python -m train.sweep check` says of sweep files: whether they are right, and what a user should know before a search begins."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from data import datasets
from errors import InputError
from train.fields import FieldError
from train.sweep.entry import entry_of
from train.sweep.file import SweepFile, read_sweep
from train.tracking import PROJECT

# Distributions whose bounds are exponents of e.
EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")


def check(paths: Sequence[str]) -> None:
    """A line for each file, and one for each thing to know; InputError, after all of them, where some are wrong."""
    wrong = 0
    for path in paths:
        try:
            sweep = read_sweep(path)
        except InputError as error:
            wrong += 1
            print(f"WRONG: {error}")
            continue
        print(f"{path}: {sweep.name}: {sweep.method}, {sweep.trials} trials, {sweep.metric.goal} {sweep.metric.name}")
        for note in notes(sweep):
            print(f"  note: {note}")
    if wrong:
        raise InputError(f"{wrong} of {len(paths)} files {'is' if wrong == 1 else 'are'} wrong, as said above")


def notes(sweep: SweepFile) -> Iterator[str]:
    """What is no mistake, but perhaps not meant."""
    if words_for_wandb(sweep):
        yield "W&B takes numbers such as 1e-2 for words, so `register` refuses them; write 0.01, or 1.0e-2"
    if "project" not in sweep.raw:
        yield f"project: missing; `wandb sweep` takes the folder's name then, `register` {PROJECT}"
    for key, parameter in sweep.parameters.items():
        if parameter.distribution in EXPONENTS:
            low, high = sorted(math.exp(sign) for sign in (parameter.min, parameter.max))  # type: ignore[attr-defined]
            yield f"parameters.{key}: {parameter.distribution} takes exponents, so these are values from {low:.4g} to {high:.4g}; bounds that are values go with log_uniform_values"
    values = {key: parameter.extremes()[0] for key, parameter in sweep.parameters.items()}
    try:
        entry_of(values)
    except FieldError as error:
        yield f"parameters.{error}"
    for name in sweep.datasets:
        try:
            datasets.require(name)
        except InputError as error:
            yield str(error)


def words_for_wandb(sweep: SweepFile) -> bool:
    """Whether the client, which reads YAML 1.1, takes numbers such as 1e-2 for words."""
    return yaml.safe_load(Path(sweep.path).read_text(encoding="utf-8"))["parameters"] != sweep.raw["parameters"]
