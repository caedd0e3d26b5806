"""Kill -9 twice at random moments, start again: weights, metrics and evaluation are the same to the bit, for every method of the menu."""

from random import Random

import pytest

from benchmarks.faults import kills
from benchmarks.faults.cases import Bench, needed

# Every method, two of CrossEntropy; tests/benchmarks looks at the list.
ENTRIES = range(13)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """Undisturbed runs are made when they are needed."""
    return Bench(tmp_path_factory.mktemp("kill"), 0)


def run_undisturbed(bench, index):
    hashes = [experiment.hash for experiment in bench.experiments]
    for part in needed(bench.experiments[index]):
        run_undisturbed(bench, hashes.index(part.hash))
    if index not in bench.seconds:
        bench.run_undisturbed(index)


@pytest.mark.parametrize("index", ENTRIES)
def test_a_killed_run_ends_as_if_nothing_had_happened(bench, index):
    assert len(bench.experiments) == len(ENTRIES)
    run_undisturbed(bench, index)
    outcome = kills.kill(bench, index, 2, Random(index))
    assert outcome.went_on
    assert len(outcome.notes) == 2
