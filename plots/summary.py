"""The summary of a study as text: accuracy by number of corruptions, what each system is told and costs, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from plots import box_plot
from plots.results import Record, Results, counts, describe_condition, name_systems, read_evaluation, unpack, write_stdout
from plots.statistics import RESAMPLES, bootstrap_intervals, t_interval
from plots.style import save_csv
from train.entry import Experiment

# Groups of compositions: by their number of corruptions; `singles` are the single corruptions and Identity.
GROUPS = ("clean", "singles", "1", "2", "3", "4", "5", "6", "all")


def members(group: str, n_c: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which compositions, of n corruptions each, belong to a group."""
    if group.isdigit():
        return n_c == int(group)
    return {"clean": n_c == 0, "singles": n_c <= 1, "two or more": n_c >= 2, "all": n_c >= 0}[group]


@dataclass
class System:
    """The seeds of one system: correctness of each image (N,) as the mean over the compositions of a group, one dict per seed."""

    label: str
    experiments: list[Experiment] = field(default_factory=list)
    seeds: list[dict[str, NDArray[np.float64]]] = field(default_factory=list)

    def per_image(self, group: str) -> NDArray[np.float64]:
        """Mean correctness of each image over seeds."""
        return np.mean([seed[group] for seed in self.seeds], axis=0)


@dataclass
class Comparison:
    """Systems that were evaluated on the same images, compositions and severities."""

    title: str
    n_c: NDArray[np.int64]
    images: int
    systems: dict[str, System] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, int]:
        """The groups that have compositions, and how many."""
        sizes = {group: int(members(group, self.n_c).sum()) for group in GROUPS}
        return {group: size for group, size in sizes.items() if size}


def compare(runs: Sequence[Record], table: pd.DataFrame) -> list[Comparison]:
    """Reads the per-image results of all runs, put together where they can be compared."""
    tested = table[table["composition"] != ""]
    rows = tested[["dataset", "run", "condition"]].assign(label=name_systems(tested)).drop_duplicates()
    labels = {tuple(row[:3]): row[3] for row in rows.to_numpy().tolist()}
    comparisons: dict[Any, Comparison] = {}
    for run in runs:
        e = run.experiment
        for path in run.evaluations:
            facts = read_evaluation(path)
            names, correct, ids = unpack(path)
            n = counts(names)
            key = (e.dataset, facts.split, tuple(facts.severities.items()), names, ids.tobytes())
            severities = "".join(f", {name} severity {severity}" for name, severity in facts.severities.items())
            found = comparisons.setdefault(key, Comparison(f"{e.dataset}, {facts.split} split{severities}", n, len(ids)))
            label = labels[e.dataset, e.name, describe_condition(e, facts.severities)]
            system = found.systems.setdefault(label, System(label))
            system.experiments.append(e)
            masks = {group: members(group, n) for group in (*GROUPS, "two or more")}
            system.seeds.append({group: correct[mask].mean(axis=0) for group, mask in masks.items() if mask.any()})
    return list(comparisons.values())


def oracle(experiment: Experiment) -> str:
    """What a system is told at test time about the corruptions of an image; modules in random order do without the order."""
    told = str(experiment.choice("method").oracle)
    return "names" if getattr(experiment, "order", "") == "random" else told


def accuracies(comparison: Comparison) -> pd.DataFrame:
    """Mean accuracy (a fraction) of each system and group with its 95 % interval: over seeds by Student's t, with one seed over images by bootstrap."""
    single = [system.seeds[0][group] for system in comparison.systems.values() if len(system.seeds) == 1 for group in comparison.groups]
    bootstrapped = iter(bootstrap_intervals(np.stack(single, axis=1)) if single else [])
    rows = []
    for system in comparison.systems.values():
        several = len(system.seeds) > 1
        for group, size in comparison.groups.items():
            interval = t_interval([seed[group].mean() for seed in system.seeds]) if several else next(bootstrapped)
            kind = "t over seeds" if several else "bootstrap over images"
            rows.append((comparison.title, system.label, group, size, len(system.seeds), comparison.images, kind, *interval))
    return pd.DataFrame(
        rows, columns=["comparison", "system", "group", "compositions", "seeds", "images", "interval", "accuracy", "low", "high"]
    )


def differences(comparison: Comparison) -> pd.DataFrame:
    """Paired per-image differences of each modular system from each CrossEntropy of its model, with 95 % bootstrap intervals over images."""
    rows = []
    by_method: dict[str, list[System]] = {}
    for system in comparison.systems.values():
        by_method.setdefault(system.experiments[0].method, []).append(system)
    sizes = {"two or more": int((comparison.n_c >= 2).sum()), "all": len(comparison.n_c)}
    for modular in by_method.get("ModularSystem", []):
        for plain in by_method.get("CrossEntropy", []):
            groups = [group for group, size in sizes.items() if size]
            if modular.experiments[0].model != plain.experiments[0].model:
                continue
            per_image = np.stack([modular.per_image(group) - plain.per_image(group) for group in groups], axis=1)
            for group, interval in zip(groups, bootstrap_intervals(per_image)):
                rows.append(
                    (
                        comparison.title,
                        f"{modular.label} - {plain.label}",
                        group,
                        sizes[group],
                        len(modular.seeds),
                        len(plain.seeds),
                        comparison.images,
                        *interval,
                    )
                )
    return pd.DataFrame(
        rows, columns=["comparison", "systems", "group", "compositions", "seeds", "other_seeds", "images", "difference", "low", "high"]
    )


