import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from PIL import Image

import info_dicts
from plots import box_plot
from plots.__main__ import main
from plots.points import by_number, means, points
from plots.results import find
from plots.style import styled
from tests.plots.conftest import (
    COUNTS,
    CROSS_ENTROPY,
    DATASET,
    IDENTITY,
    IMAGES,
    NAMES,
    SYSTEM,
    Study,
    print_summary,
    random_bits,
)


def central(rows: pd.DataFrame) -> pd.DataFrame:
    """Means without intervals, as W&B gives them of one seed."""
    found = rows.groupby(["system", "n_corruptions"], sort=False)["accuracy"].mean().reset_index()
    return found.assign(low=np.nan, high=np.nan, interval="")


def test_means_have_t_intervals_over_seeds_and_else_a_bootstrap_over_images(study: Study) -> None:
    entries = [{**CROSS_ENTROPY, "seed": seed} for seed in (1, 2, 3)] + [IDENTITY]
    bits = [random_bits(seed, 0.3 + 0.1 * seed) for seed in range(4)]
    for entry, correct in zip(entries, bits):
        study.trained(entry, correct)
    results = find(study.list_of(*entries))
    found = by_number(means(results)).set_index(["system", "n_corruptions"])
    assert len(found) == 2 * 7
    for count in range(7):
        row, mask = found.loc["CrossEntropy", count], count == COUNTS
        per_seed = [correct[mask].mean() for correct in bits[:3]]
        expected = scipy.stats.t.interval(0.95, 2, loc=np.mean(per_seed), scale=scipy.stats.sem(per_seed))
        assert (row["interval"], row["seeds"], row["compositions"]) == ("t over seeds", 3, mask.sum())
        assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((np.mean(per_seed), *expected))
        row, per_image = found.loc["Identity", count], bits[3][mask].mean(axis=0)
        low, high = scipy.stats.bootstrap((per_image,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
        assert (row["interval"], row["seeds"]) == ("bootstrap over images", 1)
        assert row["accuracy"] == pytest.approx(per_image.mean())
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.1 * (high - low))
    figure = box_plot.draw_boxes(points(results), by_number(means(results)))
    assert figure.axes[0].get_title().endswith("\n\u25c7 mean, 95 % interval: t over seeds or, of one seed, bootstrap over images")


def test_means_of_one_seed_without_single_images_have_no_interval(study: Study) -> None:
    study.trained(IDENTITY, random_bits(0))
    results = find(study.list_of(IDENTITY))
    [run] = results.runs
    elsewhere = replace(results, runs=(replace(run, tested=tuple(replace(tested, path=None) for tested in run.tested), directory=None),))
    found = by_number(means(elsewhere))
    assert found["accuracy"].tolist() == pytest.approx(by_number(means(results))["accuracy"].tolist())
    assert set(found["interval"]) == {""}
    assert found[["low", "high"]].isna().all(axis=None)
    paths = box_plot.draw(elsewhere, study.folder / "out")
    assert pd.read_csv(paths[0])["accuracy"].tolist() == pytest.approx(found["accuracy"].tolist())


def test_box_plot_draws_the_table(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [{**CROSS_ENTROPY, "seed": 1}, {**CROSS_ENTROPY, "seed": 2}, IDENTITY]
    bits = [random_bits(seed) for seed in range(3)]
    for entry, correct in zip(entries, bits):
        study.trained(entry, correct)
    path = study.list_of(*entries)
    assert main(["box_plot", str(path), "--out", str(study.folder / "out")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.suffix for path in paths] == [".csv", ".csv", ".pdf", ".png"]
    assert paths[2].read_bytes().startswith(b"%PDF")
    with Image.open(paths[3]) as image:
        assert image.size == (680, 544)
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 50
    drawn = pd.read_csv(paths[1]).set_index(["system", "composition"])["accuracy"]
    expected = {"CrossEntropy": (bits[0].mean(axis=1) + bits[1].mean(axis=1)) / 2, "Identity": bits[2].mean(axis=1)}
    for system, values in expected.items():
        np.testing.assert_allclose(drawn[system].loc[["-".join(names) for names in NAMES]], values)
    assert len(drawn) == 2 * len(NAMES)


def test_box_plot_has_its_groups_reference_lines_and_n(study: Study) -> None:
    study.trained(IDENTITY, np.repeat((np.arange(len(NAMES)) % 2 == 0)[:, None], IMAGES, axis=1))
    study.trained(SYSTEM, random_bits(0))
    rows = points(find(study.list_of(SYSTEM, IDENTITY)))
    assert rows["system"].unique().tolist() == ["Identity", "ModularSystem"]
    worse = rows.query("system == 'Identity'").assign(system="Identity worse", accuracy=0.2)
    rows = pd.concat([worse, rows])
    figure = box_plot.draw_boxes(rows, central(rows))
    (axes,) = figure.axes
    assert axes.get_ylim() == (0, 100)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "1", "2", "3", "4", "5", "6"]
    assert len(axes.patches) == 3 * 7
    clean = 100 * rows.query("system == 'Identity' and composition == 'Identity'")["accuracy"].item()
    heights = {text.get_text(): text.xy[1] for text in axes.texts}
    assert heights == {"chance": 10.0, "clean": clean}
    assert "167 compositions, 1 seed" in axes.get_title()
    assert sum(line.get_marker() == "D" for line in axes.lines) == 3
    dots = [len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert dots == [1, 6, 30, 40, 30, 30, 30] * 3


@pytest.mark.parametrize(("n", "lines"), [(8, [7]), (9, [4, 3]), (17, [3, 3, 1])])
def test_many_systems_take_more_lines_of_groups(n: int, lines: list[int]) -> None:
    methods = [str(method) for method in info_dicts.METHODS.values() if "oracle" in method.facts]
    rows = pd.DataFrame(
        [
            {"dataset": DATASET, "split": "test", "images": 1_000, "method": methods[i % len(methods)], "system": f"system {i}", "n_corruptions": int(count), "composition": "-".join(names), "accuracy": 0.01 * i, "seeds": 1}
            for i in range(n)
            for names, count in zip(NAMES, COUNTS)
        ]
    )  # fmt: skip
    figure = box_plot.draw_boxes(rows, central(rows))
    labels = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert [label for line in labels for label in line] == ["clean", "1", "2", "3", "4", "5", "6"]
    assert [len(line) for line in labels] == lines
    for axes, groups in zip(figure.axes, lines):
        assert len(axes.patches) == n * groups
        assert {text.get_text() for text in axes.texts} == {"chance", "clean"}
        # The boxes of all lines are equally wide.
        assert axes.get_xlim() == (-0.6, lines[0] - 0.4)
    (legend,) = figure.legends
    looks = [(patch.get_facecolor(), patch.get_hatch()) for patch in legend.get_patches()]
    assert len(set(looks)) == len(looks) == n


def test_a_system_without_compositions_in_a_line_of_groups_has_no_box_there() -> None:
    """Of nine systems in two lines of groups one has compositions of two corruptions alone."""
    rows = pd.DataFrame(
        [
            {"dataset": DATASET, "split": "test", "images": 20, "method": "CrossEntropy", "system": f"system {i}", "n_corruptions": int(count), "composition": "-".join(names), "accuracy": 0.5, "seeds": 1}
            for i in range(9)
            for names, count in zip(NAMES, COUNTS)
            if i < 8 or count == 2
        ]
    )  # fmt: skip
    figure = box_plot.draw_boxes(rows, central(rows))
    assert [len(axes.patches) for axes in figure.axes] == [8 * 4 + 1, 8 * 3]
    (legend,) = figure.legends
    assert len(legend.get_patches()) == 9


def test_evaluations_that_cannot_be_compared_have_box_plots_of_their_own(study: Study, capsys: pytest.CaptureFixture) -> None:
    """Of twelve systems one was tested on two compositions, one on fewer images, and one on fewer images at another severity."""
    entries = [{**CROSS_ENTROPY, "lr": 0.01 * (number + 1)} for number in range(12)]
    entries[0] = {**entries[0], "evaluation": {"images": IMAGES, "compositions": ["CO-SW", "SW-CO"]}}
    entries[1] = {**entries[1], "evaluation": {"images": 10}}
    entries[2] = {**entries[2], "evaluation": {"images": 10, "severities": {"Contrast": 5}}}
    bits = [random_bits(number)[:, :10] if number in (1, 2) else random_bits(number) for number in range(12)]
    bits[0] = bits[0][:2]
    for entry, correct in zip(entries, bits):
        study.trained(entry, correct)
    out = print_summary(study, capsys, study.list_of(*entries), "--out", str(study.folder / "out"))
    printed = [Path(line) for line in out.splitlines() if line.endswith(".png")]
    first, *others = (path.stem.removeprefix(f"box_plot-{DATASET}") for path in printed)
    assert first == ""
    assert set(others) == {"-2-compositions", "-10-images", "-Contrast-severity-5-10-images"}
    drawn = {stem: pd.read_csv(study.folder / "out" / f"box_plot-{DATASET}{stem}.csv") for stem in (first, *others)}
    sizes = {stem: (table["system"].nunique(), table["composition"].nunique(), set(table["images"])) for stem, table in drawn.items()}
    assert sizes == {
        "": (9, len(NAMES), {IMAGES}),
        "-2-compositions": (1, 2, {IMAGES}),
        "-10-images": (1, len(NAMES), {10}),
        "-Contrast-severity-5-10-images": (1, len(NAMES), {10}),
    }
    np.testing.assert_allclose(drawn["-2-compositions"]["accuracy"], bits[0].mean(axis=1))
    np.testing.assert_allclose(drawn["-10-images"]["accuracy"], bits[1].mean(axis=1))
    # A system has one name in all figures and in the summary.
    assert set(drawn["-10-images"]["system"]) == {"CrossEntropy lr0.02"}
    figure = box_plot.draw_boxes(drawn["-2-compositions"], central(drawn["-2-compositions"]))
    assert figure.axes[0].get_title() == f"{DATASET}, test images\nn = 2 compositions, 1 seed, {IMAGES} images\n\u25c7 mean"


def test_sets_of_equal_sizes_have_files_of_their_own(study: Study) -> None:
    entries = [{**CROSS_ENTROPY, "lr": 0.1 * (number + 1)} for number in range(3)]
    for entry, composition in zip(entries, ("CO-SW", "SW-CO", "CO-GB")):
        entry["evaluation"] = {"images": IMAGES, "compositions": [composition]}
        study.trained(entry, random_bits(0)[:1])
    paths = box_plot.draw(find(study.list_of(*entries)), study.folder / "out")
    stems = [path.stem.removeprefix(f"box_plot-{DATASET}") for path in paths if path.suffix == ".png"]
    assert stems == ["", "-other-compositions", "-other-compositions-2"]
    assert len({path.read_bytes() for path in paths if path.suffix == ".csv" and "means" not in path.stem}) == 3


def test_a_system_for_some_corruptions_says_so(study: Study) -> None:
    some = {**CROSS_ENTROPY, "corruptions": ["Contrast", "Swirl"]}
    for entry in (CROSS_ENTROPY, some):
        study.trained(entry, random_bits(0))
    rows = points(find(study.list_of(CROSS_ENTROPY, some)))
    assert rows["system"].unique().tolist() == ["CrossEntropy", "CrossEntropy (Contrast, Swirl only)"]


@pytest.mark.parametrize("letters", [20, 110])
def test_title_and_names_lie_within_the_figure(letters: int) -> None:
    rows = pd.DataFrame(
        [
            {"dataset": DATASET, "split": "test", "images": 10_000, "method": "CrossEntropy", "system": "x" * letters, "n_corruptions": int(count), "composition": "-".join(names), "accuracy": 0.5, "seeds": 1 + int(count)}
            for names, count in zip(NAMES, COUNTS)
        ]
    )  # fmt: skip
    with styled():
        figure = box_plot.draw_boxes(rows, central(rows))
        figure.savefig(io.BytesIO(), dpi=100)
    (legend,) = figure.legends
    for artist in (figure.axes[0].title, *legend.get_texts()):
        box = artist.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
