"""The contrastive loss against its formula, loop by loop in float64, and in closed form."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from losses.contrastive import contrastive_loss


def by_definition(features_vbd: Tensor, temperature: float) -> float:
    """The sum over positive slots of the mean over anchors, from Python floats alone."""
    views, images = features_vbd.shape[:2]
    rows = [[features_vbd[v, u].double().flatten().tolist() for u in range(images)] for v in range(views)]

    def weight(first: list[float], second: list[float]) -> float:
        lengths = math.sqrt(sum(x * x for x in first)) * math.sqrt(sum(x * x for x in second))
        return math.exp(sum(x * y for x, y in zip(first, second, strict=True)) / lengths / temperature)

    total = 0.0
    for v in range(views):
        for u in range(images):
            negatives = sum(weight(rows[v][u], rows[w][b]) for w in range(views) for b in range(images) if b != u)
            for w in range(views):
                if w != v:
                    positive = weight(rows[v][u], rows[w][u])
                    total -= math.log(positive / (positive + negatives)) / (views * images)
    return total


def random_features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    views=st.integers(2, 4),
    images=st.integers(2, 5),
    dimensions=st.integers(1, 6),
    temperature=st.floats(0.05, 5),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formula(views: int, images: int, dimensions: int, temperature: float, scale: float, seed: int) -> None:
    features = random_features(views, images, dimensions, seed=seed) * scale
    assert contrastive_loss(features, temperature).item() == pytest.approx(by_definition(features, temperature), rel=1e-9, abs=1e-12)


def test_maps_are_flattened() -> None:
    features = random_features(3, 4, 5, 2, 2)
    assert contrastive_loss(features, 0.15).item() == pytest.approx(by_definition(features, 0.15), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**16))
def test_order_of_views_and_of_images_does_not_matter(data: st.DataObject, seed: int) -> None:
    features = random_features(4, 5, 3, seed=seed)
    views, images = data.draw(st.permutations(range(4))), data.draw(st.permutations(range(5)))
    torch.testing.assert_close(contrastive_loss(features[views][:, images], 0.15), contrastive_loss(features, 0.15))


def test_an_image_must_keep_its_place_in_every_view() -> None:
    features = random_features(1, 6, 8).repeat(2, 1, 1)
    mismatched = torch.stack([features[0], features[1].roll(1, 0)])
    assert contrastive_loss(mismatched, 0.15) > contrastive_loss(features, 0.15) + 1


@pytest.mark.parametrize("temperature", [0.01, 0.15, 2.0])
@pytest.mark.parametrize(("views", "images"), [(2, 2), (2, 16), (7, 5)])
def test_equal_features_in_closed_form(views: int, images: int, temperature: float) -> None:
    features = torch.ones(views, images, 9, dtype=torch.float64)
    expected = (views - 1) * math.log(1 + views * (images - 1))
    assert contrastive_loss(features, temperature).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 0.15, 2.0])
@pytest.mark.parametrize(("views", "images"), [(2, 2), (7, 5)])
def test_one_hot_features_in_closed_form(views: int, images: int, temperature: float) -> None:
    features = torch.eye(images, dtype=torch.float64).expand(views, images, images)
    expected = (views - 1) * math.log1p(views * (images - 1) * math.exp(-1 / temperature))
    assert contrastive_loss(features, temperature).item() == pytest.approx(expected, rel=1e-9)


def test_gradients() -> None:
    features = random_features(3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, 0.15), features)


@pytest.mark.parametrize("shape", [(1, 6, 3), (5, 1, 3), (1, 1, 3, 2, 2)])
def test_no_positive_or_no_negative_is_zero_with_a_gradient(shape: tuple[int, ...]) -> None:
    features = random_features(*shape).requires_grad_()
    loss = contrastive_loss(features, 0.15)
    loss.backward()
    assert loss.shape == ()
    assert loss.item() == 0
    assert features.grad is not None
    assert not features.grad.any()


def test_float32_stays_finite_at_a_tiny_temperature_and_with_a_zero_vector() -> None:
    features = random_features(3, 4, 5).float()
    features[0, 0] = 0
    features.requires_grad_()
    loss = contrastive_loss(features, 1e-3)
    loss.backward()
    assert features.grad is not None
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    assert features.grad.abs().max() < 1e6


def test_autocast_does_not_lower_its_precision() -> None:
    features = random_features(7, 12, 64).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = contrastive_loss(features, 0.15)
        rounded = contrastive_loss(features.bfloat16(), 0.15)
    assert inside.dtype == rounded.dtype == torch.float32
    assert inside.item() == pytest.approx(by_definition(features, 0.15), rel=1e-5)
    assert rounded.item() == pytest.approx(by_definition(features.bfloat16(), 0.15), rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 5), (0, 4, 5), (3, 0, 5), (3, 4, 0)])
def test_shapes_without_views_images_and_features_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="views, images"):
        contrastive_loss(torch.zeros(shape), 0.15)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        contrastive_loss(random_features(2, 3, 4), temperature)
