"""The data sets: uint8 arrays in memory, decoded once, split by class, cached as one HDF5 file each and checked by SHA-256.

A further data set is a function here, decorated with ``@dataset(NAME)``, that returns its three splits, and a line in info_dicts.DATASETS; or, brought along by a
user, a function anywhere on Python's path, decorated with ``@described(...)``, or a folder of images (data/folders.py).
"""

import contextlib
import functools
import hashlib
import inspect
import json
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import info_dicts
from data.composed import COMPOSED, compose
from data.content import ARRAYS, CONTENT_SHA256, SPLITS, DataSet, Split, Splits, content_checksum
from data.facts import dataset_choice, labels_of
from data.files import EMBEDDED, appearing, cache_path, data_root
from data.folders import is_folder, read_folder, read_note, write_folder, write_note
from data.mapped import read_mapped, sign, write_mapped
from data.packages import PACKAGES, prepare_command
from data.polynomials import points
from data.shapes import note_of, read_published
from data.shapes_render import blocks
from data.slabs import slabs
from data.sources import Parts, Source
from errors import InputError
from registry import is_factory, load_factory

# Data sets whose images stay in their file (data/mapped.py), and whether they need a source: the others are rendered.
MAPPED = {"3DShapes": True, "3DShapes-small": False}


@dataclass(frozen=True)
class Recipe:
    """How the splits of a data set are made; one that ``needs_source`` is fetched only on the user's command."""

    make: Callable[[Source], Splits]
    needs_source: bool


RECIPES: dict[str, Recipe] = {}


def dataset(name: str, needs_source: bool = True) -> Callable[[Callable[[Source], Splits]], Callable[[Source], Splits]]:
    """Register a function from a Source to the splits train, valid and test under ``name``, which info_dicts.DATASETS must list.

    With ``needs_source=False`` the function makes its images by itself, and `load` calls it when there is no cache.
    """

    def register(make: Callable[[Source], Splits]) -> Callable[[Source], Splits]:
        RECIPES[name] = Recipe(make, needs_source)
        return make

    return register


Factory = Callable[[], Splits]


def described(classes: int, shape: tuple[int, int, int], **more: Any) -> Callable[[Factory], Factory]:
    """Says what images (C, H, W) of how many classes a user's data set has; the entry names its function as `package.module:factory`.

    ``more``: mean and std of pixels in 0..1 (default (0.5,)), and what entries have by default: model, augmentation, and the padding of its crops. The function takes
    nothing and returns the splits train, valid and test. ValueError for other facts.
    """
    unknown = sorted(more.keys() - {"mean", "std", "model", "augmentation", "padding"})
    if unknown:
        raise ValueError(f"described: unknown fact {unknown[0]}; allowed: mean, std, model, augmentation, padding")

    def describe(factory: Factory) -> Factory:
        factory.facts = {"classes": classes, "shape": tuple(shape), **more}  # type: ignore[attr-defined]
        return factory

    return describe


def split_by_class(images: NDArray[np.uint8], labels: NDArray[np.int64], valid_per_class: int) -> tuple[Split, Split]:
    """Train and valid from an official train part: (N,C,H,W) and (N,).

    Both are sorted by label, stably; inside each class the last ``valid_per_class`` images are valid and the others train.
    Raises InputError if a class has not more images than that.
    """
    order = np.argsort(labels, kind="stable")
    train, valid = [], []
    for label in np.unique(labels):
        ids = order[np.searchsorted(labels[order], label) : np.searchsorted(labels[order], label, side="right")]
        if len(ids) <= valid_per_class:
            raise InputError(f"class {label} has {len(ids)} training images; more than the {valid_per_class} for validation are needed")
        train.append(ids[: len(ids) - valid_per_class])
        valid.append(ids[len(ids) - valid_per_class :])
    return _select(images, labels, np.concatenate(train)), _select(images, labels, np.concatenate(valid))


