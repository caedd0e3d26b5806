"""Saturation: what hooks take is what a network makes by hand, looking changes nothing, and the numbers are delve's."""

import numpy as np
import pytest
import torch
from delve import SaturationTracker
from delve.writers import AbstractWriter
from torch.nn.functional import interpolate

from analysis.covariance import intrinsic_dimension
from analysis.options import Saturation
from analysis.saturation import WAYS, Covariances, measures, run, saturate
from analysis.taps import layers, levels, rows_of, tapped
from models.networks import build_network
from tests.analysis.looked_at import inputs, seen, small_convolutions

# How rows (n, d) are made of maps (N, C, H, W), one image after the other.
BY_HAND = {
    "channelwise": lambda maps: np.stack([own[:, i, j] for own in maps for i in range(own.shape[1]) for j in range(own.shape[2])]),
    "mean": lambda maps: maps.reshape(*maps.shape[:2], -1).mean(2),
    "max": lambda maps: maps.reshape(*maps.shape[:2], -1).max(2),
    # torch's median is the lower of the two in the middle.
    "median": lambda maps: np.sort(maps.reshape(*maps.shape[:2], -1), 2)[..., (maps.shape[2] * maps.shape[3] - 1) // 2],
    "flatten": lambda maps: maps.reshape(len(maps), -1),
}


def by_hand(network, images):
    """The outputs of the layers of `small_convolutions`, float32."""
    found = {}
    first, second, third, last = network.blocks
    x = found["blocks.0.conv"] = first.conv(images)
    x = found["blocks.1.conv"] = second.conv(first.act(x))
    x = found["blocks.2.linear"] = third.linear(second.act(second.norm(x)).flatten(1))
    found["blocks.3"] = last(third.act(x))
    return found


def test_layers_and_levels_are_named_by_their_paths_in_order():
    network = small_convolutions()
    assert list(layers(network)) == ["blocks.0.conv", "blocks.1.conv", "blocks.2.linear", "blocks.3"]
    assert list(levels(network)) == ["level 0", "level 1", "level 2", "level 3"]
    images = inputs(seen(network))[:5]
    taken = {}
    with tapped(network, taken.__setitem__, "levels"):
        logits = network(images)
    own = images
    for number, block in enumerate(network.blocks):
        assert torch.equal(taken[f"level {number}"], own)
        own = block(own)
    assert torch.equal(logits, own)
    taken.clear()
    with tapped(network, taken.__setitem__, "layers", only=["blocks.1.conv"]):
        network(images)
    assert list(taken) == ["blocks.1.conv"]
    # Outside of the context nothing is taken.
    network(images + 1)
    assert torch.equal(taken["blocks.1.conv"], by_hand(network, images)["blocks.1.conv"])


def test_tokens_are_rows():
    tokens = torch.randn(4, 5, 3)
    assert torch.equal(rows_of(tokens), torch.cat(list(tokens)))


@pytest.mark.parametrize("conv", sorted(WAYS))
@pytest.mark.parametrize("downsample", [None, 3])
def test_covariances_are_those_of_activations_taken_by_hand(conv, downsample):
    network = small_convolutions()
    found = seen(network)
    covariances = saturate(found, found.system, "test", "Identity", Saturation(conv=conv, downsample=downsample))
    with torch.no_grad():
        outputs = by_hand(network, inputs(found))
    assert list(covariances.of) == list(outputs)
    for name, output in outputs.items():
        if output.ndim == 4:
            if downsample and output.shape[2] > downsample:
                # Nearest: the pixel at floor(i * side / size).
                places = [place * output.shape[2] // downsample for place in range(downsample)]
                assert torch.equal(interpolate(output, downsample, mode="nearest"), output[:, :, places][..., places])
                output = output[:, :, places][..., places]
            rows = BY_HAND[conv](output.numpy())
        else:
            rows = output.numpy()
        expected = np.cov(rows.T.astype(np.float64), bias=True)
        assert covariances.of[name].n == len(rows)
        np.testing.assert_allclose(covariances.of[name].matrix().numpy(), expected, rtol=0, atol=5e-6 * expected.diagonal().max())
    spectra = covariances.spectra()
    assert list(spectra) == list(outputs)
    restored = Covariances(conv, downsample)
    restored.restore(covariances.state())
    for name, values in restored.spectra().items():
        np.testing.assert_array_equal(values, spectra[name])


def test_looking_changes_neither_weights_nor_modes_nor_answers(tmp_path):
    network = build_network("LeNet5", 10)
    network.train()(torch.randn(8, 3, 28, 28))
    found = seen(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = inputs(found)
    with torch.no_grad(), Covariances().watching(network):
        watched = network(images)
    with torch.no_grad():
        assert torch.equal(watched, network(images))
    run(found, Saturation(), tmp_path)
    after = network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not any(part.training for part in network.modules())
    # Nor is a network that is trained taken out of its mode.
    network.train()
    with torch.no_grad(), Covariances().watching(network):
        network(images)
    assert all(part.training for part in network.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_an_error_inside_leaves_no_hook_behind():
    network = small_convolutions()
    with pytest.raises(KeyError), Covariances().watching(network):
        raise KeyError
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


@pytest.mark.parametrize("rule", ["delve", "standard"])
def test_rows_and_spectra_are_there_for_every_condition_in_order(tmp_path, rule):
    found = seen(small_convolutions(), [("Contrast",), ("Identity",), ("Invert", "GaussianBlur")])
    options = Saturation(delta=[0.9, 0.99], rule=rule, images=20)
    rows = run(found, options, tmp_path)
    conditions = ["Identity", "Contrast", "Invert-GaussianBlur"]
    names = list(layers(found.network))
    metrics = ["saturation_0.9", "intrinsic_dimension_0.9", "saturation_0.99", "intrinsic_dimension_0.99", "dimension", "trace"]
    assert [(row.composition, row.layer, row.metric) for row in rows] == [
        (condition, name, metric) for condition in conditions for name in names for metric in metrics
    ]
    assert {row.split for row in rows} == {"test"}
    spectra = np.load(tmp_path / "spectra.npz")
    assert list(spectra) == [f"{condition}/{name}" for condition in conditions for name in names]
    value = {(row.composition, row.layer, row.metric): row.value for row in rows}
    with torch.no_grad():
        for condition in conditions:
            for name, output in by_hand(found.network, inputs(found, "test", condition, 20)).items():
                expected = np.linalg.eigvalsh(np.cov(rows_of(output).double().numpy().T, bias=True))[::-1]
                np.testing.assert_allclose(spectra[f"{condition}/{name}"], expected, rtol=0, atol=1e-5 * expected[0])
                shares = np.cumsum(expected) / expected.sum()
                dimension = value[condition, name, "intrinsic_dimension_0.99"]
                below = int((shares < 0.99).sum())
                assert dimension == (below + 1 if rule == "standard" else max(1, below))
                assert value[condition, name, "saturation_0.99"] == dimension / len(expected)
                assert value[condition, name, "dimension"] == len(expected)
                assert value[condition, name, "trace"] == pytest.approx(expected.sum(), rel=1e-5)
    # The conditions are told apart.
    assert value["Identity", "blocks.0.conv", "trace"] != pytest.approx(value["Contrast", "blocks.0.conv", "trace"], rel=0.01)


def test_a_layer_whose_outputs_are_not_finite_has_a_dimension_alone():
    found = measures(torch.full((4,), torch.nan, dtype=torch.float64), Saturation())
    assert found.pop("dimension") == 4
    assert all(np.isnan(value) for value in found.values())


class Kept(AbstractWriter):
    """Keeps what delve tells."""

    def __init__(self):
        self.values = {}

    def resume_from_saved_state(self, initial_epoch):
        raise NotImplementedError

    def add_scalar(self, name, value, **kwargs):
        self.values[name] = value

    def add_scalars(self, prefix, value_dict, sample_value_dict=None):
        self.values |= value_dict

    def add_sample_scalar(self, name, value, **kwargs):
        raise NotImplementedError

    def save(self):
        pass

    def close(self):
        pass


@pytest.mark.parametrize("conv", sorted(WAYS))
@pytest.mark.parametrize(("downsample", "delta"), [(None, 0.99), (2, 0.9)])
def test_numbers_are_delves_on_one_batch(tmp_path, conv, downsample, delta):
    """Of more than one batch delve 0.1.50 keeps the last alone."""
    network = small_convolutions(3, stride=1)
    found = seen(network)
    images = inputs(found)
    covariances, kept = Covariances(conv, downsample), Kept()
    with torch.no_grad(), covariances.watching(network):
        network(images)
    interpolation = {"interpolation_strategy": "nearest", "interpolation_downsampling": downsample} if downsample else {}
    tracker = SaturationTracker(
        str(tmp_path / "delve"), kept, network, stats=["lsat", "idim"], conv_method=conv, sat_threshold=delta, device="cpu", **interpolation
    )
    with torch.no_grad():
        network(images)
    tracker.add_saturations(save=False)
    options = Saturation(delta=delta, conv=conv, downsample=downsample)
    assert len(covariances.of) == 4
    for name, covariance in covariances.of.items():
        own, theirs = measures(covariance.eigenvalues(), options), name.replace(".", "-")
        assert own[f"intrinsic_dimension_{delta:g}"] == kept.values[f"eval-intrinsic-dimensionality_{theirs}"]
        assert own[f"saturation_{delta:g}"] == pytest.approx(kept.values[f"eval-saturation_{theirs}"], abs=5e-4)
        assert own[f"saturation_{delta:g}"] == intrinsic_dimension(covariance.eigenvalues(), delta) / covariance.dimension


def test_images_in_other_batches_have_the_same_saturation(monkeypatch):
    network = small_convolutions(4)
    found = seen(network)
    whole = saturate(found, found.system, "test", "Identity", Saturation())
    monkeypatch.setattr("analysis.pictures.CHUNK", 7)
    cut = saturate(found, found.system, "test", "Identity", Saturation())
    reversed_order = Covariances()
    with torch.no_grad(), reversed_order.watching(network):
        network(inputs(found).flip(0))
    for name, covariance in whole.of.items():
        for other in (cut, reversed_order):
            assert other.of[name].n == covariance.n
            assert measures(other.of[name].eigenvalues(), Saturation()) == pytest.approx(
                measures(covariance.eigenvalues(), Saturation()), rel=1e-4
            )


def test_fewer_images_are_the_first_of_every_class():
    found = seen(small_convolutions())
    few = saturate(found, found.system, "test", "Identity", Saturation(images=10))
    assert few.of["blocks.3"].n == 10
    labels = found.pictures.labels("test", "Identity", 10)
    assert sorted(labels.tolist()) == list(range(10))
    assert few.of["blocks.0.conv"].n > 10
