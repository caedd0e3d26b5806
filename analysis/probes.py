"""Probes: how well a linear classifier reads the class off every layer, under every condition (Alain and Bengio, arXiv 1610.01644).

Nothing is stored of the features: the forward pass is repeated for as many groups of layers as fit into memory at once, and every result is kept as soon as
it is there. Probes are fitted on the training images, in eval mode, without augmentation.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.logistic import Probe, fit
from analysis.options import Probes
from analysis.pooling import pool, pooled_size
from analysis.seen import Seen, System
from analysis.table import Row
from analysis.taps import tapped
from data.files import appearing


@dataclass(frozen=True)
class Point:
    """Where a probe reads: a layer or level, and how its map is pooled. `shape` is that of one image's features there."""

    layer: str
    pooling: int | str
    shape: tuple[int, ...]

    @property
    def word(self) -> str:
        """How the pooling stands in a metric's name."""
        return self.pooling if isinstance(self.pooling, str) else f"{self.pooling}x{self.pooling}"

    @property
    def side(self) -> int | None:
        return self.pooling if isinstance(self.pooling, int) else None

    @property
    def values(self) -> int:
        """Features of one image that are held."""
        return pooled_size(self.shape, self.side)

    def places(self) -> list[tuple[str, slice | None]]:
        """What is probed here: the whole, or each position of the map by itself, with its name and its columns."""
        if self.pooling != "pixel" or len(self.shape) != 3:
            return [(self.layer, None)]
        channels, height, width = self.shape
        positions = height * width
        return [
            (f"{self.layer}@{place // width},{place % width}", slice(place, channels * positions, positions)) for place in range(positions)
        ]


def points(system: System, seen: Seen, options: Probes) -> list[Point]:
    """Where probes read, in the order of the forward pass; InputError where a system takes the images of a batch apart."""
    shapes: dict[str, tuple[int, ...]] = {}
    condition, rows = seen.pictures.conditions[-1], 0

    def take(name: str, features: Tensor) -> None:
        if name in shapes or len(features) != rows:
            raise seen.apart(name)
        shapes[name] = tuple(features.shape[1:])

    with torch.no_grad(), tapped(system.network, take, options.at):
        chunk = next(iter(seen.pictures.batches(options.split, condition, options.images)))
        rows = len(chunk)
        system(chunk, seen.pictures.names(condition))
    return [Point(name, pooling, shape) for pooling in options.pooling for name, shape in shapes.items()]


def groups(found: Sequence[Point], rows: int, gigabytes: float) -> list[list[Point]]:
    """Points whose features of so many images are held at once, in order; each by itself where it is larger than that."""
    made: list[list[Point]] = []
    held = 0.0
    for point in found:
        size = 4 * rows * point.values / 1e9
        if not made or held + size > gigabytes:
            made.append([])
            held = 0.0
        made[-1].append(point)
        held += size
    return made


def extract(
    seen: Seen, system: System, own: Sequence[Point], split: str, condition: str, images: int | None, at: str
) -> dict[Point, Tensor]:
    """The features (N, D) float32 of every point, from one pass over the images; InputError as `points`."""
    n = len(seen.pictures.labels(split, condition, images))
    found = {point: torch.empty(n, point.values, device=seen.device) for point in own}
    start = 0

    def take(name: str, features: Tensor) -> None:
        for point in own:
            if point.layer == name:
                found[point][start : start + len(features)] = pool(features.float(), point.side)

    for logits in seen.watched(system, take, at, {point.layer for point in own}, split, condition, images):
        start += len(logits)
    return found


