"""Any folder of images as a data set: `folder:NAME@PIXELS`, resized once into one file that is mapped into memory.

    DIR/train/<class>/... and DIR/val (or validation, test) likewise      the second part is the test split
    DIR/train/<class>/... and DIR/val/val_annotations.txt, DIR/val/images  TinyImageNet's
    DIR/<class>/...                                                        a tenth of each class is test

A class is a folder that holds images, by its path (so iNaturalist's super-categories may stand above it); a last `images` is left out of its name. Without a part
of its own the last tenth of the training images of each class, in the order of their names, is the valid split (before it, where need be, the test split).
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

import info_dicts
from data.files import appearing, cache_path, data_root
from data.mapped import forget
from errors import InputError

NAME = re.compile(r"folder:([\w.-]+?)(?:@(\d+))?")
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif", ".tif", ".tiff"}
TESTS = ("val", "validation", "test")
ANNOTATIONS = "val_annotations.txt"
SPLITS = ("train", "valid", "test")
ONE_IN = 10
BLOCK = 256  # images that are decoded before they are written
LEAST, MOST = 8, 1024  # pixels

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]


def is_folder(name: object) -> bool:
    """Whether a value of an entry names a folder of images."""
    return isinstance(name, str) and name.startswith("folder:")


def parse_folder(name: str) -> tuple[str, int]:
    """The name and the pixels of `folder:NAME@PIXELS`; InputError for another form."""
    match = NAME.fullmatch(name)
    if not match or match[2] is None or not LEAST <= int(match[2]) <= MOST:
        raise InputError(
            f"{name}: must be folder:NAME@PIXELS, with letters, digits, - and . in NAME and {LEAST} to {MOST} PIXELS, such as folder:pets@64, or say --resolution 64 (`resolution: 64` in an entry)"
        )
    return match[1], int(match[2])


def note_path(root: Path, name: str) -> Path:
    """Where it is noted which folder a name means, and what its classes are."""
    return root / f"folder-{parse_folder(name)[0]}.json"


def read_note(root: Path, name: str) -> dict[str, Any]:
    """`source` and `classes` of a name; InputError, with the command that helps, where nothing is noted."""
    path, (short, pixels) = note_path(root, name), parse_folder(name)
    try:
        note = json.loads(path.read_text())
        return {"source": str(note["source"]), "classes": [str(own) for own in note["classes"]]}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{name}: no folder is known by this name; run: python -m data prepare folder:{short} --source DIR --resolution {pixels}"
        ) from None


def folder_choice(name: str, root: Path | None = None) -> info_dicts.Choice:
    """A folder's name with its facts, as the menu has them; mean and std are known once its images are prepared at these pixels. InputError where nothing is noted."""
    root = root or data_root()
    pixels, classes = parse_folder(name)[1], read_note(root, name)["classes"]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std = mean
    path = cache_path(name, root)
    if path.exists():
        try:
            with h5py.File(path, "r", locking=False) as file:
                mean, std = (tuple(float(value) for value in file.attrs[key]) for key in ("mean", "std"))
        except (OSError, KeyError, ValueError):
            pass  # `load` says that it is damaged
    return info_dicts.Choice(
        name, classes=len(classes), shape=(3, pixels, pixels), counts=(), mean=mean, std=std, model="ResNet18", augmentation="CropFlip", padding=max(1, pixels // 8),
    )  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """The classes of a folder by name, and its images with their labels, in order: those to train on, and the test part's where it has one."""

    classes: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    test: tuple[tuple[Path, int], ...] | None


def scan(source: Path) -> Scan:
    """What a folder holds; InputError where it holds no classes with images, or the test part has others."""
    if not source.is_dir():
        raise InputError(f"{source}: is no folder")
    train = source / "train"
    if not train.is_dir():
        found = by_class(source)
        classes = require_classes(found, source)
        return Scan(classes, labelled(found, classes, source), None)
    found = by_class(train)
    classes = require_classes(found, train)
    part = next((source / name for name in TESTS if (source / name).is_dir()), None)
    if part is None:
        return Scan(classes, labelled(found, classes, train), None)
    tested = annotated(part) if (part / ANNOTATIONS).is_file() else by_class(part)
    return Scan(classes, labelled(found, classes, train), labelled(tested, classes, part))


def by_class(part: Path) -> dict[str, list[Path]]:
    """The images of a folder by the paths of the folders that hold them."""
    found: dict[str, list[Path]] = {}
    visited: set[str] = set()
    for folder, folders, files in os.walk(part, followlinks=True):
        real = os.path.realpath(folder)
        above = os.path.realpath(Path(folder).parent)
        if real in visited and f"{above}{os.sep}".startswith(f"{real}{os.sep}"):
            folders.clear()  # a circle
            continue
        if real in visited:
            raise InputError(f"{folder}: is a link to {real}, which is there already")
        visited.add(real)
        images = sorted(name for name in files if Path(name).suffix.lower() in SUFFIXES)
        if not images and not folders and Path(folder) != part:
            raise InputError(f"{folder}: holds no image; a class needs some ({', '.join(sorted(SUFFIXES))})")
        if images:
            relative = Path(folder).relative_to(part)
            named = relative.parent if relative.name == "images" and len(relative.parts) > 1 else relative
            found.setdefault(named.as_posix(), []).extend(Path(folder) / name for name in images)
    return found


def annotated(part: Path) -> dict[str, list[Path]]:
    """The images of TinyImageNet's val part by class."""
    found: dict[str, list[Path]] = {}
    for number, line in enumerate((part / ANNOTATIONS).read_text().splitlines()):
        words = line.split("\t")
        if len(words) < 2:
            raise InputError(f"{part / ANNOTATIONS}: line {number + 1} is not an image's name, a tab and its class")
        found.setdefault(words[1], []).append(part / "images" / words[0])
    return {name: sorted(paths) for name, paths in found.items()}


def require_classes(found: dict[str, list[Path]], part: Path) -> tuple[str, ...]:
    classes = tuple(sorted(found))
    if "." in found or len(classes) < 2:
        raise InputError(
            f"{part}: must hold a folder of images for each of two or more classes, but holds {'images themselves' if '.' in found else f'{len(classes)} class(es)'}"
        )
    return classes


def labelled(found: dict[str, list[Path]], classes: Sequence[str], part: Path) -> tuple[tuple[Path, int], ...]:
    """Images with their labels, class by class."""
    unknown = sorted(set(found) - set(classes))
    lacking = sorted(set(classes) - set(found))
    if unknown or lacking:
        problem = (
            f"has the class {unknown[0]}, which the training images have not" if unknown else f"has no image of the class {lacking[0]}"
        )
        raise InputError(f"{part}: {problem}")
    return tuple((path, label) for label, name in enumerate(classes) for path in sorted(found[name]))


def held_out(labels_n: NDArray[np.int64], rows: NDArray[np.int64], classes: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that stay, and the last tenth of those of every class, rounded up; InputError where none of a class stays."""
    kept, held = [], []
    for label in np.unique(labels_n):
        own = rows[labels_n[rows] == label]
        count = -(-len(own) // ONE_IN)
        if len(own) <= count:
            raise InputError(f"class {classes[label]} has too few images: {len(own)} are left to be split")
        kept.append(own[:-count])
        held.append(own[-count:])
    return np.concatenate(kept), np.concatenate(held)


def split_rows(found: Scan) -> tuple[list[tuple[Path, int]], dict[str, NDArray[np.int64]]]:
    """The images in the order of the splits, and the ids of each split: places in the part that they came from."""
    labels = np.array([label for _, label in found.train], np.int64)
    rows = np.arange(len(labels))
    test: list[tuple[Path, int]] = list(found.test or ())
    test_ids = np.arange(len(test))
    if found.test is None:
        rows, test_ids = held_out(labels, rows, found.classes)
        test = [found.train[row] for row in test_ids]
    train_ids, valid_ids = held_out(labels, rows, found.classes)
    images = [*(found.train[row] for row in train_ids), *(found.train[row] for row in valid_ids), *test]
    return images, {"train": train_ids, "valid": valid_ids, "test": test_ids}


def read_image(path: Path, pixels: int) -> NDArray[np.uint8]:
    """An image file as (3, pixels, pixels): its shorter side resized (bilinear, with antialias), its middle cut out. InputError where it cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * pixels, 2 * pixels))
            rgb = as_rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({' '.join(str(error).split())})") from None
    scale = pixels / min(rgb.size)
    size = tuple(max(pixels, round(side * scale)) for side in rgb.size)
    resized = rgb.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = (size[0] - pixels) // 2, (size[1] - pixels) // 2
    return np.asarray(resized.crop((left, top, left + pixels, top + pixels))).transpose(2, 0, 1)


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in eight bits and three channels; 16-bit grey is scaled, which Pillow by itself would cut."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image, np.int64) // 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")


