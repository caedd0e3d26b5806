"""InfoNCE between two networks' embeddings against its formula in Python floats and in closed form; the embeddings themselves."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from losses.embedded_contrastive import Embeddings, contrastive_distillation_loss


def by_definition(student_ne: Tensor, teacher_ne: Tensor, temperature: float) -> float:
    """The mean over both directions and all images of -log softmax at the image itself, from Python floats alone."""
    student, teacher = student_ne.double().tolist(), teacher_ne.double().tolist()
    total = 0.0
    for own, others in ((student, teacher), (teacher, student)):
        for i, anchor in enumerate(own):
            weights = [math.exp(sum(x * y for x, y in zip(anchor, other, strict=True)) / temperature) for other in others]
            total -= math.log(weights[i] / sum(weights))
    return total / (2 * len(student))


def random_rows(*shape: int, seed: int = 0) -> Tensor:
    rows = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=-1, keepdim=True)


@settings(max_examples=40, deadline=None)
@given(images=st.integers(1, 7), dim=st.integers(1, 6), temperature=st.floats(0.05, 5), seed=st.integers(0, 2**16))
def test_equals_the_formula(images: int, dim: int, temperature: float, seed: int) -> None:
    student, teacher = random_rows(2, images, dim, seed=seed)
    expected = by_definition(student, teacher, temperature)
    assert contrastive_distillation_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 2.0])
@pytest.mark.parametrize("images", [1, 2, 16])
def test_closed_forms(images: int, temperature: float) -> None:
    same = torch.ones(images, 1, dtype=torch.float64)
    assert contrastive_distillation_loss(same, same, temperature).item() == pytest.approx(math.log(images), abs=1e-12)
    apart = torch.eye(images, dtype=torch.float64)
    expected = math.log1p((images - 1) * math.exp(-1 / temperature))
    assert contrastive_distillation_loss(apart, apart, temperature).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_neither_the_order_of_images_nor_that_of_networks_matters() -> None:
    student, teacher = random_rows(2, 6, 4)
    loss = contrastive_distillation_loss(student, teacher, 0.1)
    torch.testing.assert_close(contrastive_distillation_loss(student.flip(0), teacher.flip(0), 0.1), loss)
    torch.testing.assert_close(contrastive_distillation_loss(teacher, student, 0.1), loss)


def test_the_positive_is_the_same_image() -> None:
    rows = random_rows(8, 16)
    assert contrastive_distillation_loss(rows, rows.roll(1, 0), 0.1) > contrastive_distillation_loss(rows, rows, 0.1) + 1


def test_gradients() -> None:
    student, teacher = (rows.clone().requires_grad_() for rows in random_rows(2, 4, 3))
    assert torch.autograd.gradcheck(lambda s, t: contrastive_distillation_loss(s, t, 0.2), (student, teacher))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        contrastive_distillation_loss(random_rows(3, 4), random_rows(3, 4), temperature)


def embedded(embeddings: Embeddings, student: Tensor, teacher: Tensor) -> list[list[list[float]]]:
    """What the layers make of flattened features, divided by its length, in Python floats."""
    found = []
    for layer, features in ((embeddings.student, student), (embeddings.teacher, teacher)):
        weights, biases = layer.weight.double().tolist(), layer.bias.double().tolist()
        rows = []
        for image in features.flatten(1).double().tolist():
            row = [sum(w * x for w, x in zip(line, image, strict=True)) + bias for line, bias in zip(weights, biases, strict=True)]
            length = math.sqrt(sum(x * x for x in row))
            rows.append([x / length for x in row])
        found.append(rows)
    return found


def test_embeddings_are_linear_of_flattened_features_and_of_length_one() -> None:
    torch.manual_seed(0)
    embeddings, student, teacher = Embeddings(12, 5, 4).double(), random_rows(3, 3, 2, 2), random_rows(3, 5)
    found = embeddings(student, teacher)
    for own, expected in zip(found, embedded(embeddings, student, teacher), strict=True):
        torch.testing.assert_close(own, torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(own.norm(dim=1), torch.ones(3, dtype=torch.float64))


def test_both_embeddings_are_trained() -> None:
    torch.manual_seed(0)
    embeddings = Embeddings(6, 5, 4).double()
    contrastive_distillation_loss(*embeddings(random_rows(8, 6), random_rows(8, 5, seed=1)), 0.1).backward()
    assert len(list(embeddings.parameters())) == 4
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 1e-4 for parameter in embeddings.parameters())


def test_an_embedding_of_length_zero_has_a_finite_gradient() -> None:
    embeddings = Embeddings(6, 5, 4)
    torch.nn.init.zeros_(embeddings.student.bias)
    student = random_rows(3, 6).float()
    student[1] = 0
    student.requires_grad_()
    own, taught = embeddings(student, random_rows(3, 5).float())
    assert not own[1].any()
    contrastive_distillation_loss(own, taught, 0.1).backward()
    assert student.grad is not None
    # 10 is one over the temperature; weights are smaller than 1.
    assert student.grad.abs().max() < 100


def test_autocast_does_not_lower_its_precision() -> None:
    torch.manual_seed(0)
    embeddings, student, teacher = Embeddings(20, 10, 8), random_rows(6, 20).float(), random_rows(6, 10).float()
    expected = [torch.tensor(rows, dtype=torch.float64) for rows in embedded(embeddings, student, teacher)]
    with torch.autocast("cpu", torch.bfloat16):
        own, taught = embeddings(student, teacher)
        loss = contrastive_distillation_loss(own, taught, 0.1)
        rounded = contrastive_distillation_loss(*embeddings(student.bfloat16(), teacher.bfloat16()), 0.1)
    assert own.dtype == taught.dtype == loss.dtype == rounded.dtype == torch.float32
    assert loss.item() == pytest.approx(by_definition(*expected, 0.1), rel=1e-5)
    assert rounded.item() == pytest.approx(loss.item(), rel=0.05)
