"""How a network's units are wired: which layer's outputs come to which layer, channel by channel, as blocks of the absolute weights between them.

The graph of a network has a node for each unit of a linear layer and for each channel of a convolution, and an edge for each weight between two of them (Filan et al.,
arXiv 2003.04881, 2103.03386). It is read from torch.export's graph once; the blocks follow the weights, and gradients flow through them.
"""

import copy
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import export

from errors import InputError
from models.networks import Network

IMAGE, INPUT = "image", "input"  # the channels of the image; the numbers that a linear layer takes of it
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
# Operators that leave every channel where it is.
PASSING = (
    "relu", "relu_", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu", "hardtanh", "dropout", "clone", "contiguous", "alias", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d",
    "_adaptive_avg_pool2d", "add", "mul", "div", "sub", "_to_copy", "detach", "max_pool2d_with_indices", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "pad", "constant_pad_nd", "getitem",
)  # fmt: skip
FLATTENING = ("view", "reshape", "_unsafe_view", "flatten", "squeeze")


@dataclass(frozen=True)
class Route:
    """From where the channels of a tensor come: from which channel of a source each (-1: from none), through which batch norms (and which of their channels)."""

    source: str
    channel_c: Tensor
    norms: tuple[tuple[str, Tensor], ...] = ()

    def taken(self, places_c: Tensor) -> "Route":
        """The route of a tensor that has these channels (-1: none of it)."""
        inside = places_c.clamp(min=0)
        return Route(
            self.source,
            torch.where(places_c < 0, -1, self.channel_c[inside]),
            tuple((name, channel_c[inside]) for name, channel_c in self.norms),
        )


@dataclass(frozen=True)
class Wire:
    """A layer with the routes of what comes in, and the batch norms that directly follow it, whose scale belongs to its weights."""

    layer: str
    units: int
    routes: tuple[Route, ...]
    norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """The absolute weights (target's units, source's units) between two sets of nodes, by their names."""

    source: str
    target: str
    weights_ts: Tensor


@dataclass(frozen=True)
class Wiring:
    """The layers of a network in the order of the forward pass; `sizes` has the number of nodes of every set."""

    wires: tuple[Wire, ...]
    sizes: dict[str, int]
    convolutions: frozenset[str] = frozenset()

    def blocks(self, network: nn.Module, norm: int = 1) -> list[Block]:
        """The blocks of all layers, from the weights as they are now; the positions of a kernel are taken together by their L1 or L2 norm (`norm`).

        A batch norm that directly follows a layer scales its weights, as it does in eval mode; any other one those of the layers that take its channels.
        """
        found = []
        for wire in self.wires:
            weights_tc = collapse(network.get_submodule(wire.layer), norm)
            for name in wire.norms:
                weights_tc = weights_tc * scale_of(network.get_submodule(name))[:, None]
            for route in wire.routes:
                own = weights_tc
                for name, channel_c in route.norms:
                    own = own * scale_of(network.get_submodule(name))[channel_c]
                there = route.channel_c >= 0
                size = self.sizes[route.source]
                if not (len(there) == size and torch.equal(route.channel_c, torch.arange(size))):
                    places = route.channel_c[there].to(own.device)
                    own = own.new_zeros(len(own), size).index_add(1, places, own[:, there.to(own.device)])
                found.append(Block(route.source, wire.layer, own))
        return found


def collapse(layer: nn.Module, norm: int = 1) -> Tensor:
    """The absolute weights (outputs, inputs) of a layer; of a convolution the norms of its kernels, 0 between channels of different groups."""
    weight: Any = layer.weight
    if isinstance(layer, nn.Linear):
        return weight.abs()
    kernels = weight.abs().sum((2, 3)) if norm == 1 else weight.square().sum((2, 3)).sqrt()
    groups: Any = layer.groups
    if isinstance(layer, nn.ConvTranspose2d):
        # Its weights are (inputs, outputs of a group).
        kernels = torch.cat([own.T for own in kernels.chunk(groups)])
    if groups == 1:
        return kernels
    parts = kernels.chunk(groups)
    return torch.block_diag(*parts)


def scale_of(norm: Any) -> Tensor:
    """What a batch norm in eval mode multiplies the weights of each channel by, as an absolute value."""
    scale = (norm.running_var + norm.eps).rsqrt()
    return scale if norm.weight is None else (norm.weight * scale).abs()