def write_folder(path: Path, name: str, source: Path) -> tuple[str, ...]:
    """Writes all images of a folder into one file, a block at a time, and returns the classes. The attribute `checksum` is to be set by mapped.sign. An OSError is the caller's."""
    found, pixels = scan(source), parse_folder(name)[1]
    images, ids = split_rows(found)
    labels = np.array([label for _, label in images], np.int64)
    n_train = len(ids["train"])
    sums, squares = np.zeros(3), np.zeros(3)
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("images", (len(images), 3, pixels, pixels), np.uint8)
        stored[0] = 0
        offset = stored.id.get_offset()
        file["labels"], file["ids"] = labels, np.concatenate([ids[split] for split in SPLITS]).astype(np.int64)
        file["classes"] = list(found.classes)
        file.attrs.update({"name": name, "source": str(source), "checksum": "", "counts": [len(ids[split]) for split in SPLITS]})
    mapped = np.memmap(path, np.uint8, "r+", offset, (len(images), 3, pixels, pixels))
    with tqdm(total=len(images), unit="image", desc=name, disable=None, leave=False) as bar:
        for start, block in decoded([image for image, _ in images], pixels):
            mapped[start : start + len(block)] = block
            values = block[: max(0, n_train - start)] / 255
            sums += values.sum((0, 2, 3))
            squares += (values**2).sum((0, 2, 3))
            bar.update(len(block))
            mapped.flush()
            forget(mapped)
    mean = sums / (n_train * pixels**2)
    deviation = np.sqrt(np.maximum(squares / (n_train * pixels**2) - mean**2, 0))
    with h5py.File(path, "r+") as file:
        # Images of one grey would be divided by nothing.
        file.attrs.update({"mean": mean, "std": np.where(deviation > 1e-6, deviation, 1.0)})
    return found.classes


