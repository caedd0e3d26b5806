"""`python -m tests.slurm.paced_sweep` is `python -m tests.sweep.tiny` that rests after every training step (see paced.py)."""

import sys

import tests.slurm.paced  # noqa: F401  its import slows the training, here and in the pool's processes
from tests.sweep import tiny

if __name__ == "__main__":
    tiny.torch.set_num_threads(1)
    sys.exit(tiny.main())
