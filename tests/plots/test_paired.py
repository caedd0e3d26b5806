from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from errors import InputError
from plots import paired
from plots.__main__ import main
from plots.comparison import compare, composition_tests, differences
from plots.results import find
from tests.plots.conftest import (
    CONTRASTIVE,
    COUNTS,
    CROSS_ENTROPY,
    DATASET,
    IDENTITY,
    IMAGES,
    NAMES,
    ROUTINGS,
    SYSTEM,
    Study,
    random_bits,
    right_up_to,
)


def theirs(first: np.ndarray, second: np.ndarray) -> float:
    """The exact test of statsmodels on its 2 x 2 table."""
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    return float(mcnemar(table, exact=True).pvalue)


def test_tests_on_compositions_are_statsmodels(study: Study) -> None:
    """One seed: McNemar on the correctness of each composition, Holm over all of them."""
    a, b, c = random_bits(1, 0.9), random_bits(2, 0.4), random_bits(3, 0.6)
    for entry, correct in ((SYSTEM, a), (CROSS_ENTROPY, b), (CONTRASTIVE, c)):
        study.trained(entry, correct)
    results = find(study.list_of(SYSTEM, CROSS_ENTROPY, CONTRASTIVE))
    [comparison] = compare("paired", results.runs, results.table)
    tests = composition_tests(comparison)
    assert tests["systems"].unique().tolist() == ["Contrastive - CrossEntropy", "ModularSystem - CrossEntropy"]
    assert tests["composition"].tolist() == 2 * ["-".join(names) for names in NAMES]
    expected = [theirs(one[row], b[row]) for one in (c, a) for row in range(len(NAMES))]
    assert tests["p"].tolist() == pytest.approx(expected)
    assert tests["p_holm"].tolist() == pytest.approx(multipletests(expected, method="holm")[1])
    assert tests["difference"].tolist() == pytest.approx([*(c.mean(axis=1) - b.mean(axis=1)), *(a.mean(axis=1) - b.mean(axis=1))])
    assert tests["n10"].tolist()[: len(NAMES)] == (c & ~b).sum(axis=1).tolist()
    # Over several compositions an image is won by the system that is right on more of them.
    table = differences(comparison).set_index(["systems", "group"])
    balance = a[COUNTS >= 2].sum(axis=0).astype(int) - b[COUNTS >= 2].sum(axis=0)
    row = table.loc["ModularSystem - CrossEntropy", "two or more"]
    assert (row["n10"], row["n01"]) == ((balance > 0).sum(), (balance < 0).sum())
    assert table["p_holm"].tolist() == pytest.approx(multipletests(table["p"], method="holm")[1])


def test_seeds_are_averaged_for_each_image(study: Study) -> None:
    """An image that each side wins with one seed is nobody's."""
    first, second = np.zeros((len(NAMES), IMAGES), bool), np.zeros((len(NAMES), IMAGES), bool)
    first[:, :8], second[:, 4:10] = True, True
    for seed, (ours, plain) in enumerate(((first, second), (second, np.zeros_like(first)))):
        study.trained({**CONTRASTIVE, "seed": seed}, ours)
        study.trained({**CROSS_ENTROPY, "seed": seed}, plain)
    # A third seed of one side alone does not count.
    study.trained({**CONTRASTIVE, "seed": 2}, ~first)
    entries = [{**CONTRASTIVE, "seed": seed} for seed in range(3)] + [{**CROSS_ENTROPY, "seed": seed} for seed in range(2)]
    results = find(study.list_of(*entries))
    [comparison] = compare("paired", results.runs, results.table)
    tests, table = composition_tests(comparison), differences(comparison)
    # Images 0..3: first seed; 4..7: won once, drawn once; 8, 9: lost with one seed and won with the other.
    assert set(zip(tests["n10"], tests["n01"], tests["seeds"])) == {(8, 0, 2)}
    assert set(zip(table["n10"], table["n01"])) == {(8, 0)}
    assert tests["difference"].tolist() == pytest.approx([8 / 2 / IMAGES] * len(NAMES))


def test_figure_and_files(study: Study, capsys: pytest.CaptureFixture) -> None:
    routed = {**SYSTEM, **ROUTINGS[0]}
    for entry, limit in ((IDENTITY, 0), (CROSS_ENTROPY, 1), (SYSTEM, 6), (routed, 3)):
        study.trained(entry, right_up_to(limit))
    path = study.list_of(IDENTITY, CROSS_ENTROPY, SYSTEM, routed)
    assert main(["paired", str(path), "--out", str(study.folder / "out")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name.removeprefix(f"paired-{DATASET}") for path in paths] == ["-compositions.csv", ".csv", ".pdf", ".png"]
    with Image.open(paths[3]) as image:
        assert image.size[0] == 1400
    table = pd.read_csv(paths[1])
    assert table["systems"].unique().tolist() == ["ModularSystem - CrossEntropy", "ModularSystem (wrong order) - ModularSystem"]
    # All images are won: 2 / 2**20, corrected for four tests.
    assert set(table["p"]) == {2.0 ** (1 - IMAGES)}
    assert set(table["p_holm"]) == {4 * 2.0 ** (1 - IMAGES)}
    results = find(path)
    [comparison] = compare("paired", results.runs, results.table)
    figure = paired.draw_pairs(comparison, differences(comparison), composition_tests(comparison))
    left, right = figure.axes
    assert [text.get_text() for text in left.texts] == ["p < 0.001"] * 2
    # 160 compositions are won (all of two or more), and 90 lost to the system that is right on all: those of four to six corruptions.
    assert [text.get_text() for text in right.texts] == ["160", "7", f"{(COUNTS <= 3).sum()}", f"{(COUNTS > 3).sum()}"]
    title = figure.get_suptitle()
    assert "n = 167 compositions, 1 seed, 20 images" in title


def test_nothing_to_compare_and_no_single_images_are_one_line(study: Study) -> None:
    study.trained(IDENTITY, random_bits(0))
    study.trained(CROSS_ENTROPY, random_bits(1))
    results = find(study.list_of(IDENTITY, CROSS_ENTROPY))
    with pytest.raises(InputError, match=r"paired: .*: nothing to compare; it takes a CrossEntropy and a"):
        paired.draw(results, study.folder / "out")
    runs = tuple(replace(run, tested=tuple(replace(tested, path=None) for tested in run.tested)) for run in results.runs)
    with pytest.raises(InputError, match=r"paired: Identity-\S+ comes from W&B, which has no results of single images"):
        paired.draw(replace(results, runs=runs), study.folder / "out")
