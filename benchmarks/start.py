"""From the command to the first step: `python -m train` of one entry up to its first step, beside what importing torch takes by itself; both without the interpreter's end.

    python -m benchmarks start

The goal of 3 s is one of seconds, so the table gives it as a ratio to 3 s; a bare `import torch` is a row beside it. Processes one after the other, in turns.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._figures import Figure, spread
from benchmarks._methods import runs_in
from train.entry import ROOT

ROUNDS, SECONDS = 7, 3.0
ENTRY = "- {dataset: 0, method: Identity, epochs: 1, lr: 0.05, device: cpu, threads: 1}\n"
# Ends the process behind the first step of the optimizer.
FIRST_STEP = """
import os, sys
from train.__main__ import main
import train.run
write = train.run.Run.start

# torch is there when the run is opened, and not before.
def start(run, checksum):
    from torch.optim.optimizer import register_optimizer_step_post_hook
    register_optimizer_step_post_hook(lambda *_: os._exit(0))
    return write(run, checksum)

train.run.Run.start = start
sys.exit(main(sys.argv[1:]) or 3)
"""


def run() -> list[Figure]:
    """Two rows: seconds to the first step over 3, and over those of `import torch`."""
    first: list[float] = []
    bare: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.yaml"
        path.write_text(ENTRY)
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | runs_in(Path(folder) / "runs")
        for turn in range(ROUNDS + 1):
            for taken, words in ((first, [FIRST_STEP, str(path), "--index", "0"]), (bare, ["import os, torch; os._exit(0)"])):
                start = time.perf_counter()
                subprocess.run([sys.executable, "-c", *words], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
                if turn:
                    taken.append(time.perf_counter() - start)
            for lock in Path(folder).glob("runs/*/*/lock"):
                lock.unlink()
    print(f"first step {spread(first)} s, import torch {spread(bare)} s", flush=True)
    return [
        Figure("from the command to the first step, over 3 s", first, [SECONDS] * len(first), 1.0, "s"),
        Figure("from the command to the first step, over import torch", first, bare, None, "s"),
    ]
