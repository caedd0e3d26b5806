"""The published EMNIST recipe on a GPU: what is steady per method, from which the length of the whole table follows.

    python -m benchmarks gpu

The loop trains every method of the table on labelled synthetic images of EMNIST's shapes for SECONDS after a warm-up, in float32, in bfloat16 and compiled in bfloat16;
pixels change no time. Totals are image-steps over the best of these rates, so they are extrapolated, and say so. Beside them: the evaluation of 167 lists on 18,800 images,
how much of the time the device is busy (its kernels in a profile over the time that passed), and the rate of floating-point operations over the card's peak.
Without a GPU nothing is measured and nothing estimated. About half an hour on one.
"""

import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._figures import Figure
from benchmarks._methods import Trainer, drawn, method_of, runs_in
from data.content import DataSet
from models.networks import build_network
from train.evaluation import evaluate
from train.fields import Evaluation
from train.loop import choose_device
from train.method import PlainSystem
from train.run import open_run

SECONDS, TRAIN, TEST = 60.0, 94_000, 18_800
COMMON: dict[str, Any] = {"dataset": "EMNIST", "lr": 0.01, "epochs": 1}
# Entries of the table, and their image-steps of one seed in millions (94,000 images x views x 200 epochs, the search of levels included).
TABLE: dict[str, tuple[dict[str, Any], float]] = {
    "CrossEntropy": (COMMON | {"method": "CrossEntropy"}, 131.6),
    "Contrastive": (COMMON | {"method": "Contrastive", "weight": 0.1}, 131.6),
    "Identity, twice": (COMMON | {"method": "Identity"}, 37.6),
    "Module, level 2": (COMMON | {"method": "Module", "corruption": "Swirl", "level": 2, "weight": 1, "backbone": {"lr": 0.01}}, 259.3),
    "Autoencoder": (COMMON | {"method": "Autoencoder", "corruption": "Swirl"}, 112.7),
    "JointClassifier": (COMMON | {"method": "JointClassifier", "autoencoder": {"lr": 0.01}}, 131.6),
}
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, compiled": {"precision": "bfloat16", "compile": True},
}
MINUTES = {"CrossEntropy": 5.0, "table": 30.0}
# Dense bfloat16 operations per second, from the vendor's data sheets, by what the name of the card holds.
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


def steady(work: Callable[[], int], device: torch.device, seconds: float) -> float:
    """Rows per second of work that is done again and again for so long, after a first time that warms up."""
    work()
    synchronize(device)
    rows, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        rows += work()
        synchronize(device)
    return rows / (time.perf_counter() - start)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def training_rate(entry: dict[str, Any], dataset: DataSet, device: torch.device, seconds: float) -> float:
    """Rows per second of the loop's training of an entry."""
    method = method_of(entry | {"device": device.type}, dataset, device)
    with open_run(method.experiment) as opened:
        trainer = Trainer(method, opened)

        def epoch() -> int:
            trainer.epoch()
            return trainer.training.sums.rows

        return steady(epoch, device, seconds)


def busy_share(entry: dict[str, Any], dataset: DataSet, device: torch.device) -> tuple[float, float]:
    """Of an epoch on a GPU: seconds in which kernels run, by the profiler, and seconds that pass without it."""
    method = method_of(entry | {"device": device.type}, dataset, device)
    with open_run(method.experiment) as opened:
        trainer = Trainer(method, opened)
        trainer.epoch()
        synchronize(device)
        start = time.perf_counter()
        trainer.epoch()
        synchronize(device)
        passed = time.perf_counter() - start
        with profile(activities=[ProfilerActivity.CUDA]) as told:
            trainer.epoch()
            synchronize(device)
    return sum(event.self_device_time_total for event in told.key_averages()) / 1e6, passed


def operations() -> float:
    """Floating-point operations of a training step of the EMNIST network on one row: twice as many backward as forward."""
    network = build_network("EMNISTNet", 47).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 28, 28))
    return 3.0 * counter.get_total_flops()


def evaluation_seconds(dataset: DataSet, device: torch.device, images: int) -> float:
    """Seconds of the evaluation of a network on 167 compositions."""
    systems = [PlainSystem(build_network("EMNISTNet", 47)).eval().requires_grad_(False).to(device)]
    evaluate(systems, dataset, Evaluation(compositions="elementals"), np.arange(images), device)
    synchronize(device)
    start = time.perf_counter()
    evaluate(systems, dataset, Evaluation(), np.arange(images), device)
    synchronize(device)
    return time.perf_counter() - start


def measure(device: torch.device, seconds: float, train: int, test: int) -> list[Figure]:
    """All rows on a device."""
    dataset = drawn("EMNIST", train)
    rates: dict[str, dict[str, float]] = {}
    for name, (entry, _) in TABLE.items():
        rates[name] = {way: training_rate(entry | changed, dataset, device, seconds) for way, changed in WAYS.items()}
        print(f"{name}, rows/s: " + ", ".join(f"{way} {rate:,.0f}" for way, rate in rates[name].items()), flush=True)
    figures = [Figure(f"{name}: {way} over float32", [own[way]], [own["float32"]]) for name, own in rates.items() for way in list(WAYS)[1:]]
    minutes = {name: steps * 1e6 / max(rates[name].values()) / 60 for name, (_, steps) in TABLE.items()}
    tested = evaluation_seconds(drawn("EMNIST", 47, test), device, test)
    table = sum(minutes.values()) + 5 * tested / 60
    best = max(rates["CrossEntropy"], key=lambda way: rates["CrossEntropy"][way])
    busy, passed = busy_share(TABLE["CrossEntropy"][0] | WAYS[best], dataset, device) if device.type == "cuda" else (0.0, 0.0)
    flops = operations() * rates["CrossEntropy"][best]
    peak = peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    print(f"CrossEntropy, {best}: {flops / 1e12:.1f} TFLOP/s", flush=True)
    return [
        *figures,
        Figure(NAMES[0], [minutes["CrossEntropy"]], [MINUTES["CrossEntropy"]], 1.0, "min"),
        Figure(NAMES[1], [table], [MINUTES["table"]], 1.0, "min"),
        Figure(NAMES[2], [tested], [10.0], 1.0, "s"),
        Figure(NAMES[3], [busy / passed] if passed else [], [1.0] if passed else [], 0.9, "share"),
        Figure(NAMES[4], [flops] if peak else [], [peak] if peak else [], None, "FLOP/s"),
    ]


NAMES = (
    "EMNIST recipe, CrossEntropy, minutes (extrapolated) over 5",
    "EMNIST table of one seed, minutes (extrapolated) over 30",
    "evaluation of 167 lists on 18,800 images, seconds over 10",
    "device busy, seconds of kernels over seconds that passed",
    "floating-point operations over the card's bfloat16 peak",
)


def peak_of(card: str) -> float | None:
    return next((peak for name, peak in PEAKS.items() if re.search(name, card)), None)


def run() -> list[Figure]:
    """The rows of `measure` on the GPU; without one they are not measured."""
    if not torch.cuda.is_available():
        print("no GPU is there: not measured", flush=True)
        goals: tuple[tuple[float | None, str], ...] = ((1.0, "min"), (1.0, "min"), (1.0, "s"), (0.9, "share"), (None, "FLOP/s"))
        return [Figure(name, [], [], goal, unit) for name, (goal, unit) in zip(NAMES, goals)]
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, runs_in(Path(folder))):
        return measure(choose_device("cuda"), SECONDS, TRAIN, TEST)