def align(rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def plural(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def describe_accuracies(comparison: Comparison, values: pd.DataFrame) -> str:
    """The table of accuracies as text, in %."""
    numbers = sorted({len(system.seeds) for system in comparison.systems.values()})
    over_images = f"bootstrap over images, {RESAMPLES:,} resamples"
    kind = over_images if numbers == [1] else f"Student's t over seeds{f'; {over_images}, where there is one seed' if 1 in numbers else ''}"
    title = f"{comparison.title}: mean accuracy in %, below it the 95 % interval ({kind})"
    seeds = plural(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"
    n = f"n: {plural(comparison.images, 'image')}, {seeds}, {plural(len(comparison.n_c), 'composition')}; columns: number of corruptions (singles: one or none)"
    rows = [["", *comparison.groups], ["compositions", *(str(size) for size in comparison.groups.values())]]
    for label in comparison.systems:
        own = values[values["system"] == label]
        several = "" if len(numbers) == 1 else f" ({plural(len(comparison.systems[label].seeds), 'seed')})"
        rows.append([label + several, *(f"{100 * accuracy:.1f}" for accuracy in own["accuracy"])])
        rows.append(["", *(f"{100 * low:.1f}..{100 * high:.1f}" for low, high in zip(own["low"], own["high"]))])
    return f"{title}\n{n}\n\n{align(rows)}"


def describe_costs(comparisons: Sequence[Comparison], table: pd.DataFrame) -> str:
    """What each system is told and what it takes, as text; a range where seeds differ."""
    facts = table[table["metric"].isin(["trained_parameters", "total_parameters", "image_steps", "search_trials"])]
    values = {
        (dataset, run, metric): value
        for dataset, run, metric, value in facts[["dataset", "run", "metric", "value"]].itertuples(index=False)
    }
    rows = [["system", "oracle", "trained parameters", "total parameters", "image-steps", "search trials"]]
    seen = set()
    several = len({e.dataset for c in comparisons for s in c.systems.values() for e in s.experiments}) > 1
    for comparison in comparisons:
        for system in comparison.systems.values():
            first = system.experiments[0]
            if (first.dataset, system.label) in seen:
                continue
            seen.add((first.dataset, system.label))
            cells = []
            for metric in ("trained_parameters", "total_parameters", "image_steps", "search_trials"):
                numbers = sorted({int(values[key]) for e in system.experiments if (key := (e.dataset, e.name, metric)) in values})
                cells.append(f"{numbers[0]:,}" + (f" to {numbers[-1]:,}" if len(numbers) > 1 else "") if numbers else "?")
            rows.append([f"{first.dataset}: {system.label}" if several else system.label, oracle(first), *cells])
    title = "What each system is told at test time and what it takes (modules: with their backbone, each part counted once)"
    return f"{title}\n\n{align(rows)}"


def describe_differences(values: pd.DataFrame) -> str:
    """The paired differences as text, in percentage points."""
    if values.empty:
        return "Paired difference: none (it takes a ModularSystem and a CrossEntropy of one model, evaluated on the same images and compositions)"
    groups = {"two or more": "two or more corruptions", "all": "all compositions"}
    rows = [["", "compositions", "images", "seeds", "mean", "95 % interval"]]
    for row in values.to_dict("records"):
        seeds = str(row["seeds"]) if row["seeds"] == row["other_seeds"] else f"{row['seeds']} - {row['other_seeds']}"
        bounds = f"{100 * row['low']:+.1f}..{100 * row['high']:+.1f}"
        cells = [str(row["compositions"]), f"{row['images']:,}", seeds, f"{100 * row['difference']:+.1f}", bounds]
        rows.append([f"{row['systems']}, {groups[row['group']]}", *cells])
    return f"Paired per-image differences in percentage points, seeds averaged (bootstrap over images, {RESAMPLES:,} resamples)\n\n{align(rows)}"


def summarize(results: Results, folder: Path) -> list[Path]:
    """Prints the summary, writes its numbers as CSV and draws the box plot; returns the paths."""
    comparisons = compare(results.runs, results.table)
    missing = "Missing: " + ("; ".join(results.missing) if results.missing else "nothing")
    if not comparisons:
        write_stdout(f"{missing}\n")
        return []
    values = [accuracies(comparison) for comparison in comparisons]
    paired = [differences(comparison) for comparison in comparisons]
    sections = [f"{describe_accuracies(c, v)}\n\n{describe_differences(d)}" for c, v, d in zip(comparisons, values, paired)]
    write_stdout("\n\n".join([*sections, describe_costs(comparisons, results.table), missing]) + "\n\n")
    files = [save_csv(pd.concat(values), folder, "summary")]
    if filled := [table for table in paired if len(table)]:
        files.append(save_csv(pd.concat(filled), folder, "differences"))
    return [*files, *box_plot.draw(results.table, folder)]
