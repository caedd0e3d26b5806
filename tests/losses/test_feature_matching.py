"""Matching of normalised features against its formula in Python floats, and in closed form."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from losses.feature_matching import FeatureMatching, unit_rows


def by_definition(student_nd: Tensor, teacher_nd: Tensor) -> float:
    """The mean over images of the squared distance of both directions, from Python floats alone."""
    total = 0.0
    for own, other in zip(student_nd.double().tolist(), teacher_nd.double().tolist(), strict=True):
        lengths = [math.sqrt(sum(x * x for x in row)) for row in (own, other)]
        total += sum((x / lengths[0] - y / lengths[1]) ** 2 for x, y in zip(own, other, strict=True))
    return total / len(student_nd)


def random_rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(images=st.integers(1, 6), units=st.integers(1, 9), scales=st.tuples(*[st.floats(1e-4, 1e4)] * 2), seed=st.integers(0, 2**16))
def test_equals_the_formula_at_every_scale(images: int, units: int, scales: tuple[float, float], seed: int) -> None:
    student, teacher = random_rows(2, images, units, seed=seed)
    loss = FeatureMatching(units, units)(student * scales[0], teacher * scales[1])
    assert loss.item() == pytest.approx(by_definition(student, teacher), rel=1e-9, abs=1e-12)


def test_a_layer_stands_between_features_of_different_sizes_and_is_trained() -> None:
    torch.manual_seed(0)
    matching, student, teacher = FeatureMatching(12, 5).double(), random_rows(4, 3, 2, 2), random_rows(4, 5, seed=1)
    regressor = matching.regressor
    assert isinstance(regressor, nn.Linear)
    loss = matching(student, teacher)
    rows = torch.einsum("nu,eu->ne", student.flatten(1), regressor.weight) + regressor.bias
    assert loss.item() == pytest.approx(by_definition(rows.detach(), teacher), rel=1e-9)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in matching.parameters())


def test_nothing_stands_between_features_of_one_size() -> None:
    assert not list(FeatureMatching(5, 5).parameters())


@pytest.mark.parametrize(("turned", "expected"), [((3.0, 0.0), 0.0), ((0.0, 7.0), 2.0), ((-2.0, 0.0), 4.0), ((1.0, 1.0), 2 - math.sqrt(2))])
def test_directions_in_closed_form(turned: tuple[float, float], expected: float) -> None:
    loss = FeatureMatching(2, 2)(torch.tensor([turned] * 3, dtype=torch.float64), torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64))
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_gradients() -> None:
    torch.manual_seed(0)
    student, teacher = random_rows(2, 3, 4)
    assert torch.autograd.gradcheck(lambda x: FeatureMatching(4, 4)(x, teacher), student.requires_grad_())
    matching = FeatureMatching(4, 2).double()
    assert torch.autograd.gradcheck(lambda x: matching(x, teacher[:, :2]), student)


def test_a_zero_vector_stays_zero_with_a_finite_gradient() -> None:
    student = random_rows(3, 4).float()
    student[1] = 0
    student.requires_grad_()
    teacher = random_rows(3, 4, seed=1).float()
    loss = FeatureMatching(4, 4)(student, teacher)
    # A zero vector is at distance 1 from any direction.
    expected = (2 * by_definition(student[[0, 2]].detach(), teacher[[0, 2]]) + 1) / 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 100
    assert FeatureMatching(4, 4)(torch.zeros(2, 4), torch.zeros(2, 4)).item() == 0


@settings(max_examples=25, deadline=None)
@given(exponent=st.integers(-12, 12), seed=st.integers(0, 2**16))
def test_rows_of_any_size_get_length_one(exponent: int, seed: int) -> None:
    rows = (random_rows(5, 7, seed=seed) * 10.0**exponent).float().requires_grad_()
    unit = unit_rows(rows)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(5))
    unit[:, 0].sum().backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_autocast_does_not_lower_its_precision() -> None:
    torch.manual_seed(0)
    matching, student, teacher = FeatureMatching(20, 8), random_rows(6, 20).float(), random_rows(6, 8, seed=1).float()
    exact = FeatureMatching(20, 8).double()
    exact.load_state_dict(matching.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        inside = matching(student, teacher)
        rounded = matching(student.bfloat16(), teacher.bfloat16())
    assert inside.dtype == rounded.dtype == torch.float32
    assert inside.item() == pytest.approx(exact(student.double(), teacher.double()).item(), rel=1e-5)
    assert rounded.item() == pytest.approx(exact(student.bfloat16().double(), teacher.bfloat16().double()).item(), rel=1e-5)
