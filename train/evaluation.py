"""Evaluation of finished systems on compositions: one walk through the prefix tree feeds all systems the same pixels.

The images are evaluated in parts of PART images, which may run side by side and survive a kill; a part holds, for every
system and composition, each image's correctness and the summed loss. Networks run in float32 whatever they were trained in.
"""

import io
import shutil
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from data import datasets
from data.batches import ToNetwork, on_device, spread
from data.compositions import compositions
from data.corruptions import quantize, stream
from data.keys import evaluation_seed
from errors import InputError
from train import interrupt
from train.entry import Experiment
from train.fields import PART, Evaluation
from train.loop import choose_device
from train.method import System, method_class
from train.run import write_atomically

CHUNK = 250  # images: what runs through the networks at once


@dataclass(frozen=True)
class Outcomes:
    """What a system did on the compositions: correct (C, N) bool, loss sums (C,) float64."""

    correct_cn: np.ndarray
    loss_c: np.ndarray


def select_images(evaluation: Evaluation, dataset: datasets.DataSet) -> np.ndarray:
    """Positions in the split of the images to evaluate on."""
    split = dataset.split(evaluation.split)
    return datasets.class_balanced(split, evaluation.images) if evaluation.images else np.arange(len(split.labels))


@torch.inference_mode()
def evaluate(
    systems: Sequence[System],
    dataset: datasets.DataSet,
    evaluation: Evaluation,
    positions: np.ndarray,
    device: torch.device,
    tick: Callable[[int], object] = lambda count: None,
) -> list[Outcomes]:
    """Runs systems on every composition of an evaluation for the images at `positions` of the split.

    The pixels depend on the data set, the split, the image and the composition alone. `tick` is told the number of
    compositions done so far per chunk of images. Memory does not grow with compositions or systems.
    """
    spec = compositions(evaluation.compositions)
    split = dataset.split(evaluation.split)
    seed = evaluation_seed(dataset.name, evaluation.split)
    to_network = ToNetwork(dataset.name, device)
    chosen = datasets.Split(split.images[positions], split.labels[positions], split.ids[positions])
    arrays = on_device(chosen, device)
    n = len(positions)
    correct = torch.zeros(len(systems), len(spec), n, dtype=torch.bool, device=device)
    losses = torch.zeros(len(systems), len(spec), dtype=torch.float64, device=device)
    for start, stop in spread(n, CHUNK):
        labels = arrays.labels[start:stop]
        walk = stream(arrays.images[start:stop], spec, ids=arrays.ids[start:stop], seed=seed, severities=evaluation.severities)
        for index, levels in walk:
            images = to_network(quantize(levels))
            restored: dict[Hashable, torch.Tensor] = {None: images}
            for number, system in enumerate(systems):
                if system.restoration not in restored:
                    restored[system.restoration] = system.restore(images, spec[index])
                logits = system.classify(restored[system.restoration], spec[index])
                correct[number, index, start:stop] = logits.argmax(1) == labels
                losses[number, index] += cross_entropy(logits, labels, reduction="sum").double()
            tick(1)
    return [Outcomes(correct[i].cpu().numpy(), losses[i].cpu().numpy()) for i in range(len(systems))]


def load_systems(experiments: Sequence[Experiment], device: torch.device) -> list[System]:
    return [method_class(experiment.method).system(experiment, device) for experiment in experiments]


def parts(evaluation: Evaluation, dataset: datasets.DataSet) -> list[tuple[int, int]]:
    """Bounds of the parts of an evaluation."""
    return spread(len(select_images(evaluation, dataset)), PART)


def part_path(experiment: Experiment, part: int) -> Path:
    return experiment.directory / "evaluation" / f"{experiment.testing.key}.parts" / f"{part:05d}.npz"


def evaluate_part(experiments: Sequence[Experiment], part: int, quiet: bool = True) -> None:
    """Evaluates one part for those of the systems that lack it; all must share data set and evaluation."""
    missing = [experiment for experiment in experiments if not part_path(experiment, part).exists()]
    if not missing:
        return
    dataset, evaluation = datasets.load(missing[0].dataset), missing[0].testing
    device = choose_device(missing[0].device)
    start, stop = parts(evaluation, dataset)[part]
    positions = select_images(evaluation, dataset)[start:stop]
    steps = len(compositions(evaluation.compositions)) * len(spread(len(positions), CHUNK))
    with tqdm(total=steps, unit="composition", desc=f"evaluation, part {part + 1}", disable=quiet or not sys.stderr.isatty()) as bar:

        def tick(count: int) -> None:
            bar.update(count)
            interrupt.stop_if_told(f"evaluation of {missing[0].name} in part {part + 1}; the same command goes on with that part")

        results = evaluate(load_systems(missing, device), dataset, evaluation, positions, device, tick)
    for experiment, outcomes in zip(missing, results):
        path = part_path(experiment, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        np.savez(buffer, correct=outcomes.correct_cn, loss=outcomes.loss_c)
        write_atomically(path, buffer.getvalue())


def merge(experiment: Experiment, dataset: datasets.DataSet) -> None:
    """Puts the parts of a finished evaluation together in evaluation/<key>.h5 and removes them.

    The file holds `composition` (C full names joined by -), `accuracy` (C,), `loss` (C,), `correct` (C, ceil(N / 8)) packed bits,
    `ids` (N,) of the images, and as attributes n, split, severities, data checksum, parameters and the oracle used.
    """
    evaluation = experiment.testing
    positions = select_images(evaluation, dataset)
    loaded = []
    for part in range(len(parts(evaluation, dataset))):
        try:
            with np.load(part_path(experiment, part)) as arrays:
                loaded.append((arrays["correct"], arrays["loss"]))
        except (OSError, ValueError, KeyError):
            part_path(experiment, part).unlink(missing_ok=True)
            raise InputError(f"{part_path(experiment, part)}: damaged and removed; run the same command again") from None
    correct = np.concatenate([c for c, _ in loaded], axis=1)
    system = load_systems([experiment], torch.device("cpu"))[0]
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["composition"] = ["-".join(composition) for composition in compositions(evaluation.compositions)]
        file["accuracy"] = correct.mean(axis=1)
        file["loss"] = sum(loss for _, loss in loaded) / len(positions)
        file["correct"] = np.packbits(correct, axis=1)
        file["ids"] = dataset.split(evaluation.split).ids[positions]
        file.attrs.update(
            n=len(positions), split=evaluation.split, data=dataset.checksum, severities=repr(evaluation.severities),
            trained_parameters=system.trained_parameters, total_parameters=system.total_parameters,
        )  # fmt: skip
    write_atomically(experiment.directory / "evaluation" / f"{experiment.testing.key}.h5", buffer.getvalue())
    shutil.rmtree(part_path(experiment, 0).parent)
