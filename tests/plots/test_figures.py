import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from PIL import Image

import info_dicts
from plots import box_plot, training_curves
from plots.__main__ import FIGURES, main, name_overrides
from plots.results import find, load
from plots.style import lighter, method_colour, styled, variant_styles
from tests.plots.conftest import (
    CONTRASTIVE,
    COUNTS,
    CROSS_ENTROPY,
    DATASET,
    IDENTITY,
    IMAGES,
    IMG_SPACE,
    IMG_SPACE_JOINT,
    NAMES,
    ROUTINGS,
    SYSTEM,
    Study,
    random_bits,
    right_up_to,
    write_evaluation,
)
from train.build import build
from train.lists import override


def summary(study: Study, capsys: pytest.CaptureFixture, path: Path, *more: str) -> str:
    assert main(["summary", str(path), *more]) == 0
    return capsys.readouterr().out


def cells(text: str, label: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(label)).removeprefix(label).split()


def test_summary_of_known_outcomes(study: Study, capsys: pytest.CaptureFixture) -> None:
    """Identity is right on clean images alone, CrossEntropy on single corruptions, the system wherever there are at most three."""
    for entry, limit in ((IDENTITY, 0), (CROSS_ENTROPY, 1), (SYSTEM, 3)):
        study.trained(entry, right_up_to(limit))
    out = summary(study, capsys, study.list_of(IDENTITY, CROSS_ENTROPY, SYSTEM))
    assert f"n: {IMAGES} images, 1 seed, 167 compositions" in out
    assert "bootstrap over images, 2,000 resamples" in out
    head = next(line for line in out.splitlines() if "clean" in line and "singles" in line)
    assert head.split() == ["clean", "singles", "1", "2", "3", "4", "5", "6", "all"]
    assert cells(out, "compositions") == ["1", "7", "6", "30", "40", "30", "30", "30", "167"]
    assert cells(out, "Identity") == ["100.0", "14.3", *["0.0"] * 6, "0.6"]
    assert cells(out, "CrossEntropy") == ["100.0", "100.0", "100.0", *["0.0"] * 5, "4.2"]
    assert cells(out, "ModularSystem") == ["100.0"] * 5 + ["0.0"] * 3 + [f"{100 * 77 / 167:.1f}"]
    more, every = (line.split() for line in out.splitlines() if line.startswith("ModularSystem - CrossEntropy"))
    assert more[-5:] == ["160", str(IMAGES), "1", f"{100 * 70 / 160:+.1f}", f"{100 * 70 / 160:+.1f}..{100 * 70 / 160:+.1f}"]
    assert every[-5:-1] == ["167", str(IMAGES), "1", f"{100 * 70 / 167:+.1f}"]
    costs = out[out.index("oracle") :].splitlines()
    assert next(line for line in costs if line.startswith("Identity")).split() == ["Identity", "none", "10", "10", "200", "0"]
    assert next(line for line in costs if line.startswith("ModularSystem")).split()[1:] == ["names,", "order", "70", "70", "2,600", "12"]
    assert "Missing: nothing" in out
    last = Path(out.splitlines()[-1])
    assert last == study.runs / "figures" / "small" / f"box_plot-{DATASET}.png"
    assert last.stat().st_size > 10_000


