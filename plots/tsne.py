"""Features of students and their teachers in the plane, by t-SNE (van der Maaten and Hinton, JMLR 2008)."""

import math
import re
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from data.class_names import class_names
from errors import InputError
from plots.mechanisms import in_menu_order, nothing_to_draw, runs_under_cues
from plots.results import Results
from plots.style import save, styled
from train.cue_experiments import Student

PERPLEXITY = 30.0
MOST = 500  # images of a set: a projection takes seconds
FEW_CLASSES = 20  # of more, no key


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws for every student with features (`python -m analysis features`), of equal ones the first seed, a panel for each counterfactual set: above its
    teacher's, below its own.

    Each panel is a projection of its own (perplexity 30, or a third of the images; from the principal components, seed 0), coloured by class; distances
    between clusters mean nothing. Returns the paths of CSVs, PDFs and PNGs. InputError where no run has features.
    """
    paths: list[Path] = []
    records = sorted(
        (record for record in runs_under_cues(results) if isinstance(record.experiment, Student)), key=lambda own: own.experiment.seed
    )
    drawn = set()
    for record in records:
        file, kind = newest(record.directory), re.sub(r"-s\d+-[0-9a-f]{12}$", "", record.experiment.name)
        if file is None or (record.experiment.dataset, kind) in drawn:
            continue
        drawn.add((record.experiment.dataset, kind))
        projected = project(file)
        e = record.experiment
        with styled():
            paths += save(draw_projections(projected, e.dataset, e.name), projected, folder, f"tsne-{e.name}")
    if not runs_under_cues(results):
        raise nothing_to_draw("tsne", results)
    if not paths:
        raise InputError(f"tsne: no student in {results.source} has features; compute them with: python -m analysis features CONFIG")
    return paths


def newest(directory: Path | None) -> Path | None:
    """The newest file of features of a run directory."""
    files = [] if directory is None else list((directory / "analyses" / "features").glob("*/features.h5"))
    return max(files, key=lambda path: path.stat().st_mtime_ns, default=None)


def project(path: Path) -> pd.DataFrame:
    """Set, network, label and place (x, y) of every image in a file of features; InputError where it is damaged."""
    # Only here, since loading it takes longer than drawing most figures.
    from sklearn.manifold import TSNE

    frames = []
    try:
        with h5py.File(path) as file:
            for name, group in file.items():
                # Evenly, since images stand by class.
                labels = group["label"][:: math.ceil(len(group["label"]) / MOST)]
                for network in sorted(key for key in group if key != "label"):
                    units: NDArray[Any] = group[network][:: math.ceil(len(group[network]) / MOST)]
                    perplexity = min(PERPLEXITY, max(1.0, (len(units) - 1) / 3))
                    places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(units)
                    frames.append(pd.DataFrame({"set": name, "network": network, "label": labels, "x": places[:, 0], "y": places[:, 1]}))
    except (OSError, KeyError, RuntimeError) as error:
        raise InputError(
            f"{path}: damaged ({error}); delete its folder and make it again with: python -m analysis features CONFIG"
        ) from None
    return pd.concat(frames)


def draw_projections(projected: pd.DataFrame, dataset: str, name: str) -> Figure:
    sets = in_menu_order(dataset, projected["set"])
    networks = [own for own in ("teacher", "student") if own in set(projected["network"])]
    figure = Figure(figsize=(0.5 + 1.6 * len(sets), 0.9 + 1.6 * len(networks)), layout="constrained")
    panels = figure.subplots(len(networks), len(sets), squeeze=False)
    colours = matplotlib.colormaps["tab10" if len(class_names(dataset)) <= 10 else "turbo"]
    classes = class_names(dataset)

    def colour(label: int) -> Any:
        return colours(label if len(classes) <= 10 else label / (len(classes) - 1))

    for line, network in zip(panels, networks):
        for axes, own in zip(line, sets):
            chosen = projected[(projected["set"] == own) & (projected["network"] == network)]
            axes.scatter(chosen["x"], chosen["y"], s=1.5, c=[colour(int(label)) for label in np.asarray(chosen["label"])], linewidths=0)
            axes.set_xticks([])
            axes.set_yticks([])
            if network == networks[0]:
                axes.set_title(own, fontsize=6.5)
        line[0].set_ylabel(network)
    if len(classes) <= FEW_CLASSES:
        handles = [
            Line2D([], [], color=colour(label), marker="o", linestyle="", markersize=3, label=own) for label, own in enumerate(classes)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=5.5)
    figure.suptitle(f"{name}\npenultimate units in the plane (t-SNE), test images of counterfactual sets", fontsize=6.5)
    return figure
