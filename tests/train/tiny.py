"""`python -m tests.train.tiny` is `python -m train` on the first images of every class: the real thing, in seconds.

The environment's TINY_TRAIN, TINY_VALID set how many images of each class there are.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import dataclasses
import sys

import torch

from data import datasets
from train import entry, evaluation
from train.__main__ import main

full_load = datasets.load


def load(name, root=None):
    full = full_load(name, root)

    def first(split, count):
        chosen = datasets.class_balanced(split, count * 10)
        return datasets.Split(split.images[chosen], split.labels[chosen], split.ids[chosen])

    train, valid = int(os.environ.get("TINY_TRAIN", "20")), int(os.environ.get("TINY_VALID", "5"))
    return dataclasses.replace(full, train=first(full.train, train), valid=first(full.valid, valid))


# At import, so that the pool's processes, which import the main module again, are as small.
datasets.load = load
entry.PART = evaluation.PART = 20

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
