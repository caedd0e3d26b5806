"""A study as one HTML file: its numbers, its figures, and how every run of it was made. It needs no network and no script."""

import base64
import math
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from errors import InputError
from plots import cue_summary
from plots.comparison import PAIRED, compare, differences
from plots.points import accuracy_rows, comparable, means
from plots.records import Record
from plots.results import Results
from plots.statistics import RESAMPLES
from plots.style import describe_n, plural
from plots.summary import COSTS, COSTS_TITLE, costs, describe_range
from train.run import read_json, read_jsonl, resolved, write_atomically

TEMPLATES = Path(__file__).parent / "templates"
# What a figure's files are, by suffix.
TYPES = {".png": "image/png", ".pdf": "application/pdf", ".csv": "text/csv"}
CAPTIONS = {
    "box_plot": "Accuracy by number of corruptions: a dot is a composition (mean over seeds), a box spans the quartiles, a diamond is the mean with its 95 % interval.",
    "heat_map": "Accuracy of every system (columns) on every composition (rows); orders of the same corruptions stand together.",
    "effects": "What a corruption costs, what it costs to be the first, and what exchanging a pair changes.",
    "paired": "What a system gains over another on the same images, and on how many compositions it is significantly better or worse.",
    "training_curves": "Loss and accuracy by epoch (train dashed, valid solid), and validation accuracy by level where one was searched.",
    "cue_reliance": "Accuracy where a cue tells the class less accuracy where it is random, by what a network was trained on and by whom.",
    "mechanism_heat_map": "Students by the mechanism of their data (rows) and of their teacher's (columns), one map for each counterfactual set.",
    "mechanism_curves": "Tests on the first images of every counterfactual set against the iteration, one line for each mechanism of the network's data.",
    "mechanism_conditions": "Students by how what a test image tells relates to what their own and their teacher's images told.",
    "tsne": "Penultimate units of teacher and student in the plane, coloured by class.",
    "layers": "Saturation (bars) and probe accuracy (lines) of every layer; lines across: where the receptive field first covers the image.",
    "layers_over_epochs": "Saturation of every layer after every epoch of the training.",
    "probe_profiles": "Probes of every level or layer under every composition: fitted on clean images, on the composition's own, and of the untrained network.",
    "saturation_profiles": "Saturation of every layer under every composition.",
    "projection": "Accuracy where every layer keeps only the directions that explain a share delta of its variance.",
    "probe_map": "Probes of single positions of every layer's map.",
    "cuts": "Normalised cut of networks (lines) and of their shuffled weights (violins).",
    "cut_accuracy": "Accuracy against the normalised cut, and against its z among shuffles.",
    "cut_curves": "Normalised cut and accuracy along the training; dashed, where the pruning begins.",
    "cluster_graph": "Clusters by layer: discs as large as their units, lines as thick as the mean weight.",
    "lesions": "What the lesion of each cluster changes of the accuracy (diamonds), beside random groups of the same size.",
    "joint_lesions": "What the lesions of two clusters change together, beyond their sum, and of one where the other is gone.",
    "dependencies": "Which important clusters depend on which.",
    "invariance": "Invariance of the units before the classifier against accuracy on compositions, with Pearson's r and its 95 % interval.",
}

Draw = Callable[[Results, Path], list[Path]]


def write(figures: Mapping[str, Draw], results: Results, folder: Path) -> list[Path]:
    """Draws all figures that the results allow, and writes them with tables, configurations and versions into report.html, in itself complete.

    A figure that cannot be drawn is named with the reason. The same results give the same file. Returns the paths of the figures' files, and the page
    last. InputError where no run has been evaluated.
    """
    compositions, under_cues = not accuracy_rows(results).empty, cue_summary.sections(results)
    if not compositions and not under_cues:
        raise results.unfinished("report")
    drawn, without = {}, {}
    for name, draw in figures.items():
        try:
            drawn[name] = draw(results, folder)
        except InputError as error:
            without[name] = str(error).removeprefix(f"{name}: ")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        source=results.source,
        dates=describe_dates(results),
        missing=results.missing,
        smaller=len(results.smaller),
        sets=describe_sets(results) if compositions else [],
        costs_title=COSTS_TITLE,
        costs_head=["system", "told", *COSTS.values()],
        costs=describe_costs(results) if compositions else [],
        under_cues=[dict(zip(("title", "table"), text.split("\n\n", 1))) for text in under_cues],
        figures=[embed(name, paths) for name, paths in drawn.items()],
        without=without,
        runs=[describe_run(record) for record in results.runs],
        versions=count_versions(results),
    )
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return [*(own for paths in drawn.values() for own in paths), path]


def describe_sets(results: Results) -> list[dict[str, Any]]:
    """For each set of comparable evaluations its accuracies and, where results of single images are at hand, its paired differences."""
    sets = comparable(results.runs)
    try:
        compared = [differences(comparison) for comparison in compare("report", results.runs, results.table)]
    except InputError:
        compared = [pd.DataFrame()] * len(sets)
    rows, central = accuracy_rows(results), means(results)
    found = []
    for place, paired in enumerate(compared):
        own, values = rows[rows["comparison"] == place], central[central["comparison"] == place]
        first = own.iloc[0]
        seeds = own.groupby("system")["run"].nunique()
        found.append({
            "title": f"{first['dataset']}, {first['split']} images" + (f" ({place + 1})" if len(compared) > 1 else ""),
            "n": describe_n(own["composition"].nunique(), seeds, first["images"]),
            "groups": list(dict.fromkeys(values["group"])),
            "sizes": list(values.drop_duplicates("group")["compositions"]),
            "systems": [describe_system(str(system), values[values["system"] == system]) for system in dict.fromkeys(values["system"])],
            "intervals": describe_intervals(list(dict.fromkeys(values["interval"]))),
            "differences": [describe_difference(row) for row in paired.to_dict("records")],
        })  # fmt: skip
    return found


