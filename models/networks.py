"""Networks as lists of blocks, the registry of architectures, and modules for their levels."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

import info_dicts
import models

WIDTH_STEPS = 64


class Network(nn.Module):
    """A chain of blocks; the last one is the linear classifier. Level i is the tensor that enters block i; level 0 is the image."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_nchw: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run `blocks[start:stop]`: from level `start` to level `stop`, by default from the images (N, 3, H, W) to the logits (N, classes)."""
        for block in self.blocks[start:stop]:
            x_nchw = block(x_nchw)
        return x_nchw


NetworkBuilder = Callable[[int, float], Network]
ModuleBuilder = Callable[[int, float], nn.Module]
Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_network_builders: dict[str, NetworkBuilder] = {}
_module_builders: dict[str, ModuleBuilder] = {}


def network(model: str) -> Callable[[NetworkBuilder], NetworkBuilder]:
    """Decorator: registers `build(classes, width) -> Network` as the architecture of that name in `info_dicts.MODELS`."""
    return lambda build: _register(_network_builders, model, build)


def module(model: str) -> Callable[[ModuleBuilder], ModuleBuilder]:
    """Decorator: registers `build(level, width) -> nn.Module`, the module for a level of that architecture."""
    return lambda build: _register(_module_builders, model, build)


def build_network(model: str, classes: int, width: float = 1.0) -> Network:
    """Return a freshly initialised network of an architecture in `info_dicts.MODELS`, drawn from torch's global generator.

    `width` multiplies every hidden number of channels and units (see `scaled`); 1 gives the published network.
    Raises ValueError for an architecture that is not on the menu or has no builder.
    """
    _blocks(model)
    return _find(_network_builders, model)(classes, width)


def build_module(model: str, level: int, width: float = 1.0) -> nn.Module:
    """Return a freshly initialised module for a level of an architecture: its output has the shape of its input, the tensor of that level.

    `width` is that of the network it belongs to. Raises ValueError unless level is in 0..blocks-1.
    """
    blocks = _blocks(model)
    if not 0 <= level < blocks:
        raise ValueError(f"{model} has levels 0..{blocks - 1}, not {level}")
    return _find(_module_builders, model)(level, width)


def scaled(channels: int, width: float) -> int:
    """The number of channels at a width multiplier: rounded, at least 1."""
    return max(1, round(channels * width))


def count_parameters(part: nn.Module) -> int:
    """The number of parameters, frozen or not, of a network or module (buffers are not parameters)."""
    return sum(parameter.numel() for parameter in part.parameters())


def width_for(model: str, classes: int, parameters: int) -> float:
    """The smallest width multiplier, in steps of 1/64, whose network has at least that many parameters.

    For controls that are matched in parameters. Networks are counted on the meta device, so nothing is allocated or drawn.
    """

    def enough(steps: int) -> bool:
        with torch.device("meta"):
            return count_parameters(build_network(model, classes, steps / WIDTH_STEPS)) >= parameters

    low, high = 0, WIDTH_STEPS
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high / WIDTH_STEPS


def _register(builders: dict[str, Builder], model: str, build: Builder) -> Builder:
    if model in builders:
        raise ValueError(f"{model} is registered twice")
    builders[model] = build
    return build


def _find(builders: dict[str, Builder], model: str) -> Builder:
    if model not in builders:
        for file in pkgutil.iter_modules(models.__path__):
            importlib.import_module(f"models.{file.name}")
    if model not in builders:
        raise ValueError(f"no file in models/ registers a builder for {model!r}")
    return builders[model]


def _blocks(model: str) -> int:
    for choice in info_dicts.MODELS.values():
        if choice == model:
            return choice.blocks
    raise ValueError(f"no model {model!r} on the menu: {', '.join(info_dicts.MODELS.values())}")
