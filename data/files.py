"""Where the files of data sets lie, and files that appear complete or not at all."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Data sets whose file is committed: read where it lies, never prepared.
EMBEDDED = {"FashionMNIST-mini": ROOT / "data" / "embedded" / "FashionMNIST-mini.h5"}


def data_root() -> Path:
    """The folder of caches and downloads: the environment variable PALIMPSEST_DATA, or `datasets` beside the code."""
    return Path(os.environ.get("PALIMPSEST_DATA") or ROOT / "datasets").expanduser()


def cache_path(name: str, root: Path | None = None) -> Path:
    """The HDF5 file of a data set: the committed one, or NAME.h5 in ``root`` (default `data_root()`)."""
    return EMBEDDED.get(name) or (root or data_root()) / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.h5"


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place when the block ends; its folder is made. After an error nothing is left. An OSError is the caller's."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