def split_by_fraction(labels: NDArray[np.int64], one_in: int) -> dict[str, NDArray[np.int64]]:
    """Indices (n,) of train, valid and test, class by class, from the labels (N,) of all images.

    Of the n images of a class, in their order, the last t = ceil(n / ``one_in``) are test, the t before them valid, the others train.
    Raises InputError if none are left to train.
    """
    parts: dict[str, list[NDArray[np.int64]]] = {split: [] for split in SPLITS}
    for label in np.unique(labels):
        ids = np.flatnonzero(labels == label)
        held = -(-len(ids) // one_in)
        if len(ids) <= 2 * held:
            raise InputError(f"class {label} has {len(ids)} images; more than the {2 * held} for validation and test are needed")
        for split, part in zip(SPLITS, np.split(ids, (len(ids) - 2 * held, len(ids) - held))):
            parts[split].append(part)
    return {split: np.concatenate(ids) for split, ids in parts.items()}


def _select(images: NDArray[np.uint8], labels: NDArray[np.int64], ids: NDArray[np.int64]) -> Split:
    return Split(np.ascontiguousarray(images[ids]), labels[ids].astype(np.int64), ids.astype(np.int64))


def _official_split(parts: Parts, valid_per_class: int) -> dict[str, Split]:
    train, valid = split_by_class(parts.train_images, parts.train_labels, valid_per_class)
    test = _select(parts.test_images, parts.test_labels, np.argsort(parts.test_labels, kind="stable"))
    return {"train": train, "valid": valid, "test": test}


@dataset("MNIST")
def mnist(source: Source) -> Splits:
    """MNIST (LeCun et al. 1998): the last 1000 training images of every class are valid."""
    return _official_split(source.idx_parts(), valid_per_class=1000)


@dataset("FashionMNIST")
def fashion_mnist(source: Source) -> Splits:
    """Fashion-MNIST (Xiao et al., arXiv 1708.07747): the last 1000 training images of every class are valid."""
    return _official_split(source.idx_parts(), valid_per_class=1000)


@dataset("CIFAR10")
def cifar10(source: Source) -> Splits:
    """CIFAR-10 (Krizhevsky 2009): 4000 train and 1000 valid images per class."""
    return _official_split(source.cifar10_parts(), valid_per_class=1000)


@dataset("CIFAR100")
def cifar100(source: Source) -> Splits:
    """CIFAR-100 (Krizhevsky 2009): 400 train and 100 valid images per class."""
    return _official_split(source.cifar100_parts(), valid_per_class=100)


@dataset("Dominoes")
def dominoes(source: Source) -> Splits:
    """FashionMNIST above CIFAR-10, 64x32 (Lubana et al., arXiv 2211.08422): the i-th images of a class together, FashionMNIST's grown to 32x32.

    Label, split and id are those of the CIFAR-10 image.
    """
    lower, upper = cifar10(source.of("CIFAR10")), fashion_mnist(source.of("FashionMNIST"))
    splits = {}
    for name, own in lower.items():
        rank = np.arange(len(own)) - np.searchsorted(own.labels, own.labels)
        partner = np.searchsorted(upper[name].labels, own.labels) + rank
        grown = grow(upper[name].images[partner], 32)
        splits[name] = Split(np.concatenate([np.repeat(grown, 3, axis=1), own.images], axis=2), own.labels, own.ids)
    return splits


def grow(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Square images (N,C,S,S) enlarged to ``size`` pixels by bilinear interpolation between the centres of pixels, in whole numbers."""
    side = images.shape[-1]
    # Places in units of 1 / (2 * size) of a pixel.
    place = ((2 * np.arange(size) + 1) * side - size).clip(0, 2 * size * (side - 1))
    first, part = place // (2 * size), place % (2 * size)
    second = np.minimum(first + 1, side - 1)
    out = np.empty((*images.shape[:2], size, size), np.uint8)
    for start in range(0, len(images), 4096):
        rows = images[start : start + 4096].astype(np.int64)
        rows = rows[:, :, first] * (2 * size - part)[:, None] + rows[:, :, second] * part[:, None]
        whole = rows[..., first] * (2 * size - part) + rows[..., second] * part
        out[start : start + 4096] = (whole + 2 * size**2) // (2 * size) ** 2
    return out


@dataset("EMNIST")
def emnist(source: Source) -> Splits:
    """EMNIST balanced (Cohen et al. 2017, arXiv 1702.05373), upright: 2000 train and 400 valid images per class."""
    parts = source.emnist_parts()
    upright = {field: getattr(parts, field).swapaxes(2, 3) for field in ("train_images", "test_images")}
    return _official_split(parts._replace(**upright), valid_per_class=400)


@dataset("FaceScrub")
def facescrub(source: Source) -> Splits:
    """388 identities of FaceScrub (Ng and Winkler 2014), from the user's copy: a tenth of each is valid, another is test."""
    files, labels = source.facescrub_files()
    ids_by_split = split_by_fraction(labels, one_in=10)
    return {split: Split(source.facescrub_images([files[index] for index in ids]), labels[ids], ids) for split, ids in ids_by_split.items()}


@dataset("ORL")
def orl(source: Source) -> Splits:
    """The ORL faces (AT&T; Samaria and Harter 1994), made square by black columns: of each person 6 train, 2 valid and 2 test images."""
    images, labels = source.orl()
    square = np.pad(images, ((0, 0), (0, 0), (0, 0), (10, 10)))
    return {split: _select(square, labels, ids) for split, ids in split_by_fraction(labels, one_in=5).items()}


@dataset("Slabs", needs_source=False)
def slabs_dataset(source: Source) -> Splits:
    """Slabs (Shah et al. 2020), drawn by data/slabs.py."""
    splits = {}
    for number, (name, count) in enumerate(zip(SPLITS, _menu_entry("Slabs").counts)):
        features, labels = slabs(count, seed=number)
        order = np.argsort(labels, kind="stable")
        splits[name] = Split(features[order], labels[order], order.astype(np.int64))
    return splits


@dataset("Polynomials", needs_source=False)
def polynomials_dataset(source: Source) -> Splits:
    """Points drawn by data/polynomials.py; what a network is to make of them is no class, so all labels are 0."""
    counts = dict(zip(SPLITS, _menu_entry("Polynomials").counts))
    return {split: Split(points(split, count), np.zeros(count, np.int64), np.arange(count)) for split, count in counts.items()}


def compose_splits(name: str, source: Source) -> Splits:
    """A data set of data/composed.py; those that it is made of are loaded from where it will lie."""
    bases = [load(base, source.downloads.parent.parent) for base in COMPOSED[name].bases]
    counts = dict(zip(SPLITS, (50_000, 10_000, 10_000)))
    return {
        split: Split(*compose(name, split, counts[split], [(base.split(split).images, base.split(split).labels) for base in bases]))
        for split in SPLITS
    }


for _name in COMPOSED:
    dataset(_name, needs_source=False)(functools.partial(compose_splits, _name))


def prepare(name: str, source: str = "official", root: Path | None = None) -> DataSet:
    """Fetch, decode, split, check and cache a data set; an earlier cache is replaced in one step.

    ``source`` is "official", "packages" or a directory (see data.sources); ``root`` defaults to `data_root()`.
    Raises InputError if the name is unknown, the source fails, or the arrays are not the pinned ones.
    """
    if is_folder(name):
        return _prepare_folder(name, source, root or data_root())
    _menu_entry(name)
    if name in EMBEDDED:
        return load(name, root)
    root = root or data_root()
    if name in MAPPED:
        return _prepare_mapped(name, source, root)
    if is_factory(name):
        return _prepare_factory(name, root)
    splits = RECIPES[name].make(Source(name, source, root / "downloads" / name))
    checksum = verify(name, splits, source)
    write(cache_path(name, root), name, splits, checksum, source)
    return DataSet(str(name), splits["train"], splits["valid"], splits["test"], checksum)


def _prepare_mapped(name: str, source: str, root: Path) -> DataSet:
    """The same for a data set whose images stay in their file."""
    sizes, path = _menu_entry(name).factors, cache_path(name, root)
    if MAPPED[name]:
        published = Source(name, source, root / "downloads" / name).shapes_file()
        if note := note_of(published):
            print(f"{name}: {published} was {note}", file=sys.stderr)
        images = read_published(published, sizes)
    else:
        source, images = "rendered", blocks(sizes)
    try:
        with appearing(path) as temporary:
            write_mapped(temporary, name, sizes, images, source)
            mapped, _ = read_mapped(temporary, sizes)
            sign(temporary, verify(name, {split: Split(*mapped[split]) for split in SPLITS}, source))
    except OSError as error:
        raise _unwritten(name, path, error) from error
    return _read(path, name)


def _prepare_folder(name: str, source: str, root: Path) -> DataSet:
    """The same for a folder of images; any source but a folder is the one that is noted."""
    folder = Path(read_note(root, name)["source"] if source in ("official", "noted") else source).expanduser()
    path = cache_path(name, root)
    try:
        with appearing(path) as temporary:
            classes = write_folder(temporary, name, folder)
            arrays, _ = read_folder(temporary, name)
            sign(temporary, content_checksum({split: Split(*arrays[split]) for split in SPLITS}))
        write_note(root, name, folder, classes)
    except OSError as error:
        raise _unwritten(name, path, error) from error
    return _read(path, name)


def _prepare_factory(name: str, root: Path) -> DataSet:
    """The same for a user's function."""
    factory = load_factory(name)
    try:
        splits = factory()
    except Exception as error:
        raise InputError(f"{name}: failed ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})") from error
    if not isinstance(splits, Mapping) or not all(isinstance(splits.get(split), Split) for split in SPLITS):
        raise InputError(f"{name}: must return a mapping of train, valid and test to Split(images, labels, ids) of data.datasets")
    try:
        checksum = verify(name, splits, name)
    except ValueError as error:
        raise InputError(str(error)) from None
    write(cache_path(name, root), name, splits, checksum, _version(factory))
    return DataSet(str(name), splits["train"], splits["valid"], splits["test"], checksum)


def _version(factory: Callable[..., Any]) -> str:
    """What tells whether a user's function has changed: a hash of its text."""
    return f"factory {hashlib.sha256(inspect.getsource(factory).encode()).hexdigest()[:16]}"


def require(name: str, root: Path | None = None) -> None:
    """InputError, with the command that helps, where a data set has to be fetched before `load` can read it."""
    _menu_entry(name)
    path = cache_path(name, root)
    if is_folder(name):
        noted = Path(read_note(root or data_root(), name)["source"])
        if not path.exists() and not noted.is_dir():
            raise InputError(f"{name}: {noted}, which it is made of, is gone; run: python -m data prepare {name} --source DIR")
        return
    if not path.exists() and name in COMPOSED:
        for base in COMPOSED[name].bases:
            require(base, root)
    if (
        not path.exists()
        and name not in EMBEDDED
        and not is_factory(name)
        and (MAPPED[name] if name in MAPPED else RECIPES[name].needs_source)
    ):
        raise InputError(f"{name}: {path} is missing; run {prepare_command(name)}")


def load(name: str, root: Path | None = None) -> DataSet:
    """Read a data set from its cache in ``root`` (default `data_root()`) and compare its content with its checksum.

    A damaged cache is reported on stderr and prepared again from its source. Raises InputError if the name is unknown, there is no cache,
    or a damaged one cannot be replaced.
    """
    require(name, root)
    path = cache_path(name, root)
    if not path.exists() and name not in EMBEDDED:
        return prepare(name, root=root)
    if is_factory(name) and path.exists() and _recorded_source(path, name) != _version(load_factory(name)):
        print(f"{name}: has changed since {path} was made; making it again", file=sys.stderr)
        return prepare(name, root=root)
    try:
        return _read(path, name)
    except PermissionError as error:
        raise InputError(f"{name}: {path} cannot be read (permission denied)") from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
    if name in EMBEDDED:
        raise InputError(f"{name}: {path} is missing or damaged ({reason}); run `git checkout -- data/embedded`")
    source = "noted" if is_folder(name) else _recorded_source(path, name)
    print(f"{name}: {path} is damaged ({reason}); preparing it again from {source}", file=sys.stderr)
    return prepare(name, source, root)


def split_count(name: str, split: str, root: Path | None = None) -> int | None:
    """The number of images of a split: the menu's, or that of the cache in ``root`` (default `data_root()`) where it depends on the user's copy.

    None where there is no readable cache. Any other split than train, valid and test is a ValueError; an unknown name is an InputError.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; allowed: {', '.join(SPLITS)}")
    counts = _menu_entry(name).counts
    if counts:
        return counts[SPLITS.index(split)]
    # What is damaged in other ways than an absent file is reported by `load`.
    with (
        contextlib.suppress(OSError, KeyError, RuntimeError, AttributeError),
        h5py.File(cache_path(name, root), "r", locking=False) as file,
    ):
        return int(file.attrs["counts"][SPLITS.index(split)]) if is_folder(name) else len(file[split]["labels"])
    return None


def class_balanced(split: Split, n: int) -> NDArray[np.int64]:
    """Indices (n,) of the first n/classes images of every class, in class order.

    Raises InputError if n is not a positive multiple of the number of classes or a class has too few images.
    """
    classes, counts = np.unique(split.labels, return_counts=True)
    per_class, rest = divmod(n, len(classes))
    if n <= 0 or rest:
        raise InputError(f"{n} images: not a positive multiple of the {len(classes)} classes")
    if per_class > counts.min():
        raise InputError(f"{n} images: at most {counts.min() * len(classes)} are possible, the smallest class has {counts.min()}")
    return np.concatenate([np.flatnonzero(split.labels == label)[:per_class] for label in classes])


def _menu_entry(name: str) -> info_dicts.Choice:
    """The menu's line of ``name``, with its facts; InputError if it cannot be loaded."""
    for number, choice in info_dicts.DATASETS.items():
        if choice == name and not any(name in known for known in (RECIPES, EMBEDDED, MAPPED)):
            raise InputError(f"data set {name} ({number} on the menu) has no function in data/datasets.py")
    return dataset_choice(name)


def verify(name: str, splits: Splits, source: str) -> str:
    """The `content_checksum` of splits that have the shape, classes and counts (if any) on the menu and, where there is a pin, the pinned content.

    Otherwise InputError; arrays of another type than `Split` says are a ValueError.
    """
    entry = _menu_entry(name)
    for split, count in zip(SPLITS, entry.counts or (None,) * len(SPLITS)):
        images, labels, ids = splits[split].images, splits[split].labels, splits[split].ids
        if (
            images.dtype != entry.facts.get("dtype", "uint8")
            or labels.dtype != np.int64
            or ids.dtype != np.int64
            or not labels.shape == ids.shape == images.shape[:1]
        ):
            raise ValueError(f"{name}/{split}: images must be {entry.facts.get('dtype', 'uint8')} (N,C,H,W), labels and ids int64 (N,)")
        expected = (len(images) if count is None else count, *entry.shape)
        if images.shape != expected:
            raise InputError(f"{name} from {source}: {split} has shape {images.shape}, the menu says {expected}")
        if not np.array_equal(np.unique(labels), np.arange(labels_of(entry))):
            raise InputError(f"{name} from {source}: {split} does not have every label 0..{labels_of(entry) - 1} and no other")
    checksum = content_checksum(splits)
    if checksum != CONTENT_SHA256.get(name, checksum):
        raise InputError(
            f"{name} from {source}: the images or labels are not the published ones (SHA-256 {checksum[:12]}..., "
            f"pinned {CONTENT_SHA256[name][:12]}...); try another --source"
        )
    return checksum


def write(path: Path, name: str, splits: Splits, checksum: str, source: str, chunk_images: int | None = None) -> None:
    """Write splits as HDF5: groups train, valid and test with images, labels and ids; attributes name, source, checksum and versions (JSON).

    The file appears complete or not at all. With ``chunk_images`` the arrays are compressed (shuffle and gzip) in chunks of so many images.
    Raises InputError where the file cannot be written.
    """
    try:
        with appearing(path) as temporary, h5py.File(temporary, "w") as file:
            versions = {"python": platform.python_version(), "numpy": np.__version__, "h5py": h5py.__version__}
            file.attrs.update({"name": str(name), "source": source, "checksum": checksum, "versions": json.dumps(versions)})
            for split in SPLITS:
                for field in ARRAYS:
                    array = getattr(splits[split], field)
                    packed = (
                        {
                            "chunks": (min(chunk_images, len(array)), *array.shape[1:]),
                            "shuffle": True,
                            "compression": "gzip",
                            "compression_opts": 9,
                        }
                        if chunk_images
                        else {}
                    )
                    file.create_dataset(f"{split}/{field}", data=array, track_times=False, **packed)
    except OSError as error:
        raise _unwritten(name, path, error) from error


def _unwritten(name: str, path: Path, error: OSError) -> InputError:
    return InputError(f"{name}: {path} cannot be written ({error}); PALIMPSEST_DATA names another folder")


def _read(path: Path, name: str) -> DataSet:
    """The content of a cache; one of the exceptions that `load` takes for damage if it is not as it was written."""
    if name in MAPPED or is_folder(name):
        mapped, checksum = read_folder(path, name) if is_folder(name) else read_mapped(path, _menu_entry(name).factors)
        if not checksum or checksum != CONTENT_SHA256.get(name, checksum):
            raise ValueError("its content has another checksum")
        return DataSet(str(name), Split(*mapped["train"]), Split(*mapped["valid"]), Split(*mapped["test"]), checksum)
    # Unlocked: a cache is never changed in place, and some network file systems refuse locks.
    with h5py.File(path, "r", locking=False) as file:
        splits = {split: Split(*(file[split][field][()] for field in ARRAYS)) for split in SPLITS}
        recorded = file.attrs["checksum"]
    checksum = content_checksum(splits)
    if checksum != recorded or checksum != CONTENT_SHA256.get(name, checksum):
        raise ValueError("its content has another checksum")
    return DataSet(str(name), splits["train"], splits["valid"], splits["test"], checksum)


def _recorded_source(path: Path, name: str) -> str:
    """Where a damaged cache came from: its own record, else the source whose archive is kept, else the official one."""
    with contextlib.suppress(OSError, KeyError, RuntimeError), h5py.File(path, "r", locking=False) as file:
        return str(file.attrs["source"])
    package = PACKAGES.get(name)
    return "packages" if package and (path.parent / "downloads" / name / package.file).is_file() else "official"
