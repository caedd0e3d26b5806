"""Looking into a network while it works: the outputs of its layers, and its levels, without a change to it."""

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from models.networks import Network

# What is looked at as a layer: the linear maps, by their outputs, before any normalisation or activation.
KINDS = (nn.Conv2d, nn.Linear)
Take = Callable[[str, Tensor], object]


def layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """The convolutions and linear layers of a network by their paths in it, such as `blocks.3.conv1`, in the order in which they are registered."""
    return {name: part for name, part in network.named_modules() if isinstance(part, KINDS)}


def levels(network: Network) -> dict[str, nn.Module]:
    """The blocks of a network by the level that they take: `level 0` is the image, the last one what the classifier takes."""
    return {f"level {number}": block for number, block in enumerate(network.blocks)}


POINTS: dict[str, Callable[[Any], dict[str, Any]]] = {"layers": layers, "levels": levels}


@contextmanager
def tapped(network: Network, take: Take, at: str = "layers", only: Collection[str] | None = None) -> Iterator[None]:
    """A context in which `take(name, tensor)` gets every layer's output, or every level (`at`), or `both`, of every forward pass, detached; of those named in `only`.

    In a system with modules a level is what its modules have made of it.
    """

    # What a hook returns would take the tensor's place.
    def output(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: Any, result: Tensor) -> None:
            take(name, result.detach())

        return hook

    def entry(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: Any) -> None:
            take(name, inputs[0].detach())

        return hook

    with ExitStack() as stack:
        for kind in POINTS if at == "both" else (at,):
            for name, part in POINTS[kind](network).items():
                if only is None or name in only:
                    hook = part.register_forward_pre_hook(entry(name)) if kind == "levels" else part.register_forward_hook(output(name))
                    stack.callback(hook.remove)
        yield


def rows_of(features: Tensor) -> Tensor:
    """Features (N, C, H, W) as (N * H * W, C): every position is a sample; (N, T, C) likewise; (N, C) as they are."""
    if features.ndim == 4:
        return features.movedim(1, -1).reshape(-1, features.shape[1])
    return features.reshape(-1, features.shape[-1])
