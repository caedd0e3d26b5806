"""Synthetic archives in the official formats, and a small data set on the menu."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import info_dicts
from data import datasets, packages
from data.packages import Package
from data.sources import CIFAR10_BATCHES, EMNIST_FILES, IDX_FILES, ORL_FILES


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array as an IDX file."""
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def random_idx(classes: int, train_per_class: int, test_per_class: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random 28x28 images and shuffled labels by the name of their IDX file."""
    generator = np.random.default_rng(seed)
    labels = [generator.permutation(np.repeat(np.arange(classes, dtype=np.uint8), count)) for count in (train_per_class, test_per_class)]
    images = [generator.integers(0, 256, (len(part), 28, 28), dtype=np.uint8) for part in labels]
    return dict(zip(IDX_FILES, (images[0], labels[0], images[1], labels[1])))


def write_idx(folder: Path, arrays: dict[str, np.ndarray], compressed: bool = False) -> None:
    """The four IDX files, with .gz if compressed."""
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        content = idx_bytes(array)
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (folder / name).write_bytes(content)


def random_cifar10(per_batch: int, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images (N,3,32,32) and labels by the name of their batch."""
    generator = np.random.default_rng(seed)
    return {
        batch: (generator.integers(0, 256, (per_batch, 3, 32, 32), dtype=np.uint8), generator.integers(0, 10, per_batch))
        for batch in CIFAR10_BATCHES
    }


def cifar10_binary(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Rows of a label byte and the pixels, written image by image."""
    return b"".join(bytes([int(label)]) + image.tobytes() for image, label in zip(images, labels))


def cifar10_pickle(images: np.ndarray, labels: np.ndarray) -> bytes:
    """The opcodes that Python 2's cPickle wrote for the official batches, in protocol 2, by hand."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<I", len(value)) + value

    shape = b"K" + bytes([len(labels)]) + b"M" + struct.pack("<H", 3072) + b"\x86"
    dtype = b"cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08(K\x01" + shape + dtype + b"\x89"
    return (
        b"\x80\x02}q\x01("
        + (text(b"batch_label") + b"q\x02" + text(b"training batch 1 of 5") + b"q\x03")
        + (text(b"labels") + b"q\x04]q\x05(" + b"".join(b"K" + bytes([int(label)]) for label in labels) + b"e")
        + (text(b"data") + array + text(images.tobytes()) + b"tb")
        + (text(b"filenames") + b"]q\x0b(" + b"".join(text(b"image_%d.png" % index) for index in range(len(labels))) + b"e")
        + b"u."
    )


def tiny_splits(seed: int = 0) -> dict[str, datasets.Split]:
    """Three classes of 4x4 grey images: 6 train, 3 valid, 3 test."""
    generator = np.random.default_rng(seed)
    return {
        name: datasets.Split(
            generator.integers(0, 256, (3 * each, 1, 4, 4), dtype=np.uint8), np.repeat(np.arange(3), each), generator.permutation(3 * each)
        )
        for name, each in (("train", 2), ("valid", 1), ("test", 1))
    }


def add_tiny(monkeypatch: pytest.MonkeyPatch, make=None, needs_source: bool = True) -> None:
    """Put the data set Tiny on the menu as number 900, with its function."""
    monkeypatch.setitem(info_dicts.DATASETS, 900, info_dicts.Choice("Tiny", classes=3, shape=(1, 4, 4), counts=(6, 3, 3)))
    monkeypatch.setattr(datasets, "RECIPES", dict(datasets.RECIPES))
    datasets.dataset("Tiny", needs_source)(make or (lambda source: tiny_splits()))


def shrink_mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """IDX arrays of 1003 training and 5 test images per class, with a menu line that expects them and no pin."""
    facts = dict(info_dicts.DATASETS[1].facts, counts=(30, 10_000, 50))
    monkeypatch.setitem(info_dicts.DATASETS, 1, info_dicts.Choice("MNIST", **facts))
    monkeypatch.delitem(datasets.CONTENT_SHA256, "MNIST")
    return random_idx(10, 1003, 5)


def glyphs(count: int) -> np.ndarray:
    """Upright images (count, 28, 28) of the letter L, in each of which two pixels tell the image's index."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 4:24, 6] = images[:, 23, 6:16] = 255
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(count), 256)
    return images


def random_emnist(train_per_class: int, test_per_class: int) -> dict[str, np.ndarray]:
    """`glyphs` stored transposed, as EMNIST is, and shuffled labels of 47 classes, by the name of their IDX file."""
    generator = np.random.default_rng(0)
    labels = [generator.permutation(np.repeat(np.arange(47, dtype=np.uint8), count)) for count in (train_per_class, test_per_class)]
    images = [glyphs(len(part)).transpose(0, 2, 1) for part in labels]
    return dict(zip(EMNIST_FILES, (images[0], labels[0], images[1], labels[1])))


def emnist_zip(arrays: dict[str, np.ndarray]) -> bytes:
    """The official archive, with a member of another part."""
    members = {f"gzip/{name}.gz": gzip.compress(idx_bytes(array), 1) for name, array in arrays.items()}
    return zip_of({"gzip/emnist-letters-mapping.txt": b"1 65 97"} | members)


def shrink_emnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """IDX arrays of 402 training and 3 test images per class, with a menu line that expects them."""
    facts = dict(info_dicts.DATASETS[4].facts, counts=(94, 18_800, 141))
    monkeypatch.setitem(info_dicts.DATASETS, 4, info_dicts.Choice("EMNIST", **facts))
    return random_emnist(402, 3)


def random_orl() -> tuple[np.ndarray, dict[str, bytes]]:
    """Random images (400, 112, 92) and the PGM files that Pillow writes of them, by name, person by person."""
    images = np.random.default_rng(0).integers(0, 256, (400, 112, 92), dtype=np.uint8)
    return images, {name: encoded(image, "PPM") for name, image in zip(ORL_FILES, images)}


def encoded(image: np.ndarray, file_format: str, **options) -> bytes:
    """A uint8 image (H,W) or (H,W,3) as Pillow writes it."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format=file_format, **options)
    return stream.getvalue()


def tar_of(contents: dict[str, bytes]) -> bytes:
    """A gzipped tar of the contents by name."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def zip_of(contents: dict[str, bytes]) -> bytes:
    """A zip archive of the contents by name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for name, content in contents.items():
            zipped.writestr(name, content)
    return stream.getvalue()


def fake_package(monkeypatch: pytest.MonkeyPatch, dataset: str, client: str, content: bytes, suffix: str = ".tgz") -> None:
    """A data set comes in this package at this pin."""
    monkeypatch.setitem(packages.PACKAGES, dataset, Package(client, "some-images", "1.2.3", suffix, hashlib.sha256(content).hexdigest()))


def assert_one_line(error: pytest.ExceptionInfo, *parts: str) -> None:
    """The error is told in one line, which has all the parts."""
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