def trace(network: nn.Module, example: Tensor) -> Wiring:
    """The wiring of a network, or of a part of one, for inputs like `example`, whose content and strides do not matter; the network stays as it is.

    InputError for an operator that moves channels in a way that is not known.
    """
    network = copy.deepcopy(network).cpu().eval()
    if isinstance(network, Network):
        network.resolution = network.unit = None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = export(network, (example[:1].detach().cpu().contiguous(),)).run_decompositions({})
    # A norm without weights has its statistics alone.
    named = {**program.graph_signature.inputs_to_buffers, **program.graph_signature.inputs_to_parameters}
    parts = dict(network.named_modules())
    routes: dict[Any, tuple[Route, ...]] = {}
    wires: list[Wire] = []
    sizes: dict[str, int] = {}
    made_by: dict[Any, int] = {}  # the layer whose output a node is
    for node in program.graph.nodes:
        if node.name in program.graph_signature.user_inputs:
            shape = node.meta["val"].shape
            # A vector is what a linear layer takes.
            if len(shape) == 4:
                sizes[IMAGE] = shape[1]
            routes[node] = (Route(IMAGE if len(shape) == 4 else INPUT, torch.arange(shape[1])),)
        above = [own for own in node.all_input_nodes if own in routes]
        if node.op != "call_function" or not above:
            continue
        owners = {named[own.name].rpartition(".")[0] for own in node.all_input_nodes if own.name in named}
        owner = owners.pop() if len(owners) == 1 else ""
        part = parts.get(owner)
        if isinstance(part, LAYERS):
            if owner in sizes:
                raise InputError(f"wiring: the layer {owner} is used twice, so it has no place of its own in the graph")
            taken = routes[above[0]]
            if isinstance(part, nn.Linear) and above[0].meta["val"].ndim != 2:
                raise InputError(f"wiring: the linear layer {owner} takes {tuple(above[0].meta['val'].shape)}, no vectors")
            for route in taken:
                if route.source == INPUT:
                    sizes[INPUT] = len(route.channel_c)
            sizes[owner] = node.meta["val"].shape[1]
            wires.append(Wire(owner, sizes[owner], taken))
            routes[node], made_by[node] = (Route(owner, torch.arange(sizes[owner])),), len(wires) - 1
        elif isinstance(part, NORMS):
            before = above[0]
            if before in made_by and len(before.users) == 1:
                wire = wires[made_by[before]]
                wires[made_by[before]] = replace(wire, norms=(*wire.norms, owner))
                routes[node] = routes[before]
            else:
                own = torch.arange(part.num_features)
                routes[node] = tuple(replace(route, norms=(*route.norms, (owner, own))) for route in routes[before])
        else:
            routes[node] = follow(node, above, [routes[own] for own in above])
    if INPUT not in sizes and not any(route.source == IMAGE for wire in wires for route in wire.routes):
        sizes.pop(IMAGE, None)
    if not wires:
        raise InputError("wiring: there is no convolution and no linear layer")
    return Wiring(tuple(wires), sizes, frozenset(wire.layer for wire in wires if not isinstance(parts[wire.layer], nn.Linear)))


def follow(node: Any, above: Sequence[Any], taken: Sequence[tuple[Route, ...]]) -> tuple[Route, ...]:
    """The routes of what an operator makes that has no weights."""
    name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    value = node.meta["val"]
    shape = (value[0] if isinstance(value, tuple | list) else value).shape
    before = [own.meta["val"] for own in above]
    shapes = [(own[0] if isinstance(own, tuple | list) else own).shape for own in before]
    if len(above) > 1 and name in ("add", "add_", "sub", "mul", "div", "maximum", "minimum") and all(own[1] == shape[1] for own in shapes):
        return tuple(itertools.chain(*taken))
    if name == "cat" and len(node.args) > 1 and node.args[1] in (1, 1 - len(shape)):
        return concatenated([own[1] for own in shapes], taken)
    if name == "mean" and len(shape) in (2, 4):
        if shape[1] == shapes[0][1]:
            return taken[0]
        if all(route.source == IMAGE for route in taken[0]):  # grey
            return (Route(IMAGE, torch.zeros(shape[1], dtype=torch.int64)),)
    if name == "slice":
        dim, first, last, step = (list(node.args[1:]) + [0, None, 1][len(node.args) - 2 :])[:4]
        if dim not in (1, 1 - len(shape)):
            return taken[0]
        return tuple(route.taken(torch.arange(shapes[0][1])[first:last:step]) for route in taken[0])
    if name in FLATTENING and len(shape) == 2 and len(shapes[0]) in (2, 4):
        if any(route.source == IMAGE for route in taken[0]):
            return (Route(INPUT, torch.arange(shape[1])),)
        return tuple(route.taken(torch.arange(shapes[0][1]).repeat_interleave(shape[1] // shapes[0][1])) for route in taken[0])
    if name in PASSING and shape[1:2] == shapes[0][1:2]:
        return taken[0]
    raise InputError(f"wiring: the operator {name} makes {tuple(shape)} of {tuple(shapes[0])} in a way that is not known")


def concatenated(channels: Sequence[int], taken: Sequence[tuple[Route, ...]]) -> tuple[Route, ...]:
    """The routes of tensors behind each other."""
    total, start, found = sum(channels), 0, []
    for own, routes in zip(channels, taken):
        places_c = torch.full((total,), -1)
        places_c[start : start + own] = torch.arange(own)
        found += [route.taken(places_c) for route in routes]
        start += own
    return tuple(found)


def graph_sets(wiring: Wiring, dense: bool = False) -> list[str]:
    """The sets of nodes of a network's graph: of one whose first layer is a convolution the channels of convolutions (with `dense` all units), else the inputs and
    all units (Filan et al.). The channels of the image are none.
    """
    if not wiring.convolutions:
        return [name for name in wiring.sizes if name != IMAGE]
    return [name for name in wiring.sizes if name not in (IMAGE, INPUT) and (dense or name in wiring.convolutions)]
