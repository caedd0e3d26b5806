"""Magnitude pruning by a schedule (Zhu and Gupta, arXiv 1710.01878), as a part of the training: a weight is pruned where it is 0.

Of every kernel that is trained the smallest weights are set to 0 every so many steps, and kept there in between; biases and norms are left alone. A weight is only
looked at again when more are pruned. Nothing is remembered beside the weights, so a checkpoint holds it all.
"""

from collections.abc import Iterator

import torch
from torch import nn

from models.wiring import LAYERS
from train.sparse import Pruning


def kernels(network: nn.Module) -> Iterator[torch.Tensor]:
    """The weights of convolutions and linear layers that are trained."""
    for layer in network.modules():
        if isinstance(layer, LAYERS) and layer.weight.requires_grad:
            yield layer.weight


def sparsity(pruning: Pruning, step: int, steps: int) -> float:
    """The share of weights that are 0 after a step (from 0 on) of all `steps`; the last one's is the schedule's end."""
    left = 1 - min(1.0, step / max(1, steps - 1))
    return pruning.sparsity + (pruning.start - pruning.sparsity) * left**pruning.power


class Pruner:
    """Prunes a network after each of its steps. Masks are those of the weights that are 0 when it begins, or goes on."""

    def __init__(self, pruning: Pruning, network: nn.Module, steps: int):
        self.pruning, self.steps = pruning, steps
        self.weights = list(kernels(network))
        self.masks = [weight != 0 for weight in self.weights]

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Prunes after step number `step` of the pruned epochs (from 0 on)."""
        due = step % self.pruning.every == 0 or step == self.steps - 1
        share = sparsity(self.pruning, step, self.steps)
        for place, weight in enumerate(self.weights):
            weight.mul_(self.masks[place])
            if due:
                self.masks[place] = largest(weight, share)
                weight.mul_(self.masks[place])

    def share(self) -> float:
        """The share of the weights that are 0."""
        return sum(int((weight == 0).sum()) for weight in self.weights) / max(1, sum(weight.numel() for weight in self.weights))


def largest(weight: torch.Tensor, share: float) -> torch.Tensor:
    """A mask of all but the smallest `share` of the weights by their size."""
    pruned = round(share * weight.numel())
    if pruned == 0:
        return torch.ones_like(weight, dtype=torch.bool)
    # By their places, so that of weights of one size no more go than are asked.
    smallest = weight.abs().flatten().topk(pruned, largest=False, sorted=False).indices
    return torch.ones_like(weight, dtype=torch.bool).flatten().scatter_(0, smallest, False).view_as(weight)
