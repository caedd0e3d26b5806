"""Figures and summary of teachers and students, from runs whose tests are made up."""

import itertools
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from plots import cue_reliance, mechanism_conditions, mechanism_curves, mechanism_heat_map
from plots.__main__ import main
from plots.mechanism_conditions import CONDITIONS, condition
from plots.mechanisms import in_menu_order, points, reliance_pairs
from plots.results import find, load
from plots.statistics import t_interval
from tests.plots.conftest import CROSS_ENTROPY, IDENTITY, Study, right_up_to
from tests.plots.cued import SETS, TEACHER, accuracies, student, write
from train.build import build

pytestmark = pytest.mark.usefixtures("png_alone")


@pytest.fixture
def cued(study: Study) -> Path:
    """Two seeds of 2 x 2 students by two losses, labels alone, and one seed of their teachers."""
    entries = []
    for seed in (1, 2):
        for mine, theirs in itertools.product("PB", "PB"):
            for loss in ("Base", "Contrastive"):
                entry = student(mine, theirs, loss, seed)
                lead = 0.1 * (loss == "Contrastive") * seed
                write(
                    entry,
                    accuracies(0.5 + lead, 0.6 if mine == "P" else 0.8 + 0.02 * seed, 0.6 if mine == "P" else 0.3, 0.2),
                    kl=0.1 * seed,
                )
                entries.append(entry)
        write(student("B", "", "Labels", seed), accuracies(0.5, 0.9, 0.3, 0.2))
        entries.append(student("B", "", "Labels", seed))
    for mechanism in "PB":
        write(TEACHER | {"mechanism": mechanism}, accuracies(0.7, 0.7, 0.7, 0.1))
        entries.append(TEACHER | {"mechanism": mechanism})
    return study.list_of(*entries, name="cues")


def test_the_table_has_every_test_with_its_set_as_the_split(cued: Path) -> None:
    table = load(cued)
    own = table[(table["run"] == build(student("P", "B")).name) & table["split"].str.startswith("test/")]
    assert set(own["split"]) == {f"test/{name}" for name in SETS}
    assert set(own["metric"]) == {"accuracy", "teacher_accuracy", "teacher_kl", "teacher_agreement"}
    exact = own[own["epoch"].notna() & (own["metric"] == "accuracy") & (own["split"] == "test/P")]
    assert exact["value"].tolist() == pytest.approx([0.49, 0.5, 0.51])
    assert exact["epoch"].tolist() == [1, 2, 3]
    first = own[own["epoch"].isna() & (own["metric"] == "accuracy") & (own["split"] == "test/P")]
    assert first["value"].tolist() == pytest.approx([0.3] * 6)
    iterations = table[(table["run"] == own["run"].iloc[0]) & (table["metric"] == "iteration")]
    assert iterations["value"].tolist() == [0, 2, 4, 4, 6, 8, 8, 10, 12]
    assert iterations["step"].tolist() == list(range(9))
    # What stands in the table besides is as ever: one row an epoch, and nothing on compositions.
    assert len(table[(table["run"] == own["run"].iloc[0]) & (table["metric"] == "loss")]) == 6
    assert (table["composition"] == "").all()


def test_points_know_mechanisms_and_the_kept_epoch(cued: Path) -> None:
    rows = points(find(cued))
    kept = rows[rows["kept"].astype(bool)]
    assert len(kept) == (16 + 2 + 2) * 4
    assert set(kept["iteration"]) == {8}
    assert set(zip(kept["loss"], kept["student"], kept["teacher"])) == {
        *((loss, mine, theirs) for loss in ("Base", "Contrastive") for mine in "PB" for theirs in "PB"),
        ("Labels", "B", ""), ("Teacher", "P", ""), ("Teacher", "B", ""),
    }  # fmt: skip
    assert kept[kept["loss"] == "Labels"]["teacher_kl"].isna().all()


