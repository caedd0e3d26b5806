"""ModularSystem: a backbone with one module per corruption, applied where its routing says so.

Before block j all modules of level j whose corruption is to be undone are applied, those of one level in the routing's order.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.networks import Activations, Network, count_parameters
from train.checkpoint import read_facts
from train.method import Method, System, load_network, load_part
from train.module import fresh_module
from train.routing import Routing


class ModularNetwork(System):
    """Backbone and modules. `levels` maps a corruption to the level of its module."""

    def __init__(self, backbone: Network, modules: dict[str, nn.Module], levels: dict[str, int], routing: Routing):
        super().__init__()
        self.backbone, self.modules_of, self.levels = backbone, nn.ModuleDict(modules), levels
        self.routing, self.router = routing, routing.router
        self.trained_parameters = self.total_parameters = count_parameters(self)

    @property
    def network(self) -> Network:  # type: ignore[override]
        return self.backbone

    def steps(self, names: Sequence[str]) -> list[tuple[int, str]]:
        """The (level, corruption) of the modules that undo these corruptions, in the order in which they are applied."""
        return sorted(((self.levels[name], name) for name in names), key=lambda step: step[0])

    def activate(self, restored_nchw: Tensor, composition: Sequence[str]) -> Activations:
        widths: list[int] = []

        def side_by_side(images_nchw: Tensor, names: Sequence[str]) -> Tensor:
            found = self.repair(images_nchw, names)
            widths[:] = [part.shape[1] for part in found]
            return torch.cat(found, dim=1)

        return Activations(*self.routing.follow(side_by_side, restored_nchw, composition).split(widths, dim=1))

    def repair(self, images_nchw: Tensor, names: Sequence[str]) -> Activations:
        """What the backbone makes of images with the modules for these corruptions in place."""
        features, at = images_nchw, 0
        for level, name in self.steps(names):
            features = self.modules_of[name](self.backbone(features, at, level))
            at = level
        return self.backbone.activate(features, at)


class ModularSystem(Method):
    @classmethod
    def system(cls, experiment: Any, device: torch.device) -> System:
        levels = {part.corruption: read_facts(part)["level"] for part in experiment.modules()}
        modules = {part.corruption: load_part(fresh_module(part, levels[part.corruption]), part, device) for part in experiment.modules()}
        return ModularNetwork(load_network(experiment.backbone, device), modules, levels, Routing.of(experiment, device)).eval()
