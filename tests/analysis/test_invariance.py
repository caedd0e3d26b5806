"""The invariance scores against a plain loop over units and compositions, and what must hold whatever the activations are."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from analysis.invariance import DEAD, NORMALISATIONS, score
from data.compositions import ELEMENTALS, compositions
from train.entry import ROOT

NAMES = ["-".join(names) for names in compositions("167")]


def loop(names, mean_cku, max_cu, normalisation):
    """Section 3 of the paper's appendix in double loops: medians over units, {composition: (elemental, composition, units)}."""
    found = {}
    maxima = max_cu.max(axis=0)
    for name in names:
        members = name.split("-")
        if len(members) < 2 or not {*members, "Identity"} <= set(names):
            continue
        elementals, compositions_ = [], []
        for u in range(mean_cku.shape[2]):
            if maxima[u] <= 1e-6:
                continue
            # Divided by the unit's maximum, as published.
            grid = [[mean_cku[names.index(r)][k][u] / maxima[u] for k in range(mean_cku.shape[1])] for r in [*members, "Identity"]]
            row = [mean_cku[names.index(name)][k][u] / maxima[u] for k in range(mean_cku.shape[1])]
            flat = [value for values in grid for value in values]
            if max(flat) == min(flat):
                continue
            wide = [*flat, *row]
            own = (min(wide), max(wide)) if normalisation == "consistent" else (min(flat), max(flat))
            scaled = [[(value - own[0]) / (own[1] - own[0]) for value in values] for values in grid]
            sums = [sum(values[k] for values in scaled) for k in range(len(row))]
            best = sums.index(max(sums))
            there = (row[best] - min(wide)) / (max(wide) - min(wide))
            column = [values[best] for values in scaled]
            elementals.append(1 - (max(column) - min(column)))
            compositions_.append(1 - min(abs(value - there) for value in column))
        if elementals:
            found[name] = (np.median(elementals), np.median(compositions_), len(elementals))
    return found


def random_activations(seed, names, classes=5, units=9):
    """Activations after a ReLU: class means (C, K, U) float32 and maxima (C, U), with dead units and such as are constant over elementals."""
    generator = np.random.default_rng(seed)
    images = np.maximum(generator.normal(0, 1, (len(names), classes, 4, units)) * generator.gamma(2, 3, units), 0).astype(np.float32)
    images[..., 0] = 0
    images[..., 1] = np.float32(5e-7)
    singles = [place for place, name in enumerate(names) if "-" not in name]
    images[singles, :, :, 2] = 0
    images[singles, :, :, 3] = 2
    return images.mean(axis=2), images.max(axis=(1, 2))


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize(
    "names", [NAMES, NAMES[:60], ["Swirl", "Swirl-Invert-Contrast", "Invert", "Identity", "Contrast", "Invert-Rotate90"]]
)
def test_scores_are_those_of_a_plain_loop(normalisation, names):
    mean, maxima = random_activations(len(names), names)
    found = score(names, mean, maxima)[normalisation]
    expected = loop(names, mean.astype(np.float64), maxima.astype(np.float64), normalisation)
    assert [names[place] for place in found.places] == list(expected)
    assert len(expected) in (160, 53, 1)
    np.testing.assert_allclose(found.elemental_s, [e for e, _, _ in expected.values()], atol=1e-12)
    np.testing.assert_allclose(found.composition_s, [c for _, c, _ in expected.values()], atol=1e-12)
    assert found.units_s.tolist() == [n for _, _, n in expected.values()] == [5] * len(expected)


def test_the_two_normalisations_differ_where_a_composition_goes_beyond_its_elementals():
    """One unit, two classes, by hand: E from 0 to 1, the composition 4 for the preferred class."""
    names = ["Identity", "Contrast", "Invert", "Contrast-Invert"]
    mean = np.array([[[0.0], [1.0]], [[0.0], [0.5]], [[0.0], [0.8]], [[0.0], [4.0]]], dtype=np.float32)
    found = score(names, mean, mean.max(axis=1))
    assert found["published"].elemental_s[0] == pytest.approx(1 - (1 - 0.5))
    # Both sides are 1 on their own scales.
    assert found["published"].composition_s[0] == pytest.approx(1)
    assert found["consistent"].elemental_s[0] == pytest.approx(1 - (1 - 0.5) / 4)
    assert found["consistent"].composition_s[0] == pytest.approx(1 - (1 - 1 / 4))


