"""The invariance figures: what is drawn follows from what systems do, their numbers are scipy's, and what is missing is named."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import info_dicts
from analysis.activations import collect
from analysis.files import analysis_path, opened
from analysis.invariance import NORMALISATIONS
from analysis.walk import Activations, Data
from data import datasets
from data.compositions import compositions
from errors import InputError
from plots import invariance
from plots.__main__ import main
from plots.results import find
from plots.scores import scores
from plots.style import styled
from tests.plots.conftest import CONTRASTIVE, CROSS_ENTROPY, IDENTITY, IMAGES, NAMES, SYSTEM, random_bits, right_up_to
from tests.train.runs import CPU

UNITS = 6


class Chosen:
    """A system whose units and answers are drawn by the composition; the more corruptions, the larger the units."""

    restoration = None

    def __init__(self, seed):
        self.seed = seed

    def restore(self, images, composition):
        return images

    def activate(self, images, composition):
        key = [self.seed, *(list(info_dicts.CORRUPTIONS.values()).index(name) for name in composition)]
        generator = np.random.default_rng(key)
        units = torch.from_numpy(generator.random((len(images), UNITS)).astype(np.float32) * len(composition))
        return Activations(units, torch.from_numpy(generator.random((len(images), 10))))


def analyse(experiment, seed, images=IMAGES, names=None):
    """The class means of a system in its run directory, by the suite's own writer."""
    dataset = datasets.load(experiment.dataset)
    chosen = datasets.class_balanced(dataset.test, images)
    split = datasets.Split(*(array[chosen] for array in (dataset.test.images, dataset.test.labels, dataset.test.ids)))
    data = Data(
        experiment.dataset, "test", split, tuple(names or compositions(experiment.testing.compositions)), experiment.testing.severities
    )
    key = experiment.testing.key.replace(str(IMAGES), str(images))
    path = analysis_path(experiment.directory, "invariance", key)
    collect([Chosen(seed)], data, [path], CPU)
    return path


@pytest.fixture
def three(study):
    """CrossEntropy with two seeds, Contrastive and a modular system in two routings, all evaluated; the list's path and the experiments."""
    entries = [CROSS_ENTROPY, {**CROSS_ENTROPY, "seed": 2}, CONTRASTIVE, SYSTEM, {**SYSTEM, "order": "reverse"}]
    experiments = [study.trained(entry, random_bits(number)) for number, entry in enumerate(entries)]
    return study.list_of(*entries), experiments


def test_points_are_the_scores_and_accuracies_of_the_files_and_means_over_seeds(three):
    path, experiments = three
    files = [analyse(experiment, number) for number, experiment in enumerate(experiments)]
    table, missing = scores(find(path))
    assert missing == []
    assert len(table) == 2 * 4 * 160
    assert list(table["system"].unique()) == ["CrossEntropy", "Contrastive", "ModularSystem", "ModularSystem (reverse order)"]
    assert table["images"].unique() == [IMAGES]
    own = table[(table["system"] == "CrossEntropy") & (table["normalisation"] == "consistent")].set_index("composition")
    assert (own["seeds"] == 2).all()
    accuracies = []
    for file in files[:2]:
        with opened(file) as found:
            accuracies.append(dict(zip(found.names, found.accuracy_c)))
    for composition, accuracy in own["accuracy"].items():
        assert accuracy == pytest.approx(np.mean([one[composition] for one in accuracies]))
    assert own["n_corruptions"].value_counts().to_dict() == {2: 30, 3: 40, 4: 30, 5: 30, 6: 30}


def test_the_figures_and_their_numbers(three, tmp_path, capsys):
    path, experiments = three
    for number, experiment in enumerate(experiments):
        analyse(experiment, number)
    out = tmp_path / "out"
    assert main(["invariance", str(path), "--out", str(out)]) == 0
    assert capsys.readouterr().err == ""
    pairs = ("elemental-composition", "elemental-accuracy", "composition-accuracy")
    names = {f"invariance-FashionMNIST-mini-{normalisation}-{pair}" for normalisation in NORMALISATIONS for pair in pairs}
    assert {file.stem for file in out.glob("*.png")} == {file.stem for file in out.glob("*.pdf")} == names
    drawn = pd.read_csv(out / "invariance-FashionMNIST-mini-published-elemental-accuracy.csv")
    # The plain forms alone are drawn; of all systems there are numbers.
    assert set(drawn["system"]) == {"CrossEntropy", "Contrastive", "ModularSystem"}
    numbers = pd.read_csv(out / "invariance-FashionMNIST-mini-correlations.csv")
    assert len(numbers) == 3 * 2 * 4 * 5
    for row in numbers[numbers["normalisation"] == "published"].to_dict("records"):
        own = drawn[(drawn["system"] == row["system"]) & (drawn["n_corruptions"] == row["n_corruptions"])]
        if row["system"] not in set(drawn["system"]):
            continue
        assert row["n"] == len(own)
        if row["x"] == "elemental" and row["n_corruptions"] == 6:
            assert np.isnan(row["r"])
            continue
        expected = stats.pearsonr(own[row["x"]], own[row["y"]])
        assert row["r"] == pytest.approx(expected.statistic, abs=1e-9)
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)), abs=1e-9)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-6)


