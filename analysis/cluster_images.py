"""Images of clusters: how the units of a cluster in a layer go with each pixel of the input (Hod et al., arXiv 2110.08058)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float64]
SCALE, GAP = 3, 4  # pixels of the sheet for one of the image; between two images


def pixel_correlations(images_nchw: NDArray[np.float32], units_nu: Floats) -> Floats:
    """The correlation (U, H, W) of each unit's activation with each pixel's mean over channels; 0 for what never changes."""
    pixels = images_nchw.mean(1, dtype=np.float64)
    shape = pixels.shape[1:]

    def standardised(values: Floats) -> Floats:
        values = values - values.mean(0)
        deviation = np.sqrt(np.square(values).sum(0))
        return values / np.where(deviation > 1e-9 * max(1.0, deviation.max(initial=0)), deviation, np.inf)

    return (standardised(units_nu).T @ standardised(pixels.reshape(len(pixels), -1))).reshape(-1, *shape)


def aligned_mean(maps_uhw: Floats) -> Floats:
    """The mean (H, W) of maps, each with the sign with which it goes with the first principal direction of all; that direction looks up on the whole."""
    flat = maps_uhw.reshape(len(maps_uhw), -1)
    direction = np.linalg.svd(flat, full_matrices=False)[2][0]
    signs = np.where(flat @ direction < 0, -1.0, 1.0)
    mean = (signs[:, None] * flat).mean(0)
    return (mean if mean.sum() >= 0 else -mean).reshape(maps_uhw.shape[1:])


def cluster_images(maps_uhw: Floats, groups: Mapping[str, NDArray[np.int64]]) -> dict[str, Floats]:
    """The image (H, W), in -1..1, of each group of units."""
    return {name: aligned_mean(maps_uhw[units]) for name, units in groups.items()}


def save_sheet(images: Mapping[str, Floats], path: Path) -> None:
    """Writes the images as one PNG: a row for each layer (`<layer>/<cluster>`), its clusters side by side; blue is negative, red positive, white 0; each in its own range."""
    layers = list(dict.fromkeys(name.rpartition("/")[0] for name in images))
    rows = [[own for name, own in images.items() if name.rpartition("/")[0] == layer] for layer in layers]
    height, width = next(iter(images.values())).shape
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * (height * SCALE + GAP), columns * (width * SCALE + GAP), 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, own in enumerate(row):
            top, left = y * (height * SCALE + GAP), x * (width * SCALE + GAP)
            sheet[top : top + height * SCALE, left : left + width * SCALE] = coloured(own).repeat(SCALE, 0).repeat(SCALE, 1)
    Image.fromarray(sheet).save(path)


def coloured(values_hw: Floats) -> NDArray[np.uint8]:
    """Values as colours (H, W, 3)."""
    share = values_hw / (np.abs(values_hw).max() or 1.0)
    fade = 255 * (1 - np.abs(share))
    red, blue = np.where(share > 0, 255, fade), np.where(share < 0, 255, fade)
    return np.stack([red, fade, blue], axis=2).round().astype(np.uint8)
