"""Contact sheets: the same images under several conditions, one panel per condition, as one PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from errors import InputError

DPI = 100
ZOOM = 2
GAP = 2
TITLE_PIXELS = 28


def mosaic(images_nchw: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Images (N,C,H,W), C 1 or 3, row by row on a white ground, ``GAP`` pixels apart: (rows*(H+GAP)+GAP, columns*(W+GAP)+GAP, 3).

    N = 0 or another C is a ValueError.
    """
    n, channels, height, width = images_nchw.shape
    if n == 0 or channels not in (1, 3):
        raise ValueError(f"images of shape {images_nchw.shape}; at least one image of 1 or 3 channels is needed")
    rows = -(-n // columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, np.uint8)
    for index, image in enumerate(images_nchw):
        top = GAP + index // columns * (height + GAP)
        left = GAP + index % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return sheet


def draw(path: Path, panels: Sequence[tuple[str, NDArray[np.uint8]]], columns: int = 16) -> None:
    """Write a PNG with one panel per (title, images uint8 (N,C,H,W)), from top to bottom; an image pixel is drawn ``ZOOM`` pixels wide.

    Every panel is ``columns`` images wide, filled or not, so that the titles have room.

    Raises InputError if the file cannot be written.
    """
    mosaics = [mosaic(images, columns) for _, images in panels]
    heights = [ZOOM * sheet.shape[0] for sheet in mosaics]
    width = ZOOM * max(sheet.shape[1] for sheet in mosaics)
    height = sum(heights) + TITLE_PIXELS * len(panels)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    top = height
    for (title, _), sheet, panel_height in zip(panels, mosaics, heights):
        figure.text(ZOOM * GAP / width, (top - TITLE_PIXELS / 2) / height, title, va="center", fontsize=11)
        top -= TITLE_PIXELS + panel_height
        axes = figure.add_axes((0, top / height, 1, panel_height / height))
        axes.imshow(sheet, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); --out names another file") from error