def describe_system(name: str, values: pd.DataFrame) -> dict[str, Any]:
    """A line of the table of accuracies, in %."""
    cells = [
        {"mean": f"{100 * mean:.1f}", "interval": "" if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"}
        for mean, low, high in values[["accuracy", "low", "high"]].itertuples(index=False)
    ]
    return {"name": name, "seeds": int(values["seeds"].iloc[0]), "cells": cells}


def describe_intervals(kinds: list[str]) -> str:
    words = {"t over seeds": "Student's t over seeds", "bootstrap over images": f"bootstrap over images, {RESAMPLES:,} resamples"}
    named = [words[kind] for kind in words if kind in kinds]
    return f"95 % intervals: {'; of one seed: '.join(named)}" if named else "No intervals: one seed, and no results of single images"


def describe_difference(row: Mapping[Any, Any]) -> list[str]:
    """A line of the table of differences, in percentage points."""
    seeds = str(row["seeds"]) if row["same_seeds"] else f"{row['seeds']} - {row['other_seeds']}"
    bounds = f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    p = "< 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}"
    return [row["systems"], PAIRED[row["group"]], seeds, f"{100 * row['difference']:+.1f}", bounds, f"{row['n10']:,}", f"{row['n01']:,}", p]


def describe_costs(results: Results) -> list[list[str]]:
    table = costs(results)
    several = table["dataset"].nunique() > 1
    return [
        [f"{row['dataset']}: {row['system']}" if several else row["system"], row["oracle"]]
        + [describe_range(row[f"{metric}_low"], row[f"{metric}_high"]) for metric in COSTS]
        for row in table.to_dict("records")
    ]


def embed(name: str, paths: list[Path]) -> dict[str, Any]:
    """A figure for the page: its images, each with the files to be saved beside it, as data; files that belong to no one image stand with the last."""
    images = [path for path in paths if path.suffix == ".png"]
    owners = {path: owner(path, images) for path in paths if path.suffix != ".png"}
    described = [
        {
            "stem": image.stem,
            "data": as_data(image),
            "files": [{"name": path.name, "data": as_data(path)} for path, own in owners.items() if own == image],
        }
        for image in images
    ]
    return {"name": name, "caption": CAPTIONS.get(name, ""), "images": described}


def owner(path: Path, images: list[Path]) -> Path:
    """The image whose name is the longest start of a file's; the last one where there is none."""
    starts = [image for image in images if path.stem == image.stem or path.stem.startswith(f"{image.stem}-")]
    return max(starts, key=lambda image: len(image.stem)) if starts else images[-1]


def as_data(path: Path) -> str:
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def describe_run(record: Record) -> dict[str, Any]:
    """What the page says of one run."""
    e, attempts = record.experiment, attempts_of(record)
    facts = {key: describe_range(record.facts[key], record.facts[key]) for key in ("best_epoch", "image_steps") if key in record.facts}
    written = read_json(record.directory / "experiment.json") or {} if record.directory else {}
    return {
        "name": e.name,
        "method": str(e.method),
        "seed": e.seed,
        "seconds": f"{record.facts['train_seconds']:,.0f} s" if "train_seconds" in record.facts else "",
        "facts": facts,
        "compositions": ", ".join(
            f"{plural(len(tested.names), 'composition')} of {plural(tested.images, 'image')}" for tested in record.tested
        ),
        "config": yaml.safe_dump(resolved(e), sort_keys=False, default_flow_style=None, width=110, allow_unicode=True),
        "data": written.get("data", ""),
        "attempts": len(attempts),
        "start": date_of(attempts[0]["start"]) if attempts else "",
        "versions": describe_versions(attempts[-1]) if attempts else "",
    }


def attempts_of(record: Record) -> list[dict[str, Any]]:
    """The starts of a run, where its directory is at hand."""
    path = record.directory / "attempts.jsonl" if record.directory else None
    return read_jsonl(path) if path and path.exists() else []


def describe_versions(attempt: Mapping[str, Any]) -> str:
    """Commit and versions of a start; not where it was."""
    versions = {"python": attempt.get("python", "?"), **attempt.get("versions", {})}
    commit = attempt.get("commit", "")
    return ", ".join(
        [
            *([f"commit {commit[:12]}{'+' if commit.endswith('+') else ''}"] if commit else []),
            *(f"{key} {version}" for key, version in versions.items()),
        ]
    )


def count_versions(results: Results) -> list[tuple[str, str]]:
    """Every combination of commit and versions, and how many runs were made with it."""
    counts = Counter(
        describe_versions(attempts[-1]) if (attempts := attempts_of(record)) else "not recorded (read from W&B)" for record in results.runs
    )
    return [(words, plural(n, "run")) for words, n in sorted(counts.items())]


def describe_dates(results: Results) -> str:
    """From when to when the runs were started."""
    starts = [attempt["start"] for record in results.runs for attempt in attempts_of(record) if "start" in attempt]
    if not starts:
        return ""
    first, last = date_of(min(starts)), date_of(max(starts))
    return first if first == last else f"{first} to {last}"


def date_of(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
