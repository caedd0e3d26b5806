"""Many small experiments: one command for all, against a command for each, one after the other.

    python -m benchmarks small

Entries of an epoch on FashionMNIST-mini, each evaluated on 100 images under the single corruptions. Ours: `python -m train LIST`, as a task of Slurm with `--per-task`
runs its entries: a process per core, forked from one that has torch. The other: `python -m train LIST --index i` for every i. About three minutes on two cores.
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

ROUNDS, ENTRIES, GOAL = 3, 12, 0.5
EVALUATION = "{images: 100, compositions: elementals}"


def train(folder: Path, words: list[str]) -> None:
    environment = os.environ | runs_in(folder)
    subprocess.run([sys.executable, "-m", "train", *words], cwd=ROOT, env=environment, check=True, capture_output=True)


def run() -> list[Figure]:
    """One row: seconds of the whole list over those of its entries one by one; two processes on two cores alone would make it 0.5."""
    ours: list[float] = []
    other: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "small.yaml"
            entry = f"dataset: 0, method: Identity, epochs: 1, lr: 0.05, evaluation: {EVALUATION}"
            path.write_text("".join(f"- {{{entry}, seed: {seed}}}\n" for seed in range(ENTRIES)))
            start = time.perf_counter()
            train(Path(scratch) / "together", [str(path)])
            middle = time.perf_counter()
            for index in range(ENTRIES):
                train(Path(scratch) / "apart", [str(path), "--index", str(index)])
            ours.append(middle - start)
            other.append(time.perf_counter() - middle)
    print(f"{ENTRIES} small entries: one command {spread(ours)} s, one by one {spread(other)} s", flush=True)
    return [Figure(f"{ENTRIES} small entries in one command over one after the other", ours, other, GOAL, "s")]
