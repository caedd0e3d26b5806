"""Small data for the tests of the methods."""

import dataclasses

import pytest
import torch

from data import datasets


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
