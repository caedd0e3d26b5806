"""Networks as lists of blocks, the registry of architectures, modules for their levels, and autoencoders for their images."""

import functools
import importlib
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import info_dicts
import models
from errors import InputError
from registry import is_factory, load_factory

WIDTH_STEPS = 64
# What names of narrow variants end in; the menu says how narrow they are.
VARIANTS = ("", "_S", "_XS", "_XXS", "_XXXS")
# What a factory may return.
ALLOWED = "a Network, its blocks in a list, or a module, whose last layer is an nn.Linear with one output per class"


class Activations(NamedTuple):
    """What enters the classifier (N, U), and its logits (N, classes), of one forward pass."""

    penultimate_nu: Tensor
    logits_nk: Tensor


class Network(nn.Module):
    """A chain of blocks. Level i is the tensor that enters block i; level 0 is the image.

    The last block of an architecture is the linear classifier; an autoencoder's two blocks are encoder and decoder.
    With a `resolution` whatever starts at level 0 first resizes the images to that width in pixels; with `unit`, the data set's mean and std,
    it brings standardised pixels back to 0..1.
    """

    resolution: int | None = None
    unit: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x_nchw: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run `blocks[start:stop]`: from level `start` to level `stop`, by default from the images (N, 3, H, W) to the output.

        That is (N, classes) logits, or an autoencoder's images.
        """
        x_nchw = self.prepare(x_nchw) if start == 0 else x_nchw
        for block in self.blocks[start:stop]:
            x_nchw = block(x_nchw)
        return x_nchw

    def prepare(self, images_nchw: Tensor) -> Tensor:
        """Images (N, 3, H, W), standardised, as the first block takes them."""
        images_nchw = resize(images_nchw, self.resolution)
        if self.unit is not None:
            mean, std = (images_nchw.new_tensor(own).view(1, -1, 1, 1) for own in self.unit)
            # Of grey images the three channels are one.
            one = images_nchw[:, :1] if images_nchw.stride(1) == 0 else images_nchw
            images_nchw = (one * std + mean).expand_as(images_nchw)
        return images_nchw

    def levels(self, x_nchw: Tensor) -> list[Tensor]:
        """Levels 1 to the last, and the output behind them, of one forward pass of the images (N, 3, H, W)."""
        x_nchw, found = self.prepare(x_nchw), []
        for block in self.blocks:
            x_nchw = block(x_nchw)
            found.append(x_nchw)
        return found

    def activate(self, x_nchw: Tensor, start: int = 0) -> Activations:
        """From level `start`, at most that of the classifier, to the output, with what enters the classifier."""
        penultimate = self(x_nchw, start, -1)
        return Activations(penultimate, self(penultimate, -1))


def resize(images_nchw: Tensor, width: int | None) -> Tensor:
    """Images (N, C, H, W) at a width in pixels and the height that keeps their aspect, rounded: bilinear with antialias. As they are where they have it, or for None."""
    height, stored = images_nchw.shape[-2:]
    if width in (None, stored):
        return images_nchw
    size = (max(1, round(width * height / stored)), width)
    return interpolate(images_nchw, size, mode="bilinear", antialias=True)


NetworkBuilder = Callable[..., Network]
ModuleBuilder = Callable[[int, float, int], nn.Module]
AutoencoderBuilder = Callable[[int, float], Network]
Builder = TypeVar("Builder", bound=Callable[..., nn.Module])

_network_builders: dict[str, NetworkBuilder] = {}
_module_builders: dict[str, ModuleBuilder] = {}
_autoencoder_builders: dict[str, AutoencoderBuilder] = {}


def network(model: str) -> Callable[[NetworkBuilder], NetworkBuilder]:
    """Decorator: registers `build(classes, width) -> Network` as the architecture of that name in `info_dicts.MODELS`.

    One that has a `depth` there is built by `build(classes, width, depth)`.
    """
    return lambda build: _register(_network_builders, model, build)


def module(model: str) -> Callable[[ModuleBuilder], ModuleBuilder]:
    """Decorator: registers `build(level, width, max_kernel) -> nn.Module`, the module for a level of that architecture.

    The square stride-1 kernels of its plain convolutions are `min(published side, max_kernel)`; see `build_module`.
    """
    return lambda build: _register(_module_builders, model, build)


def autoencoder(model: str) -> Callable[[AutoencoderBuilder], AutoencoderBuilder]:
    """Decorator: registers `build(size, width) -> Network` of two blocks, encoder and decoder, for the images of that architecture."""
    return lambda build: _register(_autoencoder_builders, model, build)


def build_network(model: str, classes: int, width: float = 1.0, depth: int | None = None) -> Network:
    """Return a freshly initialised network of an architecture in `info_dicts.MODELS`, drawn from torch's global generator.

    `width` multiplies every hidden number of channels and units (see `scaled`); 1 gives the published network, or the narrow one that the menu names.
    `depth` is for architectures that have one on the menu, by default that. Raises ValueError for an architecture that is not on the menu and for a
    depth that it has not, InputError for one that no file builds.

    `package.module:factory` instead of a name calls that with `classes` alone. It may return a Network, its blocks in a list, a tuple or an nn.Sequential
    that ends in an nn.Linear, or any other module whose last layer is an nn.Linear and whose output is that layer's: this becomes the last of two blocks.
    InputError where it returns something else or raises, and for any width but 1 and any depth.
    """
    if is_factory(model):
        return _build_users(model, classes, width, depth)
    choice = _choice(model)
    build = _find(_network_builders, model, "network")
    if "width" in choice.facts:
        width *= choice.width
    if "depth" in choice.facts:
        return build(classes, width, choice.depth if depth is None else depth)
    if depth is not None:
        raise ValueError(f"{model} has no depth to choose, got {depth}")
    return build(classes, width)


@functools.cache
def user_choice(name: str) -> info_dicts.Choice:
    """What the menu would say of a network that `package.module:factory` makes: its blocks, counted without touching any generator of torch.

    The factory is called on the meta device, where nothing is allocated, and for real if it cannot work there. InputError as in `build_network`.
    """
    factory = load_factory(name)
    with torch.random.fork_rng(devices=[]):
        try:
            # Weights that are loaded into meta tensors are not, with a warning for each.
            with torch.device("meta"), warnings.catch_warnings(action="ignore"):
                made = _users_network(name, factory, 10)
        except InputError:
            made = _users_network(name, factory, 10)
    return info_dicts.Choice(name, blocks=len(made.blocks), sizes=range(1, 4097), parts=False)


def build_module(model: str, level: int, width: float = 1.0, kernels: str = "published", size: int | None = None) -> nn.Module:
    """Return a freshly initialised module for a level of an architecture: its output has the shape of its input, the tensor of that level.

    `width` is that of the network it belongs to. `kernels` is "published", or "fitted" to images of `size` pixels (by default the first):
    square stride-1 kernels are then at most 2 * side - 1 for the level's map of that side, so that no weight only ever meets padding.
    torchvision's own blocks stay as they are. Raises ValueError unless level is in 0..blocks-1, for other words and for sizes off the menu.
    """
    choice = _choice(model)
    if not 0 <= level < choice.blocks:
        raise ValueError(f"{model} has levels 0..{choice.blocks - 1}, not {level}")
    if kernels not in ("published", "fitted"):
        raise ValueError(f"kernels are published or fitted, not {kernels!r}")
    size = _check_size(choice, choice.sizes[0] if size is None else size)
    max_kernel = sys.maxsize if kernels == "published" else 2 * _map_side(model, level, size) - 1
    return _find(_module_builders, model, "module")(level, width, max_kernel)


def build_autoencoder(model: str, size: int, width: float = 1.0) -> Network:
    """Return a freshly initialised autoencoder for an architecture's images, (N, 3, size, size) to the same, both as networks see them.

    Its two blocks are the encoder and the decoder. `width` multiplies every hidden number of channels and units.
    Raises ValueError for an architecture or a size that is not on the menu, InputError for an architecture without autoencoder.
    """
    _check_size(_choice(model), size)
    return _find(_autoencoder_builders, model, "autoencoder")(size, width)


def scaled(channels: int, width: float) -> int:
    """The number of channels at a width multiplier: rounded, at least 1."""
    return max(1, round(channels * width))


def count_parameters(part: nn.Module) -> int:
    """The number of parameters, frozen or not, of a network or module (buffers are not parameters)."""
    return sum(parameter.numel() for parameter in part.parameters())


@contextmanager
def as_tested(network: nn.Module) -> Iterator[None]:
    """A context in which a network is in eval mode, so that images of a batch do not meet in its batch norms; then each of its parts in its mode again."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


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


