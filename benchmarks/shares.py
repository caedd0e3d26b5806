"""Where the time goes: the shares of a training step and of an evaluation that are not the networks' own.

    python -m benchmarks shares

Each part of a step is timed by itself, one thread, images and weights drawn at random: batches (index, corruption, standardisation), forward pass with the loss,
backward pass, optimizer. Of an evaluation: the walk through the compositions, its cut and standardisation, the networks. About a minute.
"""

import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks._figures import Figure
from benchmarks._methods import Trainer, drawn, method_of, runs_in
from data.batches import ToNetwork
from data.compositions import compositions
from data.corruptions import quantize, stream
from models.networks import build_network
from train.run import open_run

ROUNDS, ROWS, IMAGES = 5, 252, 100
COMMON: dict[str, Any] = {"epochs": 1, "lr": 0.01, "batch_size": ROWS}
CASES: dict[str, dict[str, Any]] = {
    "CrossEntropy, EMNISTNet": COMMON | {"dataset": "EMNIST", "method": "CrossEntropy"},
    "CrossEntropy, SmallNet": COMMON | {"dataset": "FashionMNIST-mini", "method": "CrossEntropy"},
    "Contrastive, SmallNet": COMMON | {"dataset": "FashionMNIST-mini", "method": "Contrastive", "weight": 0.1},
}


class Laps:
    """Seconds by part, each from the lap before."""

    def __init__(self, *parts: str):
        self.seconds = dict.fromkeys(parts, 0.0)
        self.last = time.perf_counter()

    def end(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self.last
        self.last = now

    def into(self, rounds: dict[str, list[float]]) -> None:
        for part, own in self.seconds.items():
            rounds[part].append(own)


def training(entry: dict[str, Any]) -> dict[str, list[float]]:
    """Seconds of every part in every round."""
    method = method_of(entry, drawn(entry["dataset"], ROWS // 7 * 4))
    seconds: dict[str, list[float]] = defaultdict(list)
    with open_run(method.experiment) as opened:
        trainer = Trainer(method, opened)
        trainer.network.train()
        for turn in range(ROUNDS + 1):
            laps = Laps("batches", "forward", "backward", "optimizer")
            for batch in trainer.batches.epoch(turn):
                laps.end("batches")
                loss = method.loss(trainer.network, batch).loss
                laps.end("forward")
                trainer.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                laps.end("backward")
                trainer.optimizer.step()
                laps.end("optimizer")
            if turn:  # the first one warms up
                laps.into(seconds)
    return seconds


@torch.inference_mode()
def evaluation(model: str) -> dict[str, list[float]]:
    """Seconds of every part of a walk through the 167 compositions with one network, in every round."""
    network = build_network(model, 10).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (IMAGES, 1, 28, 28), dtype=np.uint8))
    to_network, spec = ToNetwork("FashionMNIST-mini", "cpu"), compositions("167")
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in range(ROUNDS + 1):
        laps = Laps("corruptions", "cut and standardisation", "network")
        for _, levels in stream(images, spec, ids=torch.arange(IMAGES), seed=0):
            laps.end("corruptions")
            inputs = to_network(quantize(levels))
            laps.end("cut and standardisation")
            network(inputs).argmax(1)
            laps.end("network")
        if turn:
            laps.into(seconds)
    return seconds


def shares(name: str, seconds: dict[str, list[float]], told: str) -> Figure:
    """The row of one part over the whole; prints all."""
    whole = [sum(own) for own in zip(*seconds.values())]
    print(f"{name}: " + ", ".join(f"{part} {100 * sum(own) / sum(whole):.1f} %" for part, own in seconds.items()), flush=True)
    return Figure(f"{name}: {told} over the whole", seconds[told], whole, None, "s")


def run() -> list[Figure]:
    """A row for each case: what is made before the networks run, over the whole."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, runs_in(Path(folder))):
            trained = [shares(f"training, {name}", training(entry), "batches") for name, entry in CASES.items()]
        return trained + [shares(f"evaluation, {model}", evaluation(model), "corruptions") for model in ("EMNISTNet", "SmallNet")]
    finally:
        torch.set_num_threads(threads)
