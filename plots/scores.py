"""Invariance scores of evaluated systems, from the class means that `python -m analysis invariance` keeps in their run directories."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

import info_dicts
from analysis.files import analysis_path, opened
from analysis.invariance import score_file
from errors import InputError
from plots.points import comparable
from plots.records import counts, describe_condition
from plots.results import LISTS, Results
from plots.table import label_systems
from train.entry import Experiment
from train.evaluations import Tested, full_names

KEYS = ["comparison", "dataset", "split", "images", "normalisation", "method", "system", "plain", "n_corruptions", "composition"]
VALUES = ["elemental", "composition_score", "accuracy", "clean", "units"]


def scores(results: Results) -> tuple[pd.DataFrame, list[str]]:
    """The scores and the accuracy (fractions, means over seeds) of each system on each composition, under each normalisation; and whose are missing.

    `comparison` is the place of the evaluations in `comparable`, `plain` whether the system is the plain form of its method, `clean` its accuracy
    on clean images, `units` the mean number of units that count, `seeds` how many runs. Plain systems come first, in menu order.
    """
    labels = label_systems(results.table)
    rows: list[pd.DataFrame] = []
    missing: list[str] = []
    numbers = {str(name): number for number, name in info_dicts.METHODS.items()}
    for place, own in enumerate(comparable(results.runs)):
        files = choose_files(own)
        for experiment, tested in sorted(own, key=lambda pair: (pair[0].condition != "", numbers[pair[0].method])):
            if experiment.hash not in files:
                missing.append(experiment.name)
                continue
            condition = describe_condition(experiment, tested.severities)
            own_rows = read_scores(files[experiment.hash])
            own_rows = own_rows.assign(comparison=place, dataset=experiment.dataset, split=tested.split, method=experiment.method)
            rows.append(own_rows.assign(system=labels[experiment.dataset, experiment.name, condition], plain=experiment.condition == ""))
    if not rows:
        return pd.DataFrame(columns=[*KEYS, *VALUES, "seeds"]), missing
    means = pd.concat(rows).groupby(KEYS, sort=False)[VALUES]
    return means.mean().assign(seeds=means.size()).reset_index(), missing


def choose_files(own: Sequence[tuple[Experiment, Tested]]) -> Mapping[str, Path]:
    """A file of class means for each system (by hash) of comparable evaluations, all on the same images.

    Those that most systems have, of equals those on most images: the evaluation's own, or fewer (--images). InputError where one is damaged.
    """
    found: dict[tuple[str, int], dict[str, Path]] = {}
    for experiment, tested in own:
        if tested.path is None:
            continue
        own_file = analysis_path(tested.path.parents[1], "invariance", tested.path.stem)
        for path in sorted(own_file.parent.glob("*.h5")):
            with opened(path) as means:
                if (means.split, means.severities, full_names(means.names)) == (tested.split, tested.severities, tested.names):
                    found.setdefault((path.stem, means.images), {})[experiment.hash] = path
    return max(found.items(), key=lambda item: (len(item[1]), item[0][1]))[1] if found else {}


def read_scores(path: Path) -> pd.DataFrame:
    """The scores of one file, a row for each normalisation and composition."""
    with opened(path) as means:
        names, n = full_names(means.names), counts(full_names(means.names))
        return pd.concat(
            pd.DataFrame(
                {
                    "normalisation": normalisation,
                    "composition": [names[place] for place in found.places],
                    "n_corruptions": n[found.places],
                    "elemental": found.elemental_s,
                    "composition_score": found.composition_s,
                    "accuracy": means.accuracy_c[found.places],
                    "clean": means.accuracy_c[names.index("Identity")] if len(found.places) else [],
                    "units": found.units_s,
                    "images": means.images,
                }
            )
            for normalisation, found in score_file(means).items()
        )


def explain(results: Results, missing: Sequence[str]) -> InputError:
    """What stops the figure where there is no score at all."""
    if not any(run.tested for run in results.runs):
        return results.unfinished("invariance")
    config = results.source if results.source.endswith(LISTS) and "," not in results.source else "CONFIG"
    if not missing:
        return InputError(f"invariance: no evaluation in {results.source} has a composition together with its elementals and Identity")
    return InputError(
        f"invariance: none of the {len(missing):,} evaluated systems in {results.source} has been analysed in its run directory; "
        f"do so with: python -m analysis invariance {config} (with the overrides that the list was run with)"
    )
