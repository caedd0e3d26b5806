import io
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from data.compositions import ELEMENTALS, abbreviate, compositions
from errors import InputError
from plots import effects
from plots.__main__ import main
from plots.effects import contrasts
from plots.results import find
from plots.style import styled
from tests.plots.conftest import CROSS_ENTROPY, DATASET, IDENTITY, IMAGES, NAMES, Study, random_bits

FULL = tuple("-".join(names) for names in NAMES)
ALL = tuple("-".join(names) for names in compositions("1957"))


of_names = cache(contrasts)


def effect(names: tuple[str, ...], accuracy: dict[str, float] | list[float], kind: str) -> dict[str, float]:
    values = np.array([accuracy[name] for name in names] if isinstance(accuracy, dict) else accuracy)
    return {contrast.name: float(contrast.weights @ values) for contrast in of_names(names) if contrast.kind == kind}


def parts(name: str) -> list[str]:
    return [] if name == "Identity" else name.split("-")


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.lists(st.floats(-1, 1), min_size=7, max_size=7))
def test_of_an_additive_model_without_order(costs: list[float], by_count: list[float]) -> None:
    """Accuracy is a sum of a term for each corruption and one for their number, whatever their order.

    Of k of six corruptions, every other one is in a composition without X more often by 1/5 than in one with X (the sets are balanced), so the effect of X
    is its cost less the mean of the others'.
    """
    cost = dict(zip(ELEMENTALS, costs))
    for names in (FULL, ALL):
        accuracy = {name: by_count[len(parts(name))] + sum(cost[part] for part in parts(name)) for name in names}
        expected = {abbreviate(name): cost[name] - (sum(costs) - cost[name]) / 5 for name in ELEMENTALS}
        assert effect(names, accuracy, "presence") == pytest.approx(expected, abs=1e-9)
        for kind, size in (("first", 6), ("order", 15)):
            found = effect(names, accuracy, kind)
            assert len(found) == size
            assert list(found.values()) == pytest.approx([0.0] * size, abs=1e-9)


def test_of_a_first_one_that_hurts() -> None:
    accuracy = {name: -0.3 * name.startswith("Contrast") for name in ALL}
    found = effect(ALL, accuracy, "first")
    assert found["CO"] == pytest.approx(-0.3)
    # Where another one is first, Contrast is not: it is first in 1 / (k - 1) of the other orders, over the 31 - 16 + ... sets that hold both.
    sizes = [len(own) for own in {frozenset(parts(name)) for name in ALL} if "Swirl" in own and len(own) > 1]
    with_both = [len(own) for own in {frozenset(parts(name)) for name in ALL} if {"Swirl", "Contrast"} <= own]
    assert found["SW"] == pytest.approx(sum(0.3 / (size - 1) for size in with_both) / len(sizes))


