"""Projections that are folded into weights give what projections of the outputs give, and the network itself stays as it is."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from analysis.covariance import Covariance, intrinsic_dimension
from analysis.options import Projection
from analysis.projection import basis, fold, projected, run
from analysis.saturation import Covariances
from analysis.taps import layers, rows_of
from tests.analysis.looked_at import inputs, seen, small_convolutions

NAMES = ["blocks.0.conv", "blocks.1.conv", "blocks.2.linear", "blocks.3"]
# Small networks whose batch norm, stride, bias and groups differ.
NETWORKS = {
    "with bias": {},
    "without bias": {"bias": False},
    "in groups": {"groups": 2, "stride": 1},
    "in groups without bias": {"groups": 2, "bias": False},
}


def covariances_of(found):
    """The covariances of the layers on the training images."""
    taken = Covariances()
    with taken.watching(found.network):
        for _ in found.responses(found.system, "train", "Identity", None):
            pass
    return taken.of


def hooked(network, own):
    """Forward hooks that project the outputs of layers: (directions, mean) by name, float64."""

    def hook(directions_cr, mean_c):
        def project(part, given, output):
            rows = output.double().movedim(1, -1)
            return ((rows - mean_c) @ directions_cr @ directions_cr.T + mean_c).movedim(-1, 1).to(output.dtype)

        return project

    return [layers(network)[name].register_forward_hook(hook(*given)) for name, given in own.items()]


def own_bases(covariances, delta):
    """Directions and mean of every layer but the last, by the eigenvectors of the covariance that numpy would find."""
    found = {}
    for name in list(covariances)[:-1]:
        values, vectors = torch.linalg.eigh(covariances[name].matrix())
        shares = values.flip(0).cumsum(0) / values.sum()
        below = int((shares < delta).sum())
        rank = 1 if below == 0 else below + (delta - shares[below - 1] > 0.02)
        found[name] = (vectors.flip(1)[:, : int(rank)], covariances[name].mean())
    return found


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("delta", [0.5, 0.9, 0.99])
def test_folded_weights_give_what_projected_outputs_give(kind, delta):
    network = small_convolutions(2, **NETWORKS[kind])
    found, images = seen(network), inputs(seen(network))
    covariances = covariances_of(found)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    system, ranks = projected(found.system, covariances, delta, Projection())
    own = own_bases(covariances, delta)
    assert ranks == {name: directions.shape[1] for name, (directions, _) in own.items()}
    assert sum(ranks.values()) < sum(covariances[name].dimension for name in ranks)
    with torch.no_grad():
        plain = network(images)
        hooks = hooked(network, own)
        expected = network(images)
        for hook in hooks:
            hook.remove()
        logits = system(images, ("Identity",))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * expected.abs().max())
    assert not torch.allclose(expected, plain, rtol=1e-3, atol=1e-3 * plain.abs().max())
    # The original is as it was, the copy has what it needs and no more.
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(parameter.requires_grad for parameter in system.parameters())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, 3, bias=False, dilation=2),
        nn.Conv2d(4, 6, (3, 1), groups=2),
        nn.Conv2d(4, 8, 3, groups=4, bias=False, padding="same", padding_mode="reflect"),
        nn.Linear(5, 7),
        nn.Linear(5, 7, bias=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("rank", [1, 3])
def test_a_layer_is_projected_through_its_mean(layer, rank):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double()
    given = torch.randn(30, *((4, 9, 9) if isinstance(layer, nn.Conv2d) else (5,)), dtype=torch.float64)
    with torch.no_grad():
        output = layer(given)
        covariance = Covariance()
        covariance.add(rows_of(output))
        directions, mean = covariance.eigenbasis()[1][:, :rank], covariance.mean()
        fold(layer, directions, mean)
        folded = layer(given)
    centred = rows_of(output) - mean
    torch.testing.assert_close(rows_of(folded), centred @ directions @ directions.T + mean)
    # What is left are the directions that explain most: the mean stays, and of the variance the first eigenvalues.
    left = Covariance()
    left.add(rows_of(folded))
    torch.testing.assert_close(left.mean(), mean)
    torch.testing.assert_close(left.eigenvalues()[:rank], covariance.eigenvalues()[:rank])
    assert left.eigenvalues()[rank:].max() < 1e-12 * left.eigenvalues()[0]


def test_a_delta_of_1_changes_no_bit(tmp_path):
    found = seen(small_convolutions(1))
    system, ranks = projected(found.system, covariances_of(found), 1.0, Projection())
    assert ranks == {"blocks.0.conv": 6, "blocks.1.conv": 8, "blocks.2.linear": 12}
    images = inputs(found)
    with torch.no_grad():
        assert torch.equal(system(images, ("Identity",)), found.system(images, ("Identity",)))
    rows = {row.metric: row.value for row in run(found, Projection(delta=1.0), tmp_path) if not row.layer}
    labels = found.pictures.labels("test", "Identity", None)
    logits = torch.cat(list(found.responses(found.system, "test", "Identity", None)))
    assert rows["projected_accuracy_1"] == (logits.argmax(1) == labels).double().mean().item()
    assert rows["projected_loss_1"] == cross_entropy(logits.double(), labels).item()
    assert rows["projected_share_1"] == 1


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_random_directions_are_orthonormal_and_follow_from_their_key(rank):
    vectors = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0]
    assert torch.equal(basis(vectors, rank, "eigenvectors", "a"), vectors[:, :rank])
    first, again, other = (basis(vectors, rank, "random", key) for key in ("a", "a", "b"))
    torch.testing.assert_close(first.T @ first, torch.eye(rank, dtype=torch.float64))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not torch.allclose(first @ first.T, vectors[:, :rank] @ vectors[:, :rank].T) or rank == 9


def test_random_directions_are_as_many_and_explain_less(tmp_path):
    found = seen(small_convolutions(5))
    covariances = covariances_of(found)
    images = inputs(found)
    for delta in (0.9, 0.99):
        _, ranks = projected(found.system, covariances, delta, Projection())
        system, random = projected(found.system, covariances, delta, Projection(basis="random"))
        assert random == ranks
        again, _ = projected(found.system, covariances, delta, Projection(basis="random"))
        with torch.no_grad():
            assert torch.equal(system(images, ("Identity",)), again(images, ("Identity",)))
    # No other directions explain as much as as many eigenvectors.
    first, vectors = covariances["blocks.0.conv"].matrix(), covariances["blocks.0.conv"].eigenbasis()[1]
    for rank in range(1, 6):
        most, less = (basis(vectors, rank, kind, "key") for kind in ("eigenvectors", "random"))
        assert (most.T @ first @ most).trace() > (less.T @ first @ less).trace()
    assert [row.metric for row in run(found, Projection(delta=0.9, basis="random"), tmp_path)][-2:] == [
        "randomly_projected_accuracy_0.9",
        "randomly_projected_loss_0.9",
    ]


@pytest.mark.parametrize("rule", ["delve", "standard"])
def test_rows_of_few_deltas(tmp_path, rule):
    found = seen(small_convolutions(6), [("Identity",), ("Invert",)])
    options = Projection(delta=[0.3, 0.95], rule=rule, images=20, train_images=30)
    rows = run(found, options, tmp_path)
    covariances = Covariances()
    with torch.no_grad(), covariances.watching(found.network):
        found.network(inputs(found, "train", "Identity", 30))
    for delta in options.delta:
        ranks = {}
        for name in NAMES[:-1]:
            ranks[name] = intrinsic_dimension(covariances.of[name].eigenvalues(), delta, {"delve": "delve rank"}.get(rule, rule))
        own = [row for row in rows if row.metric.endswith(f"_{delta:g}")]
        dimensions = {row.layer: row.value for row in own if row.metric == f"projected_dimension_{delta:g}"}
        assert dimensions == ranks | {"": sum(ranks.values())}
        (share,) = (row.value for row in own if row.metric == f"projected_share_{delta:g}")
        assert share == pytest.approx(sum(ranks.values()) / (6 + 8 + 12))
        assert {row.split for row in own if "dimension" in row.metric or "share" in row.metric} == {"train"}
        system, _ = projected(found.system, covariances.of, delta, options)
        for condition in ("Identity", "Invert"):
            labels = found.pictures.labels("test", condition, 20)
            with torch.no_grad():
                logits = system(inputs(found, "test", condition, 20), (condition,))
            value = {row.metric: row.value for row in own if row.composition == condition}
            assert value.keys() == {f"projected_accuracy_{delta:g}", f"projected_loss_{delta:g}"}
            assert value[f"projected_accuracy_{delta:g}"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
            assert value[f"projected_loss_{delta:g}"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-4)
    losses = {(row.composition, row.metric): row.value for row in rows if "loss" in row.metric}
    assert losses["Identity", "projected_loss_0.3"] != losses["Identity", "projected_loss_0.95"]
    assert losses["Identity", "projected_loss_0.3"] != losses["Invert", "projected_loss_0.3"]
