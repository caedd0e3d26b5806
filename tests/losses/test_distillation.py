"""The tempered divergence of logits against its formula in Python floats, in closed form, and the size of its gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from losses.distillation import agreement_n, distillation_loss, kl_n


def probabilities(logits: list[float], temperature: float) -> list[float]:
    weights = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def divergences(teacher_nk: Tensor, student_nk: Tensor, temperature: float) -> list[float]:
    """KL(teacher || student) of each image, from Python floats alone."""
    found = []
    for taught, learned in zip(teacher_nk.double().tolist(), student_nk.double().tolist(), strict=True):
        pairs = zip(probabilities(taught, temperature), probabilities(learned, temperature), strict=True)
        found.append(sum(p * math.log(p / q) for p, q in pairs))
    return found


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 6),
    classes=st.integers(2, 9),
    temperature=st.floats(0.2, 40),
    scale=st.floats(1e-2, 20),
    seed=st.integers(0, 2**16),
)
def test_equals_the_formula(images: int, classes: int, temperature: float, scale: float, seed: int) -> None:
    teacher, student = random_logits(2, images, classes, seed=seed) * scale
    expected = divergences(teacher, student, temperature)
    assert kl_n(teacher, student, temperature).tolist() == pytest.approx(expected, rel=1e-8, abs=1e-11)
    mean = temperature**2 * sum(expected) / images
    assert distillation_loss(student, teacher, temperature).item() == pytest.approx(mean, rel=1e-8, abs=1e-8)


def test_the_teacher_comes_first() -> None:
    teacher, student = random_logits(2, 4, 5) * 3
    assert (kl_n(teacher, student) - kl_n(student, teacher)).abs().max() > 1


@pytest.mark.parametrize("temperature", [1.0, 4.0, 30.0])
@pytest.mark.parametrize("logit", [-3.0, 0.5, 8.0])
def test_an_undecided_student_of_two_classes_in_closed_form(logit: float, temperature: float) -> None:
    teacher, student = torch.tensor([[logit, 0.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    p = 1 / (1 + math.exp(-logit / temperature))
    expected = math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    assert kl_n(teacher, student, temperature).item() == pytest.approx(expected, rel=1e-9)
    assert distillation_loss(student, teacher, temperature).item() == pytest.approx(temperature**2 * expected, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), scale=st.floats(0.01, 30), temperature=st.floats(0.5, 30))
def test_a_copy_has_no_divergence_and_always_agrees(seed: int, scale: float, temperature: float) -> None:
    teacher = random_logits(7, 5, seed=seed).float() * scale
    student = teacher.clone().requires_grad_()
    loss = distillation_loss(student, teacher, temperature)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5 * temperature
    assert agreement_n(teacher, student).all()


def test_agreement_is_that_of_the_largest_logit() -> None:
    teacher = torch.tensor([[1.0, 2.0, 3.0], [5.0, 4.0, 0.0], [0.0, 1.0, 0.0]])
    student = torch.tensor([[-3.0, -2.0, -1.0], [4.0, 5.0, 0.0], [8.0, 9.0, 7.0]])
    assert agreement_n(teacher, student).tolist() == [True, False, True]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_gradients(temperature: float) -> None:
    teacher, student = random_logits(2, 4, 5)
    assert torch.autograd.gradcheck(lambda x: distillation_loss(x, teacher, temperature), student.requires_grad_())


def test_the_gradient_keeps_its_size_at_every_temperature() -> None:
    teacher, student = random_logits(2, 64, 10) * 0.5
    student.requires_grad_()
    temperatures = range(1, 31)
    norms = [torch.autograd.grad(distillation_loss(student, teacher, t), student)[0].norm().item() for t in temperatures]
    assert max(norms) < 2 * min(norms)
    without = [norm / t**2 for norm, t in zip(norms, temperatures)]
    assert max(without) > 400 * min(without)


def test_autocast_does_not_lower_its_precision() -> None:
    teacher, student = (random_logits(2, 16, 10) * 3).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = distillation_loss(student, teacher, 4)
        rounded = distillation_loss(student.bfloat16(), teacher.bfloat16(), 4)
    assert inside.dtype == rounded.dtype == torch.float32
    assert inside.item() == pytest.approx(4**2 * sum(divergences(teacher, student, 4)) / 16, rel=1e-5)
    assert rounded.item() == pytest.approx(4**2 * sum(divergences(teacher.bfloat16(), student.bfloat16(), 4)) / 16, rel=1e-5)


def test_float32_stays_finite_with_logits_far_apart() -> None:
    teacher, student = torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[-1e4, 0.0, 1e4]], requires_grad=True)
    loss = distillation_loss(student, teacher, 1)
    loss.backward()
    assert student.grad is not None
    assert loss.item() == pytest.approx(2e4)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        distillation_loss(random_logits(3, 4), random_logits(3, 4), temperature)
