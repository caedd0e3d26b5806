"""Run directories as trainings leave them, without training, for the tests of what W&B is told; and waiting for a server's side."""

import json
import time

import h5py

from train.build import build

COMPOSITIONS = ["Identity", "Contrast", "Contrast-GaussianBlur"]


def experiment(seed=0, **more):
    """A system that is trained for 5 epochs."""
    return build({"dataset": 0, "method": "Identity", "lr": 0.1, "epochs": 5, "seed": seed} | more)


def row(epoch):
    losses = {"train_loss": 1 / epoch, "train_accuracy": 0.5, "valid_loss": 2 / epoch, "valid_accuracy": 0.25}
    return {"stage": "train", "epoch": epoch, **losses, "lr": 0.1, "images_per_second": 100.0, "seconds": epoch}


def write_rows(experiment, epochs):
    """A run directory with that many rows in metrics.jsonl, of a training that was stopped."""
    experiment.directory.mkdir(parents=True, exist_ok=True)
    record = {"recipes": experiment.recipes(), "canonical": experiment.canonical(), "hash": experiment.hash, "data": "checksum"}
    if not (experiment.directory / "experiment.json").exists():  # a tracker may be reading it
        (experiment.directory / "experiment.json").write_text(json.dumps(record))
    (experiment.directory / "metrics.jsonl").write_text("".join(json.dumps(row(epoch)) + "\n" for epoch in range(1, epochs + 1)))


def write_end(experiment):
    """Makes a run directory that of a finished and evaluated training."""
    (experiment.directory / "done.json").write_text(json.dumps({"best_epoch": 5}))
    (experiment.directory / "evaluation").mkdir(exist_ok=True)
    with h5py.File(experiment.directory / "evaluation" / f"{experiment.testing.key}.h5", "w") as file:
        file["composition"], file["accuracy"], file["loss"] = COMPOSITIONS, [0.75, 0.5, 0.25], [1.0, 2.0, 3.0]
        file["ids"] = range(100)
        file.attrs.update(n=100, split="test", severities="{}", trained_parameters=10, total_parameters=10)


def finished(seed=0, **more):
    made = experiment(seed, **more)
    write_rows(made, 5)
    write_end(made)
    return made


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def assert_complete(stored):
    """The W&B run of `finished()`: five epochs, the evaluation and its table, each step exactly once; summary and state."""
    history = stored["history"]
    assert [line["_step"] for line in history] == list(range(7))
    assert [line["epoch"] for line in history[:5]] == [1, 2, 3, 4, 5]
    assert [line["valid/loss"] for line in history[:5]] == [2 / epoch for epoch in range(1, 6)]
    assert history[5]["composition/Contrast-GaussianBlur/accuracy"] == 0.25
    assert history[6]["compositions"]["nrows"] == 3
    assert stored["summary"]["best_epoch"] == 5
    assert stored["summary"]["corruptions/1/accuracy"] == 0.5
    assert stored["summary"]["composition/Contrast-GaussianBlur/loss"] == 3.0
    assert stored["summary"]["facts/trained_parameters"] == 10
    assert stored["config"]["identity"]["value"]["data"] == "checksum"
    assert stored["config"]["lr"]["value"] == 0.1
    assert stored["state"] == "finished"
