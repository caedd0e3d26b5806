"""A network without some of its units: quick where many lesions are made, since everything before the first of them is computed once for a chunk of images.

A lesion takes away the incoming weights and the bias of units, so that the outputs of their layer, before any norm and activation, are 0.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from errors import InputError
from models.networks import Network

# Units (C,) of layers that stay, float32: 1, and 0 for those that are taken away.
Masks = Mapping[str, Tensor]


def masked(outputs: Tensor, mask_c: Tensor) -> Tensor:
    """Outputs (N, C) or (N, C, H, W) of which only the units of the mask are left."""
    return outputs * mask_c.view(1, -1, *[1] * (outputs.ndim - 2))


def flatten(path: str, part: nn.Module) -> list[tuple[str, nn.Module]]:
    """A module as steps that come one after the other, by their paths: plain sequences are taken apart."""
    if type(part) is nn.Sequential:
        return [step for name, own in part.named_children() for step in flatten(f"{path}.{name}", own)]
    return [(path, part)]


class Chain:
    """A network as a chain of steps, with what is known of a chunk of images before each layer that may lose units."""

    def __init__(self, network: Network, layers: Sequence[str]):
        self.network = network
        self.steps = [step for number, block in enumerate(network.blocks) for step in flatten(f"blocks.{number}", block)]
        self.place: dict[str, int] = {}
        for layer in layers:
            found = [number for number, (path, _) in enumerate(self.steps) if layer == path or layer.startswith(f"{path}.")]
            if not found:
                raise InputError(f"lesions: there is no layer {layer} in the network")
            self.place[layer] = found[0]
        self.before: dict[int, Tensor] = {}

    def is_step(self, layer: str) -> bool:
        """Whether a layer is a step by itself, not inside one."""
        return self.steps[self.place[layer]][0] == layer

    def load(self, images_nchw: Tensor) -> Tensor:
        """Takes in images (N, 3, H, W); returns the logits of the intact network."""
        x, self.before = self.network.prepare(images_nchw), {}
        starts = {self.place[layer]: self.is_step(layer) for layer in self.place}
        for number, (_, step) in enumerate(self.steps):
            if starts.get(number) is False:
                self.before[number] = x
            x = step(x)
            if starts.get(number):
                self.before[number] = x
        return x

    def logits(self, masks: Masks) -> Tensor:
        """The logits (N, classes) of the images without these units."""
        order = sorted(masks, key=lambda layer: self.place[layer])
        start = self.place[order[0]]
        x, done = self.before[start], self.is_step(order[0])
        inside = {layer: mask for layer, mask in masks.items() if not self.is_step(layer)}
        own = {self.place[layer]: mask for layer, mask in masks.items() if self.is_step(layer)}
        if done:
            x, start = masked(x, own[start]), start + 1
        with ExitStack() as stack:
            hook_all(stack, self.network, inside)
            for number in range(start, len(self.steps)):
                x = self.steps[number][1](x)
                if number in own:
                    x = masked(x, own[number])
        return x


def hook_all(stack: ExitStack, network: nn.Module, masks: Masks) -> None:
    """Takes units away wherever their layers are called, until the stack is left."""
    for layer, mask in masks.items():

        def hook(part: nn.Module, inputs: Any, outputs: Tensor, mask: Tensor = mask) -> Tensor:
            return masked(outputs, mask)

        stack.callback(network.get_submodule(layer).register_forward_hook(hook).remove)


class Whole:
    """A system of several parts, which is run from the images for each lesion of its network."""

    def __init__(self, system: Any, names: Any):
        self.system, self.names = system, names
        self.images = torch.empty(0)

    def load(self, images_nchw: Tensor) -> Tensor:
        self.images = images_nchw
        return self.system(images_nchw, self.names)

    def logits(self, masks: Masks) -> Tensor:
        with ExitStack() as stack:
            hook_all(stack, self.system.network, masks)
            return self.system(self.images, self.names)
