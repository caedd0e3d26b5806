"""Writes FashionMNIST-mini.h5 from a prepared FashionMNIST: `python -m data.embedded.make`."""

import sys

import info_dicts
from data.content import SPLITS, DataSet, Split
from data.datasets import class_balanced, load, verify, write
from data.files import EMBEDDED
from errors import report_errors

NAME = "FashionMNIST-mini"
CHUNK_IMAGES = 1000


def subset(full: DataSet, counts: tuple[int, ...]) -> dict[str, Split]:
    """The first images of every class of each split, ``counts`` in all per train, valid and test; ids stay those of the originals."""
    chosen = {}
    for name, count in zip(SPLITS, counts):
        split = full.split(name)
        rows = class_balanced(split, count)
        chosen[name] = Split(split.images[rows], split.labels[rows], split.ids[rows])
    return chosen


def main() -> int:
    """Write the file; InputError if FashionMNIST is not prepared or the content would differ from the pinned one."""
    (counts,) = (choice.counts for choice in info_dicts.DATASETS.values() if choice == NAME)
    splits = subset(load("FashionMNIST"), counts)
    checksum = verify(NAME, splits, "FashionMNIST")
    write(EMBEDDED[NAME], NAME, splits, checksum, "FashionMNIST", CHUNK_IMAGES)
    print(EMBEDDED[NAME])
    return 0


if __name__ == "__main__":
    sys.exit(report_errors(main))
