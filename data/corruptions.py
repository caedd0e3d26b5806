"""The elemental corruptions and their compositions, as float32 batch functions of square images in grey levels 0..255.

The definitions are those of Mason et al., "Modularity Trumps Invariance for Compositional Robustness" (arXiv:2306.09005): scikit-image's gaussian,
random_noise, rotate and swirl on values / 255, each step clipped to 0..255, float32 between the steps, and one cut to uint8 at the end.
A corruption is one function here, registered with `@elemental`, and one line in `info_dicts.CORRUPTIONS`.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import info_dicts
from data.compositions import Node, Written, corruption_name, parse, prefix_tree
from data.noise import Noise
from errors import InputError

Elemental = Callable[[Tensor, Any, Noise], Tensor]
FUNCTIONS: dict[str, Elemental] = {}
_FIXED: set[str] = set()

# Values of a batch that `corrupt` takes at once on a CPU: beyond it the temporaries fall out of the cache.
PIECE = 2**20


def elemental(name: str, draws: bool = True) -> Callable[[Elemental], Elemental]:
    """Registers `function(images_nchw, parameter, noise) -> images_nchw` as the corruption of that name on the menu.

    Images are float32 (N, C, S, S) in 0..255, contiguous; the result is a new tensor in 0..255, the input is left as it is. `parameter` is the
    menu's value at the severity, None where there is none. The result of an image must not depend on the others in the batch. Where `draws` is
    false, it does not depend on the noise either, and what is made of it may be kept between epochs.
    """

    def register(function: Elemental) -> Elemental:
        FUNCTIONS[name] = function
        if not draws:
            _FIXED.add(name)
        return function

    return register


def draws(name: str) -> bool:
    """Whether a corruption may look different in every epoch."""
    return name not in _FIXED


@elemental("Identity", draws=False)
def identity(images_nchw: Tensor, parameter: None, noise: Noise) -> Tensor:
    """A copy of the clean images."""
    return images_nchw.clone()


@elemental("Contrast", draws=False)
def contrast(images_nchw: Tensor, parameter: float, noise: Noise) -> Tensor:
    """mean + parameter * (x - mean), with the mean of each image and channel."""
    means = images_nchw.mean((2, 3), keepdim=True)
    return torch.lerp(means, images_nchw, parameter).clamp_(0, 255)


@elemental("GaussianBlur", draws=False)
def gaussian_blur(images_nchw: Tensor, parameter: float, noise: Noise) -> Tensor:
    """Gaussian filter of standard deviation `parameter` pixels, cut at 4 of them, edge pixels repeated, each channel by itself."""
    matrix = _blur_matrix(images_nchw.shape[-1], parameter, images_nchw.device)
    return torch.matmul(matrix, torch.matmul(images_nchw, matrix.T)).clamp_(0, 255)


@elemental("ImpulseNoise")
def impulse_noise(images_nchw: Tensor, parameter: float, noise: Noise) -> Tensor:
    """Salt and pepper: every value by itself becomes 0 with probability parameter / 2, and 255 with the same."""
    bits = noise.bits(images_nchw.shape[1:], images_nchw.device).float()
    # Rounded to the 24 bits of a float32; a whole number above (below) the threshold is then at least 256 above (below) it.
    threshold = 256.0 * round((1 - parameter) * 2**23)
    bits *= 256
    salt = bits - 256 * threshold
    pepper = bits.add_(256 * threshold)
    # Far above 255 where salted and below 0 elsewhere; far below 0 where peppered and above 255 elsewhere: two comparisons in one pass.
    return torch.clamp(images_nchw, salt, pepper).clamp_(0, 255)


@elemental("Invert", draws=False)
def invert(images_nchw: Tensor, parameter: None, noise: Noise) -> Tensor:
    """255 - x."""
    return torch.rsub(images_nchw, 255)


@elemental("Rotate90", draws=False)
def rotate90(images_nchw: Tensor, parameter: None, noise: Noise) -> Tensor:
    """A quarter turn counter-clockwise."""
    if images_nchw.device.type == "cpu" and not images_nchw.requires_grad:
        # numpy reads backwards, which torch's strides cannot: no index is needed.
        return torch.from_numpy(images_nchw.numpy()[..., ::-1].swapaxes(2, 3).copy())
    size = images_nchw.shape[-1]
    return images_nchw.view(-1, size * size).index_select(1, _quarter_turn(size, images_nchw.device)).view_as(images_nchw)


@elemental("Swirl", draws=False)
def swirl(images_nchw: Tensor, parameter: float, noise: Noise) -> Tensor:
    """Swirl of strength `parameter` about (S / 2, S / 2) with radius sqrt(2) S / 2, bilinear, the image reflected at its edge pixels' centres."""
    size = images_nchw.shape[-1]
    pixels, weights = _swirl_map(size, parameter, images_nchw.device)
    flat = images_nchw.view(-1, size * size)
    swirled = flat.index_select(1, pixels[0]).mul_(weights[0])
    for corner in (1, 2, 3):
        swirled.addcmul_(flat.index_select(1, pixels[corner]), weights[corner])
    return swirled.clamp_(0, 255).view_as(images_nchw)