def test_what_else_differs_is_part_of_the_label(study: Study) -> None:
    for lr in (0.1, 0.2):
        write(student("P", "B", lr=lr), accuracies(0.5, 0.5, 0.5, 0.5))
    rows = points(find(study.list_of(student("P", "B"), student("P", "B", lr=0.2))))
    assert set(rows["label"]) == {"Base, lr 0.1", "Base, lr 0.2"}


def test_heat_maps_are_means_with_deviations_over_seeds_and_differences_to_base(cued: Path, tmp_path: Path) -> None:
    mechanism_heat_map.draw(find(cued), tmp_path)
    drawn = pd.read_csv(tmp_path / "mechanism_heat_map-FashionMNIST-mini-Contrastive-accuracy.csv")
    assert len(drawn) == 16
    cell = drawn[(drawn["set"] == "P") & (drawn["student"] == "P") & (drawn["teacher"] == "B")].iloc[0]
    assert (cell["mean"], cell["deviation"], cell["seeds"]) == (pytest.approx(65), pytest.approx(100 * np.std([0.6, 0.7], ddof=1)), 2)
    kl = pd.read_csv(tmp_path / "mechanism_heat_map-FashionMNIST-mini-Base-teacher_kl.csv")
    assert kl["mean"].to_numpy() == pytest.approx(0.15)
    gain = pd.read_csv(tmp_path / "mechanism_heat_map-FashionMNIST-mini-Contrastive-accuracy-minus-Base.csv")
    assert gain[gain["set"] == "P"]["mean"].to_numpy() == pytest.approx(15)
    assert gain[gain["set"] == "B"]["mean"].to_numpy() == pytest.approx(0, abs=1e-9)
    assert not list(tmp_path.glob("*Base-accuracy-minus-Base*"))
    assert (tmp_path / "mechanism_heat_map-FashionMNIST-mini-Base-accuracy.png").stat().st_size > 10_000


def test_one_seed_has_no_deviation(study: Study, tmp_path: Path) -> None:
    write(student("P", "B"), accuracies(0.5, 0.5, 0.5, 0.5))
    mechanism_heat_map.draw(find(study.list_of(student("P", "B"))), tmp_path)
    drawn = pd.read_csv(tmp_path / "mechanism_heat_map-FashionMNIST-mini-Base-accuracy.csv")
    assert drawn["deviation"].isna().all()
    assert (drawn["seeds"] == 1).all()


def test_curves_are_the_tests_on_the_first_images(cued: Path, tmp_path: Path) -> None:
    mechanism_curves.draw(find(cued), tmp_path)
    drawn = pd.read_csv(tmp_path / "mechanism_curves-FashionMNIST-mini-Contrastive-B-accuracy.csv")
    own = drawn[(drawn["set"] == "P") & (drawn["student"] == "B")]
    assert own["iteration"].tolist() == [0, 2, 4, 6, 8, 10]
    assert own["mean"].to_numpy() == pytest.approx(45)
    assert own["deviation"].to_numpy() == pytest.approx(100 * np.std([0.4, 0.5], ddof=1))
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert {
        f"mechanism_curves-FashionMNIST-mini-Base-{teacher}-{metric}"
        for teacher in "PB"
        for metric in ("accuracy", "teacher_kl", "teacher_agreement")
    } <= names
    assert "mechanism_curves-FashionMNIST-mini-Labels-accuracy" in names
    assert "mechanism_curves-FashionMNIST-mini-Labels-teacher_kl" not in names


def test_smoothing_leaves_cubics_and_short_curves_alone() -> None:
    x = np.arange(9.0)
    cubic = 2 + x - 0.3 * x**2 + 0.05 * x**3
    assert mechanism_curves.smooth(cubic) == pytest.approx(cubic)
    assert mechanism_curves.smooth(x[:4] % 2).tolist() == (x[:4] % 2).tolist()
    noisy = cubic + (x % 2)
    assert not np.allclose(mechanism_curves.smooth(noisy), noisy)


FEATURES = [frozenset(own) for size in (1, 2, 3) for own in itertools.combinations("abc", size)]


