"""ModularSystem: a backbone with one module per corruption; told the names (and order) of the corruptions in an image.

Before block j all modules of level j whose corruption is in the composition are applied. Those of one level follow the order in
which the corruptions were applied (published), the reverse, or an order drawn once for each composition.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from data.noise import derive
from models.networks import build_module, count_parameters
from train.checkpoint import load_weights, read_facts
from train.method import Method, Stage, System, load_network


class ModularNetwork(System):
    """Backbone and modules. `levels` maps a corruption to the level of its module."""

    def __init__(self, backbone: nn.Module, modules: dict[str, nn.Module], levels: dict[str, int], order: str, seed: int):
        super().__init__()
        self.backbone, self.modules_of, self.levels = backbone, nn.ModuleDict(modules), levels
        self.order, self.seed = order, seed
        self.trained_parameters = self.total_parameters = count_parameters(backbone) + sum(map(count_parameters, modules.values()))

    def route(self, composition: Sequence[str]) -> list[tuple[int, str]]:
        """The (level, corruption) of the modules to apply, in order; a corruption that has no module is passed by."""
        names = [name for name in composition if name in self.levels]
        if self.order == "reverse":
            names.reverse()
        elif self.order == "random":
            random.Random(derive("module order", self.seed, list(composition))).shuffle(names)
        return sorted(((self.levels[name], name) for name in names), key=lambda step: step[0])

    def forward(self, images_nchw: Tensor, composition: Sequence[str]) -> Tensor:
        features, at = images_nchw, 0
        for level, name in self.route(composition):
            features = self.modules_of[name](self.backbone(features, at, level))
            at = level
        return self.backbone(features, at)


class ModularSystem(Method):
    def stages(self) -> list[Stage]:
        return []

    @classmethod
    def system(cls, experiment: Any, device: torch.device) -> System:
        modules, levels = {}, {}
        for part in experiment.modules():
            levels[part.corruption] = read_facts(part)["level"]
            module = build_module(part.model, levels[part.corruption])
            load_weights(module, part)
            modules[part.corruption] = module.eval().requires_grad_(False)
        backbone = load_network(experiment.backbone, device)
        return ModularNetwork(backbone, modules, levels, experiment.order, experiment.seed).to(device).eval()
