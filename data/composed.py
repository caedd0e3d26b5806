"""Data sets of studies of clusterability (Filan et al., arXiv 2003.04881, 2103.03386): drawn lines, circles and noise, and MNIST and Fashion-MNIST put together.

All are 28x28 grey images (stacked ones have three channels, the last of which is black) in ten classes, the same on every machine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.keys import derive

SIDE, CLASSES = 28, 10
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
# Images (N, C, 28, 28) and labels (N,) of a split of another data set.
Base = tuple[Images, Labels]
# (draws, how many images, the same split of the data sets that it is made of) -> images and labels.
Make = Callable[[np.random.Generator, int, list[Base]], Base]


def lines(draw: np.random.Generator, count: int, bases: list[Base]) -> Base:
    """1 to 10 different vertical white lines; the label is their number less one."""
    labels = np.arange(count) % CLASSES
    images = np.zeros((count, 1, SIDE, SIDE), np.uint8)
    order = draw.random((count, SIDE)).argsort(axis=1)
    rows, ranks = np.nonzero(np.arange(SIDE) <= labels[:, None])
    images[rows, :, :, order[rows, ranks]] = 255
    return images, labels


def circles(draw: np.random.Generator, count: int, bases: list[Base]) -> Base:
    """A white circle, one pixel wide, somewhere in the image; the label is its radius in pixels less 3, which is 3 to 12."""
    labels = np.arange(count) % CLASSES
    radius = (labels + 3)[:, None, None]
    middle = radius[:, 0] + draw.random((count, 2)) * (SIDE - 1 - 2 * radius[:, 0])
    rows, columns = np.arange(SIDE)[None, :, None], np.arange(SIDE)[None, None, :]
    images = np.empty((count, 1, SIDE, SIDE), np.uint8)
    for start in range(0, count, 4096):
        own = slice(start, start + 4096)
        distance = np.hypot(rows - middle[own, 0, None, None], columns - middle[own, 1, None, None])
        images[own, 0] = 255 * (np.abs(distance - radius[own]) <= 0.5)
    return images, labels


def noise(draw: np.random.Generator, count: int, bases: list[Base]) -> Base:
    """Uniform noise; the labels are drawn, too, and tell nothing."""
    return draw.integers(0, 256, (count, 1, SIDE, SIDE), dtype=np.uint8), draw.integers(0, CLASSES, count)


def two_of(draw: np.random.Generator, count: int, base: Base, same: bool) -> tuple[Images, Images, Labels]:
    """So many pairs of images, of one class (then that is the label) or of any two (then it is the sum of their labels modulo 10)."""
    images, labels = base
    first = draw.integers(0, len(labels), count)
    if same:
        order = np.argsort(labels, kind="stable")
        start, stop = np.searchsorted(labels[order], labels[first]), np.searchsorted(labels[order], labels[first], side="right")
        second = order[start + (draw.random(count) * (stop - start)).astype(np.int64)]
        return images[first], images[second], labels[first]
    second = draw.integers(0, len(labels), count)
    return images[first], images[second], (labels[first] + labels[second]) % CLASSES


def halved(images: Images) -> Images:
    """Images at half their width: the means of neighbouring columns."""
    return ((images[..., 0::2].astype(np.uint16) + images[..., 1::2] + 1) // 2).astype(np.uint8)


def halves(same: bool) -> Make:
    """Two images, each at half its width, side by side."""

    def make(draw: np.random.Generator, count: int, bases: list[Base]) -> Base:
        left, right, labels = two_of(draw, count, bases[0], same)
        return np.concatenate([halved(left), halved(right)], axis=3), labels

    return make


def stacked(same: bool) -> Make:
    """Two images as two channels."""

    def make(draw: np.random.Generator, count: int, bases: list[Base]) -> Base:
        one, other, labels = two_of(draw, count, bases[0], same)
        return np.concatenate([one, other, np.zeros_like(one)], axis=1), labels

    return make


def mixed(separated: bool) -> Make:
    """The images of two data sets under the same ten labels; separated, the first five classes of one and the last five of the other."""

    def make(draw: np.random.Generator, count: int, bases: list[Base]) -> Base:
        images = (
            [(own[labels // 5 == place], labels[labels // 5 == place]) for place, (own, labels) in enumerate(bases)] if separated else bases
        )
        return np.concatenate([own for own, _ in images]), np.concatenate([labels for _, labels in images])

    return make


@dataclass(frozen=True)
class Composed:
    """How a data set is made, and of which others."""

    make: Make
    bases: tuple[str, ...] = ()


COMPOSED = {
    "Lines": Composed(lines),
    "Circles": Composed(circles),
    "Noise": Composed(noise),
    **{
        f"{kind}-{base}": Composed(make, (base,))
        for kind, make in {
            "Halves": halves(False),
            "HalvesSame": halves(True),
            "Stacked": stacked(False),
            "StackedSame": stacked(True),
        }.items()
        for base in ("MNIST", "FashionMNIST")
    },
    **{
        f"{one}+{other}{'-separated' if separated else ''}": Composed(mixed(separated), (one, other))
        for separated in (False, True)
        for one, other in (("Lines", "MNIST"), ("MNIST", "FashionMNIST"))
    },
}


def compose(name: str, split: str, count: int, bases: list[Base]) -> tuple[Images, Labels, Labels]:
    """Images, labels and ids of a split, sorted by class; its draws are keyed by the data set and the split. `count` says how many where `bases` do not."""
    draw = np.random.default_rng(derive("composed", name, split))
    images, labels = COMPOSED[name].make(draw, count, bases)
    order = np.argsort(labels, kind="stable")
    return np.ascontiguousarray(images[order]), labels[order].astype(np.int64), order.astype(np.int64)
