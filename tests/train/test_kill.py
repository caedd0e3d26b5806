"""Kill -9 in the middle, start again: weights, metrics and evaluation are the same to the bit as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

import info_dicts
from train.build import experiment_class
from train.entry import Trained
from train.lists import read

TRAIN = "{dataset: 0, seed: 5, epochs: 6, batch_size: 64, threads: 1, evaluation: {images: 100, compositions: elementals}"
LIST = f"""
- &base {TRAIN}, method: Identity, lr: 0.05}}
- {{<<: *base, method: CrossEntropy}}
- {{<<: *base, method: CrossEntropy, batching: independent}}
- {{<<: *base, method: Contrastive, weight: 0.1}}
- {{<<: *base, method: Module, corruption: ImpulseNoise, level: auto, search_epochs: 2, weight: 0.1, backbone: {{lr: 0.05}}}}
- {{<<: *base, method: Autoencoder, corruption: ImpulseNoise}}
- {{<<: *base, method: Router, corruptions: [ImpulseNoise]}}
- {{<<: *base, method: JointClassifier, corruptions: [ImpulseNoise], autoencoder: {{lr: 0.05}}}}
- {TRAIN}, method: ModularSystem, backbone: {{lr: 0.05}}, module: {{level: 2, lr: 0.05, weight: 0.1, epochs: 1}}}}
"""
TRAINED = ["Identity", "CrossEntropy", "independent", "Contrastive", "Module", "Autoencoder", "Router", "JointClassifier"]
# Which entry has to be there before another.
NEEDS = {4: 0, 7: 5}
EVALUATED_ALL = "--evaluation.compositions=1957"


def command(path, index, *more):
    return [sys.executable, "-m", "tests.train.tiny", str(path), "--index", str(index), *more]


def environment(folder):
    return os.environ | {"PALIMPSEST_RUNS": str(folder), "WANDB_MODE": "disabled", "TINY_TRAIN": "60"}


def run(path, index, folder, *more):
    subprocess.run(command(path, index, *more), env=environment(folder), check=True, capture_output=True, timeout=300)


def kill_when(path, index, folder, ready, *more):
    """Starts a run and kills it as soon as `ready()`; fails where it ends before."""
    process = subprocess.Popen(command(path, index, *more), env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not ready():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def metrics(directory):
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


def rows_written(directory):
    path = directory / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """All entries, run without disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = folder / "list.yaml"
    path.write_text(LIST)
    for index in range(len(TRAINED)):
        run(path, index, folder)
    return folder, path


def test_every_method_that_trains_is_killed(undisturbed):
    methods = {entry.experiment.method for entry in read(undisturbed[1])[: len(TRAINED)]}
    assert methods == {name for name in info_dicts.METHODS.values() if issubclass(experiment_class(name), Trained)}


@pytest.mark.parametrize("index", range(len(TRAINED)), ids=TRAINED)
def test_a_killed_training_ends_as_if_nothing_had_happened(undisturbed, tmp_path, monkeypatch, index):
    folder, path = undisturbed
    experiment = read(path)[index].experiment
    if index in NEEDS:
        run(path, NEEDS[index], tmp_path)
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path))
    killed = experiment.directory
    # Twice: early, and again after the resumed run has gone on.
    for least in (2, 4) if index != 4 else (3, 13):
        kill_when(path, index, tmp_path, lambda least=least: rows_written(killed) >= least and (killed / "checkpoint" / "last.pt").exists())
        assert not (killed / "done.json").exists()
    run(path, index, tmp_path)
    monkeypatch.setenv("PALIMPSEST_RUNS", str(folder))
    whole = experiment.directory
    assert metrics(killed) == metrics(whole)
    assert (killed / "weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()
    facts = [json.loads((d / "done.json").read_text()) | {"train_seconds": 0} for d in (killed, whole)]
    assert facts[0] == facts[1]
    assert len((killed / "attempts.jsonl").read_text().splitlines()) == 3
    if experiment.is_system:
        same_evaluation(killed / "evaluation" / "test-elementals-100.h5", whole / "evaluation" / "test-elementals-100.h5")


def same_evaluation(first, second):
    with h5py.File(first) as a, h5py.File(second) as b:
        assert set(a) == set(b)
        assert all(np.array_equal(a[key][()], b[key][()]) for key in a)
        assert dict(a.attrs) == dict(b.attrs)
        # Better than chance, so the networks and the pixels are real.
        assert 0.2 < a["accuracy"][0] < 1


def test_a_killed_evaluation_of_a_modular_system_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "list.yaml"
    path.write_text("\n".join(LIST.splitlines()[:2] + LIST.splitlines()[-1:]) + "\n")
    system = read(path)[1].experiment
    for folder in (tmp_path / "killed", tmp_path / "whole"):
        monkeypatch.setenv("PALIMPSEST_RUNS", str(folder))
        modules = folder.parent / "modules.yaml"
        modules.write_text(
            "\n".join(
                "- " + json.dumps(part.canonical() | {"evaluation": {"images": 100, "compositions": "elementals"}})
                for part in system.requires()
            )
        )
        for index in range(7):
            run(modules, index, folder)
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "killed"))
    killed = system.directory
    parts = killed / "evaluation" / "test-1957-100.parts"
    kill_when(path, 1, tmp_path / "killed", lambda: len(list(parts.glob("*.npz"))) >= 2, EVALUATED_ALL)
    kept = sorted((file.name, file.stat().st_mtime_ns) for file in parts.glob("*.npz"))
    assert 2 <= len(kept) < 5
    run(path, 1, tmp_path / "killed", EVALUATED_ALL)
    run(path, 1, tmp_path / "whole", EVALUATED_ALL)
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "whole"))
    same_evaluation(killed / "evaluation" / "test-1957-100.h5", system.directory / "evaluation" / "test-1957-100.h5")
    assert not parts.exists()