def test_the_eight_conditions_are_a_partition_in_their_order() -> None:
    """Every triple of non-empty sets of features has the first condition of the list that its definition allows."""

    def allowed(s: Any, t: Any, q: Any) -> list[str]:
        rules = {
            "Similarity": q == s == t,
            "Student TP": q == s and bool(t & q) and q != t,
            "Student": q == s and not t & q,
            "Teacher SP": q == t and bool(s & q) and q != s,
            "Teacher": q == t and not s & q,
            "Overlap": q == s & t,
            "Neither": not q & (s | t),
            "Other": True,
        }
        return [name for name in CONDITIONS if rules[name]]

    seen = set()
    for s, t, q in itertools.product(FEATURES, repeat=3):
        found = condition(s, t, q)
        assert found == allowed(s, t, q)[0]
        seen.add(found)
    assert seen == set(CONDITIONS)


@pytest.mark.parametrize(
    ("student", "teacher", "test", "expected"),
    [
        ("a", "a", "a", "Similarity"), ("ab", "a", "ab", "Student TP"), ("a", "b", "a", "Student"), ("a", "ab", "ab", "Teacher SP"),
        ("a", "b", "b", "Teacher"), ("ab", "bc", "b", "Overlap"), ("a", "b", "c", "Neither"), ("ab", "bc", "abc", "Other"),
    ],
)  # fmt: skip
def test_conditions_by_hand(student: str, teacher: str, test: str, expected: str) -> None:
    assert condition(frozenset(student), frozenset(teacher), frozenset(test)) == expected


def test_strips_sort_students_by_condition(cued: Path, tmp_path: Path) -> None:
    mechanism_conditions.draw(find(cued), tmp_path)
    drawn = pd.read_csv(tmp_path / "mechanism_conditions-FashionMNIST-mini.csv")
    assert len(drawn) == 16 * 4
    by_hand = {
        ("P", "P", "P"): "Similarity",
        ("B", "P", "P"): "Teacher SP",
        ("B", "P", "BoxOnly"): "Other",
        ("P", "P", "BoxOnly"): "Neither",
        ("P", "B", "BR"): "Student TP",
    }
    for (mine, theirs, name), expected in by_hand.items():
        own = drawn[(drawn["student"] == mine) & (drawn["teacher"] == theirs) & (drawn["set"] == name)]
        assert set(own["condition"]) == {expected}


def test_reliance_is_the_difference_with_its_interval_over_seeds(cued: Path, tmp_path: Path) -> None:
    cue_reliance.draw(find(cued), tmp_path)
    single = pd.read_csv(tmp_path / "cue_reliance-FashionMNIST-mini-box.csv", keep_default_na=False)
    assert set(zip(single["with_cue"], single["without_cue"])) == {("B", "BR")}
    own = single[(single["label"] == "Base") & (single["student"] == "B") & (single["teacher"] == "P")]
    assert own["difference"].tolist() == pytest.approx([52, 54])
    means = pd.read_csv(tmp_path / "cue_reliance-FashionMNIST-mini-box-means.csv", keep_default_na=False)
    row = means[(means["label"] == "Base") & (means["student"] == "B") & (means["teacher"] == "P")].iloc[0]
    assert [float(row[key]) for key in ("mean", "low", "high")] == pytest.approx(list(t_interval([52, 54])))
    assert float(means[means["loss"] == "Labels"]["mean"].iloc[0]) == pytest.approx(60)
    assert means[means["loss"] == "Teacher"]["low"].tolist() == ["", ""]


def test_the_pair_of_a_cue_is_with_it_and_random_or_else_absent() -> None:
    assert reliance_pairs("FashionMNIST-mini", SETS) == {"box": ("B", "BR")}
    assert reliance_pairs("Dominoes", ["CIFAR10", "CIFAR10_Box", "own"]) == {"box": ("CIFAR10_Box", "CIFAR10")}
    assert reliance_pairs("Dominoes", ["CIFAR10_FashionMNIST_Box", "RandomBox", "RandomFashionMNIST"]) == {
        "box": ("CIFAR10_FashionMNIST_Box", "RandomBox"),
        "FashionMNIST": ("CIFAR10_FashionMNIST_Box", "RandomFashionMNIST"),
    }
    assert reliance_pairs("Dominoes", ["FashionMNIST", "Box"]) == {}
    assert in_menu_order("Dominoes", ["CMB", "own", "C", "Box"]) == ["C", "Box", "CMB", "own"]


