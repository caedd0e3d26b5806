"""Saliency: which pixels a network's answer moves with, for a student and its teacher on the same counterfactual images (Simonyan et al., arXiv 1312.6034)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.files import create
from data.class_names import class_names
from data.cue_batches import CounterfactualSet


def saliency(network: nn.Module, images_nchw: Tensor) -> Tensor:
    """The largest absolute value over channels of d (largest logit) / d image, (N, H, W), of network inputs; the network must be in eval mode."""
    images = images_nchw.detach().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(network(images).max(1).values.sum(), images)
    return gradient.abs().amax(1)


def run(networks: Mapping[str, nn.Module], sets: Mapping[str, CounterfactualSet], dataset: str, folder: Path) -> None:
    """Writes saliency.h5 and saliency.png for the chosen images of every set into a folder.

    The file has a group for each set with `image` (N, C, H, W) as stored, `label` (N,), and (N, H, W) float32 of each network by its name; the
    picture shows up to one image of a class.
    """
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    images: dict[str, NDArray[np.generic]] = {}
    labels: dict[str, NDArray[np.int64]] = {}
    for name, own in sets.items():
        maps = {key: torch.cat([saliency(network, chunk) for chunk in own.fast()]) for key, network in networks.items()}
        found[name] = {key: values.cpu().numpy() for key, values in maps.items()}
        images[name], labels[name] = own.levels().cpu().numpy(), own.scene.labels[own.chosen].cpu().numpy()
    with create(folder / "saliency.h5") as file:
        for name, own_maps in found.items():
            file.create_dataset(f"{name}/image", data=images[name], compression="gzip")
            file[f"{name}/label"] = labels[name]
            for key, values in own_maps.items():
                file.create_dataset(f"{name}/{key}", data=values, compression="gzip")
    draw(found, images, labels, class_names(dataset)).savefig(folder / "saliency.png", dpi=100)


def draw(
    found: Mapping[str, Mapping[str, NDArray[np.float32]]],
    images: Mapping[str, NDArray[np.generic]],
    labels: Mapping[str, NDArray[np.int64]],
    classes: Sequence[str],
    columns: int = 10,
) -> Figure:
    """Rows of images and below them the saliency of each network, each map from 0 (dark) to its own largest value."""
    lines = [(name, key) for name, maps in found.items() for key in ("image", *maps)]
    first = next(iter(images.values()))
    height, width = first.shape[-2:]
    with matplotlib.rc_context({"font.size": 6}):
        figure = Figure(figsize=(0.9 + 0.62 * columns, 0.4 + 0.62 * height / width * len(lines)), layout="constrained")
        axes = np.atleast_2d(figure.subplots(len(lines), columns, squeeze=False))
        for row, (name, key) in zip(axes, lines):
            chosen = first_of_each(labels[name])[:columns]
            for axis in row:
                axis.set_axis_off()
            for axis, place in zip(row, chosen):
                if key == "image":
                    image = np.moveaxis(images[name][place], 0, -1)
                    axis.imshow(image.repeat(3, -1) if image.shape[-1] == 1 else image)
                    axis.set_title(classes[labels[name][place]], fontsize=5, pad=1.5)
                else:
                    axis.imshow(found[name][key][place], cmap="magma", vmin=0)
            row[0].set_axis_on()
            row[0].set_xticks([])
            row[0].set_yticks([])
            row[0].set_ylabel(f"{name}\n{key}", rotation=0, ha="right", va="center")
    return figure


def first_of_each(labels_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of the first image of every class, in the order of classes."""
    return np.unique(labels_n, return_index=True)[1]