def test_paired_difference_has_scipys_bootstrap_interval(study: Study, capsys: pytest.CaptureFixture) -> None:
    a, b = random_bits(1, 0.7), random_bits(2, 0.5)
    study.trained(SYSTEM, a)
    study.trained(CROSS_ENTROPY, b)
    summary(study, capsys, study.list_of(SYSTEM, CROSS_ENTROPY), "--out", str(study.folder / "out"))
    table = pd.read_csv(study.folder / "out" / "differences.csv").set_index("group")
    for group, mask in (("two or more", COUNTS >= 2), ("all", COUNTS >= 0)):
        per_image = a[mask].mean(axis=0) - b[mask].mean(axis=0)
        low, high = scipy.stats.bootstrap((per_image,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
        row = table.loc[group]
        assert row["difference"] == pytest.approx(per_image.mean())
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.1 * (high - low))


def paired(study: Study, capsys: pytest.CaptureFixture, *entries: dict[str, Any]) -> tuple[str, pd.DataFrame]:
    """The printed summary of a list, and the rows of its differences over all compositions, by the names of their systems; no figure."""
    study.monkeypatch.setattr(box_plot, "draw", lambda *_: [])
    out = summary(study, capsys, study.list_of(*entries), "--out", str(study.folder / "out"))
    return out, pd.read_csv(study.folder / "out" / "differences.csv").query("group == 'all'").set_index("systems")


def test_claims_and_other_routings_are_paired_in_menu_order(study: Study, capsys: pytest.CaptureFixture) -> None:
    """Each system is right up to a number of corruptions of its own, so every difference is a share of compositions."""
    independent = {**CROSS_ENTROPY, "batching": "independent"}
    limits = {
        "ImgSpaceJoint (router)": ({**IMG_SPACE_JOINT, **ROUTINGS[2]}, 0),
        "ImgSpaceJoint": (IMG_SPACE_JOINT, 6),
        "ImgSpaceIdentity (random autoencoders)": ({**IMG_SPACE, **ROUTINGS[1]}, 2),
        "ImgSpaceIdentity": (IMG_SPACE, 5),
        "ModularSystem": (SYSTEM, 4),
        "ModularSystem (wrong order)": ({**SYSTEM, **ROUTINGS[0]}, 1),
        "ModularSystem (random order)": ({**SYSTEM, "order": "random"}, 3),
        "Contrastive": (CONTRASTIVE, 3),
        "CrossEntropy": (CROSS_ENTROPY, 2),
        "CrossEntropy (independent batches)": (independent, 1),
        "Identity": (IDENTITY, 0),
    }
    for entry, limit in limits.values():
        study.trained(entry, right_up_to(limit))
    out, table = paired(study, capsys, *(entry for entry, _ in limits.values()))
    claims = [
        f"{system} - {plain}"
        for system in ("Contrastive", "ModularSystem", "ImgSpaceIdentity", "ImgSpaceJoint")
        for plain in ("CrossEntropy", "CrossEntropy (independent batches)")
    ]
    routings = [
        "ModularSystem (wrong order) - ModularSystem",
        "ModularSystem (random order) - ModularSystem",
        "ImgSpaceIdentity (random autoencoders) - ImgSpaceIdentity",
        "ImgSpaceJoint (router) - ImgSpaceJoint",
    ]
    assert list(table.index) == claims + routings
    assert list(table["kind"]) == ["claim"] * len(claims) + ["routing"] * len(routings)
    for pair, difference in table["difference"].items():
        (_, one), (_, other) = (limits[label] for label in str(pair).split(" - "))
        assert difference == pytest.approx(((one >= COUNTS) * 1.0 - (other >= COUNTS)).mean()), pair
    start = out.index("Paired per-image")
    blocks = out[start : out.index("What each system is told")].strip().split("\n\n")[1:]
    printed = [[line.split(", two or more")[0] for line in block.splitlines() if ", two or more" in line] for block in blocks]
    assert printed == [claims, routings]
    labels = list(dict.fromkeys(line.split("  ")[0] for line in out[:start].splitlines()))
    by_method = [[label for label in limits if label.split(" ")[0] == method] for method in info_dicts.METHODS.values()]
    expected = [label for own in by_method for label in sorted(own, key=lambda label: "(" in label)]
    assert [label for label in labels if label in limits] == expected
    rows = box_plot.points(find(study.list_of(*(entry for entry, _ in limits.values()))))
    assert rows["system"].unique().tolist() == expected


def test_oracles_are_named(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [{**IMG_SPACE, **routing} for routing in ({}, *ROUTINGS, {"order": "random"})]
    for entry in entries:
        study.trained(entry, random_bits(0))
    out, _ = paired(study, capsys, *entries)
    costs = out[out.index("oracle") :]
    for condition, oracle in (
        ("", "names, order"),
        (" (wrong order)", "names, wrong order"),
        (" (random autoencoders)", "number"),
        (" (router)", "none"),
        (" (random order)", "names"),
    ):
        assert f"ImgSpaceIdentity{condition} {oracle} 90 90" in re.sub(" +", " ", costs)
    assert "(systems: with their parts, each part counted once)" in out


def test_pairs_take_the_seeds_that_both_have(study: Study, capsys: pytest.CaptureFixture) -> None:
    bits = {}
    for method, entry, seeds in (
        ("system", SYSTEM, (1, 2, 3)),
        ("plain", CROSS_ENTROPY, (2, 3, 4)),
        ("routed", {**SYSTEM, **ROUTINGS[1]}, (3,)),
    ):
        for seed in seeds:
            bits[method, seed] = random_bits(len(bits), 0.1 * (len(bits) + 1))
            study.trained({**entry, "seed": seed}, bits[method, seed])
    entries = [{**SYSTEM, "seed": seed} for seed in (1, 2, 3)] + [{**CROSS_ENTROPY, "seed": seed} for seed in (2, 3, 4)]
    out, table = paired(study, capsys, *entries, {**SYSTEM, **ROUTINGS[1], "seed": 3})
    row = table.loc["ModularSystem - CrossEntropy"]
    expected = np.mean([bits["system", seed].mean() - bits["plain", seed].mean() for seed in (2, 3)])
    assert (row["seeds"], row["other_seeds"], row["same_seeds"]) == (2, 2, True)
    assert row["difference"] == pytest.approx(expected)
    row = table.loc["ModularSystem (random modules) - ModularSystem"]
    assert (row["seeds"], row["other_seeds"]) == (1, 1)
    assert row["difference"] == pytest.approx(bits["routed", 3].mean() - bits["system", 3].mean())
    assert cells(out, "ModularSystem - CrossEntropy, all compositions")[:3] == ["167", str(IMAGES), "2"]
    assert "none in common" not in out


def test_pairs_without_a_common_seed_take_all_of_each(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [
        {**CROSS_ENTROPY, "seed": 1},
        {**CROSS_ENTROPY, "seed": 2},
        {**IMG_SPACE, "seed": 3},
        {**IMG_SPACE, **ROUTINGS[2], "seed": 4},
    ]
    bits = [random_bits(number, 0.2 * (number + 1)) for number in range(len(entries))]
    for entry, correct in zip(entries, bits):
        study.trained(entry, correct)
    out, table = paired(study, capsys, *entries)
    row = table.loc["ImgSpaceIdentity - CrossEntropy"]
    assert (row["seeds"], row["other_seeds"], row["same_seeds"]) == (1, 2, False)
    assert row["difference"] == pytest.approx(bits[2].mean() - (bits[0].mean() + bits[1].mean()) / 2)
    assert cells(out, "ImgSpaceIdentity - CrossEntropy, all compositions")[2:5] == ["1", "-", "2"]
    # One seed each, but not the same one: the same system all the same.
    assert cells(out, "ImgSpaceIdentity (router) - ImgSpaceIdentity, all compositions")[2:5] == ["1", "-", "1"]
    assert table.loc["ImgSpaceIdentity (router) - ImgSpaceIdentity", "difference"] == pytest.approx(bits[3].mean() - bits[2].mean())
    assert "'n - m': none in common" in out


def test_another_routing_is_compared_with_the_same_parts_alone(study: Study, capsys: pytest.CaptureFixture) -> None:
    other = {**IMG_SPACE, "autoencoder": {"lr": 0.2}}
    limits = [(IMG_SPACE, 4), (other, 3), ({**IMG_SPACE, **ROUTINGS[2]}, 2), ({**other, **ROUTINGS[0]}, 1), ({**SYSTEM, **ROUTINGS[1]}, 0)]
    for entry, limit in limits:
        study.trained(entry, right_up_to(limit))
    _, table = paired(study, capsys, *(entry for entry, _ in limits))
    share = {limit: (limit >= COUNTS).mean() for limit in range(5)}
    assert len(table) == 2
    # The ModularSystem has no counterpart here.
    assert sorted(table["difference"]) == pytest.approx(sorted([share[2] - share[4], share[1] - share[3]]))


def test_one_seed_has_an_interval_over_images(study: Study, capsys: pytest.CaptureFixture) -> None:
    correct = random_bits(3)
    study.trained(CROSS_ENTROPY, correct)
    out = summary(study, capsys, study.list_of(CROSS_ENTROPY), "--out", str(study.folder / "out"))
    assert "Paired difference: none" in out
    row = pd.read_csv(study.folder / "out" / "summary.csv").set_index("group").loc["2"]
    per_image = correct[COUNTS == 2].mean(axis=0)
    low, high = scipy.stats.bootstrap((per_image,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert (row["accuracy"], row["seeds"], row["images"], row["compositions"]) == pytest.approx((per_image.mean(), 1, IMAGES, 30))
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_several_seeds_have_a_t_interval(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [{**CROSS_ENTROPY, "seed": seed} for seed in (1, 2, 3)]
    bits = [random_bits(seed, 0.2 * (seed + 1)) for seed in range(3)]
    for entry, correct in zip(entries, bits):
        study.trained(entry, correct)
    study.trained(IDENTITY, random_bits(9))
    out = summary(study, capsys, study.list_of(*entries, IDENTITY, {**IDENTITY, "seed": 2}), "--out", str(study.folder / "out"))
    assert "Student's t over seeds; bootstrap over images, 2,000 resamples, where there is one seed" in out
    assert "CrossEntropy (3 seeds)" in out
    assert "Identity (1 seed)" in out
    assert f"Missing: {DATASET}/{build({**IDENTITY, 'seed': 2}).name} (new)" in out
    table = pd.read_csv(study.folder / "out" / "summary.csv").set_index(["system", "group"])
    for group, mask in (("singles", COUNTS <= 1), ("6", COUNTS == 6), ("all", COUNTS >= 0)):
        means = [correct[mask].mean() for correct in bits]
        expected = scipy.stats.t.interval(0.95, 2, loc=np.mean(means), scale=scipy.stats.sem(means))
        row = table.loc["CrossEntropy", group]
        assert row["accuracy"] == pytest.approx(np.mean(means))
        assert (row["low"], row["high"]) == pytest.approx(expected)


def test_systems_on_other_images_or_severities_are_not_compared(study: Study, capsys: pytest.CaptureFixture) -> None:
    fewer = {**CROSS_ENTROPY, "evaluation": {"images": 10}}
    harder = {**CROSS_ENTROPY, "seed": 2, "evaluation": {"images": IMAGES, "severities": {"Contrast": 5}}}
    study.trained(fewer, random_bits(0)[:, :10])
    study.trained(harder, random_bits(1))
    study.trained(SYSTEM, random_bits(2))
    out = summary(study, capsys, study.list_of(fewer, harder, SYSTEM))
    assert out.count("mean accuracy in %") == 3
    assert f"{DATASET}, test split, Contrast severity 5: mean accuracy" in out
    assert out.count("Paired difference: none") == 3


def test_box_plot_draws_the_table(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [{**CROSS_ENTROPY, "seed": 1}, {**CROSS_ENTROPY, "seed": 2}, IDENTITY]
    bits = [random_bits(seed) for seed in range(3)]
    for entry, correct in zip(entries, bits):
        study.trained(entry, correct)
    path = study.list_of(*entries)
    assert main(["box_plot", str(path), "--out", str(study.folder / "out")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.suffix for path in paths] == [".csv", ".pdf", ".png"]
    assert paths[1].read_bytes().startswith(b"%PDF")
    with Image.open(paths[2]) as image:
        assert image.size == (680, 520)
        assert len(image.convert("RGB").getcolors(maxcolors=2**24)) > 50
    drawn = pd.read_csv(paths[0]).set_index(["system", "composition"])["accuracy"]
    expected = {"CrossEntropy": (bits[0].mean(axis=1) + bits[1].mean(axis=1)) / 2, "Identity": bits[2].mean(axis=1)}
    for system, values in expected.items():
        np.testing.assert_allclose(drawn[system].loc[["-".join(names) for names in NAMES]], values)
    assert len(drawn) == 2 * len(NAMES)


def test_box_plot_has_its_groups_reference_lines_and_n(study: Study) -> None:
    study.trained(IDENTITY, np.repeat((np.arange(len(NAMES)) % 2 == 0)[:, None], IMAGES, axis=1))
    study.trained(SYSTEM, random_bits(0))
    rows = box_plot.points(find(study.list_of(SYSTEM, IDENTITY)))
    assert rows["system"].unique().tolist() == ["Identity", "ModularSystem"]
    worse = rows.query("system == 'Identity'").assign(system="Identity worse", accuracy=0.2)
    rows = pd.concat([worse, rows])
    figure = box_plot.draw_boxes(rows)
    (axes,) = figure.axes
    assert axes.get_ylim() == (0, 100)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["clean", "1", "2", "3", "4", "5", "6"]
    assert len(axes.patches) == 3 * 7
    clean = 100 * rows.query("system == 'Identity' and composition == 'Identity'")["accuracy"].item()
    heights = {text.get_text(): text.xy[1] for text in axes.texts}
    assert heights == {"chance": 10.0, "clean": clean}
    assert "167 compositions, 1 seed" in axes.get_title()
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
    figure = box_plot.draw_boxes(rows)
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
    figure = box_plot.draw_boxes(rows)
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
    out = summary(study, capsys, study.list_of(*entries), "--out", str(study.folder / "out"))
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
    figure = box_plot.draw_boxes(drawn["-2-compositions"])
    assert figure.axes[0].get_title() == f"{DATASET}, test images\nn = 2 compositions, 1 seed, {IMAGES} images"


def test_sets_of_equal_sizes_have_files_of_their_own(study: Study) -> None:
    entries = [{**CROSS_ENTROPY, "lr": 0.1 * (number + 1)} for number in range(3)]
    for entry, composition in zip(entries, ("CO-SW", "SW-CO", "CO-GB")):
        entry["evaluation"] = {"images": IMAGES, "compositions": [composition]}
        study.trained(entry, random_bits(0)[:1])
    paths = box_plot.draw(find(study.list_of(*entries)), study.folder / "out")
    stems = [path.stem.removeprefix(f"box_plot-{DATASET}") for path in paths if path.suffix == ".png"]
    assert stems == ["", "-other-compositions", "-other-compositions-2"]
    assert len({path.read_bytes() for path in paths if path.suffix == ".csv"}) == 3


def test_a_system_for_some_corruptions_says_so(study: Study) -> None:
    some = {**CROSS_ENTROPY, "corruptions": ["Contrast", "Swirl"]}
    for entry in (CROSS_ENTROPY, some):
        study.trained(entry, random_bits(0))
    rows = box_plot.points(find(study.list_of(CROSS_ENTROPY, some)))
    assert rows["system"].unique().tolist() == ["CrossEntropy", "CrossEntropy (Contrast, Swirl only)"]


def test_figures_with_overrides_have_folders_of_their_own(study: Study, capsys: pytest.CaptureFixture) -> None:
    path = study.list_of(CROSS_ENTROPY)
    drawn = []
    several: list[dict[str, Any]] = [{}, {"lr": 0.5, "epochs": 1}, {"evaluation.severities": {"Contrast": 5}}]
    for number, overrides in enumerate(several):
        entry = override(CROSS_ENTROPY, overrides)
        study.trained(entry, random_bits(number))
        out = summary(study, capsys, path, *(f"--{key}={value}" for key, value in overrides.items()))
        drawn.append(Path(out.splitlines()[-1]))
    assert [file.parent.name for file in drawn] == ["small", "small-epochs=1-lr=0.5", "small-evaluation.severities=_Contrast_5_"]
    assert len({file.with_suffix(".csv").read_bytes() for file in drawn}) == 3


def test_many_overrides_are_cut_and_told_apart() -> None:
    one, other = (name_overrides({"module.lr": 0.1, "study": "word/" * 20 + end}) for end in "ab")
    assert one != other
    assert len(one) == len(other) == 60
    assert one.startswith("module.lr=0.1-study=word_word_")
    assert "/" not in one


def test_summary_where_nothing_is_finished_is_an_error_with_a_remedy(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [{**IDENTITY, "seed": seed} for seed in range(19)]
    path = study.list_of(*entries)
    assert main(["summary", str(path)]) == 2
    captured = capsys.readouterr()
    note, error = captured.err.splitlines()
    assert captured.out == ""
    assert [build(entry).name in note for entry in entries] == [True] * 5 + [False] * 14
    assert note.endswith("; and 14 more")
    assert error.startswith(f"error: summary: no finished run: none of the 19 runs in {path}")
    assert "a run with overrides is another experiment: repeat them here, e.g. --epochs=1, or plot runs/" in error
    study.trained(entries[0], random_bits(0))
    out = summary(study, capsys, path)
    missing = next(line for line in out.splitlines() if line.startswith("Missing: "))
    assert missing.count("(new)") == 5
    assert missing.endswith("; and 13 more")


def test_summary_of_finished_parts_is_no_error(study: Study, capsys: pytest.CaptureFixture) -> None:
    entry = {**IDENTITY, "method": "Autoencoder", "corruption": "Swirl"}
    study.trained(entry)
    assert summary(study, capsys, study.list_of(entry)) == "Missing: nothing\n"


def test_summary_says_how_many_smaller_evaluations_it_leaves_out(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained(IDENTITY, right_up_to(0))
    for compositions, n in (("167", len(NAMES)), (["CO-SW"], 1)):
        fewer = build({**IDENTITY, "evaluation": {"images": 10, "compositions": compositions}})
        write_evaluation(fewer, right_up_to(6)[:n, :10], study.monkeypatch)
    out = summary(study, capsys, study.runs)
    assert cells(out, "Identity")[-1] == "0.6"
    assert "Missing: 2 smaller evaluations left out\n" in out


@pytest.mark.parametrize("letters", [20, 110])
def test_title_and_names_lie_within_the_figure(letters: int) -> None:
    rows = pd.DataFrame(
        [
            {"dataset": DATASET, "split": "test", "images": 10_000, "method": "CrossEntropy", "system": "x" * letters, "n_corruptions": int(count), "composition": "-".join(names), "accuracy": 0.5, "seeds": 1 + int(count)}
            for names, count in zip(NAMES, COUNTS)
        ]
    )  # fmt: skip
    with styled():
        figure = box_plot.draw_boxes(rows)
        figure.savefig(io.BytesIO(), dpi=100)
    (legend,) = figure.legends
    for artist in (figure.axes[0].title, *legend.get_texts()):
        box = artist.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width


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
    assert figure.axes[0].get_title() == "Contrast-auto-lr0.05-w0.1, seed 1"
    for axes in figure.axes:
        line, ring = axes.lines
        assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 1], [20.0, 20.0])
        assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([0], [20.0])
    curves = training_curves.draw_curves(table[table["metric"].isin(["loss", "accuracy"]) & table["epoch"].notna()], DATASET)
    assert [axes.get_title() for axes in curves.axes[:2]] == ["Identity", "Module"]
    assert [len(axes.lines) for axes in curves.axes] == [2, 12, 2, 12]


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
    assert [len(axes.lines) for axes in figure.axes] == [12, 2, 2, 0, 2, 2]
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


def test_several_sources_are_drawn_together(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained({**SYSTEM, "backbone": {"lr": 0.05}}, right_up_to(3))
    study.trained(CROSS_ENTROPY, right_up_to(1))
    one, two = study.list_of({**SYSTEM, "seed": 5}, name="modules"), study.list_of({**CROSS_ENTROPY, "seed": 6}, name="crossentropy")
    # The override concerns both lists; a source may follow an option.
    out = summary(study, capsys, one, "--seed=1", str(two), str(one))
    assert cells(out, "ModularSystem - CrossEntropy, two or more corruptions")[:3] == ["160", str(IMAGES), "1"]
    assert "Missing: nothing" in out
    folder = study.runs / "figures" / "modules+crossentropy-seed=1"
    assert Path(out.splitlines()[-1]) == folder / f"box_plot-{DATASET}.png"
    drawn = pd.read_csv(folder / f"box_plot-{DATASET}.csv")
    assert drawn["seeds"].unique().tolist() == [1]
    assert drawn.groupby("system").size().to_dict() == {"CrossEntropy": len(NAMES), "ModularSystem": len(NAMES)}


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_of_nothing_say_so(study: Study, capsys: pytest.CaptureFixture, figure: str) -> None:
    code = main([figure, str(study.list_of(IDENTITY))])
    captured = capsys.readouterr()
    assert build(IDENTITY).name in captured.out + captured.err
    assert (code, captured.out) == (2, "")
    line = captured.err.splitlines()[-1]
    assert line.startswith(f"error: {figure}: no finished run")
    assert figure == "training_curves" or ("none of the 1 run in " in line and "repeat them here" in line)
    assert not (study.runs / "figures").exists()


def test_error_lines(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained(IDENTITY, random_bits(0))
    path = study.list_of(IDENTITY)
    (study.folder / "file").write_text("")
    for arguments, words in (
        (["box_plot", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (["summary", str(path), "--epoch=1"], "unknown key"),
        (["summary", str(path), "extra"], "extra: cannot be read as a list"),
        (["summary", str(path), "--lr", "0.1"], "unknown argument '--lr'"),
        (["summary", str(path), str(study.runs), "--lr=0.1"], "overrides go with a list"),
        (["box_plot", str(path), "--out", str(study.folder / "file")], "choose another folder with --out"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert words in error


def test_every_method_has_a_colour_of_its_own_and_variants_differ() -> None:
    colours = [method_colour(method) for method in info_dicts.METHODS.values()]
    assert len(set(colours)) == len(colours)
    styles = variant_styles(["CrossEntropy", "ModularSystem", "CrossEntropy"])
    assert len(set(styles)) == 3
    assert styles[0] == (method_colour("CrossEntropy").lower(), "")
    assert lighter("#000000", 0.5) == "#808080"
