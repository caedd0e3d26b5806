"""Draws scenes like those of 3D Shapes: one object on the floor of a square room, seen by a camera that turns around it.

The geometry depends on scale, shape and orientation alone. So for each of these the shares of floor, wall, object and sky in every pixel are found by
casting rays, and images are these shares times the colours, in whole numbers: the same bits on every machine (no BLAS, no vectorised sine).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data.files import appearing
from data.shapes import PIXELS, SHAPES, Block, values, write_published
from errors import InputError

NOTE = "rendered by this project with data/shapes_render.py; not the published 3D Shapes data"

# Lengths are in half heights of an object of scale 1, which stands at the origin; y is up.
ROOM, WALL_HEIGHT = 6.0, 4.6
CAMERA, TARGET, HALF_VIEW = (5.9, 3.9), 0.95, 0.36
SAMPLES = 4
# From the object to the light; its length is 1 (2/7, 6/7, 3/7).
LIGHT = (2 / 7, 6 / 7, 3 / 7)
FLOOR_LIGHT, SHADOW = 0.92, 0.5
AMBIENT, DIFFUSE = 0.42, 0.58
SATURATION = 0.9
SKY = (204, 224, 240)
MATERIALS = ("floor", "wall", "object", "sky")

Array = NDArray[np.float64]
Vector = tuple[Array | float, Array | float, Array | float]


class Hit(NamedTuple):
    """Where rays (n,) enter a convex body: the distance (infinite where they miss it) and the normal there."""

    distance: Array
    normal: tuple[Array, Array, Array]


class Span(NamedTuple):
    """Where rays are inside: from `start` to `end`, nowhere if these are the wrong way round; and the normal at the start."""

    start: Array
    end: Array
    normal: tuple[Array, Array, Array]


def _slab(origin: Vector, direction: Vector, axis: int, low: float, high: float) -> Span:
    """Between two planes that are perpendicular to an axis."""
    first, second = (low - origin[axis]) / direction[axis], (high - origin[axis]) / direction[axis]
    zero = np.zeros_like(first)
    normal = [zero, zero, zero]
    normal[axis] = -np.sign(direction[axis]) + zero
    return Span(np.minimum(first, second), np.maximum(first, second), (normal[0], normal[1], normal[2]))


def _round(origin: Vector, direction: Vector, radius: float, height: float | None) -> Span:
    """Inside a sphere around (0, height, 0), or inside a cylinder around the y axis where there is no height."""
    up, rise = (0.0, 0.0) if height is None else (origin[1] - height, direction[1])
    a = direction[0] * direction[0] + rise * rise + direction[2] * direction[2]
    b = origin[0] * direction[0] + up * rise + origin[2] * direction[2]
    c = origin[0] * origin[0] + up * up + origin[2] * origin[2] - radius * radius
    inside = b * b - a * c
    root = np.sqrt(np.maximum(inside, 0.0))
    start = np.where(inside > 0, (-b - root) / a, np.inf)
    end = np.where(inside > 0, (-b + root) / a, -np.inf)
    reached = np.where(inside > 0, start, 0.0)
    x, y, z = ((o + reached * d) / radius for o, d in ((origin[0], direction[0]), (up, rise), (origin[2], direction[2])))
    return Span(start, end, (x, y, z))


def _common(*spans: Span) -> Hit:
    """Where rays enter what is inside all of the spans."""
    start, end, normal = spans[0]
    for other in spans[1:]:
        later = other.start > start
        start, end = np.maximum(start, other.start), np.minimum(end, other.end)
        normal = tuple(np.where(later, theirs, own) for theirs, own in zip(other.normal, normal))  # type: ignore[assignment]
    return Hit(np.where((start < end) & (start > 0), start, np.inf), normal)


def _nearest(*hits: Hit) -> Hit:
    """The first of the hits of every ray."""
    distance, normal = hits[0]
    for other in hits[1:]:
        nearer = other.distance < distance
        distance = np.minimum(distance, other.distance)
        normal = tuple(np.where(nearer, theirs, own) for theirs, own in zip(other.normal, normal))  # type: ignore[assignment]
    return Hit(distance, normal)


def _cube(origin: Vector, direction: Vector, size: float) -> Hit:
    half = 0.85 * size
    sides = ((0, -half, half), (1, 0.0, 2 * half), (2, -half, half))
    return _common(*(_slab(origin, direction, axis, low, high) for axis, low, high in sides))


def _cylinder(origin: Vector, direction: Vector, size: float) -> Hit:
    return _common(_round(origin, direction, 0.85 * size, None), _slab(origin, direction, 1, 0.0, 1.8 * size))


def _sphere(origin: Vector, direction: Vector, size: float) -> Hit:
    return _common(_round(origin, direction, size, size))


def _pill(origin: Vector, direction: Vector, size: float) -> Hit:
    radius, top = 0.65 * size, 2.2 * size
    middle = _common(_round(origin, direction, radius, None), _slab(origin, direction, 1, radius, top - radius))
    return _nearest(middle, *(_common(_round(origin, direction, radius, height)) for height in (radius, top - radius)))


BODIES: dict[str, Callable[[Vector, Vector, float], Hit]] = {"cube": _cube, "cylinder": _cylinder, "sphere": _sphere, "pill": _pill}


class Room:
    """The rays of a camera turned by `degrees` around the y axis, and what they meet in an empty room."""

    def __init__(self, degrees: float):
        sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        away, height = CAMERA
        self.origin = (away * sine, height, away * cosine)
        # Across and up the picture at distance 1, the centres of samples.
        side = SAMPLES * PIXELS
        steps = (2 * np.arange(side) + 1 - side) / side * HALF_VIEW
        across, up = (grid.reshape(-1) for grid in np.meshgrid(steps, -steps))
        length = math.sqrt(away * away + (height - TARGET) * (height - TARGET))
        ahead, fall = away / length, (height - TARGET) / length
        level, rise = ahead + up * fall, up * ahead - fall
        self.direction = (across * cosine - level * sine, rise, -across * sine - level * cosine)
        walls = [_slab(self.origin, self.direction, axis, -ROOM, ROOM).end for axis in (0, 2)]
        wall, floor = np.minimum(*walls), np.where(rise < 0, -height / rise, np.inf)
        self.distance = np.minimum(wall, floor)
        meets_floor, low = floor < wall, height + wall * rise < WALL_HEIGHT
        self.material = np.where(meets_floor, 0, np.where(low, 1, 3))
        # A wall is the darker the more it is turned away from the light, so that corners are seen.
        facing = np.where(walls[0] < walls[1], -np.sign(self.direction[0]) * LIGHT[0], -np.sign(self.direction[2]) * LIGHT[2])
        self.light = np.where(meets_floor, FLOOR_LIGHT, np.where(low, 0.74 + 0.4 * facing, 1.0))

    def shares(self, shape: str, size: float) -> NDArray[np.uint8]:
        """The shares (4, 64, 64) of `MATERIALS` in every pixel with an object in the room, each times its light, in 255ths; they add up to 255 at most."""
        hit = BODIES[shape](self.origin, self.direction, size)
        seen = hit.distance < self.distance
        lit = sum(normal * light for normal, light in zip(hit.normal, LIGHT))
        light = np.where(seen, AMBIENT + DIFFUSE * np.maximum(lit, 0.0), self.light)
        material = np.where(seen, 2, self.material)
        floor = np.flatnonzero(material == 0)
        places = (*(o + self.distance[floor] * d[floor] for o, d in zip(self.origin, self.direction)),)
        towards = tuple(np.full(len(floor), part) for part in LIGHT)
        shaded = BODIES[shape]((places[0], 0.0 * places[1], places[2]), (towards[0], towards[1], towards[2]), size).distance < np.inf
        light[floor[shaded]] = SHADOW
        # Whole numbers before they are added, so that the order of the sum does not matter.
        levels = np.rint(light * (255 * SAMPLES * SAMPLES)).astype(np.int64)
        found = np.zeros((len(MATERIALS), PIXELS, PIXELS), np.uint8)
        for number in range(len(MATERIALS)):
            own = np.where(material == number, levels, 0).reshape(PIXELS, SAMPLES, PIXELS, SAMPLES)
            found[number] = own.sum(axis=(1, 3)) // SAMPLES**4
        return found


def colour(hue: float) -> NDArray[np.uint16]:
    """Red, green and blue (3,) in 0..255 of a hue in 0..1."""
    import colorsys

    return np.rint(np.array(colorsys.hsv_to_rgb(hue, SATURATION, 1.0)) * 255).astype(np.uint16)


def render(sizes: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """The images of a grid of six factors (data.shapes) in order, a block (n, 64, 64, 3) for every triple of colours, n = scales x shapes x orientations."""
    floors, walls, objects, scales, shapes, orientations = values(sizes)
    rooms = [Room(float(degrees)) for degrees in orientations]
    with np.errstate(divide="ignore"):
        shares = np.stack([room.shares(SHAPES[int(shape)], float(scale)) for scale, shape, room in product(scales, shapes, rooms)])
    parts = {material: shares[:, number, :, :, None].astype(np.uint16) for number, material in enumerate(MATERIALS)}
    sky = parts["sky"] * np.array(SKY, np.uint16) + np.uint16(127)
    for floor, wall in product(floors, walls):
        around = sky + parts["floor"] * colour(floor) + parts["wall"] * colour(wall)
        for hue in objects:
            yield ((around + parts["object"] * colour(hue)) // np.uint16(255)).astype(np.uint8)


def blocks(sizes: Sequence[int]) -> Iterator[Block]:
    """The same as ids (n,) and images (n, 3, 64, 64)."""
    start = 0
    for images_nhwc in render(sizes):
        yield np.arange(start, start + len(images_nhwc)), images_nhwc.transpose(0, 3, 1, 2)
        start += len(images_nhwc)


def write_rendered(path: Path, sizes: Sequence[int]) -> None:
    """Render the grid into a file in the published layout, which appears complete or not at all; InputError where it cannot be written."""
    images = tqdm(render(sizes), desc="rendering", total=int(np.prod(sizes[:3])), unit="block", disable=None, leave=False)
    try:
        with appearing(path) as temporary:
            write_published(temporary, sizes, images, NOTE)
    except OSError as error:
        raise InputError(f"--out {path} cannot be written ({error})") from error
