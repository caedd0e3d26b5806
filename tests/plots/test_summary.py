import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

import info_dicts
from plots import box_plot
from plots.__main__ import main
from plots.points import points
from plots.results import find
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
    cells,
    print_summary,
    random_bits,
    right_up_to,
    write_evaluation,
)
from train.build import build

pytestmark = pytest.mark.usefixtures("png_alone")


def test_summary_of_known_outcomes(study: Study, capsys: pytest.CaptureFixture) -> None:
    """Identity is right on clean images alone, CrossEntropy on single corruptions, the system wherever there are at most three."""
    for entry, limit in ((IDENTITY, 0), (CROSS_ENTROPY, 1), (SYSTEM, 3)):
        study.trained(entry, right_up_to(limit))
    out = print_summary(study, capsys, study.list_of(IDENTITY, CROSS_ENTROPY, SYSTEM))
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
    print_summary(study, capsys, study.list_of(SYSTEM, CROSS_ENTROPY), "--out", str(study.folder / "out"))
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
    out = print_summary(study, capsys, study.list_of(*entries), "--out", str(study.folder / "out"))
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
    rows = points(find(study.list_of(*(entry for entry, _ in limits.values()))))
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
    out = print_summary(study, capsys, study.list_of(CROSS_ENTROPY), "--out", str(study.folder / "out"))
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
    out = print_summary(study, capsys, study.list_of(*entries, IDENTITY, {**IDENTITY, "seed": 2}), "--out", str(study.folder / "out"))
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
    out = print_summary(study, capsys, study.list_of(fewer, harder, SYSTEM))
    assert out.count("mean accuracy in %") == 3
    assert f"{DATASET}, test split, Contrast severity 5: mean accuracy" in out
    assert out.count("Paired difference: none") == 3


def test_summary_where_nothing_is_finished_is_an_error_with_a_remedy(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [{**IDENTITY, "seed": seed} for seed in range(19)]
    path = study.list_of(*entries)
    assert main(["summary", str(path)]) == 2
    captured = capsys.readouterr()
    note, error = captured.err.splitlines()
    assert captured.out == ""
    assert [build(entry).name in note for entry in entries] == [True] * 5 + [False] * 14
    assert note.endswith("; and 14 more")
    assert error.startswith(f"error: summary: no finished run: of 19 runs in {path} none")
    assert "a run with overrides is another experiment: repeat them here, e.g. --epochs=1, or plot runs/" in error
    study.trained(entries[0], random_bits(0))
    out = print_summary(study, capsys, path)
    missing = next(line for line in out.splitlines() if line.startswith("Missing: "))
    assert missing.count("(new)") == 5
    assert missing.endswith("; and 13 more")


def test_summary_of_finished_parts_is_no_error(study: Study, capsys: pytest.CaptureFixture) -> None:
    entry = {**IDENTITY, "method": "Autoencoder", "corruption": "Swirl"}
    study.trained(entry)
    assert print_summary(study, capsys, study.list_of(entry)) == "Missing: nothing\n"


def test_summary_says_how_many_smaller_evaluations_it_leaves_out(study: Study, capsys: pytest.CaptureFixture) -> None:
    study.trained(IDENTITY, right_up_to(0))
    for compositions, n in (("167", len(NAMES)), (["CO-SW"], 1)):
        fewer = build({**IDENTITY, "evaluation": {"images": 10, "compositions": compositions}})
        write_evaluation(fewer, right_up_to(6)[:n, :10], study.monkeypatch)
    out = print_summary(study, capsys, study.runs)
    assert cells(out, "Identity")[-1] == "0.6"
    assert "Missing: 2 smaller evaluations left out\n" in out


def test_costs_that_differ_between_seeds_are_a_range(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [{**IDENTITY, "seed": seed} for seed in (1, 2)]
    for number, entry in enumerate(entries):
        done = study.trained(entry, random_bits(number)).directory / "done.json"
        done.write_text(json.dumps(json.loads(done.read_text()) | {"image_steps": (200, 1900)[number]}))
    out = print_summary(study, capsys, study.list_of(*entries))
    costs = out[out.index("oracle") :]
    assert cells(costs, "Identity") == ["none", "10", "10", "200", "to", "1,900", "0"]
