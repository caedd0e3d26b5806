"""`python -m tests.sweep.tiny` is `python -m train.sweep` on the first images of every class (see tests/train/tiny.py).

Its agents are the client's own, which ask ten times a second instead of every five seconds. Where the environment has TINY_PRETENDED, data
sets that have to be fetched are pretended: that many of these images in their shape, with their labels.
"""

import os
import sys

import numpy as np
import torch
from torch.nn.functional import interpolate

import info_dicts
import tests.train.tiny  # its import makes the data small, here and in the pool's processes
from data import datasets
from train import entry
from train.sweep import agents, submit
from train.sweep.__main__ import main

agents.CLIENT = (sys.executable, "-m", "tests.wandb_server.agent")
submit.AGENT = (sys.executable, "-m", "tests.sweep.tiny", "agent")

PRETENDED = int(os.environ.get("TINY_PRETENDED", "0"))


def load(name, root=None):
    if name in datasets.EMBEDDED:
        return tests.train.tiny.load(name, root)
    facts = next(choice for choice in info_dicts.DATASETS.values() if choice == name)
    split = tests.train.tiny.full_load("FashionMNIST-mini").train
    images = interpolate(torch.from_numpy(split.images[:PRETENDED]).float(), facts.shape[1:]).expand(-1, facts.shape[0], -1, -1)
    few = datasets.Split(np.ascontiguousarray(images.numpy().astype(np.uint8)), split.labels[:PRETENDED], np.arange(PRETENDED))
    return datasets.DataSet(str(facts), few, few, few, "")


if PRETENDED:
    datasets.load = load
    datasets.require = lambda name, root=None: None
    # All images of a split are as many as there are.
    entry.Experiment.test_images = property(
        lambda self: self.evaluation.images or len(load(self.dataset).split(self.evaluation.split).labels)
    )

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
