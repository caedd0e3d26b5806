"""Tests of teachers and students on counterfactual sets, as one table: what figures and summaries of distillation under spurious cues are drawn from."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

import info_dicts
from data.mechanisms import Mechanism, cue_names, read_mechanism, short_name
from errors import InputError
from plots.records import Record
from plots.results import Results
from train.cue_experiments import Student, UnderCues

VALUES = ("accuracy", "teacher_accuracy", "teacher_kl", "teacher_agreement")
COLUMNS = ("dataset", "run", "seed", "label", "loss", "student", "teacher", "set", "iteration", "exact", "kept", *VALUES)
# What a network that has no teacher is called on axes.
ALONE = "labels"
TEACHER = "Teacher"
# Metrics as figures show them: a title, a factor, and the largest value where it is fixed.
METRICS: dict[str, tuple[str, float, float | None]] = {
    "accuracy": ("accuracy (%)", 100, 100),
    "teacher_kl": ("KL(teacher || student) (nats)", 1, None),
    "teacher_agreement": ("top-1 agreement with the teacher (%)", 100, 100),
}


def runs_under_cues(results: Results) -> list[Record]:
    """The finished teachers and students of results."""
    return [record for record in results.runs if isinstance(record.experiment, UnderCues)]


def points(results: Results) -> pd.DataFrame:
    """One row for each run, test and counterfactual set, with COLUMNS.

    `student` and `teacher` are the short names of the mechanisms of a network's own images and of its teacher's, "" where it has none; `loss` of teachers is
    "Teacher". `label` is the loss, with what else tells two experiments of equal mechanisms apart. `exact`: on all images of the set, after an epoch;
    else on the first ones. `kept`: of the epoch whose weights the run holds. Accuracies and agreement are fractions, KL is in nats.
    """
    records = runs_under_cues(results)
    labels = label_runs(records)
    rows = []
    for record in records:
        e: Any = record.experiment
        constant = {
            "dataset": e.dataset, "run": e.name, "seed": e.seed, "label": labels[e.hash], "loss": loss_of(e),
            "student": short_name(e.dataset, e.trained_on), "teacher": taught_by(e),
        }  # fmt: skip
        for row in record.epochs:
            exact = "valid_loss" in row
            common = constant | {"iteration": row.get("iteration"), "exact": exact}
            common["kept"] = exact and row["epoch"] == record.facts.get("best_epoch")
            rows += [common | {"set": name} | own for name, own in row.get("counterfactual", {}).items()]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def loss_of(experiment: UnderCues) -> str:
    return str(experiment.loss) if isinstance(experiment, Student) else TEACHER


def taught_by(experiment: UnderCues) -> str:
    """The short name of the teacher's mechanism, "" where there is no teacher."""
    teacher = experiment.teacher if isinstance(experiment, Student) else None
    return "" if teacher is None else short_name(experiment.dataset, teacher.trained_on)


def label_runs(records: Sequence[Record]) -> dict[str, str]:
    """Each experiment's loss by its hash; where experiments of one data set and loss differ in more than mechanisms and seeds, with the fields that do."""
    forms = {record.experiment.hash: form(record.experiment.canonical()) for record in records}
    groups: dict[tuple[str, str], list[Any]] = {}
    for record in records:
        e: Any = record.experiment
        groups.setdefault((e.dataset, loss_of(e)), []).append(e)
    labels = {}
    for (_, loss), members in groups.items():
        keys = sorted({key for e in members for key in forms[e.hash]})
        differing = [key for key in keys if len({json.dumps(forms[e.hash].get(key)) for e in members}) > 1]
        for e in members:
            labels[e.hash] = ", ".join([loss, *(f"{key} {forms[e.hash].get(key, 'default')}" for key in differing)])
    return labels


def in_file_name(label: object) -> str:
    """A label as a part of a file's name."""
    return str(label).replace(", ", "-").replace(" ", "_")


def form(canonical: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A canonical form without mechanisms and seeds, nested fields with dotted names, menu numbers as names."""
    flat: dict[str, Any] = {}
    for key, value in canonical.items():
        if isinstance(value, dict):
            flat |= form(value, f"{prefix}{key}.")
        elif key not in ("mechanism", "seed", "counterfactuals", "method"):
            flat[prefix + key] = str(info_dicts.MODELS[value]) if key == "model" else value
    return flat


def in_menu_order(dataset: str, names: Iterable[str]) -> list[str]:
    """Short or full names of mechanisms in the order of the data set's menu, then the others."""
    menu = [name for own in info_dicts.MECHANISMS[dataset].values() for name in (own.short, str(own))]
    found = list(dict.fromkeys(names))
    return sorted(found, key=lambda name: (menu.index(name) if name in menu else len(menu), found.index(name)))


def mechanism_of(dataset: str, name: str) -> Mechanism | None:
    """The mechanism of a set's name, or of a short one; None for `own`, which differs between runs."""
    for own in info_dicts.MECHANISMS[dataset].values():
        if name in (own, own.short):
            return Mechanism(*own.numbers)
    parts = name.split("_")
    return read_mechanism(dataset, [float(part) for part in parts]) if len(parts) == 6 else None


def reliance_pairs(dataset: str, sets: Iterable[str]) -> dict[str, tuple[str, str]]:
    """For each cue the pair of sets that shows who relies on it: one on which content and cue tell the class, and the same with the cue random (or, where that
    is not tested, absent)."""
    known = {own: name for name in sets if (own := mechanism_of(dataset, name)) is not None}
    pairs = {}
    for place, cue in enumerate(cue_names(dataset)):
        fraction, random = f"cue_{place + 1}", f"random_cue_{place + 1}"
        for mechanism, name in known.items():
            if getattr(mechanism, fraction) != 1 or getattr(mechanism, random) or not {"content", fraction} <= mechanism.features():
                continue
            without = (mechanism._replace(**{random: 1.0}), mechanism._replace(**{fraction: 0.0}))
            other = next((known[own] for own in without if own in known), None)
            if other is not None:
                pairs[cue] = (name, other)
                break
    return pairs


def nothing_to_draw(figure: str, results: Results) -> InputError:
    """The error of a figure of teachers and students where there are none."""
    if not results.runs:
        return results.unfinished(figure)
    return InputError(
        f"{figure}: no finished teacher or student in {results.source}; it draws runs of the methods Teacher and Student, such as those of configs/distill_demo.yaml"
    )


def required(figure: str, results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, if there are any."""
    if rows.empty:
        raise nothing_to_draw(figure, results)
    return rows
