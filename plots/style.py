"""What all figures share: a colour for each method, sizes of a paper's column, and how a figure is saved."""

import io
import re
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import seaborn
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

import info_dicts
from errors import InputError
from train.run import write_atomically

COLUMN = 3.4  # inches: the width of one column of a two-column paper
PAGE = 7.0  # inches: the width of both
DPI = 200
# The formats of a figure, with what is written into the file besides; no time, so that the same figure is the same file.
FORMATS: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "png": {}}

# Okabe and Ito (2008), with Tol's wine and indigo; a method's colour goes by its menu number. Those of systems, which stand side by side
# as boxes, are told apart with any kind of colour blindness.
PALETTE = (
    "#999999",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
    "#009E73",
    "#0072B2",
    "#882255",
    "#332288",
    "#D55E00",
    "#000000",
    "#44AA99",
    "#F0E442",
    "#661100",
)
HATCHES = ("", "//////", "......", "xxxxxx", "------", "oooooo")

RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "hatch.linewidth": 0.4,
    "pdf.fonttype": 42,
    "savefig.dpi": DPI,
}


def styled() -> AbstractContextManager[None]:
    """A context in which figures have this project's fonts and lines."""
    return matplotlib.rc_context(seaborn.axes_style("ticks") | RC)


def method_colour(method: str) -> str:
    """The colour of a method, by its menu number."""
    number = next(number for number, name in info_dicts.METHODS.items() if name == method)
    return PALETTE[number % len(PALETTE)]


def variant_styles(methods: Sequence[str]) -> list[tuple[str, str]]:
    """(colour, hatch) for each of a row of systems: the method's colour, lighter and hatched for its second, third ... variant."""
    seen: dict[str, int] = {}
    styles = []
    for method in methods:
        variant = seen.get(method, 0)
        seen[method] = variant + 1
        styles.append((lighter(method_colour(method), 1 - 0.75**variant), HATCHES[variant % len(HATCHES)]))
    return styles


def lighter(colour: str, share: float) -> str:
    """A colour mixed with a share (0..1) of white."""
    red, green, blue = (channel + (1 - channel) * share for channel in to_rgb(colour))
    return to_hex((red, green, blue))


def plural(n: int, word: str) -> str:
    """A number with its noun."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def align(rows: Sequence[Sequence[str]]) -> str:
    """Lines of a table, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def describe_n(compositions: int, seeds: Iterable[int], images: int) -> str:
    """What the numbers of a figure rest on; `seeds` are the numbers of seeds of its systems."""
    numbers = sorted({int(number) for number in seeds})
    of_seeds = plural(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"
    return f"n = {plural(compositions, 'composition')}, {of_seeds}, {plural(images, 'image')}"


def save(figure: Figure, drawn: pd.DataFrame, folder: Path, name: str) -> list[Path]:
    """Writes a figure as PNG and PDF, and the values drawn in it as CSV; returns the paths, the PNG last."""
    name = file_name(name)
    paths = [save_csv(drawn, folder, name)]
    # Laid out once: every format would do it twice.
    figure.set_dpi(DPI)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for suffix, metadata in FORMATS.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=DPI, metadata=metadata)
        paths.append(folder / f"{name}.{suffix}")
        write_atomically(paths[-1], buffer.getvalue())
    return paths


def file_name(name: str) -> str:
    """A name, of a user's data set for instance, without what file systems refuse."""
    return re.sub(r"[:@/]", "-", name)


def save_csv(values: pd.DataFrame, folder: Path, name: str) -> Path:
    """Writes a table as CSV into a folder, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = "is no folder" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise InputError(f"{folder}: cannot be written ({problem}); choose another folder with --out") from None
    path = folder / f"{file_name(name)}.csv"
    write_atomically(path, values.to_csv(index=False).encode())
    return path
