"""Receptive fields: how much of the image the units of each layer see, from the graph of the network and from its gradients.

A layer's field grows by (kernel - 1) * dilation * jump, and its jump (the distance in pixels between neighbouring units) by the stride. Where paths meet, such as
a residual block's, both the largest field (the longest path, as if there were no skip connections) and the smallest (through them) are kept.
The layer at which the field that comes in covers the whole image is the border: layers from there on see nothing new (Richter et al., arXiv 2106.12307).
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import export

from analysis.options import ReceptiveField
from analysis.seen import Seen
from analysis.table import Row
from analysis.taps import layers
from data.keys import derive
from errors import InputError
from models.networks import resize

Axes = tuple[float, float]  # along the height and the width
# Of a gradient's largest value: what less than this share of it reaches is not seen (two standard deviations of a Gaussian; Luo et al., arXiv 1701.04128).
SEEN_SHARE = 0.0455
INFINITE: Axes = (math.inf, math.inf)


@dataclass(frozen=True)
class View:
    """What the units of a map see: their distance in pixels, and their fields by the longest and the shortest path."""

    jump: Axes = (1.0, 1.0)
    largest: Axes = (1.0, 1.0)
    smallest: Axes = (1.0, 1.0)

    def through(self, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> "View":
        """What units see that look at these through a window."""
        # Where one unit sees everything there is no distance to a next one, and a window of one pixel asks for none.
        grown = [(k - 1) * d * j if k > 1 else 0.0 for k, d, j in zip(kernel, dilation, self.jump)]
        return View(
            (self.jump[0] * stride[0], self.jump[1] * stride[1]),
            (self.largest[0] + grown[0], self.largest[1] + grown[1]),
            (self.smallest[0] + grown[0], self.smallest[1] + grown[1]),
        )


EVERYTHING = View(INFINITE, INFINITE, INFINITE)


@dataclass(frozen=True)
class Field:
    """The fields of a layer's units, in pixels along height and width, and those of what comes into it; `map` is the size of its output, (1, 1) for a linear layer."""

    layer: str
    map: tuple[int, int]
    jump: Axes
    largest: Axes
    smallest: Axes
    incoming_largest: Axes
    incoming_smallest: Axes

    def covered(self, size: tuple[int, int], smallest: bool = False) -> bool:
        """Whether what comes in sees the whole of images of this size."""
        incoming = self.incoming_smallest if smallest else self.incoming_largest
        return incoming[0] >= size[0] and incoming[1] >= size[1]


