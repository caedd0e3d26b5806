"""W&B's own engine of sweeps (the package `sweeps`, in an environment of its own: it needs an older numpy) as the oracle of the sweep file."""

import json
import random
import subprocess
import sys

import pytest
from scipy import stats

from tests.sweep.samples import CONTRASTIVE, LIVE, SAMPLES, SWEEPS, sweep
from train.entry import ROOT
from train.fields import FieldError
from train.sweep.entry import entry_of
from train.sweep.file import Hyperband, read_mapping, validated
from train.sweep.space import Quantised, read_parameter

pytestmark = pytest.mark.slow

DRAWS = 2_000
# W&B's schema calls those with exponents outdated, although its engine takes them.
EXPONENTS = ("log_uniform", "q_log_uniform", "inv_log_uniform")
BANDS = [
    {"min_iter": 2, "eta": 2},
    {"min_iter": 3},
    {"max_iter": 27, "s": 2},
    {"max_iter": 100, "s": 3, "eta": 2.5},
    {"max_iter": 9, "s": 9},
]

ENGINE = """
import json, random, sys
import numpy, sweeps
from sweeps import RunState, SweepRun
from sweeps.params import HyperParameter

def plain(value):
    return value.item() if isinstance(value, numpy.generic) else value

def answer(kind, config, count):
    if kind == "violations":
        return sweeps.schema_violations_from_proposed_config(config)
    if kind == "points":
        found = sweeps.next_runs(config, [], n=count)
        return [run.config if run else None for run in found]
    if kind == "draws":
        random.seed(1)
        parameter = HyperParameter("x", config)
        return [plain(parameter.sample()) for _ in range(count)]
    if kind == "bands":
        run = SweepRun(name="a", state=RunState.running, config={}, history=[{"valid/accuracy": 1}])
        sweeps.stop_runs(config, [run])
        return run.early_terminate_info["bands"][:count]

print(json.dumps([answer(*question) for question in json.load(sys.stdin)]))
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Answers questions (kind, configuration, count) with W&B's package, all in one process."""
    folder = tmp_path_factory.mktemp("sweeps")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = subprocess.run([folder / "bin/pip", "install", "-q", "sweeps==0.3.0"], capture_output=True, text=True)
    if install.returncode:
        pytest.skip(f"pip cannot fetch sweeps==0.3.0: {install.stderr.strip().splitlines()[-1]}")

    def ask(questions):
        command = [folder / "bin/python", "-W", "ignore", "-c", ENGINE]
        return json.loads(subprocess.run(command, input=json.dumps(questions), capture_output=True, text=True, check=True).stdout)

    return ask


def entry(values):
    """The entry of a trial, which does not tell dotted names from nested ones."""
    return entry_of(values, missing_ok=True)


def test_a_grid_has_wandbs_points_in_wandbs_order(engine, tmp_path):
    more = {
        "whole": sweep(
            CONTRASTIVE | {"seed": {"min": 3, "max": 6}, "temperature": {"distribution": "q_uniform", "min": 0.1, "max": 0.95, "q": 0.1}}
        ),
        "floats": sweep(CONTRASTIVE | {"weight": {"distribution": "q_uniform", "min": 1, "max": 4}, "seed": {"values": [5, 0, 3]}}),
    }
    grids = {name: raw for name, raw in (SWEEPS | more).items() if raw["method"] == "grid"}
    ours = {name: validated(tmp_path, raw).points() for name, raw in grids.items()}
    theirs = engine([("points", raw, len(ours[name]) + 1) for name, raw in grids.items()])
    assert len(grids) >= 7
    for points, found in zip(ours.values(), theirs):
        assert found[-1] is None
        assert [entry({key: own["value"] for key, own in run.items()}) for run in found[:-1]] == [entry(point) for point in points]


def test_wandb_accepts_every_search(engine):
    files = [read_mapping(path) for path in sorted((ROOT / "configs/sweeps").glob("*.yaml"))]
    searches = [*SWEEPS.values(), *files]
    assert engine([("violations", raw, 0) for raw in searches]) == [[]] * len(searches)


def test_wandb_takes_the_same_parameters(engine):
    answers = engine([("violations", {"method": "random", "parameters": {"x": raw}}, 0) for _, raw in SAMPLES])
    for (name, _), found in zip(SAMPLES, answers):
        assert (not found) == (name not in EXPONENTS), found
        assert all("base-e exponents" in violation for violation in found)


def test_wandb_refuses_what_is_refused_here(engine):
    bad = [
        {"value": 1, "values": [1]}, {"min": 1}, {"min": 0, "max": 1, "q": 0.1}, {"distribution": "categorical", "values": [1], "probabilities": [1]},
        {"values": []}, {"min": 2, "max": 1}, {"values": [1, 2], "probabilities": [0.5, 0.4]}, {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0},
        {"distribution": "log_uniform_values", "min": 0, "max": 1}, {"distribution": "log_uniform_value", "min": 1, "max": 2},
    ]  # fmt: skip
    assert all(engine([("violations", {"method": "random", "parameters": {"x": raw}}, 0) for raw in bad]))
    for raw in bad:
        with pytest.raises(FieldError):
            read_parameter(raw)


def test_draws_have_wandbs_distribution(engine):
    samples = [raw for _, raw in SAMPLES if not isinstance(read_parameter(raw).extremes()[0], str | list)]
    smallest = 1.0
    for raw, theirs in zip(samples, engine([("draws", raw, DRAWS) for raw in samples])):
        parameter, generator = read_parameter(raw), random.Random(2)
        ours = [parameter.draw(generator) for _ in range(DRAWS)]
        assert {type(value) for value in ours} == {type(value) for value in theirs}, raw
        low, high = min(map(float, parameter.extremes())), max(map(float, parameter.extremes()))
        if "normal" not in parameter.distribution and "beta" not in parameter.distribution:
            assert low - 1e-12 <= min(theirs) <= max(theirs) <= high + 1e-9, raw
        if isinstance(parameter, Quantised):
            assert all(value == round(value / parameter.q) * parameter.q for value in theirs), raw
            ours, theirs = ([round(value / parameter.q) for value in values] for values in (ours, theirs))
        smallest = min(smallest, stats.ks_2samp(ours, theirs).pvalue)
    assert len(samples) >= 25
    assert smallest > 1e-3


def test_bands_are_wandbs(engine):
    configs = [sweep(CONTRASTIVE, metric=LIVE, early_terminate={"type": "hyperband"} | bands) for bands in BANDS]
    ours = [Hyperband(**bands).bands[:8] for bands in BANDS]
    assert engine([("bands", raw, 8) for raw in configs]) == ours