class _Place(nn.Identity):
    """Where the last layer of a module was; keeps what it passed on until `_check_end` has seen it."""

    passed: Tensor | None = None

    def forward(self, x_nu: Tensor) -> Tensor:
        self.passed = x_nu
        return x_nu


def _check_end(name: str, path: str, module: nn.Module, _: Any, output: object) -> None:
    """After a forward pass of a module whose last layer was taken out at `path`: InputError unless nothing followed it, so that it may follow the module."""
    place = module.get_submodule(path)
    assert isinstance(place, _Place)
    passed, place.passed = place.passed, None
    if output is not passed:
        raise InputError(f"{name}: its output is not that of its last layer, {path}; allowed: {ALLOWED}, after which nothing follows")


def _build_users(name: str, classes: int, width: float, depth: int | None) -> Network:
    if width != 1:
        raise InputError(f"{name}: has one width, that which its factory gives it; allowed: 1, not {width:g}")
    if depth is not None:
        raise InputError(f"{name}: has no depth to choose, got {depth}")
    made = _users_network(name, load_factory(name), classes)
    outputs = made.blocks[-1].out_features
    if outputs != classes:
        raise InputError(f"{name}: its last layer has {outputs} outputs where {classes} classes were asked for; allowed: {ALLOWED}")
    return made


