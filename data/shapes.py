"""3D Shapes (Burgess and Kim 2018; published with Kim and Mnih, "Disentangling by Factorising", ICML 2018): its factors, its labels and its HDF5 file.

The published file holds every combination of six factors once, the last varying fastest. So an image's index tells its factors, and the same holds for
a grid of fewer values, whose sizes are then given.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from errors import InputError

FACTORS = ("floor hue", "wall hue", "object hue", "scale", "shape", "orientation")
SHAPES = ("cube", "cylinder", "sphere", "pill")
OBJECT_HUE, SHAPE = 2, 4
PIXELS = 64
# What the factors of the published file are; the first three are circular, so fewer values are spread over the circle.
PUBLISHED: tuple[NDArray[np.float64], ...] = (
    *(np.arange(10) / 10,) * 3,
    np.linspace(0.75, 1.25, 8),
    np.arange(4.0),
    np.linspace(-30.0, 30.0, 15),
)
CIRCULAR = 3
# One part in ten is held out for validation, another for testing.
HELD_OUT = 10
# Images that are in memory at once.
BLOCK = 2048

Block = tuple[NDArray[np.int64], NDArray[np.uint8]]


def factors_of(ids: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[np.int64]:
    """The factors (N, 6) of images by their index (N,): of every factor the rank of its value, 0..size-1. An index beyond the grid is a ValueError."""
    return np.stack(np.unravel_index(ids, tuple(sizes)), axis=-1).astype(np.int64)


def labels_of(ids: NDArray[np.int64], sizes: Sequence[int]) -> NDArray[np.int64]:
    """The classes (N,) of images by their index (N,): the shape, and four more where the object's hue is in the upper half of its values."""
    factors = factors_of(ids, sizes)
    return factors[:, SHAPE] + len(SHAPES) * (2 * factors[:, OBJECT_HUE] >= sizes[OBJECT_HUE])


def values(sizes: Sequence[int]) -> list[NDArray[np.float64]]:
    """The values of the six factors in a grid of these sizes, in rising order, spread over the published ones."""
    spread = []
    for number, (size, published) in enumerate(zip(sizes, PUBLISHED, strict=True)):
        places = (
            np.arange(size) * len(published) // size if number < CIRCULAR else np.linspace(0, len(published) - 1, size).round().astype(int)
        )
        spread.append(published[places])
    return spread


def split_ids(count: int) -> list[NDArray[np.int64]]:
    """The indices 0..count-1 of train, valid and test in a fixed random order: a tenth is valid, another test."""
    # The finaliser of splitmix64 is a bijection, so no two keys are equal, and the order is that of no library's generator.
    keys = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    order = np.argsort(keys ^ (keys >> np.uint64(31))).astype(np.int64)
    held = count // HELD_OUT
    return np.split(order, (count - 2 * held, count - held))


def read_published(path: Path, sizes: Sequence[int]) -> Iterator[Block]:
    """Blocks of ids (n,) and images (n, 3, 64, 64) of a file in the published layout, in its order; what is in it is checked.

    Raises InputError where the file cannot be read, its arrays have another shape or type, or its labels are not those of the grid.
    """
    count = int(np.prod(sizes))
    with contextlib.ExitStack() as stack:
        with _reading(path):
            file = stack.enter_context(h5py.File(path, "r", locking=False))
            images = _array(file, path, "images", (count, PIXELS, PIXELS, 3), np.uint8)
            _check_labels(_array(file, path, "labels", (count, len(FACTORS)), np.floating)[()], path, sizes)
        # A stored chunk is unpacked once where it is not much larger than a block.
        rows = (images.chunks or (1,))[0]
        rows *= max(1, BLOCK // rows)
        rows = rows if rows <= 4 * BLOCK else BLOCK
        for start in range(0, count, rows):
            with _reading(path):
                block_nhwc = images[start : start + rows]
            yield np.arange(start, start + len(block_nhwc)), np.ascontiguousarray(block_nhwc.transpose(0, 3, 1, 2))


def note_of(path: Path) -> str:
    """What a file in the published layout says of where it is from; nothing in the published one, which has no such attribute."""
    with _reading(path), h5py.File(path, "r", locking=False) as file:
        return str(file.attrs.get("origin", ""))


def write_published(path: Path, sizes: Sequence[int], images_nhwc: Iterable[NDArray[np.uint8]], note: str) -> None:
    """Write a file in the published layout from its images (n, 64, 64, 3) in order, block by block; ``note`` says where they are from.

    An OSError is the caller's.
    """
    count = int(np.prod(sizes))
    grid = values(sizes)
    with h5py.File(path, "w") as file:
        file.attrs["origin"] = note
        ranks = factors_of(np.arange(count), sizes)
        file["labels"] = np.stack([own[rank] for own, rank in zip(grid, ranks.T)], axis=1)
        chunks = (min(int(np.prod(sizes[3:])), count), PIXELS, PIXELS, 3)
        stored = file.create_dataset("images", (count, *chunks[1:]), np.uint8, chunks=chunks, compression="gzip", compression_opts=1)
        start = 0
        for block in images_nhwc:
            stored[start : start + len(block)] = block
            start += len(block)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What h5py raises for a file that is damaged or none is an InputError."""
    try:
        yield
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        raise InputError(f"3D Shapes: {path} cannot be read ({' '.join(str(error).split())}); fetch or write it again") from error


def _array(file: Any, path: Path, name: str, shape: tuple[int, ...], kind: type[np.generic]) -> Any:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise InputError(f"3D Shapes: {path} has no array {name}; expected are images and labels, as published")
    if found.shape != shape or not np.issubdtype(found.dtype, kind):
        raise InputError(f"3D Shapes: {path}: {name} are {found.dtype} {found.shape}, expected {kind.__name__} {shape}")
    return found


def _check_labels(labels: NDArray[np.floating[Any]], path: Path, sizes: Sequence[int]) -> None:
    expected = factors_of(np.arange(len(labels)), sizes)
    for number, name in enumerate(FACTORS):
        found, ranks = np.unique(labels[:, number], return_inverse=True)
        if len(found) != sizes[number]:
            raise InputError(f"3D Shapes: {path}: labels have {len(found)} values of {name}, expected {sizes[number]}")
        if not np.array_equal(ranks, expected[:, number]):
            row = int(np.argmax(ranks != expected[:, number]))
            raise InputError(f"3D Shapes: {path}: the {name} of image {row} is not in the published order (orientation varies fastest)")
