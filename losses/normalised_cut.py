"""How hard a network's graph of weights is to cut: the mean of the smallest eigenvalues of its normalised Laplacian, as a term of the training loss.

(Filan et al., arXiv 2103.03386, where half of the gradient is missing; here it is whole.) The k smallest eigenvalues bound the normalised cut into k clusters from below.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.wiring import Block, Wiring


class LaplacianEigenvalues(torch.autograd.Function):
    """Eigenvalues 2..q+1 of I - D^-1/2 A D^-1/2, ascending, of a graph in blocks of non-negative weights; differentiable in the weights.

    With z = D^-1/2 u an eigenvalue moves by (z_i - z_j)^2 - lambda (z_i^2 + z_j^2) for each unit of weight of the edge between i and j. Nodes without edges are left out.
    """

    @staticmethod
    def forward(ctx: Any, places: Sequence[tuple[slice, slice]], nodes: int, q: int, *weights: Tensor) -> Tensor:
        adjacency = weights[0].new_zeros(nodes, nodes, dtype=torch.float64)
        for (target, source), own in zip(places, weights):
            adjacency[target, source] += own.double()
            adjacency[source, target] += own.double().T
        degrees = adjacency.sum(1)
        there = degrees > 0
        scale = torch.where(there, degrees, 1).rsqrt()
        normal = scale[:, None] * adjacency * scale
        # Nodes without edges have the eigenvalue 0 of `normal`: far behind the largest.
        values, vectors = torch.linalg.eigh(normal)
        take = slice(-1 - q, -1)
        found, z = 1 - values[take].flip(0), (vectors[:, take].flip(1) * scale[:, None])
        ctx.places = places
        ctx.save_for_backward(found, z, *weights)
        return found.to(weights[0].dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        found, z, *weights = ctx.saved_tensors
        (upstream,) = gradients
        share = upstream.double()
        grown = []
        for (target, source), own in zip(ctx.places, weights):
            one, other = z[target], z[source]
            # The sum over eigenvalues of (z_i - z_j)^2 - lambda (z_i^2 + z_j^2), as matrix products.
            rest = share * (1 - found)
            gradient = (one.square() @ rest)[:, None] + (other.square() @ rest)[None] - 2 * (one * share) @ other.T
            grown.append(gradient.to(own.dtype))
        return (None, None, None, *grown)


def laplacian_eigenvalues(blocks: Sequence[Block], sizes: dict[str, int], q: int) -> Tensor:
    """Eigenvalues 2..q+1 (q,) of the normalised Laplacian of the graph of these blocks; ValueError where it has not so many nodes."""
    names = [name for name in sizes if any(name in (block.source, block.target) for block in blocks)]
    offsets, nodes = {}, 0
    for name in names:
        offsets[name] = slice(nodes, nodes + sizes[name])
        nodes += sizes[name]
    if q + 1 > nodes:
        raise ValueError(f"{q + 1} eigenvalues of {nodes} nodes")
    places = [(offsets[block.target], offsets[block.source]) for block in blocks]
    return LaplacianEigenvalues.apply(places, nodes, q, *(block.weights_ts for block in blocks))


def cut_penalty(network: nn.Module, wiring: Wiring, keep: Sequence[str], q: int) -> Tensor:
    """The mean of eigenvalues 2..q+1 (a scalar in 0..2) of the graph of a network's layers, of the sets of nodes `keep`, as its weights are now."""
    blocks = [block for block in wiring.blocks(network) if block.source in keep and block.target in keep]
    return laplacian_eigenvalues(blocks, wiring.sizes, q).mean()
