from pathlib import Path

import pandas as pd
import pytest

from plots import training_curves
from plots.__main__ import main
from plots.results import load
from tests.plots.conftest import (
    CONTRASTIVE,
    CROSS_ENTROPY,
    DATASET,
    IDENTITY,
    IMG_SPACE,
    IMG_SPACE_JOINT,
    ROUTINGS,
    SYSTEM,
    Study,
    random_bits,
)
from train.build import build

pytestmark = pytest.mark.usefixtures("png_alone")


def test_training_curves_and_level_search(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained(SYSTEM, random_bits(0))
    assert main(["training_curves", str(study.runs), "--out", str(study.folder / "out")]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in printed if path.suffix == ".png"] == [f"training_curves-{DATASET}.png", f"level_search-{DATASET}.png"]
    assert all(path.stat().st_size > 1_000 for path in printed)
    drawn = pd.read_csv(printed[0])
    backbone = build(SYSTEM).backbone.name
    curve = drawn[(drawn["run"] == backbone) & (drawn["metric"] == "loss") & (drawn["split"] == "train")]
    assert curve["value"].tolist() == [2.0, 1.0]
    table = load(study.runs)
    figure = training_curves.draw_search(table[(table["metric"] == "search_accuracy") & (table["split"] == "valid")], DATASET)
    assert figure.axes[0].get_title() == "Contrast-auto-lr0.05-w0.1\nseed 1"
    for axes in figure.axes:
        line, ring = axes.lines
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 1], [20.0, 20.0])
        assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([0], [20.0])
    curves = training_curves.draw_curves(table[table["metric"].isin(["loss", "accuracy"]) & table["epoch"].notna()], DATASET)
    assert [axes.get_title() for axes in curves.axes[:2]] == ["Identity", "Module"]
    assert [len(axes.lines) for axes in curves.axes] == [2, 12, 3, 13]
    assert [axes.texts[0].xy[1] for axes in curves.axes[2:]] == [10.0, 10.0]


def test_curves_of_parts_have_their_own_names(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained({**IMG_SPACE_JOINT, **ROUTINGS[2]}, random_bits(0))
    assert main(["training_curves", str(study.runs), "--out", str(study.folder / "out")]) == 0
    assert f"training_curves-{DATASET}.png" in capsys.readouterr().out
    table = load(study.runs)
    figure = training_curves.draw_curves(table[table["metric"].isin(["loss", "accuracy"]) & table["epoch"].notna()], DATASET)
    above, below = figure.axes[:3], figure.axes[3:]
    assert [axes.get_title() for axes in above] == ["Autoencoder", "JointClassifier", "Router"]
    assert [axes.get_ylabel() for axes in above] == ["MSE", "loss", "binary cross-entropy"]
    assert [axes.get_ylabel() for axes in below] == ["", "accuracy (%)", "all corruptions named (%)"]
    assert [len(axes.lines) for axes in figure.axes] == [12, 2, 2, 0, 3, 2]
    assert [axes.axison for axes in below] == [False, True, True]
    assert [text.get_text() for text in below[0].get_legend().get_texts()][:2] == ["Contrast-lr0.1", "GaussianBlur-lr0.1"]


def test_curves_of_an_autoencoder_alone(study: Study) -> None:
    entry = {**IDENTITY, "method": "Autoencoder", "corruption": "Swirl"}
    study.trained(entry)
    assert main(["training_curves", str(study.list_of(entry)), "--out", str(study.folder / "out")]) == 0
    drawn = pd.read_csv(study.folder / "out" / f"training_curves-{DATASET}.csv")
    assert drawn["metric"].tolist() == ["loss"] * 4


def test_curves_of_many_methods_take_more_lines(study: Study) -> None:
    for entry in (IDENTITY, CROSS_ENTROPY, CONTRASTIVE, {**IMG_SPACE, **ROUTINGS[2]}):
        study.trained(entry, random_bits(0))
    table = load(study.runs)
    figure = training_curves.draw_curves(table[table["metric"].isin(["loss", "accuracy"]) & table["epoch"].notna()], DATASET)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Identity", "CrossEntropy", "Contrastive", "", "", "", "Autoencoder", "Router", "", "", "", ""]
    assert [axes.axison for axes in figure.axes] == [True] * 8 + [False, False, True, False]
    assert [axes.get_ylabel() for axes in figure.axes[:3]] == ["loss", "", ""]