def _users_network(name: str, factory: Callable[..., Any], classes: int) -> Network:
    """A network of what a factory makes; its last block is an nn.Linear."""
    try:
        made = factory(classes=classes)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{name}: called with classes={classes}, raised {type(error).__name__}: {reason}") from error
    blocks = _users_blocks(name, made)
    if len(blocks) < 2 or not all(isinstance(block, nn.Module) for block in blocks) or not isinstance(blocks[-1], nn.Linear):
        what = type(made).__name__ if not blocks else f"{type(made).__name__} that ends in {type(blocks[-1]).__name__}"
        raise InputError(f"{name}: makes a {what}; allowed: {ALLOWED}")
    return made if isinstance(made, Network) else Network(blocks)


def _users_blocks(name: str, made: object) -> list[Any]:
    """What a factory made as blocks, whatever they are."""
    if isinstance(made, Network):
        return list(made.blocks)
    if isinstance(made, list | tuple | nn.ModuleList):
        return list(made)
    # A subclass may do more than call one after the other.
    if isinstance(made, nn.Sequential) and type(made).forward is nn.Sequential.forward and len(made) and isinstance(made[-1], nn.Linear):
        return list(made)
    if not isinstance(made, nn.Module):
        return []
    path, last = [(path, part) for path, part in made.named_modules() if next(part.children(), None) is None][-1]
    if path and isinstance(last, nn.Linear):
        made.set_submodule(path, _Place())
        made.register_forward_hook(functools.partial(_check_end, name, path))
        return [made, last]
    return [last]


def _register(builders: dict[str, Builder], model: str, build: Builder) -> Builder:
    if model in builders:
        raise ValueError(f"{model} is registered twice")
    builders[model] = build
    return build


def _find(builders: dict[str, Builder], model: str, kind: str) -> Builder:
    if model not in builders:
        for file in pkgutil.iter_modules(models.__path__):
            importlib.import_module(f"models.{file.name}")
    if model not in builders:
        raise InputError(f"{model} has no {kind}: no file in models/ registers one with @{kind}({model!r})")
    return builders[model]


def _choice(model: str) -> info_dicts.Choice:
    if is_factory(model):
        return user_choice(model)
    for choice in info_dicts.MODELS.values():
        if choice == model:
            return choice
    raise ValueError(f"no model {model!r} on the menu: {', '.join(info_dicts.MODELS.values())}")


def _check_size(choice: info_dicts.Choice, size: int) -> int:
    if size not in choice.sizes:
        sizes = f"{choice.sizes[0]} to {choice.sizes[-1]}" if isinstance(choice.sizes, range) else " or ".join(map(str, choice.sizes))
        raise ValueError(f"{choice} takes images of {sizes} pixels, not {size}")
    return size


def _map_side(model: str, level: int, size: int) -> int:
    """The side of a level's map, counted on the meta device; for a level of vectors, which no kernel sees, their length."""
    with torch.device("meta"):
        return build_network(model, 1).eval()(torch.empty(1, 3, size, size), stop=level).shape[-1]
