"""`compile: true` trains the same network, as far as rounding goes, and a stopped run goes on."""

import shutil

import pytest

from errors import InputError
from tests.train.runs import COMMON, facts, metrics, train, weights

pytestmark = pytest.mark.usefixtures("small_runs")

ENTRIES = {
    "CrossEntropy": {"method": "CrossEntropy", "lr": 0.01},
    "Contrastive": {"method": "Contrastive", "lr": 0.01, "weight": 0.1},
    "Module": {"method": "Module", "corruption": "Invert", "level": 2, "lr": 0.01, "weight": 0.5, "backbone": {"lr": 0.01}},
}


def test_without_a_compiler_it_is_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="compile: torch's compiler needs a C"):
        train(COMMON | {"method": "Identity", "lr": 0.01, "compile": True})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("name", ENTRIES)
def test_a_compiled_network_is_trained_as_another(name, tmp_path, monkeypatch):
    entry = COMMON | ENTRIES[name]
    found = []
    for compiled in (False, True):
        monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / str(compiled)))
        if "backbone" in entry:
            train(COMMON | {"method": "Identity", "lr": 0.01})
        experiment = train(entry | {"compile": compiled})
        found.append((weights(experiment).keys(), [row["train_loss"] for row in metrics(experiment)], facts(experiment)["valid_loss"]))
    (names, losses, valid), (compiled_names, compiled_losses, compiled_valid) = found
    assert compiled_names == names
    assert compiled_losses == pytest.approx(losses, rel=1e-3)
    assert compiled_valid == pytest.approx(valid, rel=1e-2)
