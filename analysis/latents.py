"""Latents: the outputs of layers as an HDF5 file, for whatever one wants to do with them elsewhere. Probes and saturation do not need it.

latents.h5 has `<split>/<condition>/<layer>` (N, D) of every layer, with `label` (N,) beside, where D is C * h * w, or as the layer has it. It is a
view of parts/*.h5, each of PART images, compressed: a part appears whole or not at all, so a killed extraction goes on with the first that is missing.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from analysis.files import create
from analysis.options import Latents
from analysis.pooling import pool, pooled_size
from analysis.seen import Seen
from analysis.table import Row
from analysis.taps import tapped
from errors import InputError

PART = 2000  # images
CHUNK = 250  # images of a compressed block
# How much of the disk is left free.
MARGIN = 0.05


def sizes(seen: Seen, options: Latents) -> dict[str, int]:
    """How many values of each layer are stored of an image, in the order of the forward pass."""
    shapes: dict[str, tuple[int, ...]] = {}
    split, condition = options.splits[0], seen.pictures.conditions[0]
    with torch.no_grad(), tapped(seen.network, lambda name, features: shapes.setdefault(name, tuple(features.shape[1:])), options.at):
        chunk = next(iter(seen.pictures.batches(split, condition, options.images)))
        seen.system(chunk[:2], seen.pictures.names(condition))
    return {name: pooled_size(shape, options.pooling) for name, shape in shapes.items()}


def run(seen: Seen, options: Latents, folder: Path) -> list[Row]:
    """Writes parts/ and latents.h5 into the folder. Rows: `latent_dimension` of each layer.

    InputError where the disk cannot hold what is to be written, before anything is, and where a system takes the images of a batch apart.
    """
    values, parts = sizes(seen, options), folder / "parts"
    wanted = [
        (split, condition, number)
        for split in options.splits
        for condition in seen.pictures.conditions
        for number in range(-(-len(seen.pictures.labels(split, condition, options.images)) // PART))
    ]
    missing = [own for own in wanted if not path_of(parts, *own).exists()]
    refuse_full(seen, options, parts, sum(values.values()), missing)
    for split, condition, number in missing:
        write(seen, options, split, condition, number, path_of(parts, split, condition, number), values)
    join(folder)
    return [Row("latent_dimension", value, layer) for layer, value in values.items()]


def path_of(parts: Path, split: str, condition: str, number: int) -> Path:
    return parts / f"{split}-{condition}-{number:05d}.h5"


def refuse_full(seen: Seen, options: Latents, parts: Path, values: int, missing: Sequence[tuple[str, str, int]]) -> None:
    """Tells the size of what is missing, as it would be without compression; InputError where that is more than the disk has left."""
    images = sum(
        min(PART, len(seen.pictures.labels(split, condition, options.images)) - PART * number) for split, condition, number in missing
    )
    size = images * values * np.dtype(options.dtype).itemsize
    parts.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parts).free
    print(f"{seen.name}: {values:,} values of each of {images:,} images, at most {size / 1e9:.2f} GB ({free / 1e9:.1f} GB are free)")
    if size > (1 - MARGIN) * free:
        raise InputError(
            f"{seen.name}: latents take up to {size / 1e9:.1f} GB, {parts} has {free / 1e9:.1f} GB left; "
            "fewer images, a smaller pooling or dtype: float16 take less"
        )


def write(seen: Seen, options: Latents, split: str, condition: str, number: int, path: Path, values: Mapping[str, int]) -> None:
    """One part: PART images from number PART * `number` on."""
    start, done = PART * number, 0
    labels = seen.pictures.labels(split, condition, options.images)[start : start + PART]
    with create(path) as file:
        for layer, value in values.items():
            chunks = (min(CHUNK, len(labels)), value)
            file.create_dataset(
                layer.replace(" ", ""),
                (len(labels), value),
                options.dtype,
                chunks=chunks,
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )
        file["label"] = labels.cpu().numpy()

        def take(name: str, features: Tensor) -> None:
            rows = pool(features.float(), options.pooling)[: len(labels) - done]
            file[name.replace(" ", "")][done : done + len(rows)] = rows.cpu().numpy()

        for logits in seen.watched(seen.system, take, options.at, values, split, condition, options.images, start):
            done += len(logits)
            if done >= len(labels):
                break


def join(folder: Path) -> None:
    """Writes latents.h5 in a folder as a view of the parts in its parts/."""
    groups: dict[str, list[Path]] = {}
    for path in sorted((folder / "parts").glob("*.h5")):
        split, _, rest = path.stem.partition("-")
        groups.setdefault(f"{split}/{rest.rpartition('-')[0]}", []).append(path)
    with create(folder / "latents.h5") as file:
        for name, paths in groups.items():
            with h5py.File(paths[0]) as first:
                layers = {layer: (array.shape[1:], array.dtype) for layer, array in first.items()}
            counts = [_rows(path) for path in paths]
            for layer, (shape, dtype) in layers.items():
                layout = h5py.VirtualLayout((sum(counts), *shape), dtype)
                for path, count, start in zip(paths, counts, np.cumsum([0, *counts])):
                    layout[start : start + count] = h5py.VirtualSource(f"parts/{path.name}", layer, (count, *shape))
                file.create_virtual_dataset(f"{name}/{layer}", layout)


def _rows(path: Path) -> int:
    with h5py.File(path) as file:
        return len(file["label"])
