"""Small data for the tests of the methods; a W&B server and a client that finds it."""

import dataclasses
import os

import pytest
import torch

from data import datasets
from tests.wandb_server.server import WandbServer


def first_images(full, train, valid):
    """A data set with the first images of every class alone."""

    def first(split, each):
        chosen = datasets.class_balanced(split, 10 * each)
        return datasets.Split(split.images[chosen], split.labels[chosen], split.ids[chosen])

    return dataclasses.replace(full, train=first(full.train, train), valid=first(full.valid, valid))


@pytest.fixture(scope="module")
def small():
    return first_images(datasets.load("FashionMNIST-mini"), 20, 5)


@pytest.fixture
def small_runs(tmp_path, monkeypatch, small):
    """Run directories in tmp_path, small data, no W&B, one thread."""
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(datasets, "load", lambda name, root=None: small)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def server():
    with WandbServer() as running:
        yield running


@pytest.fixture
def online(tmp_path, monkeypatch, server):
    """Runs in tmp_path and a W&B client that finds the server."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PALIMPSEST_RUNS", str(tmp_path / "runs"))
    return server
