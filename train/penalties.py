"""What the training loss gets on top of a method's own: penalties on the sizes of weights, and on how hard their graph is to cut. And clusterable initial weights."""

import torch
from torch import Tensor, nn

from data.keys import derive
from losses.normalised_cut import cut_penalty
from models.networks import Network
from models.wiring import Wiring, graph_sets, trace
from train.entry import Trained
from train.pruning import kernels
from train.sparse import ClusterableStart


class FirstInput:
    """The first input that a network's first block, or a part of a network, gets in training: to trace it by."""

    def __init__(self, network: nn.Module):
        self.input: Tensor | None = None
        part = network.blocks[0] if isinstance(network, Network) else network
        self.handle = part.register_forward_pre_hook(self.take)

    def take(self, part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.input = inputs[0][:1].detach().clone()
        self.handle.remove()

    def __call__(self) -> Tensor:
        """An input (1, ...); only once there was one."""
        assert self.input is not None
        return self.input


class Penalties:
    """The penalties of an experiment on what is trained; `product` is what is kept of it, whose graph is cut."""

    def __init__(self, experiment: Trained, network: nn.Module, product: nn.Module, example: FirstInput):
        self.experiment, self.network, self.product, self.example = experiment, network, product, example
        self.wiring: Wiring | None = None

    def of(self, step: int) -> Tensor | None:
        """The sum of the penalties at step number `step` of an epoch, a differentiable scalar; None where there are none. After the step's forward pass."""
        e, terms = self.experiment, []
        if e.l1:
            terms.append(e.l1 * torch.stack([weight.abs().sum() for weight in kernels(self.network)]).sum())
        if e.l2:
            terms.append(e.l2 * torch.stack([weight.square().sum() for weight in kernels(self.network)]).sum())
        cut = e.cut_penalty
        if cut is not None and step % cut.every == 0:
            if self.wiring is None:
                self.wiring = trace(self.product, self.example())
            terms.append(cut.weight * cut.every * cut_penalty(self.product, self.wiring, graph_sets(self.wiring), cut.eigenvalues))
        return torch.stack(terms).sum() if terms else None


@torch.no_grad()
def make_clusterable(network: nn.Module, start: ClusterableStart, seed: int, classes: int) -> None:
    """Scales the initial weights between hidden units of modules to which they are drawn at random, by the seed; the first layer stays as it is.

    The classes are dealt out to the modules one by one where there are enough modules. The mean size of weights stays (Filan et al., arXiv 2103.03386).
    """
    generator = torch.Generator().manual_seed(derive("clusterable start", seed))
    weights = list(kernels(network))

    def draw(units: int) -> Tensor:
        if units == classes <= start.modules:
            return torch.randperm(start.modules, generator=generator)[:units]
        return torch.randint(start.modules, (units,), generator=generator)

    modules = [draw(len(weight)) for weight in weights]
    for before, after, weight in zip(modules, modules[1:], weights[1:]):
        if weight.shape[1] % len(before):
            continue
        # Behind a flattened map a channel has several columns.
        before = before.repeat_interleave(weight.shape[1] // len(before)).to(weight.device)
        same = after.to(weight.device)[:, None] == before[None]
        scale = torch.where(same, 1 + (1 - start.d) * (start.modules - 1), start.d)
        weight.mul_(scale.view(*scale.shape, *[1] * (weight.ndim - 2)).to(weight.dtype))
