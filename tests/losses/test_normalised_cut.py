"""Eigenvalues of normalised Laplacians against numpy's, their gradients against finite differences and autograd; the penalty falls when it is descended."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from analysis.weight_graph import WeightGraph, normalised_cut, spectrum
from losses.normalised_cut import cut_penalty, laplacian_eigenvalues
from models.wiring import Block, Route, Wire, Wiring

SIZES = {"a": 5, "b": 4, "c": 6}
CHAIN = (("a", "b"), ("b", "c"))
TRIANGLE = (("a", "b"), ("b", "c"), ("a", "c"))


def weights_of(pairs, sizes=SIZES, seed=0, low=0.1):
    """Random weights (target, source) for each pair (source, target)."""
    generator = torch.Generator().manual_seed(seed)
    return [low + torch.rand(sizes[target], sizes[source], dtype=torch.float64, generator=generator) for source, target in pairs]


def blocks_of(pairs, weights):
    return [Block(source, target, own) for (source, target), own in zip(pairs, weights)]


def adjacency(pairs, weights, sizes=SIZES):
    starts = dict(zip(sizes, np.concatenate([[0], np.cumsum(list(sizes.values()))]).tolist()))
    total = sum(sizes.values())
    found = weights[0].new_zeros(total, total)
    for (source, target), own in zip(pairs, weights):
        rows, columns = (slice(starts[name], starts[name] + sizes[name]) for name in (target, source))
        half = torch.zeros_like(found)
        half[rows, columns] = own
        found = found + half + half.T
    return found


def laplacian(pairs, weights, sizes=SIZES):
    matrix = adjacency(pairs, weights, sizes)
    scale = matrix.sum(1).rsqrt()
    return torch.eye(len(matrix), dtype=matrix.dtype) - scale[:, None] * matrix * scale


def mlp(seed=0, sizes=(12, 10, 8, 4)):
    """An MLP and its wiring, which is that of linear layers behind each other."""
    torch.manual_seed(seed)
    layers = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
    names = ["input", *(str(number) for number in range(len(layers)))]
    wires = tuple(
        Wire(own, size, (Route(before, torch.arange(width)),)) for before, own, size, width in zip(names, names[1:], sizes[1:], sizes)
    )
    return nn.Sequential(*layers), Wiring(wires, dict(zip(names, sizes))), names


@settings(max_examples=25, deadline=None)
@given(a=st.integers(1, 6), b=st.integers(1, 6), c=st.integers(1, 6), seed=st.integers(0, 10**6), skip=st.booleans(), share=st.floats(0, 1))
def test_eigenvalues_are_numpys(a, b, c, seed, skip, share):
    sizes, pairs = {"a": a, "b": b, "c": c}, TRIANGLE if skip else CHAIN
    weights = weights_of(pairs, sizes, seed)
    q = 1 + round(share * (a + b + c - 2))
    expected = np.linalg.eigvalsh(laplacian(pairs, weights, sizes).numpy())
    np.testing.assert_allclose(laplacian_eigenvalues(blocks_of(pairs, weights), sizes, q).numpy(), expected[1 : q + 1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("pairs", [CHAIN, TRIANGLE], ids=["chain", "triangle"])
@pytest.mark.parametrize("q", [1, 3])
def test_gradients_are_those_of_finite_differences(pairs, q):
    weights = [own.requires_grad_() for own in weights_of(pairs)]
    values = laplacian_eigenvalues(blocks_of(pairs, weights), SIZES, q + 1)
    # Equal eigenvalues would have no derivatives of their own.
    assert values.diff().min() > 1e-3
    assert torch.autograd.gradcheck(lambda *own: laplacian_eigenvalues(blocks_of(pairs, own), SIZES, q), weights)


@pytest.mark.parametrize("pairs", [CHAIN, TRIANGLE, (("a", "b"), ("a", "b"))], ids=["chain", "triangle", "twice"])
def test_gradients_are_those_of_autograd_through_the_dense_laplacian(pairs):
    sizes = {name: SIZES[name] for name in SIZES if any(name in pair for pair in pairs)}
    weights = [own.requires_grad_() for own in weights_of(pairs, sizes)]
    share = torch.tensor([0.5, -2.0, 1.0], dtype=torch.float64)
    found = torch.autograd.grad(laplacian_eigenvalues(blocks_of(pairs, weights), sizes, 3) @ share, weights)
    expected = torch.autograd.grad(torch.linalg.eigvalsh(laplacian(pairs, weights, sizes))[1:4] @ share, weights)
    assert all(own.abs().max() > 1e-3 for own in expected)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_eigenvalues_have_the_type_of_the_weights_and_are_computed_in_float64():
    weights = [own.float() for own in weights_of(CHAIN)]
    found = laplacian_eigenvalues(blocks_of(CHAIN, weights), SIZES, 3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, laplacian_eigenvalues(blocks_of(CHAIN, [own.double() for own in weights]), SIZES, 3).float())
    own = weights[0].requires_grad_()
    (gradient,) = torch.autograd.grad(laplacian_eigenvalues(blocks_of(CHAIN, [own, weights[1]]), SIZES, 3).sum(), own)
    assert gradient.dtype == torch.float32


def isolated(pairs=CHAIN):
    """Weights of which unit 1 of `a` and unit 3 of `b` have none; the same without these units; the smaller sizes."""
    first, second = weights_of(pairs)
    first[:, 1] = first[3] = second[:, 3] = 0
    there_a, there_b = [0, 2, 3, 4], [0, 1, 2]
    return [first, second], [first[there_b][:, there_a], second[:, there_b]], {"a": 4, "b": 3, "c": 6}


# The graph without them has 13 nodes, of which 3 on one side: 2 of these eigenvalues are below 1, 3 above it.
@pytest.mark.parametrize("q", [1, 5, 12])
def test_nodes_without_edges_are_left_out(q):
    weights, without, sizes = isolated()
    found = laplacian_eigenvalues(blocks_of(CHAIN, weights), SIZES, q)
    torch.testing.assert_close(found, laplacian_eigenvalues(blocks_of(CHAIN, without), sizes, q), rtol=0, atol=1e-10)


def test_nodes_without_edges_leave_the_gradients_of_the_others_as_they_are():
    weights, without, sizes = isolated()
    weights, without = ([own.requires_grad_() for own in some] for some in (weights, without))
    first, second = torch.autograd.grad(laplacian_eigenvalues(blocks_of(CHAIN, weights), SIZES, 2).sum(), weights)
    one, two = torch.autograd.grad(laplacian_eigenvalues(blocks_of(CHAIN, without), sizes, 2).sum(), without)
    torch.testing.assert_close(first[:3][:, [0, 2, 3, 4]], one, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(second[:, :3], two, rtol=1e-8, atol=1e-10)
    assert torch.isfinite(first).all()
    assert torch.isfinite(second).all()


@pytest.mark.parametrize("components", [2, 3])
def test_a_graph_of_some_components_has_as_many_eigenvalues_of_0(components):
    weights = [own * (torch.arange(len(own))[:, None] % components == torch.arange(own.shape[1]) % components) for own in weights_of(CHAIN)]
    found = laplacian_eigenvalues(blocks_of(CHAIN, weights), SIZES, components)
    assert found[: components - 1].abs().max() < 1e-10
    assert found[components - 1] > 1e-3


def test_more_eigenvalues_than_nodes_are_an_error():
    blocks = blocks_of(CHAIN, weights_of(CHAIN))
    assert len(laplacian_eigenvalues(blocks, SIZES, 14)) == 14
    with pytest.raises(ValueError, match="16 eigenvalues of 15 nodes"):
        laplacian_eigenvalues(blocks, SIZES, 15)


def test_the_penalty_is_the_mean_of_the_eigenvalues_of_the_graph_that_is_clustered():
    network, wiring, names = mlp()
    for keep in (names, names[1:]):
        kept = [block for block in wiring.blocks(network) if block.source in keep]
        graph = WeightGraph.of([(block.source, block.target, block.weights_ts.detach().double().numpy()) for block in kept], wiring.sizes)
        values, _ = spectrum(graph, 4)
        assert cut_penalty(network, wiring, keep, 3).item() == pytest.approx(values[1:].mean(), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(2, 5))
def test_the_penalty_bounds_every_cut_from_below(seed, k):
    network, wiring, names = mlp(seed)
    blocks = [(block.source, block.target, block.weights_ts.detach().double().numpy()) for block in wiring.blocks(network)]
    graph = WeightGraph.of(blocks, wiring.sizes)
    labels = np.random.default_rng(seed).permutation(np.arange(graph.nodes) % k)
    assert 0 < (k - 1) * cut_penalty(network, wiring, names, k - 1).item() <= normalised_cut(graph, labels) + 1e-6


def test_the_penalty_falls_when_it_is_descended():
    network, wiring, names = mlp()
    before = cut_penalty(network, wiring, names, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        cut_penalty(network, wiring, names, 2).backward()
        optimizer.step()
    after = cut_penalty(network, wiring, names, 2)
    assert 0 < after.item() < 0.7 * before.item()
    # Biases are no edges.
    assert all(layer.weight.grad.abs().max() > 0 and layer.bias.grad is None for layer in network)


def test_the_first_order_of_a_step_is_its_gradient():
    network, wiring, names = mlp()
    network.double()
    before = cut_penalty(network, wiring, names, 2)
    before.backward()
    step, squares = 1e-5, sum(layer.weight.grad.square().sum().item() for layer in network)
    with torch.no_grad():
        for layer in network:
            layer.weight -= step * layer.weight.grad
    assert cut_penalty(network, wiring, names, 2).item() - before.item() == pytest.approx(-step * squares, rel=1e-2)
