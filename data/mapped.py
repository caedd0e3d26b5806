"""Data sets of factors whose images are mapped into memory from one uncompressed file, since they may be larger than the memory."""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data.shapes import PIXELS, Block, labels_of, split_ids

SPLITS = ("train", "valid", "test")
# Blocks after which their pages are written and given back.
HELD = 16


def forget(array: NDArray[Any]) -> None:
    """Gives the pages of a memory map back to the system, which reads them again when they are needed; other arrays are left alone."""
    mapping = getattr(array, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def write_mapped(path: Path, name: str, sizes: Sequence[int], blocks: Iterator[Block], source: str) -> None:
    """Writes the images of a grid of factors, which come as blocks of ids and images (n, 3, 64, 64), into one file in the order of the splits.

    Blocks are held in memory one at a time. The attribute `checksum` is to be set by `sign`. An OSError is the caller's.
    """
    count = int(np.prod(sizes))
    place = np.empty(count, np.int64)
    place[np.concatenate(split_ids(count))] = np.arange(count)
    with h5py.File(path, "w") as file:
        # One array, so that a block is written at once; the splits are ranges of it.
        images = file.create_dataset("images", (count, 3, PIXELS, PIXELS), np.uint8)
        images[0] = 0
        offset = images.id.get_offset()
        file.attrs.update({"name": name, "source": source, "checksum": ""})
    mapped = np.memmap(path, np.uint8, "r+", offset, (count, 3, PIXELS, PIXELS))
    with tqdm(total=count, unit="image", desc=name, disable=None, leave=False) as bar:
        for number, (block_ids, block) in enumerate(blocks):
            mapped[place[block_ids]] = block
            bar.update(len(block_ids))
            if number % HELD == HELD - 1:
                mapped.flush()
                forget(mapped)
    mapped.flush()


def sign(path: Path, checksum: str) -> None:
    """Notes the checksum of the content."""
    with h5py.File(path, "r+") as file:
        file.attrs["checksum"] = checksum


def read_mapped(path: Path, sizes: Sequence[int]) -> tuple[dict[str, tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]], str]:
    """Images (memory-mapped), labels and ids of every split, and the checksum that was noted.

    Labels and ids follow from the grid. Raises ValueError or OSError where the file is not as it was written.
    """
    count = int(np.prod(sizes))
    with h5py.File(path, "r", locking=False) as file:
        images, checksum = file["images"], str(file.attrs["checksum"])
        if images.shape != (count, 3, PIXELS, PIXELS) or images.dtype != np.uint8:
            raise ValueError(f"its images are {images.dtype} {images.shape}, expected uint8 {(count, 3, PIXELS, PIXELS)}")
        offset = images.id.get_offset()
    if path.stat().st_size < offset + count * 3 * PIXELS**2:
        raise ValueError("it is cut short")
    # Copy on write: torch wants arrays that may be written to, and nothing ever gets into the file.
    mapped = np.memmap(path, np.uint8, "c", offset, (count, 3, PIXELS, PIXELS))
    splits, start = {}, 0
    for name, ids in zip(SPLITS, split_ids(count)):
        splits[name] = (mapped[start : start + len(ids)], labels_of(ids, sizes), ids)
        start += len(ids)
    return splits, checksum
