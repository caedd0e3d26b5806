"""Networks whose layers keep only the directions that explain a share delta of their variance (Richter et al., arXiv 2006.08679).

A projection is a linear map of a layer's output channels, so it is folded into the layer's weights: with P the projection and m the mean output,
the layer W x + b becomes P W x + P (b - m) + m. Nothing is trained again, and the network runs as fast as before. The classifier's output is left as it is.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from analysis.covariance import Covariance, intrinsic_dimension
from analysis.options import Projection
from analysis.saturation import Covariances
from analysis.seen import Seen, System
from analysis.table import Row
from analysis.taps import layers
from data.keys import derive

# The rule for the rank that is kept, by that for the dimension that is told.
RANKS = {"delve": "delve rank", "standard": "standard"}


def basis(eigenvectors_cc: Tensor, rank: int, kind: str, key: str) -> Tensor:
    """The directions (C, rank) that are kept: the first eigenvectors, or as many random orthonormal ones, keyed by `key`."""
    if kind == "eigenvectors":
        return eigenvectors_cc[:, :rank]
    generator = torch.Generator().manual_seed(derive("projection", key))
    return torch.linalg.qr(torch.randn(len(eigenvectors_cc), len(eigenvectors_cc), generator=generator, dtype=torch.float64))[0][:, :rank]


@torch.no_grad()
def fold(layer: nn.Conv2d | nn.Linear, directions_cr: Tensor, mean_c: Tensor) -> None:
    """Projects a layer's outputs on orthonormal directions through their mean, by changing its weights in place; computed in float64.

    A convolution in groups becomes one without, since outputs of different groups meet in a projection.
    """
    projection = (directions_cr @ directions_cr.T).to(layer.weight.device)
    mean_c = mean_c.to(layer.weight.device)
    weight = ungrouped(layer).double()
    bias = torch.zeros_like(mean_c) if layer.bias is None else layer.bias.double()
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter((projection @ weight.flatten(1)).view_as(weight).to(dtype), requires_grad=False)
    layer.bias = nn.Parameter((projection @ (bias - mean_c) + mean_c).to(dtype), requires_grad=False)
    if isinstance(layer, nn.Conv2d):
        layer.groups = 1


def ungrouped(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """The weights (C, inputs, ...) by which every output takes all inputs; 0 for those of other groups than its own."""
    weight = layer.weight.detach()
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    if groups == 1:
        return weight
    whole = weight.new_zeros(len(weight), groups * weight.shape[1], *weight.shape[2:])
    for own, inputs in zip(torch.arange(len(weight)).chunk(groups), torch.arange(whole.shape[1]).chunk(groups)):
        whole[own[:, None], inputs] = weight[own]
    return whole


def projected(system: System, covariances: Mapping[str, Covariance], delta: float, options: Projection) -> tuple[System, dict[str, int]]:
    """A copy of a system with every layer projected but the classifier, and the rank that each is left with. From delta 1 on nothing is changed."""
    changed, ranks = copy.deepcopy(system), {}
    own = layers(changed.network)
    for name in list(covariances)[:-1]:
        if delta >= 1:
            ranks[name] = covariances[name].dimension
            continue
        values, vectors = covariances[name].eigenbasis()
        ranks[name] = intrinsic_dimension(values, delta, RANKS[options.rule])
        fold(own[name], basis(vectors, ranks[name], options.basis, f"{name} {delta:g}"), covariances[name].mean().cpu())
    return changed, ranks


def run(seen: Seen, options: Projection, folder: Path) -> list[Row]:
    """Accuracy and loss for every delta under every condition, with the ranks that are left in all layers together, and per layer.

    The eigenvectors are those of the training images under the clean condition, in eval mode.
    """
    rows: list[Row] = []
    word = "projected" if options.basis == "eigenvectors" else "randomly_projected"
    covariances = Covariances()
    with covariances.watching(seen.network):
        for _ in seen.responses(seen.system, "train", seen.pictures.clean, options.train_images):
            pass
    for delta in options.delta:
        system, ranks = projected(seen.system, covariances.of, delta, options)
        kept, there = sum(ranks.values()), sum(covariances.of[name].dimension for name in ranks)
        rows += [Row(f"{word}_dimension_{delta:g}", rank, name, "train") for name, rank in ranks.items()]
        rows += [Row(f"{word}_dimension_{delta:g}", kept, "", "train"), Row(f"{word}_share_{delta:g}", kept / there, "", "train")]
        for condition in seen.pictures.conditions:
            labels = seen.pictures.labels(options.split, condition, options.images)
            logits = torch.cat(list(seen.responses(system, options.split, condition, options.images)))
            cells = seen.pictures.cells(options.split, condition)
            accuracy = (logits.argmax(1) == labels).double().mean().item()
            loss = cross_entropy(logits.double(), labels).item()
            rows += [Row(f"{word}_accuracy_{delta:g}", accuracy, **cells), Row(f"{word}_loss_{delta:g}", loss, **cells)]
    return rows
