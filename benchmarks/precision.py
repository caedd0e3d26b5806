"""bfloat16, channels_last and torch.compile in training on the CPU, against float32 in torch's usual layout.

    python -m benchmarks precision

Forward pass, backward pass and optimizer on ready tensors, 252 rows, one thread, sides take turns. What compiling takes is told beside. The speed of bfloat16 is measured where the processor has it:
elsewhere it is emulated, many times slower. What it does to accuracy is the same everywhere: networks trained in both precisions from the same seeds, on real images.
About four minutes, most of them where it is emulated.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from unittest.mock import patch

import torch
from torch.nn.functional import cross_entropy

from benchmarks._figures import Figure, in_turns, spread
from benchmarks._methods import runs_in
from models.networks import build_network
from train.build import build
from train.entry import Trained
from train.optimizers import make_optimizer
from train.run import read_json
from train.runner import run_experiment

ROUNDS, ROWS, SEEDS = 9, 252, 5
MODELS = ("EMNISTNet", "SmallNet")


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16 by itself."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def stepper(
    model: str, layout: torch.memory_format = torch.contiguous_format, bfloat16: bool = False, compiled: bool = False
) -> Callable[[], None]:
    """A training step of a network on images that lie ready."""
    torch.manual_seed(0)
    network = build_network(model, 10)
    network.to(memory_format=layout)  # type: ignore[call-overload]  # torch's stubs lack it
    if compiled:
        network.compile()
    images, labels = torch.randn(ROWS, 3, 28, 28).contiguous(memory_format=layout), torch.arange(ROWS) % 10
    experiment = build({"dataset": 0, "method": "Identity", "lr": 0.01})
    assert isinstance(experiment, Trained)
    optimizer = make_optimizer(network.parameters(), experiment)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def speeds() -> list[Figure]:
    figures = []
    for model in MODELS:
        sides = {"float32": stepper(model), "channels_last": stepper(model, torch.channels_last), "compiled": stepper(model, compiled=True)}
        start = time.perf_counter()
        sides["compiled"]()
        print(f"{model}: the first compiled step took {time.perf_counter() - start:.1f} s")
        if has_bfloat16():
            sides["bfloat16"] = stepper(model, bfloat16=True)
        rates = {side: [ROWS / seconds for seconds in taken] for side, taken in in_turns(sides, ROUNDS).items()}
        print(f"{model}, images/s: " + ", ".join(f"{side} {spread(own)}" for side, own in rates.items()), flush=True)
        figures += [
            Figure(f"training step, {side} over float32, {model}", rates.get(side, []), rates["float32"])
            for side in ("channels_last", "compiled", "bfloat16")
        ]
    return figures


def accuracies() -> Figure:
    """Validation accuracies of SmallNet on FashionMNIST-mini after two epochs, from SEEDS seeds."""
    found: dict[str, list[float]] = {"bfloat16": [], "float32": []}
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, runs_in(Path(folder))):
        for seed in range(SEEDS):
            for precision, own in found.items():
                experiment = build({"dataset": 0, "method": "Identity", "lr": 0.05, "epochs": 2, "seed": seed, "precision": precision})
                run_experiment(experiment, evaluation=False)
                own.append(read_json(experiment.directory / "done.json")["valid_accuracy"])
    told = ", ".join(f"{name} {mean(own):.4f} (standard deviation {stdev(own):.4f})" for name, own in found.items())
    print(f"accuracy after two epochs, {SEEDS} seeds: {told}", flush=True)
    return Figure(f"accuracy of bfloat16 over float32, {SEEDS} seeds", found["bfloat16"], found["float32"], unit="fraction")


def run() -> list[Figure]:
    """Rows for each network, and one for accuracy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [*speeds(), accuracies()]
    finally:
        torch.set_num_threads(threads)
