"""The tables of studies of clusterability as published: n-cuts beside shuffles, run by run and over replicates; single and double lesions."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.lesion_tests import KINDS
from analysis.null_tests import false_discovery
from plots.cut_values import Cut, accuracies, cut_systems, cuts
from plots.layered import Layered, layered
from plots.lesions import of_run, values
from plots.results import Results
from plots.style import align, save_csv
from train.run import write_atomically


def prefix(found: Sequence[Layered]) -> str:
    """What the published files are called after: mlp- or cnn- where all networks are such, else nothing."""
    kinds = {own.model.partition("-")[0].lower() for own in found}
    return f"{kinds.pop()}-" if kinds in ({"mlp"}, {"cnn"}) else ""


def dropout(model: str) -> bool:
    return "dropout" in model


def clustering(results: Results, folder: Path) -> list[Path]:
    """Writes clustering.csv: a row for each network (run, and weights) and kind of shuffle, with p corrected over them all. InputError where nothing was clustered."""
    found = cut_systems(results, "clustering")
    rows = [row(cut, accuracies(own, cut.run, cut.weights)) for own in found for cut in cuts(own) if not cut.part]
    for row_, corrected in zip(rows, false_discovery([row["p"] for row in rows])):
        row_["p_corrected"] = corrected
    table = pd.DataFrame(rows)
    print(align([["model", "network", "weights", "shuffle", "ncut", "mean", "z", "p", "p corrected"], *([r["model"], r["network"], r["weights"], r["shuffle_method"], *(f"{r[key]:.4g}" for key in ("ncut", "mean", "z_score", "p", "p_corrected"))] for r in rows)]), end="\n\n")  # fmt: skip
    return [save_csv(table, folder, f"{prefix(found)}clustering")]


def row(cut: Cut, scores: dict[str, float]) -> dict[str, Any]:
    """A row with the published columns first."""
    below = sum(value <= cut.ncut for value in cut.shuffled)
    return {
        "model": f"{cut.dataset}{'+DROPOUT' if dropout(cut.model) else ''}", "network": cut.run, "dropout": dropout(cut.model), "is_unpruned": cut.weights == "unpruned",
        "shuffle_method": cut.shuffle, "ncut": cut.ncut, "ave_in_out": cut.inside_to_outside, "n_samples": len(cut.shuffled), "mean": cut.values["mean"],
        "stdev": cut.values["std"], "z_score": cut.values["z"], "percentile": below / len(cut.shuffled),
        **{key: scores.get(key, math.nan) for key in ("train_accuracy", "train_loss", "test_accuracy", "test_loss")},
        "weights": cut.weights, "p": cut.values["p"], "p_low": cut.values["p_low"], "p_high": cut.values["p_high"],
    }  # fmt: skip


def stability(results: Results, folder: Path) -> list[Path]:
    """Writes clustering-stability-statistic.csv: a row for each system, weights and kind of shuffle, over its replicates. InputError where nothing was clustered.

    The deviation of the shuffled n-cuts is pooled over replicates: the root of mean(sd^2 + mu^2) - mean(mu)^2. `stable`: every network's n-cut is below all its shuffles.
    """
    found = cut_systems(results, "stability")
    rows = []
    for own in found:
        groups: dict[tuple[str, str], list[Cut]] = {}
        for cut in cuts(own):
            if not cut.part:
                groups.setdefault((cut.weights, cut.shuffle), []).append(cut)
        rows += [replicated(own, weights, shuffle, group) for (weights, shuffle), group in groups.items()]
    table = pd.DataFrame(rows)
    shown = [
        "dataset",
        "system",
        "weights",
        "shuffle_method",
        "networks",
        "ncut",
        "ncut_sd",
        "shuffled_mean",
        "z",
        "smallest",
        "test_accuracy",
    ]
    print(align([shown, *([form(row[key]) for key in shown] for row in rows)]), end="\n\n")
    return [save_csv(table, folder, f"{prefix(found)}clustering-stability-statistic")]


def form(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def replicated(own: Layered, weights: str, shuffle: str, group: Sequence[Cut]) -> dict[str, Any]:
    """The replicates of one system."""
    ncut = np.array([cut.ncut for cut in group])
    means, deviations = (np.array([cut.values[key] for cut in group]) for key in ("mean", "std"))
    scores = [accuracies(own, cut.run, weights) for cut in group]

    def mean(key: str) -> float:
        there = [score[key] for score in scores if key in score]
        return float(np.mean(there)) if there else math.nan

    corrected = false_discovery([cut.values["p"] for cut in group])
    return {
        "dataset": own.dataset, "system": own.system, "model": own.model, "weights": weights, "shuffle_method": shuffle, "networks": len(group), "ncut": float(ncut.mean()),
        "ncut_sd": float(ncut.std(ddof=1)) if len(ncut) > 1 else math.nan, "shuffled_mean": float(means.mean()),
        "shuffled_sd_pooled": float(np.sqrt(max(0.0, np.mean(deviations**2 + means**2) - means.mean() ** 2))),
        "z": float(np.mean([cut.values["z"] for cut in group])), "smallest": sum(cut.smallest for cut in group), "stable": all(cut.smallest for cut in group),
        "significant_corrected": sum(p <= 0.05 for p in corrected), "shuffles": len(group[0].shuffled), "train_accuracy": mean("train_accuracy"),
        "test_accuracy": mean("test_accuracy"),
    }  # fmt: skip


def lesion_table(results: Results, folder: Path) -> list[Path]:
    """Writes lesion.xlsx with a sheet for each data set and kind of network (the first seed's run), as published, and lesion.csv of all runs. InputError where nothing was lesioned."""
    found = layered(results, "lesion_accuracy", "lesion_table", "lesions")
    sheets: dict[str, pd.DataFrame] = {}
    everything = []
    for own in found:
        for run, rows in sorted(of_run(own, "lesion_").items(), key=lambda item: int(item[1]["seed"].iloc[0])):
            table = single(rows)
            everything.append(table.assign(dataset=own.dataset, system=own.system, model=own.model, run=run))
            title = f"{own.dataset}{'+DROPOUT' if dropout(own.model) else ''}"
            sheets.setdefault(sheet_name(title, own, found), table)
    buffer = io.BytesIO()
    with pd.ExcelWriter(buffer, engine="openpyxl") as writer:
        for name, table in sheets.items():
            table.to_excel(writer, sheet_name=name, index=False)
    paths = [save_csv(pd.concat(everything), folder, f"{prefix(found)}lesion")]
    paths.append(folder / f"{prefix(found)}lesion.xlsx")
    write_atomically(paths[-1], buffer.getvalue())
    return paths


def sheet_name(title: str, own: Layered, found: Sequence[Layered]) -> str:
    """A sheet's name, at most 31 letters: with the system where a data set has several of one kind."""
    same = [other for other in found if other.dataset == own.dataset and dropout(other.model) == dropout(own.model)]
    return (title if len(same) == 1 else f"{title} {same.index(own) + 1}")[:31].replace("/", "-").replace(":", "-")


def single(rows: pd.DataFrame) -> pd.DataFrame:
    """The published columns of a run's single lesions."""
    metrics = {
        name: values(rows, f"lesion_{name}")
        for name in ("diff", "p", "proportion", "accuracy", "kind", "random_mean", "random_std", "z", "units")
    }
    found = []
    for group in metrics["accuracy"]:
        layer, _, label = group.rpartition("/")
        own = {name: by_group.get(group, math.nan) for name, by_group in metrics.items()}
        found.append(
            {
                "layer": layer, "label": int(label), "diff": own["diff"], "corrected_pvalue": own["p"], "label_in_layer_proportion": own["proportion"],
                "true": own["accuracy"], "taxonomy": KINDS[int(own["kind"])], "mean": own["random_mean"], "std": own["random_std"], "z_score": own["z"],
                "n_layer_label": int(own["units"]),
            }
        )  # fmt: skip
    return pd.DataFrame(found)


def double_lesion_table(results: Results, folder: Path) -> list[Path]:
    """Writes double-lesion.csv: of each run how many clusters are important, how many pairs that are important though neither of them is, and the types of dependency."""
    found = layered(
        results, "joint_diff", "double_lesion_table", "lesions", "ask for pairs: python -m analysis lesions CONFIG --pair_labelings=50"
    )
    rows = []
    for own in found:
        singles, joints, dependencies = of_run(own, "lesion_"), of_run(own, "joint_"), of_run(own, "dependencies_")
        for run in joints:
            kinds, joint = values(singles[run], "lesion_kind"), values(joints[run], "joint_kind")
            only_together = [name for name, kind in joint.items() if kind == 3 and all(kinds[group] != 3 for group in name.split("&"))]
            rows.append(
                {
                    "dataset": own.dataset, "system": own.system, "run": run, "groups": len(kinds), "important": sum(kind == 3 for kind in kinds.values()), "pairs": len(joint),
                    "important_together_only": len(only_together),
                    **{f"type_{name}": int(values(dependencies[run], f"dependencies_{kind}")[""]) for kind, name in ((1, "I"), (2, "II"), (3, "III"), (4, "IV"))},
                }
            )  # fmt: skip
    print(align([list(rows[0]), *([str(value) for value in row.values()] for row in rows)]), end="\n\n")
    return [save_csv(pd.DataFrame(rows), folder, f"{prefix(found)}double-lesion")]
