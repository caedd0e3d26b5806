"""The summary of a study as text: accuracy by number of corruptions, what each system is told and costs, and paired differences."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from plots import box_plot, cue_reliance, cue_summary
from plots.comparison import PAIRED, Comparison, compare, differences
from plots.points import accuracy_rows, means
from plots.results import Results, write_stdout
from plots.statistics import RESAMPLES
from plots.style import align, plural, save_csv

# What a system takes, and what that is called.
COSTS = {
    "trained_parameters": "trained parameters",
    "total_parameters": "total parameters",
    "image_steps": "image-steps",
    "search_trials": "search trials",
}
COSTS_TITLE = "What each system is told at test time and what it takes (systems: with their parts, each part counted once)"


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


def costs(results: Results) -> pd.DataFrame:
    """What each evaluated system is told at test time and what it takes, one row each: the smallest and the largest number of its runs (`low`, `high` of
    each metric), NaN where it is not known."""
    table = results.table
    facts = {
        (dataset, run, metric): value
        for dataset, run, metric, value in table.loc[table["metric"].isin(COSTS), ["dataset", "run", "metric", "value"]].itertuples(
            index=False
        )
    }
    told: dict[Any, str] = {
        (record.experiment.dataset, record.experiment.name): record.experiment.oracle for record in results.runs if record.tested
    }
    rows = []
    for (dataset, system), own in accuracy_rows(results).groupby(["dataset", "system"], sort=False):
        runs = [(dataset, run) for run in own["run"].unique()]
        known = {metric: [facts[(*run, metric)] for run in runs if (*run, metric) in facts] or [math.nan] for metric in COSTS}
        ends = {f"{metric}_{side}": end(values) for metric, values in known.items() for side, end in (("low", min), ("high", max))}
        rows.append({"dataset": dataset, "system": system, "oracle": told[runs[0]], **ends})
    return pd.DataFrame(rows)


def describe_range(low: float, high: float) -> str:
    """One number, or two where they differ; ? where there is none."""
    if math.isnan(low):
        return "?"
    return f"{low:,.0f}" + (f" to {high:,.0f}" if high > low else "")


def describe_costs(values: pd.DataFrame) -> str:
    """What each system is told and what it takes, as text; a range where seeds differ."""
    rows = [["system", "oracle", *COSTS.values()]]
    several = values["dataset"].nunique() > 1
    for row in values.to_dict("records"):
        cells = [describe_range(row[f"{metric}_low"], row[f"{metric}_high"]) for metric in COSTS]
        rows.append([f"{row['dataset']}: {row['system']}" if several else row["system"], row["oracle"], *cells])
    return f"{COSTS_TITLE}\n\n{align(rows)}"


def describe_differences(values: pd.DataFrame) -> str:
    """The paired differences as text, in percentage points: the claims, and below them what other routings cost."""
    if values.empty:
        return (
            "Paired difference: none (it takes a CrossEntropy and a Contrastive or a system with parts of its model, "
            "or one system under two routings, evaluated on the same images and compositions)"
        )
    rows = [["", "compositions", "images", "seeds", "mean", "95 % interval"]]
    for row in values.to_dict("records"):
        seeds = str(row["seeds"]) if row["same_seeds"] else f"{row['seeds']} - {row['other_seeds']}"
        bounds = f"{100 * row['low']:+.1f}..{100 * row['high']:+.1f}"
        cells = [str(row["compositions"]), f"{row['images']:,}", seeds, f"{100 * row['difference']:+.1f}", bounds]
        rows.append([f"{row['systems']}, {PAIRED[row['group']]}", *cells])
    head, *lines = align(rows).splitlines()
    n_claims = int((values["kind"] == "claim").sum())
    blocks = ["\n".join(block) for block in (lines[:n_claims], lines[n_claims:]) if block]
    title = f"Paired per-image differences in percentage points, seeds averaged (bootstrap over images, {RESAMPLES:,} resamples)"
    if not values["same_seeds"].all():
        title += "\nseeds: those that both sides have; 'n - m': none in common, so all n and all m"
    return f"{title}\n\n{head}\n" + "\n\n".join(blocks)


def summarize(results: Results, folder: Path) -> list[Path]:
    """Prints the summary, writes its numbers as CSV and draws the box plot (of teachers and students the reliance on cues); returns the paths.

    InputError where runs are missing and none is evaluated.
    """
    comparisons, under_cues = compare("summary", results.runs, results.table), cue_summary.sections(results)
    if not comparisons and not under_cues and results.missing:
        print(results.note, file=sys.stderr)
        raise results.unfinished("summary")
    missing = f"Missing: {results.gaps or 'nothing'}"
    if under_cues:
        write_stdout("\n\n".join([*under_cues, *([] if comparisons else [missing]), ""]) + "\n")
    if not comparisons and not under_cues:
        write_stdout(f"{missing}\n")
        return []
    paths = summarize_compositions(results, comparisons, missing, folder) if comparisons else []
    paths += cue_summary.save_tables(results, folder)
    return [*paths, *(cue_reliance.draw(results, folder) if len(cue_reliance.reliance(results)) else [])]


def summarize_compositions(results: Results, comparisons: Sequence[Comparison], missing: str, folder: Path) -> list[Path]:
    """The summary of systems on compositions."""
    found = means(results)
    values = [found[found["comparison"] == place].assign(comparison=comparison.title) for place, comparison in enumerate(comparisons)]
    paired = [differences(comparison) for comparison in comparisons]
    sections = [f"{describe_accuracies(c, v)}\n\n{describe_differences(d)}" for c, v, d in zip(comparisons, values, paired)]
    write_stdout("\n\n".join([*sections, describe_costs(costs(results)), missing]) + "\n\n")
    files = [save_csv(pd.concat(values), folder, "summary")]
    if filled := [table for table in paired if len(table)]:
        files.append(save_csv(pd.concat(filled), folder, "differences"))
    return [*files, *box_plot.draw(results, folder)]
