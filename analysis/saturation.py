"""Saturation of layers: the share of a layer's dimensions that the variance of its outputs takes (Richter et al., arXiv 2006.08679)."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from analysis.covariance import Covariance, Scratch, intrinsic_dimension
from analysis.options import Saturation
from analysis.seen import Seen, System
from analysis.table import Row
from analysis.taps import rows_of, tapped
from data.files import appearing
from models.networks import Network

# What of a convolution's output (N, C, H, W) are the samples; of a map all positions.
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "channelwise": lambda maps: maps,
    "mean": lambda maps: maps.mean((2, 3)),
    "max": lambda maps: maps.amax((2, 3)),
    "median": lambda maps: maps.flatten(2).median(2).values,
    "flatten": lambda maps: maps.flatten(1),
}


class Covariances:
    """The covariance of every layer's outputs, from the forward passes that it watches."""

    def __init__(self, conv: str = "channelwise", downsample: int | None = None):
        self.way, self.downsample = WAYS[conv], downsample
        self.of: dict[str, Covariance] = {}
        self.scratch = Scratch()

    def watching(self, network: Network) -> AbstractContextManager[None]:
        """A context in which the outputs of all forward passes of a network are taken in."""
        return tapped(network, self.take)

    def take(self, layer: str, features: Tensor) -> None:
        if features.ndim == 4:
            if self.downsample is not None and max(features.shape[2:]) > self.downsample:
                features = interpolate(features, size=[min(side, self.downsample) for side in features.shape[2:]], mode="nearest")
            features = self.way(features)
        if layer not in self.of:
            self.of[layer] = Covariance(self.scratch)
        self.of[layer].add(features if features.ndim == 4 else rows_of(features))

    def spectra(self) -> dict[str, np.ndarray]:
        """The eigenvalues of every layer, descending, float64."""
        return {layer: covariance.eigenvalues().numpy() for layer, covariance in self.of.items()}

    def state(self) -> dict[str, Any]:
        return {layer: covariance.state() for layer, covariance in self.of.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.of = {layer: Covariance.restore(own, self.scratch) for layer, own in state.items()}


def measures(eigenvalues_c: Tensor, options: Saturation) -> dict[str, float]:
    """What is told of a layer: its saturation and intrinsic dimension for every delta, its dimension, and the trace of its covariance.

    Where the eigenvalues are NaN, so is all but the dimension.
    """
    found: dict[str, float] = {}
    known = bool(eigenvalues_c.isfinite().all())
    for delta in options.delta:
        dimension = intrinsic_dimension(eigenvalues_c, delta, options.rule) if known else math.nan
        found[f"saturation_{delta:g}"] = dimension / len(eigenvalues_c)
        found[f"intrinsic_dimension_{delta:g}"] = dimension
    return found | {"dimension": len(eigenvalues_c), "trace": float(eigenvalues_c.sum())}


def saturate(seen: Seen, system: System, split: str, condition: str, options: Saturation) -> Covariances:
    """The covariances of a system's layers on images of a split."""
    covariances = Covariances(options.conv, options.downsample)
    with covariances.watching(system.network):
        for _ in seen.responses(system, split, condition, options.images):
            pass
    return covariances


def run(seen: Seen, options: Saturation, folder: Path) -> list[Row]:
    """Saturation, intrinsic dimension, dimension and trace of every layer under every condition; the spectra as spectra.npz, named `<condition>/<layer>`."""
    rows: list[Row] = []
    spectra = {}
    for condition in seen.pictures.conditions:
        covariances = saturate(seen, seen.system, options.split, condition, options)
        cells = seen.pictures.cells(options.split, condition)
        for layer, covariance in covariances.of.items():
            eigenvalues = covariance.eigenvalues()
            spectra[f"{condition}/{layer}"] = eigenvalues.numpy()
            rows += [Row(metric, value, layer, **cells) for metric, value in measures(eigenvalues, options).items()]
    save_npz(folder / "spectra.npz", spectra)
    return rows


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays by name as one compressed file, which appears whole; `numpy.load` reads it without pickle."""
    with appearing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
