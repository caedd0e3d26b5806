"""`python -m tests.slurm.paced` is `python -m tests.train.tiny` that rests after every training step, so that a test can meet it at work.

The file that the environment's PACE names says for how many seconds; there is no rest where it is missing. Nothing of what is computed changes.
"""

import os
import sys
import time
from pathlib import Path

from data.batches import Batches
from tests.train import tiny

full_epoch = Batches.epoch


def rest() -> float:
    try:
        return float(Path(os.environ["PACE"]).read_text())
    except (KeyError, FileNotFoundError, ValueError):
        return 0.0


def epoch(self, *arguments):
    for batch in full_epoch(self, *arguments):
        yield batch
        time.sleep(rest())


# At import, for the pool's processes too.
Batches.epoch = epoch  # type: ignore[method-assign]

if __name__ == "__main__":
    tiny.torch.set_num_threads(1)
    sys.exit(tiny.main())