def test_a_figure_says_r_n_and_what_it_shows(three):
    path, experiments = three
    for number, experiment in enumerate(experiments[:4]):
        analyse(experiment, number)
    table, missing = scores(find(path))
    assert missing == [experiments[4].name]
    rows = table[table["normalisation"] == "published"]
    with styled():
        figure = invariance.draw_pair(rows, "composition_score", "accuracy")
    texts = [text.get_text() for text in figure.texts]
    for system, size in (("CrossEntropy", 3), ("Contrastive", 6)):
        own = rows[(rows["system"] == system) & (rows["n_corruptions"] == size)]
        r = stats.pearsonr(own["composition_score"], own["accuracy"])
        low, high = r.confidence_interval(0.95)
        assert f"{r.statistic:+z.2f} [{low:+z.2f}, {high:+z.2f}]".replace("-", "−") in texts
        assert system in texts
    assert [axes.get_title() for axes in figure.axes] == [
        f"{size} corruptions\nn = {n}" for size, n in zip(range(2, 7), (30, 40, 30, 30, 30))
    ]
    assert any("20 test images, 1 to 2 seeds" in text and "published normalisation" in text for text in texts)
    # One line of least squares for each system, and chance.
    assert [line.get_linestyle() for line in figure.axes[0].lines].count("-") == 3
    assert figure.axes[-1].texts[0].get_text() == "chance"


def test_systems_without_analysis_are_named_with_the_command(three, tmp_path, capsys):
    path, experiments = three
    assert main(["invariance", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert f"none of the 5 evaluated systems in {path} has been analysed" in error
    assert f"python -m analysis invariance {path}" in error
    analyse(experiments[0], 0)
    assert main(["invariance", str(path), "--out", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "left out" in error
    assert "and 1 more; do so with: python -m analysis invariance CONFIG" in error


def test_where_nothing_is_evaluated_training_is_asked_for(study, tmp_path, capsys):
    study.trained(CROSS_ENTROPY)
    assert main(["invariance", str(study.list_of(CROSS_ENTROPY)), "--out", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_all_systems_of_a_figure_were_analysed_on_the_same_images(three, tmp_path, capsys):
    path, experiments = three
    for number, experiment in enumerate(experiments[:3]):
        analyse(experiment, number, images=10)
    analyse(experiments[0], 0)
    # Two more with 10 images than with 20.
    table, missing = scores(find(path))
    assert table["images"].unique() == [10]
    assert main(["invariance", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "invariance: on 10 images, not on the 20 of the evaluation" in capsys.readouterr().err
    assert len(missing) == 2
    for number, experiment in enumerate(experiments[1:3], 1):
        analyse(experiment, number)
    table, missing = scores(find(path))
    assert table["images"].unique() == [IMAGES]
    assert len(missing) == 2


def test_an_evaluation_without_elementals_has_no_scores(study, tmp_path, capsys):
    entry = {**CROSS_ENTROPY, "evaluation": {"images": IMAGES, "compositions": ["CO-IN", "IN-CO"]}}
    analyse(study.trained(entry, random_bits(0)[:2]), 0)
    assert main(["invariance", str(study.list_of(entry)), "--out", str(tmp_path)]) == 2
    assert "has a composition together with its elementals and Identity" in capsys.readouterr().err


def test_a_damaged_file_is_one_line(three, tmp_path, capsys):
    path, experiments = three
    file = analyse(experiments[0], 0)
    file.write_bytes(file.read_bytes()[:1000])
    assert main(["invariance", str(path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert f"{file}: damaged" in error


def test_clean_level_is_the_identity_networks(study):
    experiment = study.trained(IDENTITY, right_up_to(3))
    file = analyse(experiment, 4)
    table, _ = scores(find(study.list_of(IDENTITY)))
    with opened(file) as found:
        clean = found.accuracy_c[found.names.index("Identity")]
    assert (table["clean"] == clean).all()
    with styled():
        figure = invariance.draw_pair(table[table["normalisation"] == "published"], "elemental", "accuracy")
    assert [text.get_text() for text in figure.axes[-1].texts] == ["chance", "clean"]
    assert [line.get_ydata()[0] for line in figure.axes[0].lines[-2:]] == [10, pytest.approx(100 * clean)]
    assert len(NAMES) == 167
    with pytest.raises(InputError):
        invariance.draw(find(study.list_of(CROSS_ENTROPY, name="other")), study.folder)