def test_where_no_unit_counts_there_is_no_score_and_no_nan():
    names = NAMES[:20]
    mean = np.zeros((20, 3, 4), np.float32)
    for maxima in (np.zeros((20, 4)), np.ones((20, 4))):
        for scores in score(names, mean, maxima).values():
            assert [len(values) for values in (scores.places, scores.elemental_s, scores.composition_s, scores.units_s)] == [0] * 4
    assert all(len(scores.places) == 0 for scores in score(["Contrast-Invert"], mean, mean[:, 0]).values())


def test_a_unit_at_the_threshold_is_dead_and_one_above_counts():
    names = ["Identity", "Contrast", "Invert", "Contrast-Invert"]
    mean = np.random.default_rng(0).random((4, 3, 2)).astype(np.float32)
    for maxima, units in (([DEAD, DEAD], []), ([DEAD, np.nextafter(DEAD, 1)], [1]), ([1, 1], [2])):
        assert score(names, mean, np.array([maxima] * 4))["published"].units_s.tolist() == units


grids = hnp.arrays(
    np.float32, st.tuples(st.just(8), st.integers(1, 4), st.integers(1, 3)), elements=st.floats(0, 100, width=32, allow_subnormal=False)
)
SMALL = [
    "Identity",
    *ELEMENTALS[:3],
    "Contrast-GaussianBlur",
    "GaussianBlur-Contrast",
    "ImpulseNoise-Contrast-GaussianBlur",
    "Contrast-Swirl",
]


@settings(max_examples=150, deadline=None)
@given(grids)
def test_scores_lie_in_0_to_1(mean):
    for scores in score(SMALL, mean, mean.max(axis=1)).values():
        for values in (scores.elemental_s, scores.composition_s):
            assert ((values >= 0) & (values <= 1)).all()


@settings(max_examples=100, deadline=None)
@given(grids, st.lists(st.integers(-3, 3), min_size=3, max_size=3))
def test_the_scale_of_a_unit_does_not_matter(mean, powers):
    mean = np.where(mean < 1e-3, 0, mean).astype(np.float32)
    # Powers of two, so that nothing is rounded and equal sums stay equal.
    scaled = mean * (2.0 ** np.array(powers[: mean.shape[2]])).astype(np.float32)
    for name, scores in score(SMALL, mean, mean.max(axis=1)).items():
        other = score(SMALL, scaled, scaled.max(axis=1))[name]
        for field in ("places", "elemental_s", "composition_s", "units_s"):
            np.testing.assert_array_equal(getattr(scores, field), getattr(other, field))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.permutations(range(5)))
def test_neither_scale_nor_the_order_of_classes_matters(seed, scale, order):
    mean, maxima = random_activations(seed, SMALL)
    for name, scores in score(SMALL, mean, maxima).items():
        other = score(SMALL, (mean.astype(np.float64) * scale)[:, order], maxima)[name]
        np.testing.assert_allclose(other.elemental_s, scores.elemental_s, atol=1e-9)
        np.testing.assert_allclose(other.composition_s, scores.composition_s, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(grids)
def test_units_that_answer_all_alike_are_invariant(mean):
    """Every row is Identity's: both scores are 1, whatever the normalisation."""
    assume((mean[0].max(axis=0) > mean[0].min(axis=0)).any())
    same = np.repeat(mean[:1], 8, axis=0)
    for scores in score(SMALL, same, np.ones((8, mean.shape[2]))).values():
        assert len(scores.places) == 3
        assert (scores.elemental_s == 1).all()
        assert (scores.composition_s == 1).all()


def test_scores_take_numpy_alone():
    code = (
        "import sys, json, analysis.invariance; print(json.dumps([name for name in ('torch', 'pandas', 'train') if name in sys.modules]))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == []
