"""How time and memory grow: the exponent of the power law through each row of sizes, and the peak memory of evaluations.

    python -m benchmarks scale

Time of an evaluation by images, classes, compositions (to all 1,957) and systems; of reading, planning and looking up the states of a list by entries (10 to 10,000);
of tabulating run directories by runs. An exponent of 1 is growth in proportion; smaller ones have a share that does not grow. Every evaluation has a process of its
own, one thread, and reports its peak of resident memory, torch and the data set included. About four minutes.
"""

import re
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks._figures import Figure, processes, spread
from benchmarks.results import write_runs
from data import datasets
from models.networks import build_network
from plots.results import find
from tests.plots.conftest import Study
from train.evaluation import evaluate
from train.fields import Evaluation
from train.lists import plan, read
from train.method import PlainSystem
from train.waves import read_states

ROUNDS = 2
IMAGES, CLASSES, COMPOSITIONS, SYSTEMS = (125, 250, 500), (10, 100, 1_000), ("elementals", "167", "1957"), (1, 2, 4, 8)
COUNTS = {"elementals": 7, "167": 167, "1957": 1_957}
ENTRIES, RUNS = (10, 100, 1_000, 10_000), (40, 160, 640)
# In proportion, with some air for noise.
GOAL = 1.1


def evaluation(images: int = 50, classes: int = 10, compositions: str = "167", systems: int = 1) -> tuple[float, float]:
    """Seconds of an evaluation of drawn networks, and the peak memory of this process in MB."""
    dataset = datasets.load("FashionMNIST-mini")
    made = [PlainSystem(build_network("SmallNet", classes)).eval().requires_grad_(False) for _ in range(systems)]
    work = partial(evaluate, made, dataset, positions=np.arange(images), device=torch.device("cpu"))
    work(evaluation=Evaluation(compositions="Invert"))
    start = time.perf_counter()
    work(evaluation=Evaluation(compositions=compositions))
    return time.perf_counter() - start, peak_memory()


def peak_memory() -> float:
    """The peak of this process's resident memory in MB. The kernel's own figure where it has one: what getrusage says begins with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024  # type: ignore[index]  # always there
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(call: Callable[[], tuple[float, float]]) -> tuple[float, float]:
    """What a call returns in a fresh process."""
    with processes(1) as pool:
        return pool.submit(call).result()


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log sizes, least squares."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def growth(name: str, sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> Figure:
    """A row: the exponent of every round; prints the seconds at every size."""
    print(f"\n{name}, seconds")
    for size, own in zip(sizes, zip(*seconds)):
        print(f"  {size:>8,} {spread(own)}", flush=True)
    exponents = [exponent(sizes, own) for own in seconds]
    return Figure(f"time over {name}, the exponent over 1", exponents, [1.0] * len(exponents), GOAL, "exponent")


def evaluations() -> list[Figure]:
    figures = []
    rows = {
        "images": (IMAGES, [partial(evaluation, images=n) for n in IMAGES]),
        "classes": (CLASSES, [partial(evaluation, classes=n) for n in CLASSES]),
        "compositions": (list(COUNTS.values()), [partial(evaluation, compositions=spec) for spec in COMPOSITIONS]),
        "systems": (SYSTEMS, [partial(evaluation, systems=n) for n in SYSTEMS]),
    }
    for name, (sizes, calls) in rows.items():
        found = [[alone(call) for call in calls] for _ in range(ROUNDS)]
        figures.append(growth(name, sizes, [[seconds for seconds, _ in own] for own in found]))
        peaks = [[peak for _, peak in own] for own in found]
        print("  peak memory, MB: " + ", ".join(f"{size:,}: {own[0]:.0f}" for size, own in zip(sizes, zip(*peaks))), flush=True)
        if name in ("compositions", "systems"):
            told = f"peak memory of {sizes[-1]:,} {name} over {sizes[-2 if name == 'compositions' else 0]:,}"
            first = [own[-2 if name == "compositions" else 0] for own in peaks]
            figures.append(Figure(told, [own[-1] for own in peaks], first, 1.05, "MB"))
    return figures


def lists(folder: Path) -> Figure:
    """By entries: reading, planning with a prerequisite each, and looking up the states."""
    seconds = []
    for _ in range(ROUNDS):
        own = []
        for count in ENTRIES:
            path = folder / f"{count}.yaml"
            part = "method: Module, corruption: Swirl, level: 1, lr: 0.01, weight: 1, backbone: {lr: 0.1}"
            path.write_text("".join(f"- {{dataset: 0, seed: {seed}, {part}}}\n" for seed in range(count)))
            start = time.perf_counter()
            assert len(read_states(plan(read(path)))) == 2 * count
            own.append(time.perf_counter() - start)
        seconds.append(own)
    return growth("entries of a list", ENTRIES, seconds)


def pulls(folder: Path, patch: pytest.MonkeyPatch) -> Figure:
    """By runs: tabulating run directories."""
    seconds: list[list[float]] = [[] for _ in range(ROUNDS)]
    for count in RUNS:
        (folder / str(count)).mkdir()
        study = Study(folder / str(count), patch)
        write_runs(study, count // 4)
        for own in seconds:
            start = time.perf_counter()
            assert find(study.runs).table["run"].nunique() == count
            own.append(time.perf_counter() - start)
    return growth("runs tabulated", RUNS, seconds)


def run() -> list[Figure]:
    """Rows of exponents (goal: at most 1.1) and of memory (goal: no more than 5 % above the smaller one)."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALIMPSEST_RUNS", f"{scratch}/runs")
        patch.setenv("WANDB_MODE", "disabled")
        return [*evaluations(), lists(Path(scratch)), pulls(Path(scratch), patch)]