def resized(network: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """The size of images as the network's first block gets them."""
    shape = resize(torch.empty(1, 1, *size), getattr(network, "resolution", None)).shape
    return shape[2], shape[3]


def pair(value: Any) -> tuple[int, int]:
    """A window's size along both axes; an empty one is that of one pixel."""
    return (value, value) if isinstance(value, int) else (tuple(value) * 2)[:2] if value else (1, 1)


def union(views: Sequence[View]) -> View:
    """What is seen where paths meet."""

    def best(choose: Callable[..., float], name: str) -> Axes:
        return choose(getattr(view, name)[0] for view in views), choose(getattr(view, name)[1] for view in views)

    finite = [view for view in views if math.isfinite(view.jump[0])] or views
    return View(finite[0].jump, best(max, "largest"), best(min, "smallest"))


def argument(node: Any, place: int, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else default


def convolution(node: Any, view: View) -> View:
    window = node.args[1].meta["val"].shape[2:]
    return view.through(window, pair(argument(node, 3, 1)), pair(argument(node, 5, 1)))


def pooling(node: Any, view: View) -> View:
    window = pair(node.args[1])
    stride = argument(node, 2, None)
    # Of average pools the fifth argument says how sizes are rounded.
    dilation = argument(node, 4, 1) if "max_pool" in str(node.target) else 1
    return view.through(window, pair(stride) if stride else window, pair(dilation))


def adaptive(node: Any, view: View) -> View:
    inputs, outputs = node.args[0].meta["val"].shape[2:], pair(node.args[1])
    if outputs == (1, 1) and tuple(inputs) != (1, 1):
        return EVERYTHING
    window = [-(-n // o) + (n % o > 0) for n, o in zip(inputs, outputs)]
    return view.through(window, [max(1, n // o) for n, o in zip(inputs, outputs)], (1, 1))


# By the name of torch's operator: what its result sees. Others leave a map's size as it is and pass on what they get, or are refused.
OPERATORS: dict[str, Callable[[Any, View], View]] = {
    "conv2d": convolution,
    "convolution": convolution,
    "max_pool2d": pooling,
    "max_pool2d_with_indices": pooling,
    "avg_pool2d": pooling,
    "adaptive_avg_pool2d": adaptive,
    "_adaptive_avg_pool2d": adaptive,
}
# Operators that may leave a map's size as it is, and yet mix its positions in ways that are not followed.
MIXING = ("conv_transpose2d", "grid_sampler", "linear", "matmul", "roll")
# Operators that change a map's size, but nothing of what its units see.
CUTTING = ("constant_pad_nd", "slice", "pad", "index")


def fields(network: nn.Module, shape: tuple[int, int, int]) -> list[Field]:
    """The fields of all convolutions and linear layers of a network for images (C, H, W), in the order of the forward pass, by torch.export's graph.

    A global average, and whatever looks at a map as a whole, sees everything (infinity). A network that resizes its images is followed from the resized ones
    on. Its weights, modes and statistics stay as they are. InputError for an operator that changes a map in a way that is not known.
    """
    network = copy.deepcopy(network).cpu().eval()
    size = shape[1:]
    if getattr(network, "resolution", None) is not None:
        size, network.resolution = resized(network, size), None  # type: ignore[assignment]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = export(network, (torch.zeros(1, 3, *size),)).run_decompositions({})
    parameters, names = program.graph_signature.inputs_to_parameters, layers(network)
    # Of what the images have a part in: weights and constants see nothing.
    views: dict[Any, View] = {}
    found: list[Field] = []
    for node in program.graph.nodes:
        if node.name in program.graph_signature.user_inputs:
            views[node] = View()
        if node.op != "call_function" or not any(own in views for own in node.all_input_nodes):
            continue
        above = [own for own in node.all_input_nodes if own in views and is_map(own)]
        incoming = union([views[own] for own in above]) if above and spatial(node, above) else EVERYTHING
        views[node] = look(node, above, incoming)
        weights = [parameters[own.name] for own in node.all_input_nodes if own.name in parameters]
        layer = next((name.removesuffix(".weight") for name in weights if name.removesuffix(".weight") in names), None)
        if layer is not None:
            own, output = views[node], node.meta["val"].shape
            side = (output[2], output[3]) if len(output) == 4 else (1, 1)
            found.append(Field(layer, side, own.jump, own.largest, own.smallest, incoming.largest, incoming.smallest))
    return found


def is_map(node: Any) -> bool:
    """Whether a node's value, or the first of its values, is a map (N, C, H, W), or one whose channels are in groups (N, G, C, H, W)."""
    value = node.meta["val"]
    return (value[0] if isinstance(value, tuple | list) else value).ndim in (4, 5)


def spatial(node: Any, above: Sequence[Any]) -> bool:
    return bool(above) and (is_map(node) or operator(node) == "getitem")


def operator(node: Any) -> str:
    """The name of a node's operator, without its variant."""
    return getattr(node.target, "__name__", str(node.target)).split(".")[0]


def look(node: Any, above: Sequence[Any], incoming: View) -> View:
    """What the units of a node's value see."""
    name = operator(node)
    if name in OPERATORS:
        return OPERATORS[name](node, incoming)
    if not above or not is_map(node) or incoming.smallest == INFINITE:
        return EVERYTHING
    before, after = {tuple(size_of(own)) for own in above}, tuple(size_of(node))
    if name in CUTTING or (after in before and name not in MIXING):
        return incoming
    if after == (1, 1):
        return EVERYTHING
    raise InputError(f"receptive_field: the operator {name} changes a map from {before.pop()} to {after} in a way that is not known")


def size_of(node: Any) -> Sequence[int]:
    value = node.meta["val"]
    return (value[0] if isinstance(value, tuple | list) else value).shape[-2:]


def border(found: Sequence[Field], size: tuple[int, int], smallest: bool = False) -> str | None:
    """The first layer into which comes what sees the whole of images of this size; None where there is none."""
    return next((field.layer for field in found if field.covered(size, smallest)), None)


@dataclass(frozen=True)
class Measured:
    """What the central unit of a layer sees of the images by its gradients: the height and width of the box in which they are not zero, and the side of a
    square with as many pixels as have more than SEEN_SHARE of the largest."""

    extent: tuple[int, int]
    effective: float


def measure(network: nn.Module, images_nchw: Tensor) -> dict[str, Measured]:
    """The fields of all convolutions, by the gradients of their central units on network inputs (N, 3, H, W), summed over channels, with random signs, and images.

    In eval mode; the network stays as it is.
    """
    generator = torch.Generator().manual_seed(derive("receptive field"))
    outputs: dict[str, Tensor] = {}
    images_nchw = images_nchw.detach().clone().requires_grad_()

    def hook_of(name: str) -> Callable[..., None]:
        # At once: an activation in place would follow.
        def hook(part: nn.Module, inputs: Any, result: Tensor) -> None:
            if result.ndim == 4:
                outputs[name] = result[:, :, result.shape[2] // 2, result.shape[3] // 2].clone()

        return hook

    modes = [(part, part.training) for part in network.modules()]
    with ExitStack() as stack, torch.enable_grad():
        for name, layer in layers(network).items():
            stack.callback(layer.register_forward_hook(hook_of(name)).remove)
        network.eval()
        try:
            network(images_nchw)
        finally:
            for part, training in modes:
                part.training = training
    found = {}
    for name, units_nc in outputs.items():
        signs = torch.randint(0, 2, units_nc.shape[1:], generator=generator).to(units_nc) * 2 - 1
        (gradient,) = torch.autograd.grad((units_nc * signs).sum(), images_nchw, retain_graph=True)
        seen_hw = gradient.abs().sum((0, 1))
        rows, columns = (torch.nonzero(seen_hw.sum(axis) > 0).flatten() for axis in (1, 0))
        extent = tuple(int(own[-1] - own[0]) + 1 if len(own) else 0 for own in (rows, columns))
        found[name] = Measured(extent, math.sqrt(int((seen_hw > SEEN_SHARE * seen_hw.max()).sum())))  # type: ignore[arg-type]
    return found


def run(seen: Seen, options: ReceptiveField, folder: Path) -> list[Row]:
    """Of every layer, the larger of height and width: `receptive_field` and `receptive_field_smallest`, `jump`, `covered` and `covered_smallest` (1 where what
    comes in sees the whole image), and of convolutions `receptive_field_measured` and `receptive_field_effective` on the first test images.
    """
    network = seen.network
    size = resized(network, seen.shape[1:])
    rows: list[Row] = []
    for field in fields(network, seen.shape):
        values = {
            "receptive_field": max(field.largest),
            "receptive_field_smallest": max(field.smallest),
            "jump": max(field.jump),
            "covered": float(field.covered(size)),
            "covered_smallest": float(field.covered(size, smallest=True)),
        }
        rows += [Row(metric, value, field.layer) for metric, value in values.items()]
    images = next(iter(seen.pictures.batches("test", seen.pictures.clean, None)))[: options.images]
    # In the same pixels as the fields: a network leaves alone what has its size.
    for layer, found in measure(network, resize(images, getattr(network, "resolution", None))).items():
        rows += [
            Row("receptive_field_measured", max(found.extent), layer, "test"),
            Row("receptive_field_effective", found.effective, layer, "test"),
        ]
    return rows
