"""`python -m tests.sweep.tiny` is `python -m train.sweep` on the first images of every class (see tests/train/tiny.py), with an agent that asks often."""

import sys

import torch

import tests.train.tiny  # noqa: F401  its import makes the data small, here and in the pool's processes
from train.sweep import agents
from train.sweep.__main__ import main

agents.CLIENT = (sys.executable, "-m", "tests.wandb_server.agent")

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