class Cache:
    """What is known of probes that are fitted, in a folder: a file for each, so that a killed analysis goes on where it was."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, kind: str, point: Point, condition: str) -> Path:
        return self.folder / f"{kind}-{condition}-{point.layer.replace(' ', '')}-{point.word}.json"

    def get(self, kind: str, point: Point, condition: str) -> list[list[Any]] | None:
        try:
            return json.loads(self.path(kind, point, condition).read_text())
        except (OSError, ValueError):
            return None

    def put(self, kind: str, point: Point, condition: str, values: list[list[Any]]) -> None:
        with appearing(self.path(kind, point, condition)) as temporary:
            temporary.write_text(json.dumps(values))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_places(features_nd: Tensor, point: Point, fit_one: Callable[[Tensor], Probe]) -> dict[str, Probe]:
    """A probe for each place of a point. Many small ones run side by side, a thread each; a single one has all threads."""
    places = point.places()
    if len(places) == 1:
        return {places[0][0]: fit_one(features_nd)}
    workers = torch.get_num_threads()
    with threads(1), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool_of:
        fitted = pool_of.map(lambda columns: fit_one(features_nd[:, columns].contiguous()), [columns for _, columns in places])
        return dict(zip([name for name, _ in places], fitted))


def run(seen: Seen, options: Probes, folder: Path) -> list[Row]:
    """Accuracies of probes of every point under every condition, on test and training images; each is kept in the folder as soon as it is there.

    Metrics, each followed by `_` and the pooling: `probe_accuracy` of the probe that was fitted on features of the clean condition,
    `probe_accuracy_own` of one fitted on the condition's own, `probe_accuracy_untrained` of one fitted on the condition's own features of the network before
    training; on training images (of the condition a probe was fitted on) also `probe_iterations`, and `probe_gap`: what its objective is above the
    minimum, at most, as a share of it. With `pixel` a layer is followed by `@row,column`.
    """
    cache = Cache(folder / "probes")
    rows: list[Row] = []
    kinds = {"trained": lambda: seen.system} | ({"untrained": seen.untrained} if options.untrained else {})
    for kind, make in kinds.items():
        system = make()
        found = points(system, seen, options)
        sizes = [len(seen.pictures.labels("train", seen.pictures.clean, options.train_images))]
        sizes.append(len(seen.pictures.labels(options.split, seen.pictures.clean, options.images)))
        for own in groups(found, sum(sizes), options.memory):
            probe_group(seen, system, kind, own, options, cache)
    for kind in kinds:
        for condition in seen.pictures.conditions:
            for point in found:
                for name, layer, split, value in cache.get(kind, point, condition) or ():
                    cells = seen.pictures.cells(split, condition)
                    rows.append(Row(f"{name}_{point.word}", value, layer, **cells))
    shutil.rmtree(cache.folder)
    return rows


def probe_group(seen: Seen, system: System, kind: str, own: Sequence[Point], options: Probes, cache: Cache) -> None:
    """Fits and tests the probes of some points under all conditions, as far as the cache lacks them."""
    clean: dict[Point, dict[str, Probe]] = {}
    fit_own = options.own or kind == "untrained"
    conditions = seen.pictures.conditions
    if all(cache.get(kind, point, condition) is not None for point in own for condition in conditions):
        return
    for condition in dict.fromkeys((seen.pictures.clean, *conditions)):
        is_clean = condition == seen.pictures.clean
        fitted: dict[Point, dict[str, Probe]] = {}
        missing = condition in conditions and any(cache.get(kind, point, condition) is None for point in own)
        # Clean probes are fitted again where a killed analysis had got beyond them: they are not kept.
        if (is_clean and kind == "trained") or (missing and fit_own):
            labels = seen.pictures.labels("train", condition, options.train_images)
            features = extract(seen, system, own, "train", condition, options.train_images, options.at)
            for point in own:
                fitted[point] = fit_places(features.pop(point), point, lambda x, labels=labels: fit_one(x, labels, seen, options))  # type: ignore[misc]
                seen.tick()
        if is_clean:
            clean = fitted
        if not missing:
            continue
        labels = seen.pictures.labels(options.split, condition, options.images)
        features = extract(seen, system, own, options.split, condition, options.images, options.at)
        for point in own:
            values: list[list[Any]] = []
            for name, columns in point.places():
                x = features[point] if columns is None else features[point][:, columns]
                if kind == "trained":
                    values.append(["probe_accuracy", name, options.split, clean[point][name].accuracy(x, labels)])
                if point in fitted and fit_own:
                    probe, word = fitted[point][name], "own" if kind == "trained" else "untrained"
                    values.append([f"probe_accuracy_{word}", name, options.split, probe.accuracy(x, labels)])
                if point in fitted:
                    probe = fitted[point][name]
                    prefix = "probe" if kind == "trained" else "untrained_probe"
                    values += [
                        [f"{prefix}_fit_accuracy", name, "train", probe.fitted_accuracy],
                        [f"{prefix}_gap", name, "train", probe.gap / probe.objective if probe.objective else 0.0],
                        [f"{prefix}_iterations", name, "train", probe.iterations],
                    ]
            cache.put(kind, point, condition, values)


def fit_one(features_nd: Tensor, labels_n: Tensor, seen: Seen, options: Probes) -> Probe:
    return fit(
        features_nd, labels_n, seen.classes, options.C, standardise=options.standardise, tolerance=options.tolerance,
        max_iterations=options.max_iterations,
    )  # fmt: skip
