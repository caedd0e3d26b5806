"""Runs of methods on the first images of every class, for the tests of the methods; they need the fixture `small_runs`."""

import json

import torch
from safetensors.torch import load_file

from data.batches import Batch
from train.build import build
from train.checkpoint import save_weights
from train.method import method_class
from train.run import open_run
from train.runner import run_experiment

CPU = torch.device("cpu")
COMMON = {"dataset": 0, "seed": 3, "epochs": 2, "batch_size": 64}


def train(entry):
    """Trains an entry, without its evaluation; returns its experiment."""
    experiment = build(entry)
    run_experiment(experiment, evaluation=False)
    return experiment


def metrics(experiment):
    rows = [json.loads(line) for line in (experiment.directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "images_per_second")} for row in rows]


def weights(experiment):
    return load_file(experiment.directory / "weights.safetensors")


def facts(experiment):
    return json.loads((experiment.directory / "done.json").read_text())


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def make(experiment, dataset):
    return method_class(experiment.method)(experiment, dataset, CPU)


def pretend(experiment, network, known):
    """A finished run with the weights of a network."""
    with open_run(experiment) as run:
        run.start("")
        save_weights(run.directory, network, known)
        run.finish({})


def random_batch(views, images, labels=None):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (images,), generator=generator) if labels is None else labels
    return Batch(torch.rand(views * images, 3, 28, 28, generator=generator) * 2 - 1, labels.repeat(views), views)