def decoded(paths: Sequence[Path], pixels: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The images of files in blocks (n, 3, pixels, pixels), decoded side by side, and the place of each block's first."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), BLOCK):
            own: Iterable[Path] = paths[start : start + BLOCK]
            yield start, np.stack(list(pool.map(lambda path: read_image(path, pixels), own)))


def read_folder(path: Path, name: str) -> tuple[dict[str, Arrays], str]:
    """Images (memory-mapped), labels and ids of every split, and the checksum that was noted; ValueError, KeyError or OSError where the file is damaged."""
    pixels = parse_folder(name)[1]
    with h5py.File(path, "r", locking=False) as file:
        stored, labels, ids = file["images"], file["labels"][()], file["ids"][()]
        counts, checksum = [int(count) for count in file.attrs["counts"]], str(file.attrs["checksum"])
        shape = (sum(counts), 3, pixels, pixels)
        if stored.shape != shape or stored.dtype != np.uint8 or len(labels) != shape[0]:
            raise ValueError(f"its images are {stored.dtype} {stored.shape}, expected uint8 {shape}")
        offset = stored.id.get_offset()
    if path.stat().st_size < offset + int(np.prod(shape)):
        raise ValueError("it is cut short")
    # Copy on write: torch wants arrays that may be written to, and nothing ever gets into the file.
    mapped = np.memmap(path, np.uint8, "c", offset, shape)
    edges = np.cumsum([0, *counts])
    return {
        split: (mapped[start:stop], labels[start:stop], ids[start:stop]) for split, start, stop in zip(SPLITS, edges[:-1], edges[1:])
    }, checksum


def write_note(root: Path, name: str, source: Path, classes: Sequence[str]) -> None:
    """Notes which folder a name means."""
    with appearing(note_path(root, name)) as temporary:
        temporary.write_text(json.dumps({"source": str(source.resolve()), "classes": list(classes)}, indent=1) + "\n")
