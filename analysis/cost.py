"""What a network costs: floating-point operations, counted by torch as it runs, and parameters, of each layer and in all."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from analysis.options import Cost as Options
from analysis.seen import Seen
from analysis.table import Row
from analysis.taps import layers
from data.files import appearing
from models.networks import count_parameters

# Batch norms in train mode need two images.
IMAGES = 2


@dataclass(frozen=True)
class Cost:
    """For one image: the operations (a multiplication and an addition are two) of each layer forward, of the whole network forward, and forward and backward in
    training; the parameters of each layer and of the whole network."""

    layer_flops: Mapping[str, int]
    layer_parameters: Mapping[str, int]
    forward_flops: int
    training_flops: int
    parameters: int


def backward_flops(outputs: Any, inputs: Any, weights: Any, *rest: Any, **more: Any) -> int:
    """The operations of a convolution backward, from shapes: as many as forward, for its inputs and for its weights, as far as these are asked for.

    torch counts those for the weights of a convolution in groups as if there were none.
    """
    transposed, asked = rest[4], rest[7]
    return conv_flop_count(inputs, weights, outputs, transposed) * (asked[0] + asked[1])


COUNTED = {torch.ops.aten.convolution_backward: backward_flops}


def cost(network: nn.Module, shape: tuple[int, int, int]) -> Cost:
    """Counts on a copy, for images (C, H, W) as a data set has them."""
    network = copy.deepcopy(network).cpu().requires_grad_()
    images = torch.zeros(IMAGES, 3, *shape[1:])
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        network.eval()(images)
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as training:
        network.train()(images).sum().backward()
    # The counter names a module by the class of the network and its path.
    counts = {name.partition(".")[2]: sum(own.values()) for name, own in forward.get_flop_counts().items()}
    own = layers(network)
    return Cost(
        {name: counts[name] // IMAGES for name in own if name in counts},
        {name: count_parameters(part) for name, part in own.items()},
        forward.get_total_flops() // IMAGES,
        training.get_total_flops() // IMAGES,
        count_parameters(network),
    )


def computational_info(found: Cost, image_steps: int) -> dict[str, float | str]:
    """The contents of computational_info.json: operations and multiply-additions of one image forward, parameters, and the operations of the whole training.

    Each also as words, in billions (G) with two decimals.
    """
    numbers = {
        "flops": found.forward_flops,
        "macs": found.forward_flops // 2,
        "params": found.parameters,
        "training_flops": found.training_flops * image_steps,
    }
    units = {"flops": " GFLOPs", "macs": " GMACs", "params": " G", "training_flops": " GFLOPs"}
    return {**numbers, **{f"str_{name}": f"{value / 1e9:.2f}{units[name]}" for name, value in numbers.items()}}


def run(seen: Seen, options: Options, folder: Path) -> list[Row]:
    """`flops` (of one image forward) and `parameters` of each layer and in all, `training_flops_per_image` and `training_flops`; and computational_info.json."""
    found = cost(seen.network, seen.shape)
    info = computational_info(found, seen.image_steps)
    with appearing(folder / "computational_info.json") as temporary:
        temporary.write_text(json.dumps(info, indent=1) + "\n")
    rows = [Row("flops", value, layer) for layer, value in found.layer_flops.items()]
    rows += [Row("parameters", value, layer) for layer, value in found.layer_parameters.items()]
    rows += [Row("flops", found.forward_flops), Row("parameters", found.parameters), Row("training_flops_per_image", found.training_flops)]
    return [*rows, Row("training_flops", float(info["training_flops"]))]