def test_of_a_pair_that_does_not_commute() -> None:
    """Blur before noise costs 0.2, wherever they stand: no other pair matters, but where an exchange turns these two round."""

    def hurt(name: str) -> bool:
        own = parts(name)
        return {"GaussianBlur", "ImpulseNoise"} <= {*own} and own.index("GaussianBlur") < own.index("ImpulseNoise")

    for names in (FULL, ALL):
        accuracy = {name: 0.9 - 0.2 * hurt(name) for name in names}
        assert effect(names, accuracy, "order")["GB-IM"] == pytest.approx(-0.2)
    pairs = tuple(name for name in FULL if len(parts(name)) == 2)
    found = effect(pairs, {name: 0.9 - 0.2 * hurt(name) for name in pairs}, "order")
    assert {name: value for name, value in found.items() if abs(value) > 1e-12} == pytest.approx({"GB-IM": -0.2})
    by_name = {contrast.name: contrast.n for contrast in contrasts(ALL) if contrast.kind == "order"}
    # Of all 1,957, half of those that hold both.
    assert set(by_name.values()) == {sum({"Contrast", "Swirl"} <= {*parts(name)} for name in ALL) // 2}


def test_every_side_of_a_contrast_weighs_one() -> None:
    for names in (FULL, ALL, FULL[:40]):
        for contrast in contrasts(names):
            weights = contrast.weights
            assert weights[weights > 0].sum() == pytest.approx(1)
            assert weights.sum() == pytest.approx(0, abs=1e-12)
            assert weights[names.index("Identity")] == 0
    assert contrasts(("Identity", "Contrast")) == []
    assert [(contrast.kind, contrast.name) for contrast in contrasts(("Contrast-Swirl", "Swirl-Contrast"))] == [
        ("first", "CO"), ("first", "SW"), ("order", "CO-SW"),
    ]  # fmt: skip


def test_intervals_over_seeds_and_over_images(study: Study, capsys: pytest.CaptureFixture) -> None:
    entries = [{**CROSS_ENTROPY, "seed": seed} for seed in (1, 2, 3)] + [IDENTITY]
    bits = [random_bits(seed) for seed in range(4)]
    for entry, correct in zip(entries, bits):
        study.trained(entry, correct)
    path = study.list_of(*entries)
    assert main(["effects", str(path), "--out", str(study.folder / "out")]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == [f"effects-{DATASET}.{suffix}" for suffix in ("csv", "pdf", "png")]
    table = pd.read_csv(paths[0])
    assert table.groupby("kind").size().to_dict() == {"presence": 12, "first": 12, "order": 30}
    for contrast in contrasts(FULL):
        own = table.query(f"kind == '{contrast.kind}' and name == '{contrast.name}'").set_index("system")
        values = [contrast.weights @ correct.mean(axis=1) for correct in bits]
        seeds = own.loc["CrossEntropy"]
        assert (seeds["effect"], seeds["interval"], seeds["n"]) == (pytest.approx(np.mean(values[:3])), "t over seeds", contrast.n)
        expected = scipy.stats.t.interval(0.95, 2, loc=np.mean(values[:3]), scale=scipy.stats.sem(values[:3]))
        assert (seeds["low"], seeds["high"]) == pytest.approx(expected)
        one = own.loc["Identity"]
        assert (one["effect"], one["interval"]) == (pytest.approx(values[3]), "bootstrap over images")
        spread = (contrast.weights @ bits[3]).std() / np.sqrt(IMAGES)
        assert one["high"] - one["low"] == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_figure_says_what_it_shows(study: Study) -> None:
    study.trained(IDENTITY, random_bits(0))
    results = find(study.list_of(IDENTITY))
    rows, [tested] = effects.accuracy_rows(results), effects.comparable(results.runs)
    for own, words in ((tested, "bold: the 95 % interval (bootstrap over images) excludes 0"),
                       ([(e, replace(facts, path=None)) for e, facts in tested], "no intervals: one seed, no results of single images")):  # fmt: skip
        table = effects.measure(rows, own)
        with styled():
            figure = effects.draw_effects(table)
            figure.savefig(io.BytesIO(), dpi=50)
        assert words in figure.get_suptitle()
        *panels, _ = figure.axes
        assert [len(axes.get_xticklabels()) for axes in panels] == [6, 6, 15]
        bold = sum(text.get_weight() == "bold" for axes in panels for text in axes.texts)
        assert bold == ((table["low"] > 0) | (table["high"] < 0)).sum()
        shown = [float(text.get_text()) for axes in panels for text in axes.texts]
        assert shown == pytest.approx((100 * table["effect"]).tolist(), abs=0.5)
        assert shown == pytest.approx([round(100 * value, 1 if abs(value) < 0.0995 else 0) for value in table["effect"]], abs=0.11)


def test_compositions_without_a_match_are_one_line(study: Study) -> None:
    few = {**IDENTITY, "evaluation": {"images": IMAGES, "compositions": ["ID", "CO"]}}
    study.trained(few, random_bits(0)[:2])
    with pytest.raises(InputError, match=r"effects: .*: no compositions to compare; it takes one with and one without"):
        effects.draw(find(study.list_of(few)), study.folder / "out")
