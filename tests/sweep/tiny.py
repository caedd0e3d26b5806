"""`python -m tests.sweep.tiny` is `python -m train.sweep` on the first images of every class (see tests/train/tiny.py)."""

import sys

import torch

import tests.train.tiny  # noqa: F401  its import makes the data small, here and in the pool's processes
from train.sweep.__main__ import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