def test_the_summary_says_all_of_it(cued: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["summary", str(cued)]) == 0
    out = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "Base on P, taught on B 50.0 60.0 60.0 20.0" in lines
    assert "Contrastive on P, taught on B 65.0 60.0 60.0 20.0" in lines
    assert "Labels on B 50.0 90.0 30.0 20.0" in lines
    low, high = t_interval([10 * 1 / 100, 0.2])[1:]
    assert f"{low:.2f}..{high:.2f} " * 3 + f"{low:.2f}..{high:.2f}" in lines
    assert any(line.startswith("Base on B, taught on P box 2 +53.0") for line in lines)
    assert "Missing: nothing" in out
    assert "cue_reliance-FashionMNIST-mini-box.png" in lines[-1]


def test_both_kinds_of_runs_are_summarized_and_reported_together(study: Study, cued: Path, capsys: pytest.CaptureFixture) -> None:
    study.trained(IDENTITY, right_up_to(0))
    study.trained(CROSS_ENTROPY, right_up_to(1))
    systems = study.list_of(IDENTITY, CROSS_ENTROPY)
    assert main(["summary", str(systems), str(cued)]) == 0
    out = capsys.readouterr().out
    assert out.count("Missing: nothing") == 1
    assert "Reliance on a cue" in out
    assert "columns: number of corruptions" in out
    assert main(["report", str(systems), str(cued)]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1]).read_text()
    assert page.count('id="figure-') >= 7
    assert "Base on P, taught on B" in page


def test_a_report_of_students_alone_leaves_out_what_is_for_compositions(cued: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(cued)]) == 0
    page = Path(capsys.readouterr().out.splitlines()[-1]).read_text()
    assert 'id="figure-cue_reliance"' in page
    assert 'id="figure-box_plot"' not in page
    assert 'id="costs"' not in page
    assert "Figures that are not here" in page


def test_figures_of_students_say_when_there_are_none(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained(IDENTITY, right_up_to(0))
    for figure in ("cue_reliance", "mechanism_heat_map", "mechanism_curves", "mechanism_conditions", "tsne"):
        assert main([figure, str(study.list_of(IDENTITY))]) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1
        assert "no finished teacher or student" in error[0]


def test_tsne_draws_the_features_of_the_first_seed(cued: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["tsne", str(cued)]) == 2
    assert "compute them with: python -m analysis features CONFIG" in capsys.readouterr().err
    generator = np.random.default_rng(0)
    for seed in (1, 2):
        folder = build(student("P", "B", seed=seed)).directory / "analyses" / "features" / "test-20"
        folder.mkdir(parents=True)
        with h5py.File(folder / "features.h5", "w") as file:
            for name in SETS:
                labels = np.repeat(np.arange(2), 10)
                file[f"{name}/label"] = labels
                for network in ("student", "teacher"):
                    file[f"{name}/{network}"] = generator.normal(size=(20, 5)).astype(np.float32) + 8 * labels[:, None]
    assert main(["tsne", str(cued), "--out", str(tmp_path / "out")]) == 0
    [csv] = list((tmp_path / "out").glob("*.csv"))
    assert build(student("P", "B", seed=1)).name in csv.stem
    drawn = pd.read_csv(csv)
    assert len(drawn) == 4 * 2 * 20
    for _, own in drawn.groupby(["set", "network"]):
        # Two far groups stay two.
        middle = own.groupby("label")[["x", "y"]].mean().to_numpy()
        spread = max(float(own[own["label"] == label][["x", "y"]].std().max()) for label in (0, 1))
        assert math.dist(*middle) > 2 * spread