def apply_step(
    images_nchw: Tensor, prefix: Sequence[str], *, ids: Tensor | Sequence[int], seed: int, severities: Mapping[str, int] | None = None
) -> Tensor:
    """Applies the last corruption of `prefix` (full names, the steps before it are done) to float32 images (N, C, S, S) in 0..255.

    The noise is keyed by (seed, prefix without Identity, id). Returns new images and leaves the input as it is.
    Raises InputError for a severity that is not on the menu, and where the menu names a corruption that has no function.
    """
    name = prefix[-1]
    if name not in FUNCTIONS:
        raise InputError(f"{name} is on the menu, but data/corruptions.py has no function @elemental({name!r})")
    noise = Noise(seed, [step for step in prefix if step != "Identity"] or ["Identity"], ids)
    parameter = parameter_of(name, severities)
    device = images_nchw.device.type
    if not torch.is_autocast_enabled(device):
        return FUNCTIONS[name](images_nchw, parameter, noise)
    # Under the autocast of a training step the matrix products would be rounded to bfloat16.
    with torch.autocast(device, enabled=False):
        return FUNCTIONS[name](images_nchw, parameter, noise)


def corrupt(
    images_nchw: Tensor,
    composition: Written,
    *,
    ids: Tensor | Sequence[int],
    seed: int,
    severities: Mapping[str, int] | None = None,
) -> Tensor:
    """Images under a composition, float32 (N, C, S, S) in 0..255, before the cut to uint8; a new tensor.

    `images_nchw`: uint8 or floating grey levels 0..255; `composition`: anything that `compositions.parse` takes; `ids`: N whole numbers that
    key the images' noise; `severities`: corruption -> 1..5 where it is not the menu's default.
    Raises InputError for images that are not square, an unknown or repeated corruption or severity, ValueError for wrong shapes or types.
    """
    names = parse(composition)
    images, ids = _prepare(images_nchw, ids)
    severities = check_severities(severities)

    def steps(images: Tensor, ids: Tensor) -> Tensor:
        for step in range(1, len(names) + 1):
            images = apply_step(images, names[:step], ids=ids, seed=seed, severities=severities)
        return images

    if images.device.type != "cpu" or images.numel() <= PIECE:
        return steps(images, ids)
    corrupted = torch.empty_like(images)
    rows = max(1, PIECE // images[0].numel())
    for piece, piece_ids, place in zip(images.split(rows), ids.split(rows), corrupted.split(rows)):
        place.copy_(steps(piece, piece_ids))
    return corrupted


def stream(
    images_nchw: Tensor,
    compositions: Sequence[Written],
    *,
    ids: Tensor | Sequence[int],
    seed: int,
    severities: Mapping[str, int] | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yields (index of the composition, images as `corrupt` gives them) for all compositions, each shared prefix computed once.

    Depth-first through the prefix tree, so not in the order given; at most depth + 1 batches are alive. Later images are made from those
    yielded, which must not be modified. Arguments and errors are those of `corrupt`, with ValueError for a composition given twice.
    """
    images, ids = _prepare(images_nchw, ids)
    severities = check_severities(severities)

    def walk(node: Node, images: Tensor) -> Iterator[tuple[int, Tensor]]:
        if node.index is not None:
            yield node.index, images
        for child in node.children:
            yield from walk(child, apply_step(images, child.prefix, ids=ids, seed=seed, severities=severities))

    yield from walk(prefix_tree(compositions), images)


def to_uint8(images_nchw: Tensor) -> Tensor:
    """Grey levels 0..255 cut (not rounded) to uint8, as is done after the last step of a composition."""
    return images_nchw.to(torch.uint8)


def quantize(images_nchw: Tensor) -> Tensor:
    """The grey levels of `to_uint8`, kept as float32; a new tensor."""
    return images_nchw.floor()


def check_severities(severities: Mapping[str, int] | None) -> dict[str, int]:
    """Severities by full name. Raises InputError for an unknown corruption, one without severities, or a severity out of range."""
    checked = {corruption_name(key): severity for key, severity in (severities or {}).items()}
    for name, severity in checked.items():
        parameter_of(name, {name: severity})
    return checked


def parameter_of(name: str, severities: Mapping[str, int] | None = None) -> float | None:
    """The menu's parameter of a corruption at its severity in `severities` or else its default one; None where it has no parameter."""
    return _parameter(name, severities[name]) if severities and name in severities else _published(name)


# Looked up at every step of every batch, which would take longer than an inversion itself.
@functools.lru_cache(maxsize=64)
def _published(name: str) -> float | None:
    return _parameter(name, _choice(name).default)


def _choice(name: str) -> info_dicts.Choice:
    return next(choice for choice in info_dicts.CORRUPTIONS.values() if choice == name)


def _parameter(name: str, severity: int | None) -> float | None:
    choice = _choice(name)
    if severity is None and not choice.severities:
        return None
    if not choice.severities:
        raise InputError(f"{name} has no severities, got {severity!r}")
    if isinstance(severity, bool) or not isinstance(severity, int) or not 1 <= severity <= len(choice.severities):
        raise InputError(f"severity of {name} must be a whole number from 1 to {len(choice.severities)}, got {severity!r}")
    return choice.severities[severity - 1]


def _prepare(images_nchw: Tensor, ids: Tensor | Sequence[int]) -> tuple[Tensor, Tensor]:
    """Checks a batch; returns contiguous float32 images and their ids as int64 on the same device."""
    if images_nchw.ndim != 4 or not (images_nchw.dtype == torch.uint8 or images_nchw.is_floating_point()):
        raise ValueError(f"images must be (N, C, S, S) in uint8 or floating point, got {tuple(images_nchw.shape)} in {images_nchw.dtype}")
    height, width = images_nchw.shape[2:]
    if height != width or not height:
        raise InputError(f"corruptions need square images, got {height} x {width} pixels (height x width); crop or resize them first")
    ids = torch.as_tensor(ids, dtype=torch.int64, device=images_nchw.device)
    if ids.shape != images_nchw.shape[:1]:
        raise ValueError(f"ids must be ({len(images_nchw)},), one for each image, got {tuple(ids.shape)}")
    return images_nchw.float().contiguous(), ids


@functools.lru_cache(maxsize=64)
def _blur_matrix(size: int, sigma: float, device: torch.device) -> Tensor:
    """(S, S) float32 matrix of the one-dimensional filter: banded, with what falls beyond an edge added to the edge pixel's column."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    taps = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    columns = (torch.arange(size)[:, None] + offsets).clamp_(0, size - 1)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    matrix.scatter_add_(1, columns, (taps / taps.sum()).expand(size, -1).contiguous())
    return matrix.to(device, torch.float32)


@functools.lru_cache(maxsize=64)
def _quarter_turn(size: int, device: torch.device) -> Tensor:
    """(S * S,) indices of the source pixels of a counter-clockwise quarter turn."""
    return torch.arange(size * size).view(size, size).rot90().flatten().to(device)


@functools.lru_cache(maxsize=64)
def _swirl_map(size: int, strength: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices (4, S * S) of the four source pixels of every pixel, and their bilinear weights (4, S * S) float32."""
    centre, radius = size / 2, math.sqrt(2) * size / 2
    rows, columns = (axis.flatten().double() - centre for axis in torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    rho = torch.hypot(rows, columns)
    theta = torch.atan2(rows, columns) + strength * torch.exp(-rho * 5 / (radius * math.log(2)))
    source_rows, source_columns = centre + rho * theta.sin(), centre + rho * theta.cos()
    pixels, weights = [], []
    for row, row_weight in _neighbours(source_rows, size):
        for column, column_weight in _neighbours(source_columns, size):
            pixels.append(row * size + column)
            weights.append(row_weight * column_weight)
    return torch.stack(pixels).to(device), torch.stack(weights).to(device, torch.float32)


def _neighbours(coordinates: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixels around coordinates along one axis, those outside reflected at the edge pixels' centres, with their linear weights."""
    low = coordinates.floor()
    fraction = coordinates - low
    period = max(1, 2 * (size - 1))
    found = []
    for position, weight in ((low, 1 - fraction), (low + 1, fraction)):
        folded = position.long() % period
        found.append((torch.minimum(folded, period - folded), weight))
    return found
