"""How hard a network's graph of weights is to cut: the mean of the smallest eigenvalues of its normalised Laplacian, as a term of the training loss.

(Filan et al., arXiv 2103.03386, where half of the gradient is missing; here it is whole.) The k smallest eigenvalues bound the normalised cut into k clusters from below.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.sides import two_sides
from models.wiring import Block, Wiring

SMALLEST = 1e-4  # singular value


class LaplacianEigenvalues(torch.autograd.Function):
    """Eigenvalues 2..q+1 of I - D^-1/2 A D^-1/2, ascending, of a graph in blocks of non-negative weights; differentiable in the weights.

    With z = D^-1/2 u an eigenvalue moves by (z_i - z_j)^2 - lambda (z_i^2 + z_j^2) for each unit of weight of the edge between i and j. Nodes without edges are left out.
    """

    @staticmethod
    def forward(ctx: Any, places: Sequence[tuple[slice, slice]], side: Tensor | None, nodes: int, q: int, *weights: Tensor) -> Tensor:
        degrees = weights[0].new_zeros(nodes, dtype=torch.float64)
        for (target, source), own in zip(places, weights):
            degrees[target] += own.double().sum(1)
            degrees[source] += own.double().sum(0)
        scale = torch.where(degrees > 0, degrees, torch.inf).rsqrt()
        normal = scale.new_zeros(nodes, nodes)
        for (target, source), own in zip(places, weights):
            block = scale[target, None] * own.double() * scale[source]
            normal[target, source] += block
            normal[source, target] += block.T
        values, vectors = largest(normal, side, q + 1)
        found, z = 1 - values[1:], vectors[:, 1:] * scale[:, None]
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
        return (None, None, None, None, *grown)


def largest(normal: Tensor, side: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues (k,) of D^-1/2 A D^-1/2, descending, and their orthonormal eigenvectors (nodes, k).

    Where all edges are between two sides (`side`, (nodes,) bool), by the Gram matrix of the smaller one. Nodes without edges have zeros.
    """
    if side is not None:
        first, second = (torch.nonzero(own).flatten() for own in (side, ~side))
        few, many = (first, second) if len(first) <= len(second) else (second, first)
        between = normal[few][:, many]
        if k <= len(few):
            squares, own = torch.linalg.eigh(between @ between.T)
            sigma = squares[-k:].flip(0).clamp(min=0).sqrt()
            # Of a singular value near 0 the other side's vector cannot be told.
            if sigma[-1] > SMALLEST:
                vectors = normal.new_zeros(len(normal), k)
                vectors[few] = own[:, -k:].flip(1)
                vectors[many] = between.T @ vectors[few] / sigma
                return sigma, vectors / 2**0.5
    there = torch.nonzero(normal.sum(1) > 0).flatten()
    values, own = torch.linalg.eigh(normal[there][:, there])
    vectors = normal.new_zeros(len(normal), len(values[-k:]))
    vectors[there] = own[:, -k:].flip(1)
    return values[-k:].flip(0), vectors


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
    sides = two_sides([(block.source, block.target) for block in blocks], names)
    side = None
    if sides is not None:
        side = torch.cat([torch.full((sizes[name],), sides[name], device=blocks[0].weights_ts.device) for name in names])
    return LaplacianEigenvalues.apply(places, side, nodes, q, *(block.weights_ts for block in blocks))


def cut_penalty(network: nn.Module, wiring: Wiring, keep: Sequence[str], q: int) -> Tensor:
    """The mean of eigenvalues 2..q+1 (a scalar in 0..2) of the graph of a network's layers, of the sets of nodes `keep`, as its weights are now."""
    blocks = [block for block in wiring.blocks(network) if block.source in keep and block.target in keep]
    return laplacian_eigenvalues(blocks, wiring.sizes, q).mean()
